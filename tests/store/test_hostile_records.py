"""A record is a file that people send each other: opening one is safe, quick and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture import fuzz, hurt, records
from tests.torture.records import Crashed

#: What a command may take above what its process has before, in bytes.
MEMORY = 500 << 20
#: The others open records as these do; `make torture` tries all.
COMMANDS = ("inspect", "recover", "watch")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Crashed]:
    return records.good_and_crashed(tmp_path_factory.mktemp("sound"))


def heard(kind: str, sound: tuple[Path, Crashed]) -> dict[str, fuzz.Finding]:
    """What each command says to a record of this kind, in a process whose memory is bounded."""
    seed = -1 - fuzz.HURT.index(kind)
    return {finding.command: finding for finding in fuzz.campaign([seed], *sound, COMMANDS, MEMORY)}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", hurt.RECORDS)
def test_a_record_made_to_hurt_is_refused_in_one_line(kind: str, sound: tuple[Path, Crashed]) -> None:
    found = heard(kind, sound)
    assert {f.command: (f.outcome, f.detail) for f in found.values() if f.bad} == {}
    assert all(f.outcome == "refused" for name, f in found.items() if name != "recover")


@pytest.mark.parametrize("kind", hurt.BESIDE)
def test_what_stands_beside_a_record_is_not_waited_for(kind: str, sound: tuple[Path, Crashed]) -> None:
    found = heard(kind, sound)
    expected = "ok" if kind in hurt.HARMLESS else "refused"
    assert {f.command: (f.outcome, f.detail) for f in found.values() if f.outcome != expected} == {}
