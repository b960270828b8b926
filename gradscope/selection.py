"""Which parameters and modules of a model are recorded, under which names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.types import InputError

#: A regular expression or predicate on plain names, or the type (or types) of the modules that are meant.
Select = str | Callable[[str], bool] | type[nn.Module] | tuple[type[nn.Module], ...]


_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile."""
    while True:
        inner = model.module if isinstance(model, _PARALLEL) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def plain_name(model: nn.Module, name: str) -> str:
    """The name as the unwrapped model has it (DistributedDataParallel and torch.compile add prefixes)."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    wrapped = isinstance(getattr(model, "_orig_mod", model), _PARALLEL)
    return ".".join(parts[1:] if wrapped and parts[:1] == ["module"] else parts)


def _predicate(model: nn.Module, select: Select, called: str) -> Callable[[str], Any]:
    """A test on plain names, whichever way the choice was put."""
    if isinstance(select, str):
        try:
            return re.compile(select).search
        except re.error as error:
            raise InputError(f"{called} is {select!r}, not a regular expression: {error}") from None
    if isinstance(select, type | tuple):
        kinds = select
        inside = {plain_name(model, name) for name, module in model.named_modules() if isinstance(module, kinds)}
        return lambda name: name in inside or name.rpartition(".")[0] in inside
    return select


def chosen_modules(model: nn.Module, select: Select | None) -> dict[str, nn.Module]:
    """The modules whose activations are recorded, by plain name: leaves, those that ``select`` names if given.

    A layer with parametrized weights (weight norm, spectral norm) is one; its parametrizations are none.
    """
    leaves = {
        plain_name(model, name) or type(module).__name__: module
        for name, module in model.named_modules()
        if not [part for part, _ in module.named_children() if part != "parametrizations"]
        and "parametrizations" not in name.split(".")
    }
    if select is None:
        return leaves
    wanted = _predicate(model, select, "modules")
    chosen = {name: module for name, module in leaves.items() if wanted(name)}
    if not chosen:
        raise InputError(
            f"modules chooses none of the model's {len(leaves)}; the names are such as {next(iter(leaves))!r}"
        )
    return chosen


def chosen_parameters(
    model: nn.Module, optimizers: Sequence[Optimizer], select: Select | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The parameters to record, by plain name, and the names of those that no optimizer moves (yet).

    These have their place in the record, for an optimizer may get them later.
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
        wanted = _predicate(model, select, "select")
        chosen = {name: p for name, p in every.items() if wanted(name)}
    if not any(p.requires_grad for name, p in chosen.items() if name in here):
        raise InputError(f"select chooses no trainable parameter; the names are such as {next(iter(here))!r}")
    return chosen, [name for name in chosen if name not in here]
