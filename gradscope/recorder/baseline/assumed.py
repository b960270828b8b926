"""Estimate the loss of the best constant predictor where the user has not given it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.recorder.baseline.estimate import Estimate, estimate, part_of_baseline
from gradscope.recorder.baseline.targets import TargetWatch
from gradscope.recorder.baseline.unbounded import is_unbounded
from gradscope.run_info import UNBOUNDED
from gradscope.torch_utils.module_hooks import Hook, ModuleHooks, is_traced

#: Nodes of the graph that are loss functions: what comes straight out of them holds no penalty.
_LOSSES = ("Nll", "Mse", "BinaryCrossEntropy", "SmoothL1", "Huber", "KlDiv", "SoftMargin", "MultiMargin", "Ctc")
_SCALED = ("DivBackward0", "MulBackward0")


#: Steps whose logged losses are held beside those that the loss functions gave.
MATCHED = 1024


class AssumedBaseline:
    """Estimator of the baseline, and of the grounds that it rests on.

    First of all from the targets that the loss functions are given; where they do not tell it, from the width of the
    first output and the first logged losses.

    Attributes:
        targets: those of the loss functions, None where they are not looked at.
        loss_kind: the loss functions that the logged loss is made of, or why it is not known.
        probabilities: a cross-entropy was given probabilities.
        part: where the logged loss has other terms, the part that was seen over its own baseline, of late; else NaN.
        of_zero: of a regression, what a net that puts out 0 pays, over the baseline; else NaN.
    """

    def __init__(self, targets: TargetWatch | None = None) -> None:
        self.targets = targets
        self.loss_kind = "unknown"
        self.probabilities = False
        self.part = self.of_zero = math.nan
        self._found: Estimate | None = None
        self._losses: dict[int, float] = {}
        self._early: list[float] = []
        self._border = 0  # the step from which a better estimate is due
        self._said: tuple[float, str] | None = None
        self.loss_function = ""
        self.shape: tuple[int, ...] = ()
        self._hooks = ModuleHooks()
        self._whole = False
        self._scaled = self._unbounded = False

    def watch(self, model: nn.Module) -> None:
        """Register hooks on the model, and on its children if it is never called itself (a LightningModule)."""
        for child in model.children():
            self._hooks.after_forward(child, Hook(self._see_part))
        self._hooks.after_forward(model, Hook(self._see_output))

    def unwatch(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()

    def _see_output(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._whole = self._whole or self._see(output)

    def _see_part(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self._whole:  # the last part that ran
            self._see(output)

    def _see(self, output: Any) -> bool:
        """Note the shape of a tensor, or of ``logits`` in a mapping, as models of Hugging Face put out."""
        if not torch.compiler.is_compiling() and is_traced():
            return False
        logits = output.get("logits") if isinstance(output, Mapping) else output
        if isinstance(logits, Tensor) and not logits.is_nested and logits.ndim >= 2:
            self.shape = tuple(logits.shape)
            return True
        return False

    def see_loss(self, loss: Tensor | float | None) -> None:
        """Read what kind of loss it is off the graph that made it, once."""
        if not self.loss_function and loss is not None:
            node = loss.grad_fn if isinstance(loss, Tensor) else None
            while type(node).__name__ in _SCALED and node is not None:  # for accumulation, or by a GradScaler
                node, self._scaled = node.next_functions[0][0], True
            self.loss_function = "unknown" if node is None else type(node).__name__
            self._unbounded = isinstance(loss, Tensor) and is_unbounded(loss)

    @property
    def is_pure(self) -> bool:
        """Whether the logged loss comes straight out of a loss function."""
        return self.loss_function.startswith(_LOSSES)

    def see_rows(self, step: NDArray[Any], loss: NDArray[Any]) -> tuple[float, str] | None:
        """Take rows in order, in the background, before they are judged.

        The baseline is told with the first rows, and again each time there are twice as many: the targets are counted
        on.

        Returns:
            Baseline and source, where it is a new one; else None.
        """
        known = np.isfinite(loss)
        if len(self._early) < 16:
            self._early += [float(x) for x in loss[known & (step < 16)]]
        for at, value in zip(step[known & (step < MATCHED)], loss[known & (step < MATCHED)], strict=True):
            self._losses[int(at)] = float(value)
        if not len(step):
            return None
        border = int(step[-1]) + 1
        if self.targets is not None:  # what waits is kept short
            sums = self.targets.before(border)
            self.part = math.nan if self._found is None else part_of_baseline(sums, self._found, border)
        if step[-1] < self._border:
            return None
        self._border = 2 * border
        said = self._told(border)
        if said == self._said or not np.isfinite(said[0]):
            return None
        self._said = said
        return said

    def _told(self, border: int) -> tuple[float, str]:
        why = "the targets were not looked at"
        if self.targets is not None:
            sums = self.targets.before(border)
            self.probabilities = any(one.probabilities for one in sums)
            found = estimate(sums, self._losses)
            self._found = found if isinstance(found, Estimate) else None
            if isinstance(found, Estimate):
                self.loss_kind = "+".join(found.functions)
                zeros = [one.of_zero for one in sums if found.functions == (one.kind,)]
                self.of_zero = zeros[0] if len(zeros) == 1 else math.nan
                return found.loss, found.source
            why = self.targets.problem or found
        self.loss_kind = f"unknown: {UNBOUNDED if self._unbounded else why}"
        return self._guessed()

    def _guessed(self) -> tuple[float, str]:
        """Guess the entropy of equal classes for a classifier; for anything else, the mean of the first losses.

        The width of the output is no number of classes where the first losses contradict it: an untrained net is no
        better than chance, and hardly ever many times worse.

        Returns:
            Baseline and source.
        """
        known, shape = self.loss_function, self.shape
        classes = 0 if not shape else shape[1] if known.startswith("NllLoss2D") else shape[-1]
        entropy = math.log(classes) if classes > 1 else math.nan
        first = float(np.mean(self._early)) if self._early else math.nan
        begins = float(np.median(self._early[:4])) if self._early else math.nan
        equal = f"entropy of {classes} equal classes, the width of the output"
        likely = 0.85 * entropy <= begins <= 8 * entropy
        if known.startswith("Nll") and likely:
            return entropy, f"assumed: {equal}"
        if known.startswith("unknown") and 0.9 * entropy <= begins <= 1.5 * entropy:
            return entropy, f"guessed: {equal}"
        return first, "guessed: mean loss of the first 16 steps"
