"""What the tables say of weights, and the readings of "weights < 1e-3" that the document's numbers follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.regularizers.penalties import LInf

THRESHOLD = 1e-3
THRESHOLDS = (1e-6, 1e-5, 1e-4, THRESHOLD, 1e-2)


def statistics(matrices: Sequence[Tensor]) -> dict[str, Any]:
    """Of all weights together: their sizes, and how many are small, by three readings.

    ``below``: |w| < 1e-3, as the heading says and experiment 1 counts. ``signed``: w < 1e-3, each weight once.
    ``as_counted``: w < 1e-3 with the second matrix counted twice, of ``as_counted_of`` entries, which is what
    experiment 2 counts; ``mean_as_counted``: its mean magnitude, the mean of those entries with what is below 1e-3
    taken as 0, negative weights among it.
    """
    weights = torch.cat([matrix.detach().double().flatten() for matrix in matrices])
    twice = torch.cat([weights, matrices[1].detach().double().flatten()])
    return {
        "count": len(weights),
        "mean_abs": float(weights.abs().mean()),
        "mean_abs_cut": float(weights.abs().where(weights.abs() >= THRESHOLD, 0).mean()),
        "zeros": int((weights == 0).sum()),
        "below_by_threshold": {f"{t:g}": int((weights.abs() < t).sum()) for t in THRESHOLDS},
        "below": int((weights.abs() < THRESHOLD).sum()),
        "signed": int((weights < THRESHOLD).sum()),
        "as_counted": int((twice < THRESHOLD).sum()),
        "as_counted_of": len(twice),
        "mean_as_counted": float(twice.where(twice >= THRESHOLD, 0).mean()),
    }


class LargestOfAll(LInf):
    """Ω = max|w| over all matrices together, as the notebook has it; `LInf` takes the maximum of each."""

    name = "linf:all"

    def gradients(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """∂Ω/∂w; entries that tie share it equally, wherever they are."""
        largest = torch.stack([w.abs().max() for w in weights]).max()
        at = [(w.abs() == largest).to(w.dtype) for w in weights]
        ties = torch.stack([here.sum() for here in at]).sum()
        return [w.sign() * here / ties for w, here in zip(weights, at, strict=True)]
