"""The frame of the studies: cells that are trained once, their results files, and the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from analyses.common import command, study
from analyses.common.results import Cell, Results, Row
from gradscope.types import InputError
from tests.helpers.paths import ROOT


def options(folder: Path) -> study.Options:
    return study.Options("digits", "small", 1, "cpu", folder, 2, "local", (), folder / "small-digits.jsonl")


def squared(cell: Cell, asked: study.Options) -> Row:
    """A training, as a study gives it."""
    if cell["value"] == 3:
        raise ValueError("three cannot be trained")
    marks = asked.results.with_name("marks")
    with marks.open("a") as file:
        file.write("x")
    return {"square": cell["value"] ** 2}


@pytest.mark.thorough
def test_cells_are_trained_once_and_a_failed_one_stays_missing(tmp_path: Path) -> None:
    asked = options(tmp_path)
    cells = [{"value": value, "seed": 0} for value in (1, 2, 3)]
    rows = study.complete(squared, cells, asked)
    assert [row["square"] for row in rows] == [1, 4]
    assert {"seconds", "machine", "torch", "date"} <= set(rows[0])
    asked.results.write_bytes(asked.results.read_bytes() + b'{"value": 9, "se')  # killed in the middle of a line
    again = study.complete(squared, [*cells, {"value": 4, "seed": 0}], asked)
    assert [row["square"] for row in again] == [1, 4, 16]
    assert (tmp_path / "marks").read_text() == "xxx"
    assert sorted(json.loads(line)["value"] for line in asked.results.read_text().splitlines()) == [1, 2, 4]


def test_cells_of_this_process_go_into_csv_under_its_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = dataclasses.replace(options(tmp_path), results=tmp_path / "squares.csv")
    cells = [{"value": value, "seed": None} for value in (1.0, 2.5, 3)]
    rows = study.complete(squared, cells, asked, here=True)
    assert [row["square"] for row in rows] == ["1.0", "6.25"]
    assert 'failed: {"value": 3, "seed": null}: three cannot be trained' in capsys.readouterr().err
    head, columns, *lines = asked.results.read_text().splitlines()
    assert re.match(r"# \d{4}-\d\d-\d\d, \d+ cores of .+, load [\d.]+, torch [^:]+: python -m analyses", head)
    assert columns == "value,seed,square,seconds"
    assert [line.rpartition(",")[0] for line in lines] == ["1.0,,1.0", "2.5,,6.25"]
    asked.results.write_text(asked.results.read_text() + "4,,1")
    study.complete(squared, [*cells[:2], {"value": 4, "seed": None}], asked, here=True)
    assert (tmp_path / "marks").read_text() == "xxx"
    assert [row["value"] for row in Results(asked.results).rows()] == ["1.0", "2.5", "4"]


def test_several_rows_a_cell(tmp_path: Path) -> None:
    asked = dataclasses.replace(options(tmp_path), results=tmp_path / "several.csv")

    def several(cell: Cell, asked: study.Options) -> list[Row]:
        return [{"way": way, "seconds": 7} for way in "ab"]

    part = study.Part(lambda asked: [{"net": "x"}, {"net": "y"}], several, "several.csv", here=True)
    assert [part(asked), part(asked)] == [0, 0]
    found = [(row["net"], row["way"], row["seconds"]) for row in Results(asked.results).rows()]
    assert found == [("x", "a", "7"), ("x", "b", "7"), ("y", "a", "7"), ("y", "b", "7")]


def test_one_command_at_a_time_adds_to_a_file(tmp_path: Path) -> None:
    asked = options(tmp_path)
    with Results(asked.results).alone(), pytest.raises(InputError, match="another command is adding to"):
        study.complete(squared, [{"value": 1, "seed": 0}], asked)
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        study.complete(squared, [], dataclasses.replace(asked, results=tmp_path / "a file" / "small-digits.jsonl"))


def test_a_part_that_begins_with_the_rows_of_another(tmp_path: Path) -> None:
    """Both are made by one command; alone, without those rows, the second is named."""

    def later(asked: study.Options) -> list[Cell]:
        return [{"value": row["square"]} for row in Results(tmp_path / "first.csv").rows()]

    both = study.Study("two", {
        "first": study.Part(lambda asked: [{"value": 2}], squared, "first.csv", here=True),
        "second": study.Part(later, by_number, "second.csv", here=True),
    })  # fmt: skip
    with pytest.raises(InputError, match="nothing of --only second is planned at small scale, or the rows that it beg"):
        both.run(dataclasses.replace(options(tmp_path), only=("second",)))
    assert both.run(dataclasses.replace(options(tmp_path), only=("first", "second"))) == 0
    assert [row["half"] for row in Results(tmp_path / "second.csv").rows()] == ["2.0"]


def by_number(cell: Cell, asked: study.Options) -> Row:
    return {"half": float(cell["value"]) / 2}


def test_nothing_is_planned(tmp_path: Path) -> None:
    asked = options(tmp_path)
    nothing = study.Study("none", {"empty": study.Part(lambda asked: [], squared)})
    with pytest.raises(InputError, match="nothing of --only empty is planned"):
        nothing.run(dataclasses.replace(asked, only=("empty",)))


def test_results_that_cannot_be_read(tmp_path: Path) -> None:
    results = Results(tmp_path / "small-digits.jsonl")
    with pytest.raises(InputError, match="holds no training"):
        results.recorded()
    with pytest.raises(InputError, match="holds no training"):
        study.recorded_in(tmp_path)
    results.path.write_text('{"seed": 0}\n{"seed": 1\n')
    with pytest.raises(InputError, match="has a line that is no JSON"):
        results.rows()
    results.write([{"seed": 0}])
    results.path.with_name("paper-cifar10.jsonl").write_text("")
    found = study.recorded_in(tmp_path)
    assert [(asked.scale, asked.dataset, asked.ending) for asked in found] == [
        ("paper", "cifar10", "-paper-cifar10"), ("small", "digits", ""),
    ]  # fmt: skip


def asked_for(*words: str) -> study.Options:
    return command.asked_of(command.study_of(words[0]), command.parser_for(["run", *words]).parse_args(["run", *words]))


def test_the_command_line_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "strong_regularization"
    assert asked_for(name).dataset == "pairs"
    paper = asked_for(name, "--scale", "paper", "--only", "gamma", "--out", str(tmp_path))
    assert (paper.dataset, paper.paper, paper.only, paper.out) == ("cifar100", True, ("gamma",), tmp_path)
    wrong = [
        ["--seeds", "0"],
        ["--workers", "0"],
        ["--executor", "slurm"],
        ["--device", "gpu"],
        ["--device", "mps"],
        ["--device", "cuda:99"],
    ]
    for option, value in wrong:
        with pytest.raises(InputError, match=value):
            asked_for(name, option, value)
    for words in (["run", name, "--only", "figures"], ["run", "no_study"], ["draw"]):
        with pytest.raises(SystemExit) as left:
            command.main(words)
        assert left.value.code == 2
        assert words[-1] in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["plot", "check"])
@pytest.mark.parametrize("name", ["auto_l2", "regularization_strategies", "strong_regularization"])
def test_figures_of_nothing_are_refused(
    name: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([verb, name, "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


STUDIES = (
    "auto_l2", "learning_rate_taper", "regularization_strategies", "shapes_of_regularization", "strong_regularization",
)  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("wrong", [["--dataset", "cifr"], ["--scale", "paper", "--dataset", "svhn"]])
def test_a_set_that_is_not_there_is_said_before_anything_is_trained(
    name: str, wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["run", name, *wrong, "--out", str(tmp_path), "--data", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert wrong[-1] in said
    assert list(tmp_path.iterdir()) == []


def test_a_command_with_missing_cells_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(asked: study.Options) -> int:
        raise KeyboardInterrupt

    for step, code in ((lambda asked: 0, 0), (lambda asked: None, 0), (lambda asked: 2, 1), (interrupted, 130)):
        monkeypatch.setattr(command, "study_of", lambda name, step=step: study.Study("made", {"step": step}))
        assert command.main(["run", "auto_l2"]) == code


def test_the_list_says_what_every_study_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(command.names())
    assert all(len(line.split()) > 3 for line in lines)


#: These take minutes, to fit or to draw from chance.
LONG = {"failure_detection", "prediction"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough if name in LONG else ()) for name in command.names()]
)
def test_what_is_committed_is_what_the_results_give(name: str) -> None:
    made = command.study_of(name)
    assert made.name == name
    assert made.check(made.results) == []


def written() -> list[tuple[str, str]]:
    """Every command of a study that is written down as one, but for decisions, which tell what was."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    files += [*ROOT.glob("analyses/**/*.md"), *ROOT.glob("analyses/**/*.py"), *ROOT.glob("gradscope/**/*.py")]
    found = re.compile(r"python -m analyses ((?:run|plot|check|list)\b(?!\|)[^`|#\n;]*(?:\n--[^`]*)?)")
    return [(str(path.relative_to(ROOT)), words) for path in sorted(files) for words in found.findall(path.read_text())]


def test_commands_that_are_written_down_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(written()) > 20
    for path, text in written():
        if "NAME" in text or "{" in text:
            continue
        words = [word for word in shlex.split(text.replace("--only PART", "").partition(" [")[0]) if word != "…"]
        try:
            command.parser_for(words).parse_args(words)
        except SystemExit:
            pytest.fail(f"{path}: {text}: {capsys.readouterr().err}")


def test_no_study_is_a_module_to_be_run() -> None:
    """What replaced them is `python -m analyses`; what stays a module of its own is named here."""
    alone = {"analyses.wild.strangers.run", "analyses.wild.found"}
    pages = [path for pattern in ("*.md", "docs/*.md", "analyses/**/*.md") for path in ROOT.glob(pattern)]
    for path in [*pages, *ROOT.glob("gradscope/**/*.py"), *ROOT.glob("gradscope/**/*.json")]:
        assert set(re.findall(r"python -m (analyses\.[\w.]*\w)", path.read_text())) <= alone, path
