"""How an optimizer's ``weight_decay`` acts: through its gradient (coupled) or beside it (decoupled).

torch's own optimizers and some public ones are known by name. Any other is tried on a small copy (`trial`); where it
does not let itself be tried, its settings are asked; what stays unknown is called so.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from gradscope.optimizers import trial_steps
from gradscope.optimizers.parameter_groups import Group, number

#: Groups of an optimizer that are tried for a decay of its own.
LOOKED_AT = 4
#: torch's own in which the decay shrinks the weights directly, whatever their groups say.
_DECOUPLED = ("AdamW", "Adafactor", "Muon")
#: Settings by which public optimizers let a user choose: torch and pytorch-optimizer; AdaBelief; timm; Prodigy.
_FLAGS = ("decoupled_weight_decay", "weight_decouple", "decoupled_decay", "decouple")
#: Public ones whose decay is decoupled and times the rate, by package and class; read in their sources on 2026-11-29.
_PUBLIC = {
    ("lion_pytorch", "Lion"),  # lion-pytorch 0.2: w ← w·(1 − lr·decay)
    ("timm", "Lion"),  # timm 1.0, optim/lion.py
    ("timm", "Adan"),  # optim/adan.py: w ← w/(1 + lr·decay), or w·(1 − lr·decay) with no_prox
    ("adan_pytorch", "Adan"),  # adan-pytorch 0.1: w ← w/(1 + lr·decay)
    ("transformers", "Adafactor"),  # optimization.py: w ← w − lr·decay·w, with the rate of its own
    ("bitsandbytes", "Adam"),  # bitsandbytes 0.4x, backends: w ← w·(1 − lr·decay), for Adam as for AdamW
    ("bitsandbytes", "Adam8bit"),
    ("bitsandbytes", "AdamW"),
    ("bitsandbytes", "AdamW8bit"),
    ("bitsandbytes", "Lion"),
    ("bitsandbytes", "Lion8bit"),
    ("schedulefree", "AdamWScheduleFree"),  # schedulefree 1.4: beside the denominator, at y
    ("schedulefree", "RAdamScheduleFree"),
    ("dadaptation", "DAdaptLion"),  # dadaptation 3.2: w ← w·(1 − d·lr·decay)
}


@dataclass(frozen=True)
class Decay:
    """How ``weight_decay`` acts on a group.

    Attributes:
        acts: ``coupled`` (through the gradient), ``decoupled`` or ``unknown``.
        times_rate: a decoupled one takes the share lr·decay of a weight, otherwise the decay itself.
        adaptive: steps do not grow with the gradient.
        known_by: how this is known, in words.
    """

    acts: str
    times_rate: bool = True
    adaptive: bool = True
    known_by: str = ""

    @property
    def decoupled(self) -> bool:
        """Whether the decay acts beside the gradient."""
        return self.acts == "decoupled"


_FOUND: weakref.WeakKeyDictionary[Optimizer, dict[Any, Decay]] = weakref.WeakKeyDictionary()


def torch_class(optimizer: Optimizer) -> str:
    """Return the name of torch's class whose ``step`` this optimizer takes, empty if it has one of its own."""
    makers = [cls for cls in type(optimizer).__mro__ if "step" in vars(cls)]
    step = _inner(vars(makers[0])["step"])  # without torch's hooks
    # Where torch puts hooks around an inherited step, it stands in the heir as well.
    maker = next((cls for cls in makers[1:] if step in (own := vars(cls)["step"], _inner(own))), makers[0])
    return maker.__name__ if maker.__module__.startswith("torch.optim.") else ""


def _inner(step: Any) -> Any:
    return getattr(step, "__wrapped__", step)


def decay_of(optimizer: Optimizer, group: Group) -> Decay:
    """Find out how the decay of this group acts; tried once for each kind of group."""
    if name := torch_class(optimizer):
        decoupled = bool(group.get("decoupled_weight_decay", name in _DECOUPLED))
        return Decay("decoupled" if decoupled else "coupled", adaptive=name not in ("SGD", "ASGD"), known_by="torch")
    package, name = type(optimizer).__module__.partition(".")[0], type(optimizer).__name__
    if (package, name) in _PUBLIC:
        return Decay("decoupled", known_by=f"the source of {package}")
    found = _FOUND.setdefault(optimizer, {})
    flags = {name: value for name, value in group.items() if value is None or isinstance(value, bool | str)}
    kind = (*sorted(flags.items(), key=str), max((p.ndim for p in group["params"]), default=0))
    if kind not in found:
        found[kind] = _tried(optimizer, group) or _told(optimizer, group)
    return found[kind]


def own_decay(optimizer: Optimizer) -> float:
    """Measure the share of its weights that a step takes by a decay which is not the groups' ``weight_decay``.

    A decay under another name, or kept elsewhere; looked for in optimizers that are not known by name, on a small copy.

    Returns:
        The largest share over the first groups, 0 for none.
    """
    if torch_class(optimizer) == "ASGD":  # its first step: w ← w·(1 − lambd·lr)
        shares = [number(group.get("lambd")) * number(group.get("lr")) for group in optimizer.param_groups]
        return max((share for share in shares if share > trial_steps.AT_REST), default=0.0)
    known = (
        torch_class(optimizer) or (type(optimizer).__module__.partition(".")[0], type(optimizer).__name__) in _PUBLIC
    )
    groups = [] if known else [group for group in optimizer.param_groups if group["params"]]
    return max((trial_steps.taken_at_rest(optimizer, group) for group in groups[:LOOKED_AT]), default=0.0)


def _tried(optimizer: Optimizer, group: Group) -> Decay | None:
    shown = trial_steps.behaviour(optimizer, group)
    if shown is None:
        return None
    return Decay(shown.acts, shown.times_rate, shown.adaptive, "tried on a small copy of the optimizer")


def _told(optimizer: Optimizer, group: Group) -> Decay:
    for flag in _FLAGS:
        if isinstance(group.get(flag), bool):
            return Decay("decoupled" if group[flag] else "coupled", known_by=f"its setting {flag}")
    name = type(optimizer).__name__
    return Decay("unknown", known_by=f"nothing: {name} could not be tried on a small copy")
