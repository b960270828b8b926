"""Select parameters and modules by ``select`` and ``modules``: of a model to record, or to put something on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.types import InputError

Types = type[nn.Module] | tuple[type[nn.Module], ...]

#: To record: a regular expression or predicate on plain names, or the type (or types) of the modules that are meant.
SelectNames = str | Callable[[str], bool] | Types

#: To penalise: a predicate, the parameters themselves, a regular expression on names, or a type of module (or several).
SelectTensors = Callable[[Tensor], bool] | Iterable[Tensor] | str | Types

#: To act on modules: the same of modules.
SelectModules = Callable[[nn.Module], bool] | Iterable[nn.Module] | str | Types


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


def _search(pattern: str, called: str) -> Callable[[str], object]:
    """Compile a regular expression to a predicate on names."""
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise InputError(f"{called} is {pattern!r}, not a regular expression: {error}") from None


def _module_types(select: Any) -> tuple[type[nn.Module], ...]:
    """Return the types of module that are meant, none if ``select`` is something else."""
    kinds = select if isinstance(select, tuple) else (select,)
    return kinds if all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds) else ()


# -- of a model, by name ----------------------------------------------------------------------------


def _wanted_names(model: nn.Module, select: SelectNames, called: str) -> Callable[[str], object]:
    """Return a predicate on plain names, whichever way the choice was put."""
    if isinstance(select, str):
        return _search(select, called)
    if isinstance(select, type | tuple):
        kinds = select
        inside = {plain_name(model, name) for name, module in model.named_modules() if isinstance(module, kinds)}
        return lambda name: name in inside or name.rpartition(".")[0] in inside
    return select


def recorded_modules(model: nn.Module, select: SelectNames | None) -> dict[str, nn.Module]:
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
    wanted = _wanted_names(model, select, "modules")
    chosen = {name: module for name, module in leaves.items() if wanted(name)}
    if not chosen:
        raise InputError(
            f"modules chooses none of the model's {len(leaves)}; the names are such as {next(iter(leaves))!r}"
        )
    return chosen


def recorded_parameters(
    model: nn.Module, optimizers: Sequence[Optimizer], select: SelectNames | None
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
        wanted = _wanted_names(model, select, "select")
        chosen = {name: p for name, p in every.items() if wanted(name)}
    if not any(p.requires_grad for name, p in chosen.items() if name in here):
        raise InputError(f"select chooses no trainable parameter; the names are such as {next(iter(here))!r}")
    return chosen, [name for name in chosen if name not in here]


# -- what something is put on -----------------------------------------------------------------------


def selected_parameters(optimizer: Optimizer, select: SelectTensors | None, model: nn.Module | None) -> list[Tensor]:
    """Select parameters in the order of the optimizer; raise `InputError` if there are none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = _wanted_tensors(optimizer, select, model)
    found = [p for p in parameters if wanted(p)]
    if not found:
        raise InputError(f"select chooses none of the optimizer's {len(parameters)} parameters; expected at least one")
    return found


def _wanted_tensors(
    optimizer: Optimizer, select: SelectTensors | None, model: nn.Module | None
) -> Callable[[Tensor], object]:
    if select is None:
        return lambda p: p.ndim > 1
    if isinstance(select, str):
        names, named = _names(optimizer, model), _search(select, "select")
        return lambda p: named(names.get(id(p), ""))
    if kinds := _module_types(select):
        if model is None:
            raise InputError("select is a type of module, and nothing says which modules there are: give model=…")
        of_type = {
            id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False) if p.ndim > 1
        }
        return lambda p: id(p) in of_type
    if callable(select):
        return cast(Callable[[Tensor], bool], select)
    ids = {id(p) for p in cast(Iterable[Tensor], select)}
    return lambda p: id(p) in ids


def _names(optimizer: Optimizer, model: nn.Module | None) -> dict[int, str]:
    """Map the id of each parameter to its name: the model's, or those given to the optimizer (torch 2.6 or later)."""
    if model is not None:
        return {id(p): name for name, p in plain_model(model).named_parameters()}
    named = [group for group in optimizer.param_groups if "param_names" in group]
    if not named:
        raise InputError(
            "select is a name, and the optimizer knows none: give model=…, or make the optimizer of "
            "model.named_parameters()"
        )
    return {id(p): name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}


def selected_modules(model: nn.Module, select: SelectModules) -> list[nn.Module]:
    """Select modules of a model, in its order; raise `InputError` if there are none."""
    if isinstance(select, str):
        named = _search(select, "modules")
        found = [module for name, module in model.named_modules() if name and named(name)]
    elif kinds := _module_types(select):
        found = [module for module in model.modules() if isinstance(module, kinds)]
    elif callable(select) and not isinstance(select, nn.Module):
        found = [module for module in model.modules() if select(module)]
    else:
        wanted = {id(module) for module in cast(Iterable[nn.Module], select)}
        found = [module for module in model.modules() if id(module) in wanted]
    if not found:
        raise InputError(
            f"modules chooses none of the {sum(1 for _ in model.modules())} modules; expected at least one"
        )
    return found
