"""Activation scales: forward hooks on the leaf modules, pooled over the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

QUANTITIES = ("activation_mean_abs", "activation_std", "activation_zero_fraction")


def unit_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of the units: channels for convolutional shapes, features otherwise."""
    spatial = output.ndim > 3 or "Conv" in type(module).__name__
    return 1 if spatial and output.ndim > 2 else output.ndim - 1


class Hook:
    """A hook that stays with its recording: a copied or pickled model carries one that does nothing."""

    def __init__(self, act: Callable[..., None] | None = None) -> None:
        self._act = act

    def __call__(self, *arguments: Any) -> None:
        if self._act is not None:
            self._act(*arguments)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class _Pool:
    """Mergeable sums of one module's outputs: |a|, zeros, and count, mean, M2 per unit (Chan et al.)."""

    def __init__(self) -> None:
        self.count = 0
        self.samples = 0
        self.sums: Tensor | None = None  # [2]: Σ|a|, number of exact zeros
        self.mean: Tensor | None = None  # [U]
        self.m2: Tensor | None = None  # [U]
        self.gradient: Tensor | None = None  # Σ|δ|

    def add(self, module: nn.Module, output: Tensor) -> None:
        a = output.detach()
        if a.dtype != torch.float64:
            a = a.float()
        units = a.movedim(unit_axis(module, a), -1).reshape(-1, a.shape[unit_axis(module, a)])
        sums = torch.stack((a.abs().sum(), (a == 0).sum().to(a.dtype)))
        variance, mean = torch.var_mean(units, 0, correction=0)
        n, m2 = units.shape[0], variance * units.shape[0]
        if self.sums is None or self.mean is None or self.m2 is None or self.mean.shape != mean.shape:
            self.sums, self.mean, self.m2, self.count, self.samples = sums, mean, m2, a.numel(), n
            return
        total = self.samples + n
        shift = mean - self.mean
        self.m2 = self.m2 + m2 + shift**2 * (self.samples * n / total)
        self.mean = self.mean + shift * (n / total)
        self.sums, self.count, self.samples = self.sums + sums, self.count + a.numel(), total

    def row(self) -> Tensor | None:
        """[3]: mean |a|, the RMS over units of the std over samples and positions, share of zeros."""
        if self.sums is None or self.m2 is None or not self.count:
            return None
        signal = (self.m2 / self.samples).mean().sqrt()
        return torch.stack((self.sums[0] / self.count, signal, self.sums[1] / self.count)).float()


class Activations:
    """Forward hooks on the leaf modules of a model. Samples only while ``sampling`` is set."""

    def __init__(self, modules: dict[str, nn.Module], gradients: bool) -> None:
        self.names = list(modules)
        self.gradients = gradients
        self.sampling = True
        self._pools = {name: _Pool() for name in modules}
        self._hooks = [
            module.register_forward_hook(Hook(self._hook(self._pools[name]))) for name, module in modules.items()
        ]

    def _hook(self, pool: _Pool) -> Any:
        def pool_gradient(gradient: Tensor) -> None:
            total = gradient.detach().abs().sum().float()
            pool.gradient = total if pool.gradient is None else pool.gradient + total

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            # Training-mode forwards only: an evaluation between two steps is not part of either.
            if not self.sampling or not module.training or not torch.is_grad_enabled():
                return
            if isinstance(output, Tensor) and output.is_floating_point() and output.ndim and output.numel():
                pool.add(module, output)
                if self.gradients and output.requires_grad:
                    output.register_hook(pool_gradient)

        return hook

    def take(self, device: torch.device) -> Tensor:
        """The row of this step, [3 or 4, M], NaN for modules that were not called; starts afresh."""
        rows = []
        height = len(QUANTITIES) + self.gradients
        for pool in self._pools.values():
            row = pool.row()
            if row is None:
                rows.append(torch.full((height,), float("nan"), device=device))
                continue
            if self.gradients:
                nothing = torch.full((), float("nan"), device=row.device)
                delta = nothing if pool.gradient is None else pool.gradient / pool.count
                row = torch.cat((row, delta.reshape(1)))
            rows.append(row.to(device))
        self.clear()
        return torch.stack(rows, 1)

    def clear(self) -> None:
        for pool in self._pools.values():
            pool.__init__()  # type: ignore[misc]

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
