"""Random forest as plain arrays, evaluated by numpy: no pickle, and no scikit-learn where a prediction is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.prediction.rows import Array


@dataclass(frozen=True)
class Forest:
    """Mean of T trees whose N nodes lie one after the other.

    Attributes:
        feature: number of the feature that a node asks about, −1 for a leaf, [N].
        value: its threshold, or the answer of the leaf, [N].
        right: how many nodes further on the branch above the threshold begins, [N]; the other one is the next node.
        root: where the trees begin, [T].
    """

    feature: NDArray[np.int8]
    value: NDArray[np.float32]
    right: NDArray[np.uint16]
    root: NDArray[np.int32]

    def predict(self, features: Array) -> float:
        """Return the answer to one set of features, [F]."""
        node, x = self.root.astype(np.int64), features.astype(np.float32)
        while True:
            asked = self.feature[node]
            inner = asked >= 0
            if not inner.any():
                return float(self.value[node].mean(dtype=np.float64))
            above = x[np.maximum(asked, 0)] > self.value[node]
            node = np.where(inner, node + np.where(above, self.right[node], 1), node)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str) -> Forest:
        """Build the forest that `arrays` stored under this name."""
        return cls(*(arrays[f"{name}.{part}"] for part in ("feature", "value", "right", "root")))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Return its arrays by name, for a file."""
        return {f"{name}.{part}": getattr(self, part) for part in ("feature", "value", "right", "root")}
