"""Select parameters and modules by ``select`` and ``modules``: of a model to record, or to put something on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.types import InputError

T = TypeVar("T")
Types = type[nn.Module] | tuple[type[nn.Module], ...]

#: What ``select`` and ``modules`` mean wherever they are: a predicate on name and parameter (or module), a regular
#: expression that is searched for in names, the type (or types) of module that is meant, or the parameters (modules)
#: themselves. A predicate of one argument is given the name by `record`, by all others the parameter or module.
SelectTensors = (
    str | Callable[[str, Tensor], bool] | Callable[[str], bool] | Callable[[Tensor], bool] | Iterable[Tensor] | Types
)
SelectModules = (
    str
    | Callable[[str, nn.Module], bool]
    | Callable[[str], bool]
    | Callable[[nn.Module], bool]
    | Iterable[nn.Module]
    | Types
)


_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel and torch.compile."""
    while True:
        inner = model.module if isinstance(model, _PARALLEL) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def plain_name(model: nn.Module, name: str) -> str:
    """Return the name as the unwrapped model has it (DistributedDataParallel and torch.compile add prefixes)."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    wrapped = isinstance(getattr(model, "_orig_mod", model), _PARALLEL)
    return ".".join(parts[1:] if wrapped and parts[:1] == ["module"] else parts)


def _predicate(
    select: Any,
    called: str,
    of_type: Callable[[Types], Callable[[str, T], object]],
    alone: Callable[[str, T], object],
) -> Callable[[str, T], object]:
    """Make a predicate on name and thing of whichever way the choice was put.

    Args:
        select: the choice.
        called: the argument's name, for messages.
        of_type: makes the predicate for types of module.
        alone: what a predicate of one argument is given.

    Returns:
        The predicate.

    Raises:
        InputError: it is none of the ways.
    """
    if isinstance(select, str):
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise InputError(f"{called} is {select!r}, not a regular expression: {error}") from None
        return lambda name, _: pattern.search(name)
    kinds = select if isinstance(select, tuple) else (select,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds):
        return of_type(select)
    if callable(select) and not isinstance(select, nn.Module | type):
        asked = select if _takes_two(select, called) else lambda name, it: select(alone(name, it))
        return lambda name, it: _answer(asked, name, it, called)
    if not isinstance(select, Iterable) or isinstance(select, Tensor):
        raise InputError(
            f"{called} is a {type(select).__name__}; expected a regular expression, a predicate on name and "
            f"{'module' if called == 'modules' else 'parameter'}, a type of module, or a list"
        )
    wanted = nn.Module if called == "modules" else Tensor
    chosen = [plain_model(one) if isinstance(one, nn.Module) else one for one in select]
    if (wrong := next((one for one in chosen if not isinstance(one, wanted)), None)) is not None:
        raise InputError(
            f"{called} lists a {type(wrong).__name__}; expected {'modules' if called == 'modules' else 'parameters'} "
            f"themselves, or a regular expression for names, such as '^(fc1|fc2)\\.'"
        )
    ids = {id(one) for one in chosen}
    return lambda _, it: id(it) in ids


def _answer(predicate: Callable[[str, T], object], name: str, it: T, called: str) -> object:
    try:
        return predicate(name, it)
    except TypeError as error:
        raise InputError(
            f"{called} cannot be asked of {name or type(it).__name__!r}: {error}; expected a predicate such as "
            f"lambda name, {'module' if called == 'modules' else 'parameter'}: …"
        ) from error


def _takes_two(predicate: Callable[..., object], called: str = "select") -> bool:
    """Return whether it needs two arguments, or takes any number; raise `InputError` if none, or needs more."""
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):  # written in C, and says nothing of its arguments
        return False
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    some = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not some or len(placed) > 2 or named:
        raise InputError(
            f"{called} is a predicate of {len(placed) + len(named)} arguments; expected one of the name and the "
            f"{'module' if called == 'modules' else 'parameter'}"
        )
    return len(placed) == 2 or (not placed and any(p.kind is p.VAR_POSITIONAL for p in parameters))


# -- to record --------------------------------------------------------------------------------------


def _named(select: Any, model: nn.Module, called: str) -> Callable[[str, Any], object]:
    """Make a predicate on plain names and what they name; a type means such modules and what lies right in them."""

    def of_type(kinds: Types) -> Callable[[str, object], object]:
        inside = {plain_name(model, name) for name, module in model.named_modules() if isinstance(module, kinds)}
        return lambda name, _: name in inside or name.rpartition(".")[0] in inside

    return _predicate(select, called, of_type, lambda name, _: name)


def recorded_modules(model: nn.Module, select: SelectModules | None) -> dict[str, nn.Module]:
    """Select the modules whose activations are recorded: leaves, those that ``select`` names if given.

    A layer with parametrized weights (weight norm, spectral norm) is one; its parametrizations are none.

    Returns:
        Modules by plain name.

    Raises:
        InputError: none is selected.
    """
    leaves = {
        plain_name(model, name) or type(module).__name__: module
        for name, module in model.named_modules()
        if not [part for part, _ in module.named_children() if part != "parametrizations"]
        and "parametrizations" not in name.split(".")
    }
    if select is None:
        return leaves
    wanted = _named(select, model, "modules")
    chosen = {name: module for name, module in leaves.items() if wanted(name, module)}
    if not chosen:
        raise InputError(
            f"modules chooses none of the model's {len(leaves)}; the names are such as {next(iter(leaves))!r}"
        )
    return chosen


def recorded_parameters(
    model: nn.Module, optimizers: Sequence[Optimizer], select: SelectTensors | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Select the parameters to record.

    Those that no optimizer moves have their place in the record, for an optimizer may get them later.

    Returns:
        Parameters by plain name, and the names of those that no optimizer moves (yet).

    Raises:
        InputError: there is nothing to record, or it cannot be recorded.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if not optimizers:
        raise InputError("optimizer is an empty list; expected a torch.optim.Optimizer, or several")
    if any(kind.__name__ == "FullyShardedDataParallel" for m in model.modules() for kind in type(m).__mro__):
        raise InputError(
            "the model is wrapped by FullyShardedDataParallel, whose flat shards hold no parameter whole; expected "
            "a model sharded by torch.distributed.fsdp.fully_shard (FSDP2), or replicated by DistributedDataParallel"
        )
    every: dict[str, Tensor] = {plain_name(model, name): p for name, p in model.named_parameters()}
    if lazy := [name for name, p in every.items() if is_lazy(p)]:
        raise InputError(
            f"{len(lazy)} parameters, such as {lazy[0]!r}, have no shape yet (a LazyLinear or the like): run a dummy "
            f"batch through the model first, then record"
        )
    if not every:
        raise InputError(f"the model {type(model).__name__} has no parameters; there is nothing to record")
    if not any(p.requires_grad for p in every.values()):
        raise InputError(
            f"all {len(every)} parameters of the model are frozen (requires_grad is False); there is nothing to record"
        )
    moved = {id(p) for o in optimizers for g in o.param_groups for p in g["params"]}
    here = {name: p for name, p in every.items() if id(p) in moved}
    if not here:
        raise InputError("the optimizer holds none of the model's parameters; give the optimizer of this model")
    if all(p.is_meta for p in here.values()):
        raise InputError(
            "all parameters in the optimizer are on the device meta, without numbers; call model.to_empty(device=…) "
            "and initialise it, or load its weights, before recording"
        )
    if not any(p.requires_grad for p in here.values()):
        raise InputError("all parameters in the optimizer are frozen (requires_grad is False)")
    chosen = every
    if select is not None:
        wanted = _named(select, model, "select")
        chosen = {name: p for name, p in every.items() if wanted(name, p)}
    if not any(p.requires_grad for name, p in chosen.items() if name in here):
        raise InputError(f"select chooses no trainable parameter; the names are such as {next(iter(here))!r}")
    return chosen, [name for name in chosen if name not in here]


# -- what something is put on -----------------------------------------------------------------------


def selected_parameters(optimizer: Optimizer, select: SelectTensors | None, model: nn.Module | None) -> list[Tensor]:
    """Select parameters of an optimizer; by default, and by a type of module, those with more than one dimension.

    Returns:
        The parameters, in the order of the optimizer.

    Raises:
        InputError: none is selected.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if select is None:
        found = [p for p in parameters if p.ndim > 1]
    else:
        wanted = _predicate(select, "select", lambda kinds: _of_modules(model, kinds), lambda _, p: p)
        needed = isinstance(select, str) or (callable(select) and not isinstance(select, type) and _takes_two(select))
        names = _names(optimizer, model) if needed else {}
        found = [p for p in parameters if wanted(names.get(id(p), ""), p)]
    if not found:
        raise InputError(f"select chooses none of the optimizer's {len(parameters)} parameters; expected at least one")
    return found


