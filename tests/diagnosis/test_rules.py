"""The rules beside the verdict: each on a real run with its fault, none on healthy ones, the same live and post hoc."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradscope_cli.main import run as command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradscope
from gradscope import InputError
from gradscope.diagnosis.recorded_run import recorded
from gradscope.diagnosis.rules.catalogue import RULES, chosen, parse_changes, parse_names
from gradscope.diagnosis.rules.checker import NEEDED, Checker
from gradscope.diagnosis.rules.finding import Finding, together
from gradscope.diagnosis.rules.page import page
from gradscope.diagnosis.rules.post_hoc import check, validation_losses
from gradscope.recording import FindingWarning
from gradscope.report.live.web import served
from gradscope.store.record import Record
from tests.helpers.loops import mlp as small
from tests.helpers.loops import train as trained
from tests.helpers.rule_runs import RUNS, load, mlp, train
from tests.helpers.rules_page import PAGE, whole

FAULTS = [name for name, run in RUNS.items() if run.expected is not None]


class Made(dict[str, Any]):
    """Values by the name of a run, made when first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make

    def __missing__(self, name: str) -> Any:
        self[name] = self._make(name)
        return self[name]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Finding]]]:
    """Path and live findings of each run."""
    folder = tmp_path_factory.mktemp("rules")

    def make(name: str) -> tuple[Path, list[Finding]]:
        path = folder / f"{list(RUNS).index(name)}.h5"
        return path, train(RUNS[name], path)

    return Made(make)


@pytest.fixture(scope="session")
def records(runs: dict[str, tuple[Path, list[Finding]]]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Loaded dataset and epoch metrics of each run."""
    return Made(lambda name: (load(runs[name][0]), Record(runs[name][0]).metrics))


@pytest.mark.parametrize("name", FAULTS)
def test_a_rule_finds_its_fault(records: dict[str, Any], name: str) -> None:
    found = check(records[name][0], None, records[name][1]).findings
    assert RUNS[name].expected in [(finding.rule, finding.kind) for finding in found]
    for finding in found:
        assert finding.since_step <= finding.found_step
        assert finding.suggestion
        assert finding.rule in finding.sentence
        assert np.isfinite(finding.numbers["limit"])


@pytest.mark.parametrize("name", [name for name in RUNS if name not in FAULTS])
def test_no_rule_speaks_on_a_healthy_run(records: dict[str, Any], name: str) -> None:
    checker = check(records[name][0], None, records[name][1])
    assert [finding.sentence for finding in checker.findings] == []
    missing = {left.rule for left in checker.not_checked()}
    assert missing == (set() if RUNS[name].preset == "full" else missing & {"update_ratio"})


def test_the_demo_runs(healthy_run: Path, collapsed_run: Path) -> None:
    """Nothing on the healthy one; nothing on the collapsed one that would lay the penalty's doing at another door."""
    for path in (healthy_run, collapsed_run):
        assert check(load(path)).findings == []


def test_layers_steps_and_numbers(records: dict[str, Any]) -> None:
    found = {name: check(*_given(records[name])).findings for name in ("unused", "bad batch", "dead, full", "masked")}
    [unused] = [f for f in found["unused"] if f.rule == "unchanged_parameters"]
    assert unused.layers == ("forgotten.weight", "forgotten.bias")
    assert (unused.since_step, unused.found_step) == (1, 16)
    [spike] = [f for f in found["bad batch"] if f.rule == "loss_spikes"]
    assert spike.since_step == spike.found_step == 100
    [dead] = [f for f in found["dead, full"] if f.rule == "dead_units"]
    assert dead.layers == ("1",)
    assert dead.numbers["dead share"] == 1.0
    assert dead.since_step == 0
    [masked] = [f for f in found["masked"] if f.rule == "all_zero_gradients"]
    assert masked.layers == ("branch.weight", "branch.bias")
    assert "in branch.weight, branch.bias since step 0" in masked.sentence


def _given(record: tuple[Any, dict[str, Any]]) -> tuple[Any, None, dict[str, Any]]:
    return record[0], None, record[1]


@pytest.mark.parametrize("name", list(RUNS))
def test_live_and_post_hoc_find_the_same(runs: dict[str, Any], records: dict[str, Any], name: str) -> None:
    path, live = runs[name]
    assert check(*_given(records[name])).findings == live
    told = [event for event in Record(path).events if event["kind"] == "finding"]
    assert [event["step"] for event in told] == [finding.found_step for finding in live]
    assert all(event["text"].startswith(f.sentence) for event, f in zip(told, live, strict=True))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(list(RUNS)), cuts=st.sets(st.integers(1, 399), max_size=40))
