"""Find where a collapse begins: the layers whose activation signal fell first, and the radial balance of each.

β_l = −⟨w_l, g_l⟩ / ⟨w_l, r_l⟩: for SGD and L2, d ln‖w_l‖/dt = 2λη(β_l − 1), so that a layer with β_l near 0 shrinks as
if there were no loss. In a homogeneous net without biases ⟨w_l, g_l⟩ is the same in all layers (Euler's theorem), and
β_l then merely ranks ‖w_l‖²; the evidence says so where the record shows it.
"""

from __future__ import annotations

import numpy as np

from gradscope.diagnosis.series import Array, Rows, layer_push
from gradscope.run_info import RunInfo

FALLEN = 1 / np.e  # a signal below this share of its own maximum has fallen
ALIKE = 0.1  # relative spread of ⟨w, ∂L/∂w⟩ over layers below which it is called equal


class Origin:
    """Tracker of every layer in bounded memory, one window of rows at a time."""

    def __init__(self, info: RunInfo, window: int) -> None:
        self._info, self._window = info, window
        self._highest: Array | None = None  # of each module's signal, [M]
        self._fell: Array | None = None  # step at which it fell below a share of that, [M]; NaN before
        self._pulls: list[Array] = []  # the last rows, [N, P] each
        self._pushes: list[Array] = []

    def see(self, rows: Rows) -> None:
        """Take a block of rows, in order."""
        if "activation_std" in rows:
            self._see_signal(np.asarray(rows["step"]), np.asarray(rows["activation_std"], dtype=np.float64))
        push = layer_push(rows, self._info)
        if push is not None and "weight_gradient_dot" in rows:
            pull = -np.asarray(rows["weight_gradient_dot"], dtype=np.float64)
            self._pulls = [np.concatenate([*self._pulls, pull])[-self._window :]]
            self._pushes = [np.concatenate([*self._pushes, push])[-self._window :]]

    def _see_signal(self, step: Array, signal: Array) -> None:
        sampled = np.isfinite(signal).any(1)
        step, signal = step[sampled], np.nan_to_num(signal[sampled])
        if self._highest is None or self._fell is None:
            self._highest, self._fell = np.zeros(signal.shape[1]), np.full(signal.shape[1], np.nan)
        if not len(step):
            return
        highest = np.maximum.accumulate(np.vstack([self._highest, signal]), axis=0)[1:]
        up = signal >= FALLEN * highest
        self._highest = highest[-1]
        after = np.where(up.any(0), len(up) - up[::-1].argmax(0), 0)  # the row after the last that was up
        since = np.append(step.astype(np.float64), np.nan)[after]
        self._fell = np.where(up.any(0) | np.isnan(self._fell), since, self._fell)

    @property
    def balance(self) -> Array | None:
        """β_l over the last window, [P]; NaN where the penalty does not act. None where it was not recorded."""
        if not self._pulls:
            return None
        push = self._pushes[0].sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self._info.watched & (push > 0), self._pulls[0].sum(0) / push, np.nan)

    def layers(self) -> list[str]:
        """Return where it begins, at most three watched parameters: the earliest fallen signal, then the lowest β_l."""
        names = self._info.parameters
        balance = self.balance
        rank = np.full(len(names), np.inf) if balance is None else np.nan_to_num(balance, nan=np.inf)
        fell = [self._fell_at(name) for name in names]
        known = [i for i in range(len(names)) if self._info.watched[i] and (np.isfinite(fell[i]) or rank[i] < 1)]
        return [names[i] for i in sorted(known, key=lambda i: (fell[i], rank[i]))[:3]]

    def _fell_at(self, parameter: str) -> float:
        owner = parameter.rpartition(".")[0]
        if self._fell is None or owner not in self._info.modules:
            return np.inf
        return float(np.nan_to_num(self._fell[self._info.modules.index(owner)], nan=np.inf))

    def evidence(self) -> list[str]:
        """Return the numbers behind `layers`, in words."""
        said = []
        if self._fell is not None and len(self._info.modules) == len(self._fell) and np.isfinite(self._fell).any():
            first = int(np.nanargmin(self._fell))
            said.append(
                f"the activation signal of {self._info.modules[first]} fell first: below "
                f"{FALLEN:.2f} of its maximum at step {self._fell[first]:.0f}"
            )
        balance = self.balance
        # An adaptive step does not follow the size of the gradient: the balance says little there.
        if balance is not None and np.isfinite(balance).sum() > 1 and not any(self._info.adaptive):
            said.append(self._about(balance))
        return said

    def _about(self, balance: Array) -> str:
        low, high = int(np.nanargmin(balance)), int(np.nanargmax(balance))
        text = (
            f"radial balance by layer: from {balance[low]:.2g} ({self._info.parameters[low]}) "
            f"to {balance[high]:.2g} ({self._info.parameters[high]})"
        )
        pull = self._pulls[0].sum(0)[np.isfinite(balance)]
        if abs(pull.mean()) > 0 and pull.std() / abs(pull.mean()) < ALIKE:
            text += (
                "; ⟨w, ∂L/∂w⟩ is equal in all layers, as in a homogeneous net: this only ranks the sizes of the weights"
            )
        return text
