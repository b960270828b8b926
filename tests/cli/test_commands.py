"""The command line on real files and real processes: output, exit codes, and every likely mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import typer
from gradscope_cli import main
from gradscope_cli.main import run
from gradscope_cli.output import say, signs_of_life

import gradscope
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from tests.helpers.paths import SCRIPTS
from tests.helpers.published import FOLDER, WITHOUT, conforms, schema

SCRIPT = str(SCRIPTS / "unseen.py")
PYTHON = sys.executable
DEMO = [PYTHON, "-m", "gradscope.demo.training"]
TOO_STRONG = "0.05"  # λ for the unseen script: it fails from the start, and learns after any delay past its escape


def ok(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    """Run with --json and return the one object on standard output, which is as published."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    assert run([*arguments[:cut], "--json", *arguments[cut:]]) == code, capsys.readouterr().err
    return conforms(arguments[0], json.loads(capsys.readouterr().out))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake is answered with."""
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("gradscope: ")]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


# -- reading records ------------------------------------------------------------------------------


def test_diagnose(collapsed_run: Path, healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ok(["diagnose", str(collapsed_run), str(healthy_run)], capsys, code=3)["runs"]
    assert [r["verdict"] for r in found] == ["collapsed", "healthy"]
    assert [r["failed"] for r in found] == [True, False]
    keys = {
        "path", "verdict", "failed", "probability_failed", "onset_step", "decided_step", "layers", "evidence", "remedy",
    }  # fmt: skip
    assert keys <= set(found[0])
    assert ok(["diagnose", str(healthy_run)], capsys)["runs"][0]["path"] == str(healthy_run)
    assert run(["diagnose", str(collapsed_run)]) == 3
    text = capsys.readouterr().out
    assert "collapsed from step 0" in text
    assert "remedy: use a lower strength" in text


def test_inspect(healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = ok(["inspect", str(healthy_run)], capsys)
    assert seen["rows"] == 1150
    assert seen["strength"] == pytest.approx(0.002)
    assert [p["name"] for p in seen["parameters"]][:2] == ["0.weight", "0.bias"]
    assert [p["penalised"] for p in seen["parameters"]][:2] == [True, False]
    assert "loss_gradient" in seen["capture"]
    assert run(["inspect", str(healthy_run)]) == 0
    assert "weight_decay 0.004" in capsys.readouterr().out


def test_tolerance(collapsed_run: Path, healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ok(["tolerance", str(collapsed_run), str(healthy_run)], capsys)
    assert found["determined"]
    assert found["low"] < found["tolerance"] < found["high"]
    assert found["weight_decay"] == pytest.approx(2 * found["tolerance"])
    assert found["trials"] == 2
    assert found["epochs_run"] == 100
    assert found["steps_run"] == 2300
    alone = ok(["tolerance", str(healthy_run)], capsys)
    assert not alone["determined"]
    assert alone["tolerance"] is None
    assert "lies above" in alone["reason"]


def test_many_records_are_read_on_all_cores(
    collapsed_run: Path, healthy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    records = [str(collapsed_run), str(healthy_run)]
    one_by_one = ok(["tolerance", *records], capsys)
    monkeypatch.setattr("gradscope.tolerance.from_records.MANY", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert ok(["tolerance", *records], capsys) == one_by_one
    (tmp_path / "no.h5").write_text("nothing")
    assert "no.h5" in refused(["tolerance", *records, str(tmp_path / "no.h5")], capsys)


@pytest.mark.thorough
def test_an_interrupt_of_many_records_leaves_no_process(healthy_run: Path) -> None:
    """As Ctrl-C does: to the whole group, at any moment."""
    words = [PYTHON, "-m", "gradscope_cli.main", "tolerance", *[str(healthy_run)] * 400]
    for wait in (2.0, 3.0):
        command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(wait)
        os.killpg(command.pid, signal.SIGINT)
        _, said = command.communicate(timeout=60)  # its pipes end with the last process that holds them
        assert command.returncode == 130, (wait, said)
        assert said == b"gradscope: interrupted\n", wait


def test_tolerance_names_what_differs(healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from tests.helpers.loops import mlp, recorded

    model = mlp()
    other = tmp_path / "other.h5"
    recorded(other, model, torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1), 100)
    message = refused(["tolerance", str(healthy_run), str(other)], capsys)
    assert "the runs differ in" in message
    assert "--by" in message
    assert "--by is 'depth'" in refused(["tolerance", str(healthy_run), "--by", "depth"], capsys)
    by = ok(["tolerance", str(healthy_run), "--by", "groups.0.lr"], capsys)
    assert list(by["levels"]) == ["0.03"]


@pytest.mark.parametrize(("figure", "suffix"), [("accuracy", "png"), ("proportion", "svg"), ("loss", "pdf")])
def test_plot(collapsed_run: Path, healthy_run: Path, tmp_path: Path, figure: str, suffix: str) -> None:
    out = tmp_path / f"figure.{suffix}"
    assert run(["plot", str(collapsed_run), str(healthy_run), "--figure", figure, "-o", str(out)]) == 0
    assert out.read_bytes()[:4] in (b"\x89PNG", b"<?xm", b"%PDF")


def test_plot_tells_what_it_shows(collapsed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ok(["plot", str(collapsed_run), "--figure", "weight", "-o", str(tmp_path / "w.png")], capsys)
    (curve,) = shown["curves"]
    assert curve["failed"]
    assert curve["y"][-1] < 1e-3 < curve["y"][0]


def test_plot_mistakes(healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = ["plot", str(healthy_run), "--figure"]
    assert "figure is 'volcano'; expected one of accuracy" in refused([*plot, "volcano"], capsys)
    assert "ends in .png" in refused([*plot, "loss", "-o", str(tmp_path / "x.bmp")], capsys)
    assert "no folder" in refused([*plot, "loss", "-o", str(tmp_path / "no" / "x.png")], capsys)


@pytest.mark.parametrize("command", ["diagnose", "inspect", "tolerance", "plot"])
def test_unreadable_records(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--figure", "loss"] if command == "plot" else []
    text = tmp_path / "notes.h5"
    text.write_text("hello")
    assert "there is no file" in refused([command, str(tmp_path / "none.h5"), *more], capsys)
    assert "is not an HDF5 file" in refused([command, str(text), *more], capsys)
    assert "is a folder" in refused([command, str(tmp_path), *more], capsys)


def test_usage_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command" in refused(["diagnoze"], capsys)
    assert "no record was given; expected at least one, such as gradscope diagnose" in refused(["diagnose"], capsys)
    assert "No such option" in refused(["diagnose", "--jsn", "x"], capsys)
    assert "the training command goes after --" in refused(["run", "python", "train.py", "--lr", "1"], capsys)
    assert run([]) == 0
    assert "Usage: gradscope" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"gradscope {gradscope.__version__}"


@pytest.mark.parametrize("command", ["demo", "run", "inspect", "diagnose", "tolerance", "search", "tune", "plot"])
def test_every_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"Example: gradscope {command}" in " ".join(capsys.readouterr().out.split())


# -- supervising a script -------------------------------------------------------------------------


def test_run_remedies_a_script_it_has_never_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No placeholder, no argument: strength, schedule and record reach it through the environment."""
    out = tmp_path / "with a space"
    found = ok(["run", "--strength", TOO_STRONG, "--out", str(out), "--", PYTHON, SCRIPT], capsys)
    first, second = found["attempts"]
    assert first["verdict"] == "collapsed"
    assert first["stopped_step"] is not None
    assert first["stopped_step"] < 100
    assert second["schedule"] == "delayed:auto"
    assert second["verdict"] == "healthy"
    assert second["stopped_step"] is None
    told = json.loads((out / "run.json").read_text())
    assert told.pop("settings")["command"] == [PYTHON, SCRIPT]
    assert told == found
    assert not Path("unseen.h5").exists()


