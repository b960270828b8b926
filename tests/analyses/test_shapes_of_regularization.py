"""The study of penalty shapes: its nets, the document's own protocol, and the readings of its counts."""

from __future__ import annotations

import pickle
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import gradscope
from analyses.common import study
from analyses.shapes_of_regularization import plot, recount, tables, training
from analyses.shapes_of_regularization.curves import deepest_dip
from analyses.shapes_of_regularization.networks import NETS, SEEDS, Arctan, as_published, network
from analyses.shapes_of_regularization.published import batch_accuracy, batch_loss, constant_loss, split
from analyses.shapes_of_regularization.reported import ACCURACY
from analyses.shapes_of_regularization.study import cells
from analyses.shapes_of_regularization.weights import LargestOfAll, statistics


def asked(folder: Path, scale: str, only: tuple[str, ...] = ("deep-16",), dataset: str = "digits") -> study.Options:
    return study.Options(dataset, scale, 1, "cpu", folder, 1, "local", only, folder / f"{scale}-{dataset}.jsonl")


@pytest.mark.parametrize(
    ("net", "count"), [("shallow", 18_944), ("deep-32", 7_488), ("deep-16", 2_464), ("deep-256", 346_624)]
)
def test_the_nets_have_the_weights_that_the_document_counts(net: str, count: int) -> None:
    model = network(NETS[net], dropout=0.33, on_outputs=True)
    assert sum(p.numel() for p in model.parameters()) == NETS[net].weights() == count
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


#: Training and validation accuracy at step 0 in the document's published results (results/exp2_accuracy_L1_sd*.npy).
@pytest.mark.parametrize(
    ("seed", "train", "validation"), [(13, 0.162726, 0.189239), (1337, 0.079277, 0.096475), (42, 0.148818, 0.142857)]
)
def test_the_published_protocol_starts_where_the_document_did(seed: int, train: float, validation: float) -> None:
    data = split()
    assert (len(data.x), len(data.x_validation)) == (719, 539)
    model = network(NETS["deep-256"], Arctan)
    as_published(model, "deep-256", "l1", seed)
    with torch.no_grad():
        scores = model(data.x), model(data.x_validation)
    assert float(batch_accuracy(scores[0], data.y)) == pytest.approx(train, abs=1e-6)
    assert float(batch_accuracy(scores[1], data.y_validation)) == pytest.approx(validation, abs=1e-6)
    assert float(batch_loss(scores[0], data.y)) == pytest.approx(constant_loss(719), abs=1e-5)


@pytest.mark.thorough
def test_dropout_draws_the_masks_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 250 in the document's published results (results/exp2_accuracy_dropout_sd13.npy, commit fc238b9)."""
    monkeypatch.setattr(training, "PUBLISHED", replace(training.PUBLISHED, steps=251))
    wanted = {"net": "deep-32", "penalty": "dropout", "seed": 13}
    theirs, others = (
        training.train({**wanted, "variant": variant}, asked(tmp_path, "paper"))["curve"] for variant in ("", "masks 1")
    )
    assert [theirs[name][1] for name in ("loss", "train", "validation")] == [0.65899, 0.23227, 0.24675]
    assert others["train"][0] == theirs["train"][0]
    assert others["train"][1] != theirs["train"][1]