def test_cutting_changes_nothing(records: dict[str, Any], name: str, cuts: set[int]) -> None:
    dataset, metrics = records[name]
    rows = {key: dataset[key].values for key in NEEDED if key in dataset.variables}
    whole = check(dataset, None, metrics)
    parts = Checker(recorded(dataset).info, None, validation_losses(metrics))
    n = len(rows["step"])
    borders = [0, *sorted(cut for cut in cuts if cut < n), n]
    for start, end in pairwise(borders):
        parts.update({key: values[start:end] for key, values in rows.items()})
    assert parts.findings == whole.findings
    assert parts.not_checked() == whole.not_checked()


def test_memory_does_not_grow(records: dict[str, Any]) -> None:
    """What a checker holds between blocks is the same after a thousand rows as after ten thousand."""
    import pickle

    dataset = records["healthy"][0]
    rows = {key: dataset[key].values for key in NEEDED if key in dataset.variables}
    rows |= {"epoch": np.zeros_like(rows["epoch"])}
    checker, sizes = Checker(recorded(dataset).info), []
    for _ in range(70):
        checker.update(rows)
        sizes.append(len(pickle.dumps(checker.__dict__ | {"rules": None})))
    assert sizes[9] == sizes[-1]


def test_absent_quantities_are_said(records: dict[str, Any]) -> None:
    dataset = records["dead"][0]
    gone = [name for name in dataset.variables if str(name).startswith("activation")]
    left = check(dataset.drop_vars([*gone, "loss"])).not_checked()
    why = {item.rule: item.why for item in left}
    assert {"dead_units", "saturated_activations", "loss_spikes", "overfitting_gap"} <= set(why)
    assert "preset='standard'" in why["dead_units"]
    assert "Recording.log(loss=…)" in why["loss_spikes"]
    nothing = check(dataset.drop_vars([name for name in NEEDED if name in dataset.data_vars]))
    assert nothing.findings == []
    assert {item.rule for item in nothing.not_checked()} == set(RULES) - {"untrained_parameters"}  # told by no row


def test_options_change_what_is_found(records: dict[str, Any]) -> None:
    dataset, metrics = records["unused"]
    patient = check(dataset, chosen(["unchanged_parameters"], {"unchanged_parameters.patience": 1000}), metrics)
    assert patient.findings == []
    late = check(dataset, chosen(["unchanged_parameters"], {"unchanged_parameters.warm_up": 40}), metrics)
    assert [finding.since_step for finding in late.findings] == [40]
    assert check(dataset, chosen([]), metrics).findings == []


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (["ded_units"], {}, "did you mean dead_units"),
        (None, {"ded_units.share": 1.0}, "did you mean dead_units"),
        (None, {"dead_units.shares": 1.0}, "did you mean share"),
        (None, {"dead_units.patience": 0.0}, "at least 1"),
        (None, {"dead_units.patience": 1.5}, "whole number"),
        (None, {"dead_units.share": -1.0}, "at least 0"),
        (None, {"dead_units.share": float("inf")}, "finite"),
        (["loss_spikes"], {"dead_units.share": 1.0}, "was not chosen"),
    ],
)
def test_misspelt_options_are_refused(names: list[str] | None, changes: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(names, changes)


@pytest.mark.parametrize("text", ["x", "a=1", "dead_units.share", "dead_units.share=half", "dead_units.share=nan"])
def test_changes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError, match="--set got"):
        parse_changes([text])


def test_names() -> None:
    assert parse_names("all") is None
    assert parse_names("none") == []
    assert parse_names("dead_units, loss_spikes") == ["dead_units", "loss_spikes"]


def test_a_live_run_warns_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RUNS["masked"].model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    with (
        pytest.warns(FindingWarning, match="all_zero_gradients") as caught,
        gradscope.record(model, optimizer, tmp_path / "r.h5") as recording,
    ):
        for _ in range(80):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recording.log(loss=loss)
    [finding] = recording.findings
    assert finding.rule == "all_zero_gradients"
    assert len(caught) == 1
    found = gradscope.diagnose(tmp_path / "r.h5")
    assert found.findings == recording.verdict.findings == (finding,)
    for text in (str(found), found.explanation, found._repr_html_(), recording._repr_html_()):
        assert "all_zero_gradients: " in text
    assert str(found).splitlines()[0] == found.sentence
    assert f"    {finding.suggestion}" in str(found).splitlines()
    assert "findings" not in found.as_dict()