@pytest.mark.slow
def test_run_abstains_where_a_delay_cannot_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--strength", "1.5", "--max-restarts", "5", "--out", str(tmp_path / "o")]
    found = ok(["run", *options, "--", PYTHON, SCRIPT], capsys, code=3)
    first, second = found["attempts"]
    assert first["verdict"] == second["verdict"] == "collapsed"
    assert second["active_step"] is not None  # it learned without the penalty, and was crushed by it
    assert "beyond what a delay can save" in found["reason"]


@pytest.mark.thorough
@pytest.mark.parametrize("placeholders", [pytest.param(True, marks=pytest.mark.slow), False])
def test_run_remedies_a_failed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], placeholders: bool) -> None:
    words = [*DEMO, "--seed", "{seed}", "--out", "{out}"]
    words += ["--weight-decay", "{weight_decay}"] if placeholders else []
    out = tmp_path / "fix"
    found = ok(["run", "--strength", "0.04", "--seed", "1", "--out", str(out), "--", *words], capsys)
    assert found["learned"]
    assert [a["schedule"] for a in found["attempts"]] == ["constant", "delayed:auto"]
    assert [a["strength"] for a in found["attempts"]] == [0.04, 0.04]
    first, second = (Path(a["path"]) for a in found["attempts"])
    assert np.nanmax(Record(first).metrics["accuracy"]) < 0.2
    assert Record(second).metrics["accuracy"][-1] > 0.7
    with open_run(second) as dataset:
        strength = dataset["strength"].values[:, 0]
        assert strength[0] == 0
        assert strength[-1] == pytest.approx(0.04)
        assert (np.diff(strength) != 0).sum() == 1
    with open_run(first) as dataset:
        assert dataset.attrs["status"] == "failed"
    assert {"verdict", "stopped"} <= {e["kind"] for e in Record(first).events}