def test_weights_of_experiment_1_follow_from_those_drawn_before() -> None:
    def start(penalty: str, seed: int) -> torch.Tensor:
        model = network(NETS["shallow"], Arctan)
        as_published(model, "shallow", penalty, seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(start("none", 13), start("none", 13))
    assert not torch.equal(start("none", 42), start("l0", 13))
    assert start("none", 13)[:16384].std() == pytest.approx(1 / 128, rel=0.02)


def test_the_batch_loss_is_the_cross_entropy_over_the_images() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    p = scores.exp() / scores.exp().sum(0)
    y = torch.eye(4)[labels]
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    assert float(batch_loss(scores, labels)) == pytest.approx(float(by_hand), rel=1e-5)
    assert constant_loss(719) == pytest.approx(0.6590, abs=1e-4)


def test_three_readings_of_small_weights() -> None:
    first, second = torch.tensor([[-0.5, 0.5]]), torch.tensor([[0.0, -2.0, 5e-4, 0.25]])
    found = statistics([first, second])
    assert (found["count"], found["below"], found["signed"], found["zeros"]) == (6, 2, 4, 1)
    assert (found["as_counted"], found["as_counted_of"]) == (7, 10)
    assert found["mean_as_counted"] == pytest.approx((0.5 + 2 * 0.25) / 10)
    assert found["mean_abs_cut"] == pytest.approx((0.5 + 0.5 + 2 + 0.25) / 6)


def test_the_largest_of_all_matrices() -> None:
    matrices = [torch.tensor([[1.0, -3.0]]), torch.tensor([[3.0, 2.0]])]
    found = LargestOfAll().gradients(matrices)
    assert [w.tolist() for w in found] == [[[0, -0.5]], [[0.5, 0]]]
    assert [w.tolist() for w in LargestOfAll().gradients(matrices[:1])] == [[[0, -1]]]


def test_the_published_penalty_counts_the_second_matrix_twice() -> None:
    model = network(NETS["deep-16"], Arctan)
    matrices = list(model.parameters())
    before = [matrix.detach().clone() for matrix in matrices]
    optimizer = torch.optim.SGD(matrices, lr=1)
    training.penalise(optimizer, matrices, "deep-16", "l2")
    for matrix in matrices:
        matrix.grad = torch.zeros_like(matrix)
    optimizer.step()
    for number, (after, first) in enumerate(zip(matrices, before, strict=True)):
        share = 0.05 / 2720 * (2 if number == 1 else 1)
        assert torch.allclose(after, first * (1 - 2 * share), atol=1e-8)


def test_dips() -> None:
    steps = list(range(0, 900, 100))
    dip = deepest_dip(steps, [0.1, 0.7, 0.7, 0.3, 0.2, 0.3, 0.8, 0.9, 0.9])
    assert (dip.before, dip.at, dip.after, dip.to_new_heights) == (0.7, 0.3, 0.9, True)
    assert dip.where == (100, 300)
    assert deepest_dip(steps, [0.1, 0.7, 0.8, 0.1, 0.8, 0.8, 0.8, 0.9, 0.9]).depth == 0  # one spike
    assert deepest_dip(steps, np.linspace(0, 1, 9).tolist()).depth == 0


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_both_protocols_from_cells_to_tables_and_figures(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHOICE", replace(training.CHOICE, epochs=2))
    monkeypatch.setattr(training, "PUBLISHED", replace(training.PUBLISHED, steps=40, every=10))
    options = asked(tmp_path, scale)
    wanted = cells(options)
    assert {cell["penalty"] for cell in wanted} == set(tables.NAMES) - {"l0"}
    rows = [{**cell, **training.train(cell, options)} for cell in wanted if cell["penalty"] in ("none", "l1", "linf")]
    for row in rows:
        assert 0 <= row["validation"] <= 1
        assert row["weights"]["count"] == 2464
        assert sum(row["histogram"]) == 2464
    assert "| L0 | " in tables.accuracies(rows, "deep-16")
    assert "Table 7" in plot.text(rows)
    assert len(plot.learning_curves(rows, "deep-16")[1].curves) == 4
    assert len(plot.histograms(rows, "deep-16").curves) == 3


def test_which_cells_there_are() -> None:
    everything = (*NETS, "sensitivity")
    paper = cells(asked(Path(), "paper", everything))
    assert {cell["seed"] for cell in paper} == {SEEDS[0]}
    assert [cell["penalty"] for cell in paper if cell["net"] == "shallow"] == list(ACCURACY["shallow"])
    assert not any(cell["variant"] for cell in paper)
    assert any(cell["variant"] == "Adam, 1e-3" for cell in cells(asked(Path(), "small", everything)))


def test_the_documents_protocol_is_for_digits(tmp_path: Path) -> None:
    with pytest.raises(gradscope.InputError, match="--dataset is pairs; the document's own protocol is for digits"):
        training.prepared(asked(tmp_path, "paper", dataset="pairs"))


def test_files_of_strangers_give_arrays_and_nothing_else(tmp_path: Path) -> None:
    matrices = np.empty(2, dtype=object)
    matrices[:] = [np.ones((2, 3)), np.zeros(4)]
    np.save(tmp_path / "weights.npy", matrices, allow_pickle=True)
    assert [matrix.shape for matrix in recount.arrays(tmp_path / "weights.npy")] == [(2, 3), (4,)]
    np.save(tmp_path / "plain.npy", np.arange(3))
    assert recount.arrays(tmp_path / "plain.npy").tolist() == [0, 1, 2]
    matrices[1] = Fraction(1, 2)
    np.save(tmp_path / "other.npy", matrices, allow_pickle=True)
    with pytest.raises(pickle.UnpicklingError, match=r"fractions\.Fraction"):
        recount.arrays(tmp_path / "other.npy")
    with pytest.raises(gradscope.InputError, match="a checkout of"):
        recount.recount(replace(asked(tmp_path, "small"), more={"checkout": tmp_path}))
