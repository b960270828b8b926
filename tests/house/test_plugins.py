"""Rules, penalties and sinks of another package, which is installed for a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

MODULE = """
import numpy as np
import gradscope
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.diagnosis.rules.options import Option, Rule

def look(columns, facts, options):
    n = len(columns.number)
    return [Symptom("loud", np.ones((n, 1)), np.full((n, 1), 7.0), ("",), "it is loud", "level", 1.0, "whisper")]

waits = {name: Option(value, name, "mine") for name, value in (("warm_up", 0), ("patience", 3))}
LOUD = Rule("loud", look, waits, (), "mine")
BAD = Rule("bad", lambda columns, facts, options: 1 / 0, waits, (), "mine")

class Quartic(gradscope.Lp):
    def __init__(self):
        super().__init__(4)

class Prints(gradscope.Sink):
    def __init__(self):
        super().__init__(every=2)
    def scalars(self, step, values):
        print("shown", step)
    def text(self, step, name, text):
        pass
"""
POINTS = """
[gradscope.rules]
loud = other.tools:LOUD
bad = other.tools:BAD
broken = other.nowhere:RULE

[gradscope.penalties]
quartic = other.tools:Quartic

[gradscope.sinks]
prints = other.tools:Prints
"""
SCRIPT = """
import sys, torch, gradscope
from gradscope.regularizers.groups import parse_penalty
from tests.helpers.loops import mlp, train
model = mlp()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
gradscope.regularize(optimizer, parse_penalty("quartic"), 0.001)
with gradscope.record(model, optimizer, sys.argv[1], sinks=["prints"], on_failure="ignore") as run:
    train(model, optimizer, 6, run)
found = gradscope.diagnose(sys.argv[1])
print([finding.rule for finding in found.findings], gradscope.open_run(sys.argv[1]).attrs["penalty"])
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which a package ``other`` is installed, as pip lays it out."""
    site = tmp_path / "site"
    (site / "other").mkdir(parents=True)
    (site / "other" / "__init__.py").touch()
    (site / "other" / "tools.py").write_text(MODULE)
    info = site / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    root = str(ROOT)
    paths = os.pathsep.join([str(site), root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths}


@pytest.mark.thorough
def test_a_package_adds_a_rule_a_penalty_and_a_sink(installed: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run.h5")], env=installed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["shown 0", "shown 2", "shown 4", "['loud'] l4"]
    assert "the rule bad of a plug-in looks no more: ZeroDivisionError" in done.stderr
    assert "the plug-in broken of gradscope.rules cannot be loaded: ModuleNotFoundError" in done.stderr


def test_a_sink_that_nobody_provides() -> None:
    from gradscope import InputError
    from gradscope.recording.sink import checked_sinks

    with pytest.raises(InputError, match="sinks holds 'nowhere', and no installed package provides that"):
        checked_sinks(["nowhere"])