@pytest.mark.thorough
def test_run_leaves_a_healthy_script_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ok(["run", "--out", str(tmp_path / "o"), "--", PYTHON, SCRIPT, "--decay", "0.001"], capsys)
    assert found["learned"]
    assert len(found["attempts"]) == 1
    assert found["attempts"][0]["strength"] is None
    assert found["attempts"][0]["stopped_step"] is None


@pytest.mark.thorough
@pytest.mark.parametrize("fault", ["swallows", "never closes"])
def test_run_stops_scripts_that_resist(tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    """A loop that swallows SystemExit, or never closes its recording, is ended all the same."""
    words = [PYTHON, SCRIPT, "--decay", "0.2", "--fault", fault]
    found = ok(["run", "--restart", "none", "--out", str(tmp_path / "o"), "--", *words], capsys, code=3)
    assert found["attempts"][0]["stopped_step"] < 100


def test_run_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(*words: str, options: tuple[str, ...] = ()) -> str:
        out = tmp_path / str(time.monotonic_ns())
        message = refused(["run", "--out", str(out), *options, "--", *words], capsys)
        told = json.loads((out / "run.json").read_text()) if (out / "run.json").exists() else {"status": "crashed"}
        assert told["status"] == "crashed"
        return message

    assert "no command 'pyton'" in go("pyton", SCRIPT)
    assert "{streng}; expected {strength}, {weight_decay}" in go(PYTHON, SCRIPT, "--decay", "{streng}")
    assert "no value for it; give --strength" in go(PYTHON, SCRIPT, "--decay", "{strength}")
    assert "which is L2" in go(PYTHON, SCRIPT, "{weight_decay}", options=("--penalty", "l1", "--strength", "1"))
    assert "penalty is 'ridge'" in go(PYTHON, SCRIPT, options=("--penalty", "ridge"))
    assert "schedule is 'soon'" in go(PYTHON, SCRIPT, options=("--schedule", "soon"))
    assert "restart is 'please'" in go(PYTHON, SCRIPT, options=("--restart", "please"))
    assert "strength is -1" in go(PYTHON, SCRIPT, options=("--strength", "-1"))
    assert "exited with code 1: the data set is missing" in go(PYTHON, SCRIPT, "--fault", "crash")
    assert "ended without a record" in go(PYTHON, SCRIPT, "--fault", "no record")
    halved = go(PYTHON, SCRIPT, "--decay", "{strength}", options=("--strength", "0.1"))
    assert "0.1 was asked for, and the record shows 0.05" in halved
    assert "{weight_decay}" in halved


@pytest.mark.slow
def test_run_mistakes_that_a_training_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(*words: str, options: tuple[str, ...]) -> str:
        out = tmp_path / str(time.monotonic_ns())
        return refused(["run", "--out", str(out), *options, "--", PYTHON, SCRIPT, *words], capsys)

    wrong = go("--fault", "no epochs", options=("--strength", "0.1", "--schedule", "delayed:2"))
    assert "give it in steps" in wrong
    ignored = go("--epochs", "2", "--fault", "{strength}", options=("--strength", "0.1"))
    assert "the record shows 0, the script does not use what it is given" in ignored


def test_run_refuses_a_folder_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert "already holds a run" in refused(["run", "--out", str(tmp_path), "--", PYTHON, SCRIPT], capsys)
    file = tmp_path / "file"
    file.write_text("")
    assert "is not a folder" in refused(["run", "--out", str(file), "--", PYTHON, SCRIPT], capsys)
    assert "is not a folder" in refused(["run", "--out", str(file / "x"), "--", PYTHON, SCRIPT], capsys)
    assert "cannot make the folder" in refused(["run", "--out", "/proc/x", "--", PYTHON, SCRIPT], capsys)


def test_braces_are_escaped_by_doubling(tmp_path: Path) -> None:
    from gradscope.processes.command import Command
    from gradscope.processes.instructions import Instructions

    command = Command.parse([PYTHON, "a{{b}}", "{seed}-{{seed}}"])
    assert command.filled(Instructions(seed=3)) == [PYTHON, "a{b}", "3-{seed}"]
    settings = '{"model": {"depth": {"x": 3}}}'
    assert Command.parse([PYTHON, settings]).filled(Instructions()) == [PYTHON, settings]


# -- what is published ------------------------------------------------------------------------------


def test_every_json_has_a_schema() -> None:
    commands = typer.main.get_command(main.app).commands  # type: ignore[attr-defined]
    told = {name for name, made in commands.items() if any("--json" in p.opts for p in made.params)}
    assert {path.stem for path in FOLDER.glob("*.json")} == told - set(WITHOUT)
    for name in told - set(WITHOUT):
        jsonschema.Draft202012Validator.check_schema(schema(name))


def test_what_is_not_published_is_not_printed(healthy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ok(["diagnose", str(healthy_run)], capsys)
    for wrong in (found | {"news": 1}, {**found, "runs": [{**found["runs"][0], "failed": "no"}]}, {"costs": []}):
        with pytest.raises(jsonschema.ValidationError):
            conforms("diagnose", wrong)


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        ("compare", "{a} {b}"),
        ("export", "{a} --to csv -o {out}/x.csv"),
        ("recover", "{a} -o {out}/again.h5"),
        ("report", "{a} {b} -o {out}/page.html"),
        ("diagnose", "--list-rules"),
        ("tolerance", "{a} {b} --by penalty"),
    ],
)
def test_json_is_as_published(
    command: str, rest: str, collapsed_run: Path, healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = rest.format(a=collapsed_run, b=healthy_run, out=tmp_path).split()
    assert ok([command, *words], capsys)


def test_json_of_a_schedule_is_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert ok(["schedule", "delayed:5", "--steps", "10", "--steps-per-epoch", "2"], capsys)


# -- searching ------------------------------------------------------------------------------------


def test_search_a_script_it_has_never_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "level"
    base = ["search", "--low", "1e-3", "--high", "1", "--workers", "2", "--out", str(out), "--max-trials"]
    assert run([*base, "5", "--json", "--", PYTHON, SCRIPT]) == 0
    captured = capsys.readouterr()
    found = conforms("search", json.loads(captured.out))
    assert found["trials"] == 5
    # Where nobody watches (nohup, Slurm, CI), a plain line a trial.
    plain = re.compile(r"tolerance +\d+: .*; \d+ epochs, .*; [\d.e-]+ [a-z]+ after \d+ steps")
    assert len(plain.findall(captured.err)) == 5, captured.err
    assert len({r["seed"] for r in found["runs"]}) == 5
    early = [r for r in found["runs"] if r["stopped_early"]]
    assert {r["verdict"] for r in early} >= {"collapsed"}
    assert all(r["steps"] < 300 for r in early)
    assert found["determined"]
    assert found["low"] < found["tolerance"] < found["high"]
    assert 0.002 < found["tolerance"] < 0.1
    assert found["steps_run"] == sum(r["steps"] for r in found["runs"])
    assert found["epochs_run"] is not None
    assert "19 of 20 runs learn something up to" in found["advice"]
    assert "gradscope tune finds the strength with the best metric" in found["advice"]  # the level recommends nothing
    # The same command carries on where it stopped, and repeats nothing.
    again = ok([*base, "6", "--", PYTHON, SCRIPT], capsys)
    assert again["trials"] == 6
    assert again["runs"][:5] == found["runs"]
    other = ["search", "--low", "1e-2", "--high", "1", "--out", str(out), "--", PYTHON, SCRIPT]
    assert "holds a search with low 0.001" in refused(other, capsys)
    # Post hoc, the records give a level as well.
    records = sorted(str(p) for p in out.glob("*.h5"))
    assert ok(["tolerance", *records], capsys)["determined"]


def test_a_search_of_lost_trials_alone_says_so_and_draws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--low", "1e-3", "--high", "1", "--max-trials", "1", "--timeout", "0.5", "--out", str(tmp_path / "s")]
    found = ok(["search", *limits, "--", "sleep", "60"], capsys)
    assert (found["determined"], found["lost"], found["figure"]) == (False, 1, None)
    assert found["reason"] == "there are no finished trials: 1 lost, for reasons that search.jsonl holds"


def search_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], *words: str, low: str = "1e-3", high: str = "1", options: str = ""
) -> str:
    out = folder / str(time.monotonic_ns())
    limits = ["--low", low, "--high", high, "--out", str(out), "--max-trials", "3", *options.split()]
    return refused(["search", *limits, "--", *words], capsys)


