"""Study 1: the document's networks and protocol, what is said of rows, and that its figures are drawn from them."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from analyses.benchmarks import cases
from analyses.common import command, study
from analyses.common.results import Results
from analyses.strong_regularization import (
    diagnostics,
    document,
    equations,
    gpu,
    plan,
    plot,
    reading,
    recording,
    search,
    tables,
    training,
)
from analyses.strong_regularization.networks import build, count, zeros
from analyses.strong_regularization.reading import Point, chosen
from gradscope.types import InputError
from tests.helpers.image_files import CIFAR_10, cifar_files, packed

TABLE_1 = [
    ("alexnet", 10, 2.6), ("alexnet", 100, 2.6), ("vgg16", 10, 15.2), ("vgg16", 100, 15.3), ("vgg11", 10, 9.8),
    ("vgg19", 10, 20.6),
]  # fmt: skip


def asked(folder: Path, dataset: str = "digits", scale: str = "small") -> study.Options:
    results = folder / f"{scale}-{dataset}.jsonl"
    return study.Options(dataset, scale, 2, "cpu", folder, 1, "local", (), results)


@pytest.mark.parametrize(("name", "classes", "millions"), TABLE_1)
def test_parameters_as_in_table_1(name: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        assert round(count(build(name, (3, 32, 32), classes)) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_narrow_nets_read_small_images_and_keep_two_dropouts(name: str) -> None:
    model = build(name, (1, 16, 16), 100, width=1 / 16)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 100)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert zeros(model) == pytest.approx(1 - sum(w.numel() for w in weights) / count(model))  # the biases
    assert float(weights[1].detach().std()) == pytest.approx((2 / weights[1][0].numel()) ** 0.5, rel=0.1)


def test_schedules_that_are_shares_of_the_run() -> None:
    def text(word: str) -> str:
        return training.schedule(word, 0.1, plan.DEEP, 23, 200.0).text

    found = [text(word) for word in ("strong", "ivanov:0.5", "cpr:5", "cpr:inflection", "delayed:5")]
    assert found == [f"strong:{plan.DEEP.epochs}", "ivanov:100", "cpr:115steps", "cpr:inflection", "delayed:5"]


def test_every_part_has_cells_that_are_different_trainings(tmp_path: Path) -> None:
    sets = (("digits", "small"), ("pairs", "small"), ("cifar10", "small"), ("cifar100", "paper"))
    for options in (asked(tmp_path, *one) for one in sets):
        for part in plan.PARTS:
            cells = plan.cells(part, options)
            assert len({json.dumps(cell) for cell in cells}) == len(cells)
    with pytest.raises(InputError, match="--dataset is svhn; at small scale expected one of pairs, digits"):
        plan.setup(asked(tmp_path, "svhn"))


def test_photographs_have_the_baseline_and_the_fixed_delay_of_every_seed_before_ours(tmp_path: Path) -> None:
    cells = plan.cells("figure3_l2", asked(tmp_path, "cifar10"))
    assert len(cells) == 2 * (1 + 3 * 8)
    assert [cell["schedule"] for cell in cells[:5]] == ["constant", "constant", "delayed:5", "constant", "delayed:5"]
    assert [cell["seed"] for cell in cells] == [0] * 17 + [1] * 17 + [0] * 8 + [1] * 8
    alexnet, vgg = (plan.protocol(net, asked(tmp_path, "cifar10")) for net in ("alexnet", "vgg11"))
    assert (alexnet.width, vgg.width, vgg.images, vgg.dropout) == (1.0, 0.25, 10_000, 0.5)


def test_a_run_is_ended_only_where_loss_weights_and_the_judge_agree() -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
    hope = training.Hope(model, 10, 2)
    guessing = float(np.log(10))
    assert hope.lost(guessing, failed=True) is None
    with torch.no_grad():
        model.weight.fill_(0.3)
    for loss, failed in ((guessing, False), (0.97 * guessing, True), (guessing, True)):
        assert hope.lost(loss, failed) is None
    reason = hope.lost(0.99 * guessing, failed=True)
    assert reason == "failed, loss of guessing and weights below a third for 2 epochs"
    assert training.Hope(model, 10, None).lost(guessing, failed=True) is None
    assert training.Hope(model, 10, 1).lost(guessing, failed=True) is None  # this small from the start


def test_a_hopeless_run_ends_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = dataclasses.replace(plan.DEEP, epochs=20, hopeless=2, watched=50)
    monkeypatch.setattr(training, "protocol", lambda net, asked: how)
    row = training.train(plan.cell("mlp10", "l2", 0.2, "constant", 0), asked(tmp_path))
    assert row["failed"]
    assert row["epochs"] == len(row["accuracies"]) < 20
    assert row["ended"].startswith("failed, loss of guessing")
    assert row["decided"] < row["epochs"] * 23
    whole = training.run(plan.cell("mlp4", "none", 0.0, "constant", 0), asked(tmp_path), tmp_path / "run.h5")
    assert whole.ended is None
    assert whole.accuracy * 360 == pytest.approx(round(whole.accuracy * 360), abs=1e-3)  # of all test images
    assert whole.epochs[-1].test_accuracy * 50 == pytest.approx(round(whole.epochs[-1].test_accuracy * 50), abs=1e-3)


def test_a_net_trained_with_a_recording_has_the_weights_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PAIRS", 4)
    row = recording.compare({"net": "mlp6", "recording": True, "seed": 0}, asked(tmp_path))
    assert row["identical"]
    assert recording.compared([(2.0, 1.0), (3.0, 2.0), (6.0, 2.0)]) == {
        "ratio": 2.0, "quartiles": [1.5, 3.0], "ms_without": 2000.0
    }  # fmt: skip
    other = nn.Linear(2, 2)
    one = copy.deepcopy(other)
    assert recording.same(one, other)
    with torch.no_grad():
        one.bias[0] = torch.nextafter(one.bias[0], torch.tensor(1.0))
    assert not recording.same(one, other)
    text = diagnostics.recordings([{"net": "mlp6", "recording": True, "seed": 0, **row}])
    assert f"| mlp6 | 0 | equal after {5 * recording.STEPS} steps | {row['wall']['ratio']:.2f} (" in text


def test_a_false_alarm_is_one_on_the_way_though_the_end_is_well(tmp_path: Path) -> None:
    judged = [{"alarm": None, "ended": None, "decided": None}, {"alarm": 2, "ended": None, "decided": 90}]
    made = [{**row, **judged[row["failed"] or (row["strength"] == 0.01 and row["seed"] == 1)]} for row in rows()]
    assert diagnostics.judged(made).splitlines()[2:] == [
        "| mlp10 | l1 | constant | 2 | 0 | 0 | – | 0 | 1 |", "| mlp10 | l1 | delayed:5 | 2 | 0 | 0 | – | 0 | 0 |",
        "| mlp10 | l2 | constant | 4 | 2 | 2 | 90 to 90 | 0 | 1 |",
        "| mlp10 | l2 | delayed:5 | 2 | 0 | 0 | – | 0 | 0 |", "| mlp10 | none | constant | 2 | 0 | 0 | – | 0 | 0 |",
    ]  # fmt: skip
    assert [*diagnostics.diagnostics(rows())] == []


def test_the_documents_protocol_on_files_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    cifar_files(tmp_path, fine=True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: Path(path).exists())
    options = asked(tmp_path, "cifar100", "paper")
    how = plan.protocol("alexnet", options)
    assert (how.lr, how.epochs, how.halve, how.batch, how.dropout) == (0.05, 300, 30, 128, 0.5)
    assert plan.protocol("vgg16", asked(tmp_path, "svhn", "paper")).padding == 0
    short = dataclasses.replace(how, width=1 / 32, epochs=3, halve=1, batch=5)
    monkeypatch.setattr(training, "protocol", lambda net, asked: short)
    row = training.train(plan.cell("alexnet", "l1", 0.01, "delayed:1", 0), options)
    assert (row["on"], row["epochs"], len(row["gradients"])) == (4, 3, 3)
    assert 0 <= row["sparsity"] < 1


def test_a_cell_tells_what_its_record_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "protocol", lambda net, asked: dataclasses.replace(plan.DEEP, epochs=4))
    collapse = {**plan.cell("mlp10", "l2", 0.075, "constant", 0), "layers": True, "biases": False}
    row = training.train(collapse, asked(tmp_path))
    assert row["weights"][-1] < row["weights"][0] / 5
    assert row["on"] == 0
    assert row["proportions"][0] < 0.5
    slopes = [layer["others"] for layer in row["of_layers"]]
    assert len(slopes) == 10
    assert np.mean(slopes[:5]) == pytest.approx(1, abs=0.3)
    none = training.train(plan.cell("mlp4", "none", 0.0, "constant", 0), asked(tmp_path))
    assert none["on"] is None
    assert set(none["proportions"]) == {1.0}


def test_slopes_of_made_up_layers() -> None:
    shrink = np.linspace(0, -6, 50)[:, None]
    weight = 10 ** (shrink * np.array([1.0, 2.0, 1.0]))
    gradient = 10 ** np.concatenate([shrink * 3, shrink * 1, shrink * 0], axis=1)  # exactly the later layers
    found = equations.slopes(["a", "b", "c"], gradient, weight)
    assert [row["later"] for row in found] == [1.0, 1.0, None]
    assert found[0]["own"] == 3.0
    assert found[1]["others"] == 0.5


def test_the_documents_p_values_are_one_sided() -> None:
    printed = [(row.p, document.p_again(row, document.NORMAL)) for row in document.REPORTED if row.p is not None]
    assert np.median([abs(p - again) / p for p, again in printed]) < 0.1


def rows() -> list[study.Row]:
    """A made-up panel: the baseline fails at the stronger of two strengths, and the delayed one learns."""
    made = []
    for seed, accuracy in ((0, 0.70), (1, 0.72)):
        outcomes = {
            ("none", 0.0, "constant"): (accuracy, 0.0), ("l2", 0.01, "constant"): (accuracy + 0.1, 0.0),
            ("l2", 0.05, "constant"): (0.1, 0.0), ("l2", 0.05, "delayed:5"): (accuracy + 0.2, 0.0),
            ("l1", 0.01, "constant"): (accuracy, 0.2), ("l1", 0.02, "delayed:5"): (accuracy + 0.01, 0.6),
        }  # fmt: skip
        for (penalty, strength, schedule), (value, sparsity) in outcomes.items():
            made.append({
                **plan.cell("mlp10", penalty, strength, schedule, seed), "accuracy": value, "sparsity": sparsity,
                "failed": value < 0.2, "on": 0, "seconds": 1.0, "machine": "a made-up machine",
                "date": f"2026-01-0{seed + 1}", "accuracies": [0.1, value], "losses": [2.3, 1.0],
                "gradients": [1e-3, 1e-4], "weights": [0.1, 0.05], "proportions": [0.9, 0.5],
            })  # fmt: skip
    return made


def test_tables_say_what_is_better_and_what_is_missing() -> None:
    text = tables.overall(rows(), ["mlp10", "mlp4"], "delayed:5")
    assert "| mlp10 | l2 delayed | 0.05 | 0.000 | 91.0 | +12.35 % (p =" in text
    assert "| mlp10 | l1 delayed (sparse) | 0.02 | 0.600 |" in text
    assert "| 2.0× |" in text  # 80 % of the weights against 40 %
    assert "| mlp4 | no penalty | – | – | – | – | – |" in text
    assert "| 0.05 | 10.0 | 2 of 2 | 0.000 | 91.0 | 0 of 2 | 0.000 |" in tables.strengths(
        rows(), "mlp10", "l2", "delayed:5"
    )
    assert [p.strength for p in reading.series(rows(), "mlp10", "l2", "constant")] == [0.01, 0.05]
    assert "| mlp10 | 0 | 0.01 | 0.200 | 71.0 | 0.02 | 0.600 | 72.0 | 2.00× |" in tables.compression(
        rows(), ["mlp10", "mlp4"], "delayed:5"
    )
    assert tables.collapses(rows()).splitlines()[2:] == [
        "| mlp10 | l1 | – | – | 0 of 0 | 2 of 2 |", "| mlp10 | l2 | 10 to 10 | 2 to 2 | 2 of 2 | 2 of 2 |"
    ]  # fmt: skip


def test_commands_from_training_to_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small-digits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    assert command.main(["plot", "strong_regularization", "--results", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} >= {"figure3-small-digits.png"}
    assert {path.name for path in tmp_path.glob("*.md")} == {"tables-small-digits.md", "tables-document.md"}
    assert capsys.readouterr().out.count("\n") == len([*tmp_path.glob("*.png"), *tmp_path.glob("*.md")])
    text = (tmp_path / "tables-small-digits.md").read_text()
    assert re.search(r"figure3_l2 \| \d+ of \d+ ", text)
    assert "12 rows, a made-up machine, 2026-01-01 to 2026-01-02." in text
    assert command.main(["check", "strong_regularization", "--results", str(tmp_path)]) == 0
    (tmp_path / "tables-document.md").write_text("else")
    assert command.main(["check", "strong_regularization", "--results", str(tmp_path)]) == 1
    assert "tables-document.md is not what the results give; first: - else" in capsys.readouterr().out
    words = ["run", "strong_regularization", "--dataset", "cifar100", "--out", str(tmp_path)]
    assert command.main(words) == 2
    assert "--dataset is cifar100" in capsys.readouterr().err


def test_photographs_have_a_table_and_a_line_for_each_delay(tmp_path: Path) -> None:
    made = [{**row, "net": "vgg11"} for row in rows()]
    made += [{**row, "schedule": plan.AUTO} for row in made if row["schedule"] == "delayed:5"]
    options = asked(tmp_path, "cifar10")
    titles = [title for title, _ in tables.sections(made, options)]
    for delayed in (plan.AUTO, "delayed:5"):
        assert f"vgg11, l2, every strength, {delayed}" in titles
    drawn = plot.against_strength(made, "vgg11", "l2", plan.setup(options))
    assert drawn is not None
    assert {curve.label for curve in drawn.curves} >= {"baseline", plan.AUTO, "delayed, γ = 5"}
    assert plot.to_the_end([[0.1, 0.2, 0.3], [0.1]]).tolist() == [[0.1, 0.2, 0.3], [0.1, 0.1, 0.1]]


def test_schedules_are_compared_by_the_seeds_that_all_have() -> None:
    made = [{"schedule": text, "seed": seed} for text in ("constant", "strong") for seed in (0, 1, 2)]
    assert reading.alike(made) == made
    early = {"schedule": plan.AUTO, "seed": 1}
    assert reading.alike([*made, early]) == [made[1], made[4], early]
    found = [{**row, "net": "vgg11"} for row in rows()]
    found += [{**row, "schedule": plan.AUTO} for row in found if row["schedule"] == "delayed:5" and row["seed"] == 0]
    options = asked(Path(), "cifar10")
    labels = {one.label for one in plot.compared(found, "vgg11", "l2", plan.setup(options))}
    assert labels == {"baseline", "delayed, γ = 5", f"{plan.AUTO}, seed 0"}


def test_an_unfinished_panel_is_compared_by_the_seeds_that_both_have() -> None:
    base = Point(0.001, (0, 1, 2), (0.6, 0.5, 0.4), (0.0,) * 3, 0)
    assert tables._gain(Point(0.002, (0,), (0.63,), (0.0,), 0), base) == "+5.00 %, 1 of the seeds"
    assert tables._gain(Point(0.002, (3,), (0.63,), (0.0,), 0), base) is None
    whole = tables._gain(Point(0.002, (2, 1, 0), (0.44, 0.55, 0.66), (0.0,) * 3, 0), base)
    assert whole is not None
    assert re.fullmatch(r"\+10\.00 % \(p = 0\.\d+\)", whole)


def test_a_search_is_a_row_with_both_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "protocol", lambda net, asked: dataclasses.replace(plan.DEEP, epochs=1))
    monkeypatch.setattr(search, "RANGES", {"l1-subgradient": (0.01, 0.03)})
    monkeypatch.setattr(search, "TRIALS", 2)
    row = search.search({"net": "mlp4", "penalty": "l1-subgradient", "search": True}, asked(tmp_path))
    assert row["trials"] == 4
    assert list((tmp_path / "searches").iterdir()) == []
    assert not row["determined"]
    assert all(0.01 <= strength <= 0.03 for strength, _ in row["trials_of"])
    shown = tables.tolerance([{**row, "net": "mlp4", "penalty": "l1-subgradient", "search": True}])
    assert re.fullmatch(r"\| mlp4 \| l1-subgradient \| – \| .+ \| – \| .+ \| 4 \| – \| – \|", shown.splitlines()[-1])
    assert row["trials_from_start"] == 2


def test_trials_near_a_level_are_trained_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "protocol", lambda net, asked: dataclasses.replace(plan.DEEP, epochs=1))
    trials = [[0.1, 1.0], [0.012, 0.001], [0.014, 0.98], [0.011, 0.3], [0.012, 0.99]]
    searched = {"net": "mlp4", "penalty": "l2", "search": True, "tolerance": 0.01, "trials_of": trials}
    options = asked(tmp_path)
    Results(options.results).append({**searched, "trials_from_start": 4}, {**searched, "tolerance": None}, searched)
    failing, *learning = search.audited(options)
    assert failing == {**plan.cell("mlp4", "l2", 0.014, "constant", 10_002), "said": 0.98}
    assert [(one["strength"], one["seed"]) for one in learning] == [(0.012, 10_001), (0.011, 10_003)]
    row = {**failing, **training.train(failing, options)}
    assert chosen([row]) == []
    shown = [{**searched, "trials_from_start": 4}, {**row, "failed": True}, {**row, "seed": 10_001, "failed": False}]
    found = dict(diagnostics.diagnostics(shown))
    line = found["Trials that a search ended, trained to their end"].splitlines()[-1]
    assert re.fullmatch(r"\| mlp4 \| l2 \| 0.014 to 0.014 \| 1 of 2 \| 0 of 0 \| 0\.0\d+ \(0\.\d+ … 0\.\d+\) \|", line)


def test_a_prediction_stands_beside_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "protocol", lambda net, asked: dataclasses.replace(plan.DEEP, epochs=8))
    cell = {"net": "mlp4", "penalty": "l2", "suggest": True}
    row = {**cell, **search.suggest(cell, asked(tmp_path))}
    assert row["determined"], row["reason"]
    assert 1e-4 < row["low"] < row["tolerance"] < row["high"] < 10
    shown = tables.tolerance([row]).splitlines()[-1]
    assert re.fullmatch(rf"\| mlp4 \| l2 (\| – ){{5}}\| .+ … .+\) \| {row['steps_run']} \|", shown)
    planned = plan.cells("suggested", asked(tmp_path, "cifar10"))
    assert {"net": "vgg11", "penalty": "l2", "suggest": True} in planned


@pytest.mark.slow
@pytest.mark.parametrize("dataset", gpu.STRENGTHS)
def test_the_plan_for_a_card_on_the_cpu(dataset: str, tmp_path: Path) -> None:
    words = ["--scale", "tiny", "--workers", "1", "--only", "card", "--out", str(tmp_path), "--dataset", dataset]
    words += ["--data", str(packed(tmp_path, CIFAR_10, 50))]
    assert command.main(["run", "strong_regularization", *words]) == 0
    assert [row["schedule"] for row in Results(tmp_path / f"tiny-{dataset}.jsonl").rows()] == [
        "constant", "constant", "delayed:5",
    ]  # fmt: skip


def test_checks_of_a_card_are_made_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "measurements", lambda tiny: {"version": ["platform"]})
    words = ["--scale", "tiny", "--only", "checks", "--out", str(tmp_path)]
    assert [command.main(["run", "strong_regularization", *words]) for _ in range(2)] == [0, 0]
    assert capsys.readouterr().err.count("1 of 1 cells") == 2
    assert len(Results(tmp_path / "checks-tiny.jsonl").rows()) == 1
    assert (tmp_path / "checks-tiny-version.txt").read_text().strip()
    monkeypatch.setattr(gpu, "measurements", lambda tiny: {"nothing": ["no_such_module"]})
    asked_for = dataclasses.replace(asked(tmp_path), scale="tiny", results=tmp_path / "checks-tiny.jsonl")
    with pytest.raises(RuntimeError, match="exit code 1"):
        gpu.check({"check": "nothing"}, asked_for)
    assert "No module named no_such_module" in (tmp_path / "checks-tiny-nothing.txt").read_text()


def test_what_a_card_measures() -> None:
    found = gpu.measurements(tiny=False)
    assert list(found)[-2:] == ["growth", "tests"]
    assert len(found) == 2 + len(cases.CUDA)
    assert [words[words.index("--nets") + 1] for words in list(found.values())[:-2]] == list(cases.CUDA)


def test_no_training_begins_after_the_time_is_up(tmp_path: Path) -> None:
    card = dataclasses.replace(asked(tmp_path, "pairs", "card"), minutes=-1, more={"net": "vgg16"})
    assert len(gpu.cells(card)) == 2 * (24 + 1)
    assert study.complete(training.train, gpu.cells(card), card) == []
    assert gradscope.L1().proximal_step and not training.KINDS["l1-subgradient"].proximal_step
    with pytest.raises(InputError, match="a card is for one of card, tiny"):
        gpu.cells(asked(tmp_path))
