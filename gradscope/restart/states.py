"""Take and restore the state of one object, so that a restart begins where another run began."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.regularizers.hooks import attached_to
from gradscope.types import InputError


def state_of(part: Any) -> Any:
    """Return the state of an object, with every tensor copied to the CPU.

    Args:
        part: a model, optimizer, scheduler, random generator, list, dict or whatever has ``state_dict`` and
            ``load_state_dict``.

    Returns:
        What `restore` takes.

    Raises:
        InputError: it is anything else.
    """
    for kind, take, _ in _KINDS:
        if isinstance(part, kind):
            return _copied(take(part))
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        return _copied(part.state_dict())
    raise InputError(
        f"the state of a {type(part).__name__} cannot be taken; expected something with state_dict and "
        f"load_state_dict, a random generator, a list or a dict"
    )


def restore(part: Any, state: Any) -> None:
    """Put a state from `state_of` back into its object, in place; ``state`` is not changed."""
    state = _copied(state)
    for kind, _, put_back in _KINDS:
        if isinstance(part, kind):
            put_back(part, state)
            return
    part.load_state_dict(state)


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of python, numpy and torch, on the CPU and on every device in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = np.random.get_state()  # noqa: NPY002 - the global generator is what scripts use
    return {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_random(state: dict[str, Any]) -> None:
    """Put the states from `random_states` back."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    elif torch.cuda.is_initialized():  # a device that came into use later began with torch's seed
        torch.cuda.manual_seed_all(torch.initial_seed())


def _model(model: nn.Module) -> dict[str, Any]:
    kept = set(model.state_dict())
    return {
        "state": model.state_dict(),
        "buffers": {name: buffer for name, buffer in model.named_buffers() if name not in kept},
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "training": [module.training for module in model.modules()],
    }


@torch.no_grad()
def _restore_model(model: nn.Module, state: dict[str, Any]) -> None:
    model.load_state_dict(state["state"])
    for name, buffer in model.named_buffers():
        if name in state["buffers"]:
            buffer.copy_(state["buffers"][name])
    for name, p in model.named_parameters():
        gradient = state["gradients"].get(name)
        p.grad = None if gradient is None else gradient.to(p.device)
        p.requires_grad_(name not in state["frozen"])
    for module, training in zip(model.modules(), state["training"], strict=True):
        module.training = training


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    handles = [handle.state_dict() for handle in attached_to(optimizer) if not handle.temporary]
    return {"state": optimizer.state_dict(), "handles": handles}


def _restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    del optimizer.param_groups[len(state["state"]["param_groups"]) :]  # those that were added later
    optimizer.load_state_dict(state["state"])
    handles = [handle for handle in attached_to(optimizer) if not handle.temporary]
    if len(handles) != len(state["handles"]):
        raise InputError(
            f"{len(handles)} penalties are attached to the optimizer, and there were {len(state['handles'])} when its "
            f"state was taken; attach them before the restarts begin"
        )
    for handle, own in zip(handles, state["handles"], strict=True):
        handle.load_state_dict(own)


def _restore_list(values: list[Any], state: list[Any]) -> None:
    values[:] = state


def _restore_dict(values: dict[Any, Any], state: dict[Any, Any]) -> None:
    values.clear()
    values.update(state)


#: How the state of each kind is taken and put back; the first that fits.
_KINDS: tuple[tuple[type, Callable[[Any], Any], Callable[[Any, Any], None]], ...] = (
    (nn.Module, _model, _restore_model),
    (Optimizer, _optimizer, _restore_optimizer),
    (torch.Generator, lambda g: g.get_state(), lambda g, state: g.set_state(state)),
    (np.random.Generator, lambda g: g.bit_generator.state, lambda g, s: setattr(g.bit_generator, "state", s)),
    (random.Random, lambda g: g.getstate(), lambda g, state: g.setstate(state)),
    (list, list, _restore_list),
    (dict, dict, _restore_dict),
)


def _copied(state: Any) -> Any:
    """Copy a state deeply, with every tensor on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if type(state) in (list, tuple):
        return type(state)(_copied(value) for value in state)
    if isinstance(state, dict):
        return (
            type(state)((key, _copied(value)) for key, value in state.items()) if type(state) is dict else _odd(state)
        )
    return copy.deepcopy(state)


def _odd(state: dict[Any, Any]) -> dict[Any, Any]:
    """Copy an ordered or default dict with its class and attributes (``_metadata`` of a module's ``state_dict``)."""
    twin = copy.copy(state)
    for key, value in state.items():
        twin[key] = _copied(value)
    return twin