@pytest.mark.thorough
def test_search_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go = partial(search_refused, tmp_path, capsys)
    assert "low is 1 and high is 0.1; expected low < high" in go(PYTHON, SCRIPT, low="1", high="0.1")
    assert "low is -1" in go(PYTHON, SCRIPT, low="-1")
    assert "workers is 0" in go(PYTHON, SCRIPT, options="--workers 0")
    assert "seed is -1" in go(PYTHON, SCRIPT, options="--seed -1")
    assert "executor is 'slurm'" in go(PYTHON, SCRIPT, options="--executor slurm")
    assert "no command 'pyton'" in go("pyton")
    assert "{weightdecay}; expected" in go(PYTHON, SCRIPT, "{weightdecay}")
    assert "exited with code 1: the data set is missing" in go(PYTHON, SCRIPT, "--fault", "crash")


def test_long_work_gives_signs_of_life(capsys: pytest.CaptureFixture[str]) -> None:
    with signs_of_life(0.02):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert set(lines) == {"still working, 0 s so far"}
    before = threading.active_count()
    with signs_of_life(30):
        say("something")
    assert capsys.readouterr().err == "something\n"
    assert threading.active_count() == before


@pytest.mark.slow
def test_search_mistakes_that_a_training_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go = partial(search_refused, tmp_path, capsys)
    assert "the training ignores its seed" in go(PYTHON, SCRIPT, "--fault", "ignores the seed")
    assert "not finite from its first step" in go(PYTHON, SCRIPT, "--fault", "nan")
    assert "shows no outcome" in go(PYTHON, SCRIPT, "--fault", "no loss", "--epochs", "2", low="1e-6", high="1e-5")
    words = (PYTHON, SCRIPT, "--decay", "{weight_decay}", "--fault", "halves the strength")
    assert "{weight_decay}" in (message := go(*words))
    assert "half of it" in message


