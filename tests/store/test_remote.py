"""Records that lie elsewhere: read through fsspec, by the same commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gradscope
from gradscope import checks
from gradscope.store import remote
from gradscope.store.record import Record
from gradscope.types import InputError, RecordNotFoundError
from tests.helpers.handmade import handmade
from tests.helpers.loops import mlp, train

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A record in fsspec's memory."""
    store = fsspec.filesystem("memory")
    store.put_file(str(handmade(tmp_path / "run.h5", 3, 300)), "/bucket/run.h5")
    remote.fetched.cache_clear()
    yield "memory://bucket/run.h5"
    store.rm("/bucket", recursive=True)


def test_a_record_elsewhere_is_read_as_one_here(url: str, tmp_path: Path) -> None:
    here = tmp_path / "run.h5"
    with Record(url) as record:
        assert record.path.name == "run.h5" and record.rows == 300
    with gradscope.open_run(url) as there, gradscope.open_run(here) as mine:
        assert there.identical(mine)
    assert gradscope.diagnose(url).lines == gradscope.diagnose(here).lines


@pytest.mark.parametrize("command", [["diagnose", "--json"], ["inspect"], ["tolerance"], ["report", "-o"]])
def test_commands_take_urls(url: str, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from gradscope_cli.main import run

    more = [str(tmp_path / "page.html")] if command[0] == "report" else []
    assert run([*command, *more, url]) in (0, 3)
    if "--json" in command:
        assert json.loads(capsys.readouterr().out)["runs"][0]["verdict"]


def test_a_log_comes_along(tmp_path: Path) -> None:
    from tests.torture import records

    _, (content, log) = records.good_and_crashed(tmp_path)
    store = fsspec.filesystem("memory")
    store.pipe_file("/runs/killed.h5", content)
    store.pipe_file("/runs/killed.h5.log", log)
    with Record("memory://runs/killed.h5") as record:
        assert record.rows == 150 and record.status == "running"


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("memory://bucket/nothing.h5", RecordNotFoundError, "there is no file memory://bucket/nothing.h5"),
        ("odd://bucket/run.h5", InputError, "cannot read odd://bucket/run.h5: Protocol not known"),
    ],
)
def test_what_cannot_be_read_is_one_line(address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Record(address)
    assert "\n" not in str(caught.value)


def test_without_fsspec_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"pip install 'gradscope-dynamics\[remote\]'"):
        Record("memory://other/run.h5")


@pytest.mark.parametrize("to", ["memory://runs/", "memory://runs/run.h5"])
def test_a_finished_record_is_copied(to: str, tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    storage = gradscope.Storage(copy_to=to)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore", storage=storage) as run:
        train(model, optimizer, 3, run)
        assert not fsspec.filesystem("memory").exists("/runs/run.h5")
    assert fsspec.filesystem("memory").cat_file("/runs/run.h5") == (tmp_path / "run.h5").read_bytes()
    fsspec.filesystem("memory").rm("/runs", recursive=True)


def test_a_copy_that_fails_is_a_warning(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    storage = gradscope.Storage(copy_to="odd://runs/")
    with (
        pytest.warns(UserWarning, match=r"cannot copy .*run.h5 to odd://runs/run.h5: Protocol not known"),
        gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore", storage=storage) as run,
    ):
        train(model, optimizer, 3, run)
    with Record(tmp_path / "run.h5") as record:
        assert record.finished and record.rows == 3


def test_a_copy_goes_to_a_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="copy_to is 3; expected a URL"):
        gradscope.Storage(copy_to=3)  # type: ignore[arg-type]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", [["watch"], ["watch", "--port", "0"], ["diagnose", "--follow"], ["recover"]])
def test_what_works_on_files_here_says_so(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A URL is not waited for as a file that is not there yet."""
    from gradscope_cli.main import run

    assert run([*command, "memory://bucket/run.h5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory://bucket/run.h5 is not on this machine, where a record is " in line


def test_a_run_is_recorded_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = mlp()
    with pytest.raises(InputError, match=r"s3://bucket/run.h5 is not on this machine, where a run is recorded \(and"):
        gradscope.record(model, torch.optim.SGD(model.parameters(), lr=0.05), "s3://bucket/run.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--low", "0.001", "--high", "1"],
        ["tune", "--metric", "accuracy", "--low", "0.001", "--high", "1"],
        ["suggest"],
        ["run", "--strength", "0.1"],
        ["demo"],
    ],
    ids=lambda command: str(command[0]),
)
def test_results_are_written_here(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gradscope_cli.main import run

    monkeypatch.chdir(tmp_path)
    script = [] if command == ["demo"] else ["--", sys.executable, "train.py", "{strength}", "{seed}", "{out}"]
    assert run([*command, "--out", "s3://bucket/runs", *script]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "s3://bucket/runs is not on this machine, where results are written; expected a path such as runs"
    )
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_colon_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs:").mkdir()
    handmade(Path("runs:/run.h5"), 3, 300)
    with Record("runs:/run.h5") as record:
        assert record.rows == 300


@pytest.mark.parametrize("path", ["run.h5", "/tmp/run.h5", "runs/a:b/run.h5", "C:/run.h5", "./s3:/run.h5"])
def test_paths_of_this_machine_are_no_urls(path: str) -> None:
    assert checks.url_of(path) is None


def test_urls_are_told_also_as_paths() -> None:
    assert (
        checks.url_of(Path("s3://bucket/a/run.h5")) == checks.url_of("s3://bucket/a/run.h5") == "s3://bucket/a/run.h5"
    )
