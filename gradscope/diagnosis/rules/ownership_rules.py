"""Rules on what is not being trained at all: told by the first row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradscope.diagnosis.rules.columns import Columns
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.run_info import RunInfo


def untrained_parameters(rows: Columns, info: RunInfo, o: Mapping[str, float]) -> list[Symptom]:
    """Find parameters that no training step will move.

    Those that want a gradient and are in no optimizer; parameters of an optimizer that the model does not hold (it was
    rebuilt after the optimizer was made); modules in a plain list or dictionary, which PyTorch does not register; and a
    model of which ``requires_grad=False`` has left no matrix to train.
    """
    first = (rows.number == 0)[:, None]
    unowned = info.unowned if len(info.unowned) else np.zeros(len(info.parameters), dtype=bool)
    trained = info.matrices & ~info.frozen & ~unowned
    nothing = bool(info.matrices.any()) and not bool(trained.any())

    def symptom(kind: str, layers: tuple[str, ...], there: object, text: str, quantity: str, do: str) -> Symptom:
        shows = np.where(first, np.broadcast_to(np.asarray(there, dtype=np.float64), (len(rows), len(layers))), np.nan)
        counted = float(np.asarray(there, dtype=np.float64).sum())
        return Symptom(kind, shows, np.full(shows.shape, counted), layers, text, quantity, 0.0, do, at_once=True)

    complete = (
        "make the optimizer from model.parameters() after the model is complete, or add_param_group what is missing"
    )
    found = [
        symptom("unowned", info.parameters, unowned & ~info.frozen, "parameters that want a gradient are in no "
                "optimizer", "parameters", f"{complete}; if it is meant, set requires_grad=False"),
        symptom("frozen", ("",), [nothing], "no matrix of the model is trained: all are frozen or in no optimizer",
                "models", "set requires_grad=True where the model is to learn"),
        symptom("foreign", ("",), [info.foreign > 0], f"the optimizer holds {info.foreign} parameters that the model "
                "does not", "models", "make the optimizer after the last change of the model"),
    ]  # fmt: skip
    if info.hidden:
        text = "modules with parameters stand in a plain list or dictionary, which PyTorch does not see"
        found.append(symptom("unregistered", info.hidden, np.ones(len(info.hidden)), text, "places",
                             "use nn.ModuleList or nn.ModuleDict"))  # fmt: skip
    return found
