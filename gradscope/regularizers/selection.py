"""Which parameters of an optimizer a penalty is put on, and that none gets the same penalty twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.types import InputError

#: A predicate, the parameters themselves, a regular expression on names, or a type of module (or several).
Select = Callable[[Tensor], bool] | Iterable[Tensor] | str | type[nn.Module] | tuple[type[nn.Module], ...]


def chosen(optimizer: Optimizer, select: Select | None, model: nn.Module | None) -> list[Tensor]:
    """The selected parameters, in the order of the optimizer. Raises `InputError` if there are none."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wanted = _wanted(optimizer, select, model)
    found = [p for p in parameters if wanted(p)]
    if not found:
        raise InputError(f"select chooses none of the optimizer's {len(parameters)} parameters; expected at least one")
    return found


def _wanted(optimizer: Optimizer, select: Select | None, model: nn.Module | None) -> Callable[[Tensor], bool]:
    if select is None:
        return lambda p: p.ndim > 1
    if isinstance(select, str):
        names = parameter_names(optimizer, model)
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise InputError(f"select is {select!r}, not a regular expression: {error}") from None
        return lambda p: pattern.search(names.get(id(p), "")) is not None
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


def _module_types(select: Any) -> tuple[type[nn.Module], ...]:
    """The types of module that are meant, none if ``select`` is something else."""
    kinds = select if isinstance(select, tuple) else (select,)
    return kinds if all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in kinds) else ()


def parameter_names(optimizer: Optimizer, model: nn.Module | None) -> dict[int, str]:
    """Names by the id of the parameter: the model's, else those that the optimizer was given (torch 2.6 or later)."""
    if model is not None:
        inner = getattr(model, "_orig_mod", model)
        if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        return {id(p): name for name, p in inner.named_parameters()}
    named = [group for group in optimizer.param_groups if "param_names" in group]
    if not named:
        raise InputError(
            "select is a name, and the optimizer knows none: give model=…, or make the optimizer of "
            "model.named_parameters()"
        )
    return {id(p): name for group in named for p, name in zip(group["params"], group["param_names"], strict=True)}


def chosen_modules(
    model: nn.Module,
    select: str | type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[nn.Module], bool] | Iterable[nn.Module],
) -> list[nn.Module]:
    """The selected modules of a model, in its order. Raises `InputError` if there are none."""
    if isinstance(select, str):
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise InputError(f"modules is {select!r}, not a regular expression: {error}") from None
        found = [module for name, module in model.named_modules() if name and pattern.search(name)]
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
