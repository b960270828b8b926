"""Find what an optimizer and a model do not share: parameters that only one of them holds, modules in plain lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def apart(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Return for the record's ``capture`` what only one of model and optimizers holds; empty where all is well.

    ``foreign_parameters``: how many the optimizers hold that the model does not (a model rebuilt after its optimizer
    was made). ``unregistered_modules``: modules with parameters in lists, tuples and dictionaries, which `nn.Module`
    does not see, so that no optimizer made from ``model.parameters()`` moves them.

    Returns:
        Entries by name.
    """
    own = {id(p) for p in model.parameters()}
    held = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    found: dict[str, Any] = {}
    foreign = sum(id(p) not in own for p in held)
    if foreign and not _shared(held, own):
        found["foreign_parameters"] = foreign
    moved = own | {id(p) for p in held}
    if hidden := list(_hidden(model, moved)):
        found["unregistered_modules"] = hidden
    return found


def _shared(held: Sequence[Any], own: set[int]) -> bool:
    """Return whether the optimizer holds all of the model and more, as one optimizer for several models does."""
    return own <= {id(p) for p in held}


def _hidden(model: nn.Module, moved: set[int]) -> Iterator[str]:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key.startswith("_") or not isinstance(value, list | tuple | Mapping):
                continue
            inside = [m for m in _modules(value) if any(id(p) not in moved for p in m.parameters() if p.requires_grad)]
            if inside:
                yield f"{name + '.' if name else ''}{key} ({len(inside)} in a {type(value).__name__})"


def _modules(values: Any) -> Iterable[nn.Module]:
    parts = values.values() if isinstance(values, Mapping) else values
    return [part for part in parts if isinstance(part, nn.Module)]
