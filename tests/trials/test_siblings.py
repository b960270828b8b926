"""Trials that are judged beside the finished ones of their search, all the way: record, journal, next trial, record."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.processes.command import Command
from gradscope.processes.instructions import Instructions
from gradscope.run_info import Sibling
from gradscope.store.record import Record
from gradscope.trials.journal import Journal
from gradscope.trials.run_trial import run_command_trial, run_function_trial
from gradscope.trials.trial import Trial
from tests.helpers.loops import narrow, train_on_signs
from tests.helpers.paths import ROOT

#: They say that a run whose output is near 0 early on is one of those that failed.
NEIGHBOURS = (Sibling(0.06, True, (-9.0,)), Sibling(0.01, False, (11.0,)))


def train(strength: float, seed: int, path: Path, steps: int = 400) -> None:
    """A deep narrow net on a task it can learn: the label is in the first feature."""
    torch.manual_seed(seed)
    model = narrow()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=2 * strength)
    with gradscope.record(model, optimizer, path, horizon=steps) as run:
        train_on_signs(model, optimizer, steps, run)


def kept(path: Path) -> list[dict[str, object]]:
    """What a record says of the siblings of its trial."""
    with Record(path) as record:
        return list(record.capture.get("siblings", []))


def test_a_search_hands_each_trial_the_finished_ones_near_it(tmp_path: Path) -> None:
    """And goes on so when it is taken up again; what a trial was judged as is what its record tells later."""
    out = tmp_path / "s"
    gradscope.search_tolerance(train, 0.1, 100, out=out, max_trials=4)
    found = gradscope.search_tolerance(train, 0.1, 100, out=out, max_trials=7)
    used = [kept(Path(trial.path)) for trial in found.trials]
    assert used[0] == []
    again = gradscope.search_tolerance(train, 0.1, 100, out=out, max_trials=7)
    assert again.trials == found.trials  # what the journal holds is all of it
    assert any({entry["failed"] for entry in entries} == {True, False} for entries in used[4:])
    for i, entries in enumerate(used):
        earlier = [t.sibling for t in found.trials[:i]]
        assert len(entries) == min(i, len(entries)) and all(entry["signal"] for entry in entries)
        assert all(Sibling.from_dict(entry) in earlier for entry in entries)
        for kind in (True, False):
            same = sorted(
                abs(math.log(s.strength / found.trials[i].strength)) for s in earlier if s and s.failed is kind
            )
            chosen = [s for s in map(Sibling.from_dict, entries) if s.failed is kind]
            assert [abs(math.log(s.strength / found.trials[i].strength)) for s in chosen] == same[:3]
    for trial in found.trials:
        assert gradscope.diagnose(trial.path).verdict == trial.verdict
    shown = json.loads(json.dumps(found.as_dict()))["runs"][0]
    assert not {"signal", "siblings", "fingerprint"} & shown.keys()


def test_a_trial_ends_earlier_beside_them_and_its_record_tells_why(tmp_path: Path) -> None:
    plan = Trial(5, 4.0, 3)
    alone = run_function_trial(train, plan, tmp_path / "alone.h5", "l2")
    beside = run_function_trial(train, replace(plan, siblings=NEIGHBOURS), tmp_path / "beside.h5", "l2")
    assert (alone.verdict, beside.verdict, beside.stopped_early) == ("collapsed", "collapsed", True)
    assert beside.steps < alone.steps
    later = gradscope.diagnose(tmp_path / "beside.h5")
    assert later.verdict == "collapsed"
    assert any(line.startswith("beside 2 finished trials at λ = 0.01 … 0.06, of which 1") for line in later.evidence)
    assert kept(tmp_path / "beside.h5") == [sibling.as_dict() for sibling in NEIGHBOURS]


def test_what_a_trial_is_judged_beside_changes_no_number_of_its_rows(tmp_path: Path) -> None:
    plan = Trial(5, 0.01, 3, audit=True)
    for name, siblings in (("alone", ()), ("beside", NEIGHBOURS)):
        run_function_trial(train, replace(plan, siblings=siblings), tmp_path / f"{name}.h5", "l2")
    with Record(tmp_path / "alone.h5") as one, Record(tmp_path / "beside.h5") as other:
        for name in ("loss", "weight_mean_abs", "loss_gradient_mean_abs"):
            assert (one.column(name) == other.column(name)).all()


SCRIPT = """
import os
from pathlib import Path
from tests.trials.test_siblings import train
train(float(os.environ["GRADSCOPE_STRENGTH"]), int(os.environ["GRADSCOPE_SEED"]), Path("run.h5"))
"""


def test_a_command_is_handed_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    (tmp_path / "train.py").write_text(SCRIPT)
    plan = Trial(5, 4.0, 3, siblings=NEIGHBOURS)
    trial = run_command_trial(Command.parse([sys.executable, str(tmp_path / "train.py")]), plan, tmp_path / "t.h5")
    assert kept(tmp_path / "t.h5") == [sibling.as_dict() for sibling in NEIGHBOURS]
    with Record(tmp_path / "t.h5") as record:
        assert "GRADSCOPE_SIBLINGS" not in record.capture["environment"]  # they stand there once
    same = run_function_trial(train, plan, tmp_path / "u.h5", "l2")
    assert (trial.verdict, trial.steps, trial.signal) == (same.verdict, same.steps, same.signal)


@pytest.mark.parametrize("text", ["{", "[1]", "3", '[{"strength": 0.1, "failed": true}]'])
def test_siblings_that_cannot_be_read_are_named_and_the_trial_is_judged_by_itself(text: str) -> None:
    with pytest.warns(RuntimeWarning, match="GRADSCOPE_SIBLINGS cannot be read .*: this run is judged by itself"):
        told = Instructions.from_environment({"GRADSCOPE_SIBLINGS": text, "GRADSCOPE_SEED": "3"})
    assert (told.siblings, told.seed) == (None, 3)


def test_instructions_with_siblings_go_through_an_environment() -> None:
    asked = Instructions(siblings=(*NEIGHBOURS, Sibling(0.2, True, (math.nan, -1.5))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = Instructions.from_environment(asked.environment())
    assert told.environment() == asked.environment()
    assert told.siblings is not None and told.siblings[:2] == NEIGHBOURS


def test_a_second_recording_of_a_trial_has_none(tmp_path: Path) -> None:
    def twice(strength: float, seed: int, path: Path) -> None:
        train(strength, seed, path, 40)
        train(strength, seed, path.with_name("second.h5"), 40)

    run_function_trial(twice, Trial(0, 0.01, 3, audit=True, siblings=NEIGHBOURS), tmp_path / "t.h5", "l2")
    assert (len(kept(tmp_path / "t.h5")), kept(tmp_path / "second.h5")) == (2, [])


def test_a_journal_keeps_the_signal_of_a_trial(tmp_path: Path) -> None:
    """One that was begun before there was any holds trials that are nobody's siblings."""
    plan = Trial(0, 0.1, 0, siblings=NEIGHBOURS)
    journal = Journal(tmp_path, {})
    journal.add("tolerance", plan.over(1.0, 100, signal=(-1.5, math.nan)))
    journal.close()
    again = Journal(tmp_path, {})
    (trial,) = again.trials["tolerance"]
    assert trial.siblings == () and trial.signal[0] == -1.5 and math.isnan(trial.signal[1])
    assert trial.sibling is not None and trial.sibling.failed
    again.close()
    line = json.loads(again.path.read_text().splitlines()[-1])
    del line["trial"]["signal"], line["trial"]["siblings"]
    old = Trial.from_dict(line["trial"])
    assert old.sibling is None
    assert replace(plan, strength=0.0).over(0.0, 100, signal=(1.0,)).sibling is None
    assert plan.over(0.5, 100, signal=(1.0,)).sibling is None