@pytest.mark.slow
def test_tune_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def go(*words: str, low: str = "0.001", metric: tuple[str, ...] = ("--metric", "accuracy")) -> str:
        limits = ["--low", low, "--high", "1", "--out", str(tmp_path / "t")]
        return refused(["tune", *metric, *limits, *words], capsys)

    assert "Missing option '--metric'" in go("--", PYTHON, metric=())
    assert "mode is 'best'; expected one of max, min" in go("--mode", "best", "--", PYTHON)
    assert "expected low < high" in go("--", PYTHON, low="2")
    assert "expected {strength}, {weight_decay}, {seed}, {out}" in go("--", PYTHON, "{rate}")
    assert "max_trials is 3; expected at least 6" in go("--max-trials", "3", "--", PYTHON)
    assert not (tmp_path / "t").exists()
    assert "ended without the record tune-000.h5" in go("--", PYTHON, "-c", "pass")
    assert "exited with code 1: KeyError" in go("--", PYTHON, "-c", "{}['x']")


@pytest.mark.slow
def test_tune_a_script_it_has_never_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "best"
    limits = ["--low", "1e-5", "--high", "1", "--max-trials", "12", "--out", str(out)]
    found = ok(["tune", "--metric", "loss", "--mode", "min", "--delayed", *limits, "--", PYTHON, SCRIPT], capsys)
    assert found["determined"], found["reason"]
    assert found["best"]["low"] <= found["best"]["strength"] <= found["best"]["high"]
    assert all(r["steps"] < 300 for r in found["runs"] if r["stopped_early"])
    assert (out / "tune.png").stat().st_size > 10_000