def _of_modules(model: nn.Module | None, kinds: Types) -> Callable[[str, Tensor], object]:
    """Make a predicate for the parameters with more than one dimension that lie right in modules of these types."""
    if model is None:
        raise InputError("select is a type of module, and nothing says which modules there are: give model=…")
    ids = {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False) if p.ndim > 1}
    return lambda _, p: id(p) in ids


def _names(optimizer: Optimizer, model: nn.Module | None) -> dict[int, str]:
    """Map the id of each parameter to its name: the model's, or those given to the optimizer (torch 2.6 or later)."""
    if model is not None:
        return {id(p): plain_name(model, name) for name, p in model.named_parameters()}
    named = [group for group in optimizer.param_groups if "param_names" in group]
    if not named:
        raise InputError(
            "select asks for names, and the optimizer knows none: give model=…, or make the optimizer of "
            "model.named_parameters()"
        )
    return {id(p): name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}


def selected_modules(model: nn.Module, select: SelectModules) -> list[nn.Module]:
    """Select modules of a model by plain name, in its order, not what wraps them; raise `InputError` for none."""
    wanted: Callable[[str, nn.Module], object] = _predicate(
        select, "modules", lambda kinds: lambda _, module: isinstance(module, kinds), lambda _, module: module
    )
    every = [(plain_name(model, name), one) for name, one in model.named_modules() if plain_model(one) is one]
    named = [(name, module) for name, module in every if name or not isinstance(select, str)]
    found = [module for name, module in named if wanted(name, module)]
    if not found:
        raise InputError(
            f"modules chooses none of the {sum(1 for _ in model.modules())} modules; expected at least one"
        )
    return found
