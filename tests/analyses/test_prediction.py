"""The study of predictions: what it trains is what a record shows, and the shipped reader is what it makes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch

import gradscope
from analyses.common.results import Results
from analyses.prediction import (
    attempts,
    delayed,
    delayed_fit,
    documents,
    equal_steps,
    fit,
    longer,
    raised,
    warned,
    wider,
)
from analyses.prediction.collect import escape
from analyses.prediction.configurations import FAMILIES, Configuration, benchmark, configurations
from analyses.prediction.data import Case, cases
from analyses.prediction.networks import build
from analyses.prediction.study import STUDY
from analyses.prediction.tasks import task
from analyses.prediction.training import Ensemble, outcomes, probes, seed_of
from gradscope.prediction.features import NAMES, features
from gradscope.prediction.forest import Forest
from gradscope.prediction.level_reader import shipped
from gradscope.prediction.rows import probe_of
from gradscope.store.record import Record
from tests.helpers.studies import section, table, told_in_table

ROWS = 16


def a_configuration(optimizer: str = "sgd", penalty: str = "l2", **more: Any) -> Configuration:
    given: dict[str, Any] = {"kind": "mlp", "task": "digits", "layers": 4, "width": 16, "lr": 0.02, "batch": 16} | more
    return Configuration(0, "mlp-shallow", optimizer=optimizer, penalty=penalty, **given)


def recorded(c: Configuration, strength: float, seed: int, path: Path) -> Record:
    """The same run by torch's own optimizer, in a plain loop under `gradscope.record`."""
    torch.manual_seed(seed_of(c, seed))
    model, data = build(c), task(c.task)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    decay = 2 * strength if c.penalty == "l2" else 0.0
    groups: Any = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    if c.optimizer in ("adam", "adamw"):
        optimizer = (torch.optim.Adam if c.optimizer == "adam" else torch.optim.AdamW)(groups, lr=c.lr)
    else:
        optimizer = torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum, nesterov=c.optimizer == "nesterov")
    if c.penalty == "l1":
        gradscope.regularize(optimizer, gradscope.L1(), strength)
    order = np.random.default_rng(seed_of(c, seed)).permutation(len(data.y))
    with gradscope.record(model, optimizer, path, baseline_loss=data.baseline, on_failure="ignore") as run:
        for step in range(ROWS):
            batch = torch.from_numpy(order[step * c.batch : (step + 1) * c.batch])
            loss = data.loss(model(data.x[batch]), data.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    return Record(path)


@pytest.mark.parametrize(
    ("optimizer", "penalty", "strength"),
    [("sgd", "l2", 0.05), ("nesterov", "l2", 0.05), ("plain", "l2", 0.2), ("adamw", "l2", 10.0), ("adam", "l2", 0.1),
     ("sgd", "l1", 0.1)],
)  # fmt: skip
def test_runs_trained_together_are_what_a_record_shows(
    optimizer: str, penalty: str, strength: float, tmp_path: Path
) -> None:
    c = a_configuration(optimizer, penalty)
    loss, sizes = probes(c, [0.0, strength], [7, 8], ROWS)
    with recorded(c, strength, 8, tmp_path / "run.h5") as record:
        probe = probe_of(record)
        assert probe.strength == pytest.approx(strength)
        assert probe.kind == c.group
        assert probe.loss == pytest.approx(loss[1], rel=2e-3)
        for name, index in (("gradient", 0), ("weight", 1)):
            assert getattr(probe, name) == pytest.approx(sizes[1, :, index], rel=5e-3)
        assert probe.dot == pytest.approx(sizes[1, :, 2], rel=2e-2, abs=2e-3)
        assert probe.weight_size * probe.numel == pytest.approx(sizes[1, :, 4], rel=5e-3)
        assert np.isfinite(features(probe)).all()


def test_outcomes() -> None:
    c = a_configuration(lr=0.05, layers=6)
    failed, losses = outcomes(c, [0.0, 1e-4, 1.0, 1e4], [1, 2, 3, 4])
    assert failed.tolist() == [False, False, True, True]
    assert np.isfinite(losses[0]).all()  # without a penalty to the end
    assert np.isnan(losses[2]).any()  # told early
    assert 0 < escape(losses[0], task("digits").baseline) < 200
    assert escape(losses[2], task("digits").baseline) == np.inf


def test_a_run_that_is_over_leaves_the_others_as_they_are() -> None:
    c = a_configuration()
    together, alone = Ensemble(c, [0.0, 0.01], [1, 2]), Ensemble(c, [0.01], [2])
    for step in range(12):
        if step == 5:
            together.keep(np.array([1]))
        seen = together.forward_backward()[-1], alone.forward_backward()[0]
        assert seen[0] == pytest.approx(seen[1], rel=1e-4)
        together.update()
        alone.update()


def test_configurations_are_many_and_of_many_kinds() -> None:
    drawn = configurations()
    assert drawn == configurations()
    assert len(drawn) >= 150
    assert len(FAMILIES) >= 10
    assert {c.optimizer for c in drawn} == {"sgd", "nesterov", "plain", "adam", "adamw"}
    assert len({c.key for c in (*drawn, *benchmark())}) == len(drawn) + len(benchmark())


def taught() -> dict[Path, dict[str, list[Case]]]:
    """What each shipped file is made of, by kind."""
    everything = cases()
    branches = [case for when in delayed.WHENS for case in delayed_fit.of_delay(when)]
    return {
        fit.PLACE: {kind: fit.of_kind(everything, kind) for kind in fit.KINDS},
        delayed_fit.PLACE: {"direct": branches},
    }


@pytest.mark.parametrize("place", [fit.PLACE, delayed_fit.PLACE], ids=lambda place: place.name)
def test_the_shipped_readers_are_what_the_study_makes(place: Path) -> None:
    """The forests of the file are those of these probes; its intervals are checked by `make test-slow`.

    Two splits of a tree may be worth the same but for the last digit, which another processor rounds otherwise: so the
    answers are compared, not the nodes.
    """
    with np.load(place) as file:
        held = dict(file)
    facts = json.loads(str(held["facts"]))
    assert facts["trees"] == fit.TREES
    assert set(facts["kinds"]) == set(taught()[place])
    for kind, known in taught()[place].items():
        assert facts["kinds"][kind]["configurations"] == len({case.configuration.key for case in known})
        reader = fit.fitted(known)
        asked = {
            "whole": [probe.features for case in known for probe in case.probes],
            "first": [known_by for case in known for known_by in case.first],
        }
        for part in ("whole", "near", "first"):
            made, kept = getattr(reader, part), Forest.from_arrays(held, f"{kind}.{part}")
            for name, values in made.arrays(f"{kind}.{part}").items():
                assert (values.dtype, values.ndim) == (held[name].dtype, held[name].ndim)
            if sklearn.__version__ == facts["sklearn"]:  # another version draws other trees
                apart = [abs(made.predict(x) - kept.predict(x)) for x in asked.get(part, asked["whole"])]
                assert np.mean(apart) < 0.003, (kind, part)
                assert np.max(apart) < 0.1, (kind, part)


@pytest.mark.slow
def test_the_shipped_intervals_are_those_of_held_out_families() -> None:
    with np.load(fit.PLACE) as file:
        facts = json.loads(str(file["facts"]))
    for kind in fit.KINDS:
        results = fit.held_out(fit.of_kind(cases(), kind))
        for count, error in facts["kinds"][kind]["errors"].items():
            made = fit.interval([r.errors[min(int(count), len(r.errors)) - 1] for r in results])
            assert made == pytest.approx(error, abs=0.02)


def test_what_was_collected() -> None:
    everything = cases()
    known = [c for c in everything if c.probes]
    assert len({c.configuration.family for c in known}) >= 10
    for case in known:
        assert case.low < case.level < case.high or not np.isfinite(case.level)
        assert all(len(p.features) == len(NAMES) and np.isfinite(p.features).all() for p in (*case.probes, *case.late))
    normalised = [c for c in everything if c.configuration.family == "normalised"]
    assert normalised
    assert all(c.invariant >= 0.5 for c in normalised)
    assert all(c.invariant < 0.5 for c in known)


def test_decades_are_chosen_where_false_alarms_are_known_to_be_rare() -> None:
    """Of 1,000 runs below their level three read as .4 above it: more than may be, so that .4 has to be left behind."""
    below = [warned.Reading(-1.0, -0.9, "a")] * 997 + [warned.Reading(-0.1, 0.4, "b")] * 3
    assert warned.chosen(below) == 0.05  # three of 1,000 may be: at most .88 %
    assert warned.chosen([*below, *below]) == 0.05
    assert warned.chosen(below[500:]) == 0.4  # three of 500 may not
    tally = warned.Tally.of([(r, 0.3) for r in [*below, warned.Reading(0.7, 0.5, "b"), warned.Reading(0.2, 0.1, "b")]])
    assert (tally.false, tally.configurations) == ((3, 1000), (1, 2))
    assert (tally.caught, tally.far) == ((1, 2), (1, 1))


@pytest.mark.parametrize("factor", [1, 4])
def test_rows_of_an_ensemble_are_probes(factor: int) -> None:
    """At a raised rate the penalty's own time is so many times shorter."""
    chosen = next(
        c for c in configurations() if c.family == "mlp-shallow" and c.group == "direct" and c.decay == "none"
    )
    slow, fast = (raised.run(replace(chosen, lr=rate), [0.01], [3], 16)[0] for rate in (chosen.lr, factor * chosen.lr))
    assert slow.folding == pytest.approx(factor * fast.folding)
    assert (len(slow.step), slow.kind, slow.loss[0]) == (16, "direct", fast.loss[0])


def test_a_search_of_few_steps_knows_little() -> None:
    """One trial halves a range of four decades; a whole search ends at the level."""
    few, many = (equal_steps.searched(-1.5, budget, [1]) for budget in (137, 3000))
    assert few.trials <= 1
    assert few.width > 2
    assert abs(many.error) < 0.1
    assert many.width < 0.3
    assert few.holds
    assert many.holds


def test_probes_are_read_again_as_the_prober_weighs_them() -> None:
    """The committed predictions of the documents' nets are those of the probes in their rows."""
    rows = Results(STUDY.results / documents.FILE).rows()
    assert len(rows) >= 6
    for row in (row for row in rows if row["determined"]):
        reader = shipped()[row["kind"]]
        read = documents.read_again(row, reader)
        assert read == pytest.approx(np.log10(row["tolerance"]), abs=0.02)


def test_what_the_readme_tells_of_the_documents_nets_is_what_was_predicted() -> None:
    rows = {(r["net"], r["penalty"]): r for r in Results(STUDY.results / documents.FILE).rows()}
    lines = table(section(STUDY, "Nets of the documents, not seen"))
    assert len(lines) == len(rows)
    for net, penalty, measured, predicted, error, steps in lines:
        row = rows[net.strip().lower().replace("-", ""), penalty.strip().lower()]
        search = documents.measured(row["dataset"])[row["net"], row["penalty"]]
        for told, made in ((measured, search), (predicted, row)):
            assert float(told.split("(")[0]) == pytest.approx(made["tolerance"], rel=0.006)
        assert float(error.strip(" *").replace("−", "-")) == pytest.approx(
            np.log10(row["tolerance"] / search["tolerance"]), abs=0.0051
        )
        assert [int(word) for word in steps.replace(",", "").split(" of ")] == [row["steps_run"], search["steps_run"]]


def test_what_the_readme_tells_of_searches_at_equal_steps_is_in_the_table() -> None:
    made = table((STUDY.results / "equal.md").read_text(encoding="utf-8"))
    told = table(section(STUDY, "The search at equal steps"))
    for (_, trials, middle, _, *shares, width, _), line in zip(made, told, strict=True):
        numbers = [re.sub("[ ±]", "", cell) for cell in (trials, middle, *shares, width)]
        assert [float(cell) for cell in numbers] == [float(re.sub("[ ±]", "", cell)) for cell in line[1:]]


def test_wider_numbers_are_of_the_recorded_probes() -> None:
    """One row a probe, finite; and in a chain of ReLU layers without biases ⟨w, g⟩ is the same in each."""
    with np.load(wider.FILE) as file:
        held = dict(file)
    for case in fit.of_kind(cases(), "direct"):
        for part, seen in (("probes", case.probes), ("late", case.late)):
            if seen:
                rows = held[f"{case.configuration.key}.{part}"]
                assert rows.shape == (len(seen), len(wider.NAMES))
                assert np.isfinite(rows).all()
    c = a_configuration()
    (probe,) = raised.run(c, [0.02], [3], 40)
    told = dict(zip(wider.NAMES, wider.wide(probe), strict=True))
    assert told["rate"] == pytest.approx(np.log(c.lr / (1 - c.momentum)))
    assert told["root_loss"] ** 2 == pytest.approx(np.exp(told["log_loss"]))
    assert told["weight_slope_least"] <= told["weight_slope_most"] < 0.1
    even, odd = (replace(probe, dot=np.full_like(probe.dot, -1.0) * scale) for scale in (1.0, np.arange(1, 5)))
    assert wider.wide(even)[wider.NAMES.index("dots_spread")] < wider.wide(odd)[wider.NAMES.index("dots_spread")]


def test_a_family_has_no_say_in_the_way_that_is_chosen_for_it() -> None:
    families = {"a1": "a", "a2": "a", "b1": "b"}
    rows = {"one": {"errors": {"a1": 0.0, "a2": 0.0, "b1": 0.3}}, "two": {"errors": {"a1": 0.2, "a2": 0.2, "b1": 0.0}}}
    assert attempts.chosen(rows, families) == {"a": "two", "b": "one"}


def test_attempts_are_told_as_they_went() -> None:
    """Each way's errors are of all configurations; the README's figures are the table's."""
    rows = Results(STUDY.results / attempts.FILE).by("way")
    known = {case.configuration.key for case in fit.of_kind(cases(), "direct")}
    assert len(rows) >= 5
    assert all(set(row["errors"]) == known for row in rows.values())
    assert told_in_table(STUDY, "What was tried for a better reader", "attempts.md") >= 10


def test_longer_probes_are_told_as_they_went() -> None:
    """The errors are of all configurations, more rows take more steps; the README's figures are the table's."""
    rows = {row["rows"]: row for row in Results(STUDY.results / longer.FILE).rows()}
    known = {case.configuration.key for case in fit.of_kind(cases(), "direct")}
    assert set(rows) == set(longer.ROWS)
    assert all(set(row["errors"]) == known for row in rows.values())
    early, late = (max(longer.after(rows[n], 3)[1]) for n in (40, 80))
    assert early < late == 32 + 3 * 80
    assert told_in_table(STUDY, "Longer probes from the start", "longer.md") >= 9
