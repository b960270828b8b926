"""Find optimizers inside others: hooks belong on the one whose ``step()`` moves the weights.

Accelerate, Fabric, Lightning, SAM, Lookahead and many more hand out an object that looks like an optimizer and holds
another. Its own hooks, if it has any, are called too early, too often or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from gradscope.types import InputError


def stepping(given: Any) -> list[Optimizer]:
    """Find the optimizers that move the weights of ``given``: itself, or those that it holds.

    Held ones count where together they have all of its parameters and none twice; a wrapper of shards, or of flat
    copies, is hooked itself.

    Returns:
        At least one optimizer.

    Raises:
        InputError: ``given`` is no optimizer, or nothing of it can be hooked.
    """
    if found := inside(given):
        return found
    name = type(given).__name__
    if not _is_optimizer(given):
        shown = repr(given)
        shown = f"a {name}" if len(shown) > 80 or "\n" in shown else shown
        raise InputError(f"optimizer is {shown}; expected a torch.optim.Optimizer, or several")
    raise InputError(
        f"optimizer is a {name} whose steps cannot be seen: it has no step hooks (it never called "
        f"torch.optim.Optimizer.__init__), and no single optimizer of its parameters is found inside it; pass the "
        f"optimizer whose step() updates the weights"
    )


def each_stepping(given: Sequence[Any]) -> tuple[list[Optimizer], dict[str, str]]:
    """Find the optimizers of several, each once, and note for the record which wrappers they were found in."""
    found: dict[int, Optimizer] = {}
    notes = {}
    for one in given:
        moving = stepping(one)
        found |= {id(o): o for o in moving}
        if moving != [one]:
            notes[type(one).__name__] = f"recorded through {', '.join(type(o).__name__ for o in moving)} inside it"
    return list(found.values()), notes


def inside(given: Any) -> list[Optimizer]:
    """Find the optimizers that move the weights of ``given``; none where there is nothing to hook."""
    return _search(given, [])


def the_one(given: Any) -> Optimizer:
    """Find the single optimizer that moves the weights of ``given``; raise `InputError` where there are several."""
    found = stepping(given)
    if len(found) > 1:
        names = ", ".join(type(o).__name__ for o in found)
        raise InputError(f"the {type(given).__name__} holds {len(found)} optimizers ({names}); give one of them")
    return found[0]


def _search(given: Any, seen: list[Any]) -> list[Optimizer]:
    if any(given is one for one in seen):
        return []
    inside = [_search(held, [*seen, given]) for held in _held(given)]
    own = parameters(given)
    found = list({id(o): o for several in inside for o in several}.values())
    found = [o for o in found if not own or own & parameters(o)]
    union = set[int]().union(*(parameters(o) for o in found))
    if found and own <= union and sum(len(parameters(o)) for o in found) == len(union):
        return found
    return [given] if _has_hooks(given) else []


def _held(given: Any) -> Iterator[Any]:
    for value in list(getattr(given, "__dict__", {}).values()):
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else (value,)
        if not isinstance(value, list | tuple | Mapping) or len(value) <= 64:
            yield from (part for part in parts if part is not given and _is_optimizer(part))


def _is_optimizer(thing: Any) -> bool:
    if isinstance(thing, Optimizer):
        return True
    try:
        return callable(getattr(type(thing), "step", None)) and isinstance(thing.param_groups, list)
    except Exception:  # whatever a property of a stranger's class does
        return False


def parameters(optimizer: Any) -> set[int]:
    """Return the ids of an optimizer's parameters; none where it has no groups."""
    try:
        return {id(p) for group in optimizer.param_groups for p in group["params"]}
    except Exception:
        return set()


def _has_hooks(given: Any) -> bool:
    """Return whether ``step`` calls step hooks: torch sees to that where ``Optimizer.__init__`` is called."""
    hooked = getattr(getattr(type(given), "step", None), "hooked", False)
    return isinstance(given, Optimizer) and "_optimizer_step_pre_hooks" in vars(given) and bool(hooked)
