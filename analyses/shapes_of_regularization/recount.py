"""Count the document's own weights again.

``--checkout`` names a clone of github.com/riveSunder/SortaSota (January 2021, commit 1a8d83d is what was read). Its
folder regularization_shapes/weights holds the weights after training, of experiment 1 and of width 256; results holds
the learning curves of width 256.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.common.study import Options
from analyses.shapes_of_regularization.curves import deepest_dip
from analyses.shapes_of_regularization.networks import SEEDS
from analyses.shapes_of_regularization.weights import statistics
from gradscope.types import InputError

#: File names by penalty: experiment 1, and experiment 2b with width 256, where no penalty and L0 are the same run.
FILES = {
    "shallow": {"none": "exp1_no_reg", "l0": "exp1_L0", "l1": "exp1_L1", "l2": "exp1_L2", "l3": "exp1_L3"},
    "deep-256": {
        "none": "exp2_L0",
        "l1": "exp2_L1",
        "l2": "exp2_L2",
        "l3": "exp2_L3",
        "linf": "exp2_L4",
        "dropout": "exp2_dropout",
    },
}


class _Arrays(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else: the files are pickles of strangers."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.zeros(0).__reduce__()[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"a file of arrays asks for {module}.{name}")


def arrays(path: Path) -> Any:
    """What a .npy file holds, arrays of different shapes in a list included."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            return _Arrays(file, encoding="latin1").load()
    return np.load(path)


def weights_table(checkout: Path) -> str:
    """The three readings of "weights < 1e-3" on the weights of the first seed."""
    lines = [
        "| net | penalty | \\|w\\| < 1e-3 | ratio | w < 1e-3 | ratio | second matrix twice | ratio | mean \\|w\\| |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for net, files in FILES.items():
        base: dict[str, Any] = {}
        for penalty, file in files.items():
            path = checkout / "regularization_shapes" / "weights" / f"{file}_sd{SEEDS[0]}.npy"
            found = statistics([torch.from_numpy(np.asarray(matrix)) for matrix in arrays(path)])
            base = base or found
            parts = [f"{found[name]} | {found[name] / base[name]:.2f}" for name in ("below", "signed", "as_counted")]
            lines.append(f"| {net} | {penalty} | {' | '.join(parts)} | {found['mean_abs']:.3g} |")
    return "\n".join(lines)


def curves_table(checkout: Path) -> str:
    """The valleys of accuracy of width 256, and the training loss where they begin and at their bottom."""
    lines = [
        "| penalty | seed | validation before, at, after | training before, at, after | steps | training loss |",
        "|---|---|---|---|---|---|",
    ]
    results = checkout / "regularization_shapes" / "results"
    for penalty, file in FILES["deep-256"].items():
        for seed in SEEDS:
            stem = file.removeprefix("exp2_")
            steps, train, validation = np.asarray(arrays(results / f"exp2_accuracy_{stem}_sd{seed}.npy"), dtype=float)
            losses = np.asarray(arrays(results / f"exp2_losses_{stem}_sd{seed}.npy"), dtype=float)[1]
            at = steps.astype(int).tolist()
            theirs, ours = (deepest_dip(at, curve.tolist()) for curve in (validation, train))
            levels = [f"{dip.before:.3f}, {dip.at:.3f}, {dip.after:.3f}" for dip in (theirs, ours)]
            then = " and ".join(f"{losses[at.index(step)]:.4f}" for step in theirs.where)
            where = f"{theirs.where[0]} to {theirs.where[1]}"
            lines.append(f"| {penalty} | {seed} | {' | '.join(levels)} | {where} | {then} |")
    return "\n".join(lines)


def recount(asked: Options) -> None:
    """Print both tables."""
    checkout = asked.more["checkout"]
    if checkout is None or not (checkout / "regularization_shapes" / "weights").is_dir():
        raise InputError(f"--checkout is {checkout}; expected a checkout of github.com/riveSunder/SortaSota")
    print(weights_table(checkout), curves_table(checkout), sep="\n\n")