@pytest.mark.thorough
def test_search_says_on_which_side_the_level_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "s")
    arguments = ["search", "--low", "0.2", "--high", "1", "--max-trials", "2", "--out", out, "--", PYTHON, SCRIPT]
    found = ok(arguments, capsys)
    assert not found["determined"]
    assert found["tolerance"] is None
    assert "lies below" in found["reason"]


@pytest.mark.thorough
def test_a_killed_search_carries_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s"
    arguments = ["search", "--low", "0.05", "--high", "1", "--max-trials", "4", "--out", str(out), "--", PYTHON, SCRIPT]
    child = subprocess.Popen([PYTHON, "-m", "gradscope_cli.main", *arguments], start_new_session=True)
    journal = out / "search.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (journal.exists() and len(journal.read_text().splitlines()) >= 2):
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    with journal.open("a") as file:
        file.write('{"level": "tolerance", "tri')  # killed in the middle of a line
    before = journal.read_text().splitlines()[:-1]
    found = ok(arguments, capsys)
    assert found["determined"] or "lies below" in found["reason"]
    assert journal.read_text().splitlines()[: len(before)] == before
    numbers = [r["number"] for r in found["runs"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    "command",
    [["run"], ["search", "--low", "0.1", "--high", "1"], ["tune", "--metric", "m", "--low", "0.1", "--high", "1"]],
)
def test_interrupt_is_130(tmp_path: Path, command: list[str]) -> None:
    """Also where the signal reaches the supervisor alone: its children end with it."""
    marker = tmp_path / "up"
    quiet = "import pathlib, signal, time; signal.signal(2, signal.SIG_DFL);"
    wait = f"{quiet} pathlib.Path({str(marker)!r}).touch(); time.sleep(120)"
    arguments = [*command, "--out", str(tmp_path / "o"), "--", PYTHON, "-c", wait]
    child = subprocess.Popen(
        [PYTHON, "-m", "gradscope_cli.main", *arguments], stderr=subprocess.PIPE, start_new_session=True
    )
    assert child.stderr is not None
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait(300) == 130
    assert b"Traceback" not in child.stderr.read()
    child.stderr.close()