def test_a_function_for_failures_is_told_what_the_rules_found(tmp_path: Path) -> None:
    """As the callbacks of Lightning and Transformers are, which hand their users' ``stop`` on as a function."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"body": small(), "forgotten": torch.nn.Linear(3, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=2.0)
    told: list[gradscope.Diagnosis] = []
    with (
        pytest.warns(FindingWarning),
        gradscope.record(model, optimizer, tmp_path / "r.h5", on_failure=told.append) as recording,
    ):
        trained(model["body"], optimizer, 400, recording)
    [found] = told
    assert found.failed
    assert "Besides: " in found.explanation
    assert found.findings[0].sentence in found.explanation


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """A streak that began before the checkpoint counts after it, and nothing is told twice."""
    torch.manual_seed(0)
    model = mlp()
    path = tmp_path / "r.h5"
    forgotten = torch.nn.ModuleDict({"body": model, "forgotten": torch.nn.Linear(3, 3)})
    optimizer = torch.optim.SGD(forgotten.parameters(), lr=0.05)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    for mode, steps in (("create", 10), ("append", 40)):
        with gradscope.record(forgotten, optimizer, path, mode=mode, on_failure="ignore") as recording:
            for _ in range(steps):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recording.log(loss=loss)
    assert [(f.since_step, f.found_step) for f in recording.findings] == [(1, 16)]
    assert recording.findings == check(load(path)).findings
    assert len([event for event in Record(path).events if event["kind"] == "finding"]) == 1


def test_a_live_page_lists_the_same_findings(runs: dict[str, Any]) -> None:
    path, live = runs["masked"]
    with served(path) as (address, view):
        view.follower.wait(60)
        with urllib.request.urlopen(f"{address}live.json") as answer:
            news = json.loads(answer.read())
    assert live
    assert all(finding.sentence in unescape(news["blocks"]["verdicts"]) for finding in live)


# -- the command line -----------------------------------------------------------------------------


def test_diagnose_shows_findings(runs: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(runs["masked"][0])
    code = command(["diagnose", path])
    text = capsys.readouterr().out
    assert "all_zero_gradients: the loss gradient is exactly 0 in branch.weight" in text
    assert command(["diagnose", path, "--json"]) == code
    [found] = json.loads(capsys.readouterr().out)["runs"]
    assert [finding["rule"] for finding in found["findings"]] == ["all_zero_gradients"]
    assert command(["diagnose", path, "--json", "--rules", "none"]) == code
    [bare] = json.loads(capsys.readouterr().out)["runs"]
    assert bare == found | {"findings": [], "not_checked": []}
    assert command(["diagnose", path, "--set", "all_zero_gradients.patience=1000"]) == code
    assert "all_zero_gradients: " not in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rules", "ded_units"], ["--set", "dead_units.shar=1"], ["--set", "dead_units"]])
def test_diagnose_refuses_what_it_does_not_know(
    runs: dict[str, Any], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["diagnose", str(runs["healthy"][0]), *wrong]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_the_catalogue_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["diagnose", "--list-rules"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{text}" for name in RULES)
    assert command(["diagnose", "--list-rules", "--json"]) == 0
    assert [rule["rule"] for rule in json.loads(capsys.readouterr().out)["rules"]] == list(RULES)
    assert command(["diagnose"]) == 2
    assert "no record was given" in capsys.readouterr().err


def test_the_page_is_the_catalogue() -> None:
    """python -m tests.helpers.rules_page writes it anew."""
    assert PAGE.read_text() == whole()
    assert all(f"### `{name}`" in page() for name in RULES)


def test_every_option_says_where_its_default_comes_from() -> None:
    for rule in RULES.values():
        assert rule.look.__doc__
        assert {"warm_up", "patience"} <= set(rule.options)
        assert all(option.source and option.meaning for option in rule.options.values())


def test_findings_of_one_kind_are_told_in_one_line() -> None:
    """A large model has them layer after layer; the record and ``--json`` keep each."""
    each = [
        Finding("dead_units", "dead", (f"blocks.{i}",), 48 + i, 60 + i, {"share": 0.9 - i / 100}, "units are dead", "…")
        for i in range(30)
    ]
    over = replace(each[7], layers=("head",), over_step=200)
    other = Finding("clipping", "often", (), 5, 9, {}, "gradients are clipped", "…")
    told = together([*each, over, other])
    assert [(len(one.layers), one.since_step, one.found_step, one.over_step) for one in told] == [
        (30, 48, 60, None), (1, 55, 67, 200), (0, 5, 9, None),
    ]  # fmt: skip
    assert (
        "in blocks.0, blocks.1, blocks.2 and 27 more since step 48 in the first of them (share 0.61 to 0.9)"
        in told[0].now
    )
    assert together(told) == told and together([]) == []
    assert told[2] is other and "up_to" not in told[0].as_dict()
