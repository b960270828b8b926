"""Strategies beside a penalty in "Regularization Strategies in Deep Learning": noise, adversarial examples, patience.

Dropout, augmentation and learning-rate schedules are torch's and torchvision's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from gradscope import checks
from gradscope.torch_utils.selection import SelectModules, selected_modules
from gradscope.types import InputError


class GaussianNoise(nn.Module):
    """Layer that adds zero-centred Gaussian noise in training mode (section 3.5); `add_noise` adds it elsewhere.

    The noise comes from torch's global generator.

    Args:
        std: standard deviation, in the units of what passes through.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = checks.strength(std, "std")

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with noise in training mode, ``x`` itself otherwise.

        Args:
            x: any shape.

        Returns:
            A tensor of the shape of ``x``.
        """
        return x + self.std * torch.randn_like(x) if self.training and self.std else x

    def extra_repr(self) -> str:
        """Return the standard deviation, for the printed model."""
        return f"std={self.std:g}"


def add_noise(
    model: nn.Module,
    std: float,
    modules: SelectModules,
) -> Callable[[], None]:
    """Add Gaussian noise to the outputs of hidden layers of a finished model.

    Args:
        model: the model.
        std: standard deviation of the noise.
        modules: whose outputs, as for `regularize_activity`.

    Returns:
        A function that takes the noise off again.

    Raises:
        InputError: ``modules`` chooses none.
    """  # noqa: DOC502 - raised by what it calls
    noise = GaussianNoise(std)

    def noisy(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        noise.training = module.training
        return cast(Tensor, noise(output))

    hooks = [module.register_forward_hook(noisy) for module in selected_modules(model, modules)]

    def remove() -> None:
        for hook in hooks:
            hook.remove()

    return remove


def fgsm(
    model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, epsilon: float
) -> Tensor:
    """Make adversarial examples by the fast gradient sign method: x + ε·sign(∂J/∂x) (eq. 6).

    Train on them beside or instead of ``x``. No ``.grad`` of the model is touched; its forward counts as one (batch
    normalisation in training mode sees it).

    Args:
        model: the model.
        criterion: J, from outputs and targets to a scalar.
        x: inputs.
        y: targets.
        epsilon: ε, the largest change of an input.

    Returns:
        Perturbed inputs, the shape of ``x``.

    Raises:
        InputError: the loss does not depend on ``x``.
    """
    epsilon = checks.strength(epsilon, "epsilon")
    moved = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(criterion(model(moved), y), moved, allow_unused=True)
    if gradient is None:
        raise InputError("the loss does not depend on x, so there is no direction to perturb it in")
    return x.detach() + epsilon * gradient.sign()


class EarlyStopping:
    """Stop of a training whose validation figure has not improved for ``patience`` calls in a row (section 3.6).

    Args:
        patience: calls without an improvement until it is time to stop.
        mode: ``"min"`` or ``"max"``, which is better.
        min_delta: least change that is an improvement.

    Examples:
        >>> stopping = EarlyStopping(patience=2)
        >>> [stopping.update(loss) for loss in (0.9, 0.8, 0.85, 0.8)]
        [False, False, False, True]
    """

    def __init__(self, patience: int, *, mode: str = "min", min_delta: float = 0.0) -> None:
        self.patience = checks.positive_int(patience, "patience")
        self.mode = checks.one_of(mode, ("min", "max"), "mode")
        self.min_delta = checks.strength(min_delta, "min_delta")
        self.best = math.inf
        self.waited = 0

    def update(self, value: float) -> bool:
        """Return whether it is time to stop.

        Args:
            value: the validation figure; NaN is never an improvement.

        Returns:
            True once ``patience`` values in a row brought no improvement.
        """
        value = float(value) if self.mode == "min" else -float(value)
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: what `state_dict` returned.
        """
        self.best, self.waited = state["best"], int(state["waited"])
