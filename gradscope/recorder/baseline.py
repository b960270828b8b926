"""The loss of the best constant predictor, where the user has not said it: what can be seen of the task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.recorder.hooks import Hook, ModuleHooks, is_traced

#: Nodes of the graph that are loss functions: what comes straight out of them holds no penalty.
_LOSSES = ("Nll", "Mse", "BinaryCrossEntropy", "SmoothL1", "Huber", "KlDiv", "SoftMargin", "MultiMargin", "Ctc")
_SCALED = ("DivBackward0", "MulBackward0")


class AssumedBaseline:
    """Looks at the first output and the first logged loss; says what baseline follows, and on what grounds."""

    def __init__(self) -> None:
        self.loss_function = ""
        self.shape: tuple[int, ...] = ()
        self._whole = False
        self._scaled = False

    def watch(self, model: nn.Module) -> ModuleHooks:
        """Hooks on the model, and on its children for a model that is never called itself (a LightningModule)."""
        hooks = ModuleHooks()
        for child in model.children():
            hooks.after_forward(child, Hook(self._see_part))
        hooks.after_forward(model, Hook(self._see_output))
        return hooks

    def _see_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._whole = self._whole or self._see(output)

    def _see_part(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self._whole:  # the last part that ran
            self._see(output)

    def _see(self, output: Any) -> bool:
        """A tensor, or a mapping that holds ``logits``, as models of Hugging Face put out."""
        if not torch.compiler.is_compiling() and is_traced():
            return False
        logits = output.get("logits") if isinstance(output, Mapping) else output
        if isinstance(logits, Tensor) and not logits.is_nested and logits.ndim >= 2:
            self.shape = tuple(logits.shape)
            return True
        return False

    def see_loss(self, loss: Tensor | float | None) -> None:
        """What kind of loss it is, read off the graph that made it, once."""
        if not self.loss_function and loss is not None:
            node = loss.grad_fn if isinstance(loss, Tensor) else None
            while type(node).__name__ in _SCALED and node is not None:  # for accumulation, or by a GradScaler
                node, self._scaled = node.next_functions[0][0], True
            self.loss_function = "unknown" if node is None else type(node).__name__

    @property
    def is_pure(self) -> bool:
        """Whether the logged loss comes straight out of a loss function."""
        return self.loss_function.startswith(_LOSSES)

    def settle(self, step: NDArray[Any], loss: NDArray[Any]) -> tuple[float, str]:
        """The entropy of equal classes for a classifier; for anything else, the first losses are a guess."""
        early = loss[step < 16]
        early = early[np.isfinite(early)]
        known, shape = self.loss_function, self.shape
        classes = 0 if not shape else shape[1] if known.startswith("NllLoss2D") else shape[-1]
        entropy = math.log(classes) if classes > 1 else math.nan
        first = float(early.mean()) if early.size else math.nan
        equal = f"entropy of {classes} equal classes, the width of the output"
        small = self._scaled and first < 0.5 * entropy  # the factor may be in the logged loss as well
        if known.startswith("Nll") and classes > 1 and not small:
            return entropy, f"assumed: {equal}"
        if not known.startswith("Mse") and first >= 0.5 * entropy:
            return entropy, f"guessed: {equal}"
        return first, "guessed: mean loss of the first 16 steps"
