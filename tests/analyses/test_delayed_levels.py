"""The study of delayed levels: its delays are the product's, its levels and branches, what it tells of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analyses.common.results import Results
from analyses.prediction import delayed, delayed_fit, documents, fit
from analyses.prediction.configurations import benchmark
from analyses.prediction.study import STUDY
from analyses.prediction.training import Ensemble, outcomes, rows_of
from gradscope.prediction.features import NAMES
from gradscope.prediction.rows import Probe
from gradscope.processes.instructions import Instructions, instructed
from gradscope.recording.live_judge import CHUNK, border_after
from gradscope.store.record import Record
from tests.helpers.loops import a_deep_net
from tests.helpers.studies import section, table, told_in_table


def test_branches_go_on_from_one_learned_net_with_its_batches() -> None:
    """A branch without a penalty is the run that would have gone on, and of a stronger penalty the weights are less."""
    c = next(c for c in benchmark() if c.key.startswith("908"))
    alone, together = Ensemble(c, [0.0], [3]), Ensemble(c, [0.0], [3])
    for runs in (alone, together):
        runs.learn(30)
    together.branch([0.0, 0.05, 0.5])
    before = together.sizes()[:, 1]
    assert (before == before[0]).all()
    loss, sizes = rows_of(together, 12)
    assert loss[0] == pytest.approx(rows_of(alone, 12)[0][0], rel=1e-4)
    assert loss[0, 0] == loss[1, 0] == loss[2, 0]
    assert (np.diff(sizes[:, -1, 1].sum(1)) < 0).all()


def test_a_penalty_that_comes_late_is_borne_where_one_from_the_start_is_not() -> None:
    c = next(c for c in benchmark() if c.key.startswith("908"))  # levels .020 and .049
    assert outcomes(c, [0.031, 1.0], [1, 2])[0].tolist() == [True, True]
    assert outcomes(c, [0.031, 1.0], [1, 2], delay=106)[0].tolist() == [False, True]


def test_the_loss_bears_a_strength_while_its_pull_is_as_large() -> None:
    """Where the loss's pull on the weights is that of a penalty of .03, it bears .03."""
    weight = np.full((40, 2), 2.0)
    rows = np.zeros((40, 2))
    probe = Probe(
        np.arange(40.0), np.ones(40), rows + 1, weight, -2 * 0.03 * weight**2, rows, rows, np.full(2, 4.0), np.ones(40),
        0.1, "l2", 0.9, False, False, 1.0,
    )  # fmt: skip
    assert delayed.restoring(probe) == pytest.approx((np.log10(0.03),) * 2)


def test_branches_are_read_without_the_family_they_belong_to() -> None:
    """A reader of branches reads branches; the level of each configuration is measured, its places are around it."""
    rows = Results(STUDY.results / delayed.FILE).rows()
    cells = [(row["key"], row["when"]) for row in rows]
    assert len(set(cells)) == len(cells)
    known = {case.configuration.key for case in delayed.chosen()}
    assert {key for key, when in cells if when == "twice"} == known
    assert len({key for key, when in cells if when == "auto"} & known) >= 60
    assert len({row["key"].split("-")[1] for row in rows}) >= 5
    for row in (row for row in rows if row["determined"]):
        assert row["low"] < row["level"] < row["high"]
        assert all(len(b["features-80"]) == len(NAMES) for b in row["branches"])
        trials = sorted(row["trials"])
        assert not trials[0][1]
        assert trials[-1][1]


@pytest.mark.slow
def test_the_intervals_of_delayed_levels_are_those_of_held_out_families() -> None:
    with np.load(delayed_fit.PLACE) as file:
        errors = json.loads(str(file["facts"]))["kinds"]["direct"]["errors"]
    by = {when: delayed_fit.of_delay(when) for when in delayed.WHENS}
    results = delayed_fit.held_out(by["auto"], [case for known in by.values() for case in known])
    for count, error in errors.items():
        made = fit.interval([r.errors[min(int(count), len(r.errors)) - 1] for r in results])
        assert made == pytest.approx(error, abs=0.02)


def test_the_active_phase_of_the_study_is_where_a_recording_switches_on(tmp_path: Path) -> None:
    with instructed(Instructions(on_failure="ignore", schedule="delayed:auto")):
        a_deep_net(0.02, 0, tmp_path / "a.h5")
    with Record(tmp_path / "a.h5") as record:
        losses, baseline = record.column("loss").astype(float), record.info.baseline_loss
        border = CHUNK
        while not delayed.established(losses[:border], baseline):
            border = border_after(border)
        assert border_after(border) == record.switched_on


def test_what_the_readme_tells_of_delayed_levels_is_in_the_table() -> None:
    assert told_in_table(STUDY, "The delayed level", "delayed.md") >= 14


def test_delayed_levels_of_the_documents_nets_are_told_as_they_were_predicted() -> None:
    rows = {row["net"]: row for row in Results(STUDY.results / documents.DELAYED).rows()}
    lines = table(section(STUDY, "Delayed levels of the documents' nets, in the product"))
    assert [line[0].strip().lower().replace("-", "") for line in lines] == list(rows)
    for (*_, predicted, error, delay, steps, _), row in zip(lines, rows.values(), strict=True):
        search = documents.measured(row["dataset"])[row["net"], "l2"]
        assert int(steps.replace(",", "")) == row["steps_run"]
        assert int(delay.replace(",", "").strip(" –") or 0) == row["delay"]
        if row["determined"]:
            assert float(predicted.split("(")[0]) == pytest.approx(row["tolerance"], rel=0.006)
            apart = np.log10(row["tolerance"] / search["delayed_tolerance"])
            assert float(error.strip(" *").replace("−", "-")) == pytest.approx(apart, abs=0.0051)
