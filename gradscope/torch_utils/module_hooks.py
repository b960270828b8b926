"""Attach hooks to modules that copies, pickles, scripts and compilers of the model do not see.

A hook on a module is part of the module, for whoever pickles or compiles it. So while there are such hooks, modules
are pickled and copied without them (`copyreg`), `torch.jit` is shown modules without them, and what dynamo
traces calls them outside of the trace.
"""

from __future__ import annotations

import copyreg
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.compiler import is_compiling
from torch.utils.hooks import RemovableHandle

from gradscope.torch_utils.eager import eager, unseen
from gradscope.torch_utils.patching import MethodPatch


class Hook:
    """Hook that stays with its recording: a copied or pickled model carries one that does nothing."""

    def __init__(self, act: Callable[..., Any] | None = None) -> None:
        self._act = act

    def __call__(self, *arguments: Any) -> Any:
        """Act, if the hook is still that of a recording."""
        return None if self._act is None else self._act(*arguments)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


_apart = eager(Hook.__call__)


class EagerHook(Hook):
    """Hook that no compiler traces."""

    @unseen
    def __call__(self, *arguments: Any) -> Any:
        """Act outside of any trace."""
        if is_compiling():
            return _apart(self, *arguments)
        act = self._act
        return None if act is None else act(*arguments)


def is_traced() -> bool:
    """Return whether the running forward is traced, or one of numbers that a transform stands for."""
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._functorch.maybe_current_level() is not None
        or torch._C._get_dispatch_mode(_PROXY) is not None
        or torch._C._get_dispatch_mode(_FAKE) is not None
    )


_PROXY, _FAKE = torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE


def takes_hooks(module: nn.Module) -> bool:
    """Return whether a module may be given hooks: what `torch.jit` has made may not."""
    return not isinstance(module, torch.jit.ScriptModule)


class ModuleHooks:
    """Hooks on modules, until `remove`; off for a while from `pause` to `resume`.

    A module is asked each time where it keeps its hooks: scripts put another dictionary in the place of that one.

    Attributes:
        paused: whether they are off. What dynamo begins to compile meanwhile puts them on again, to be compiled in.
    """

    def __init__(self) -> None:
        self.paused = False
        self._handles: list[tuple[nn.Module, RemovableHandle]] = []
        self._after: list[tuple[nn.Module, int, Hook]] = []
        self._kinds: list[type[nn.Module]] = []

    def after_forward(self, module: nn.Module, hook: Hook, **options: bool) -> RemovableHandle:
        """Register a hook after each forward; ``options``: as `nn.Module.register_forward_hook` takes them."""
        if not takes_hooks(module):
            return RemovableHandle(OrderedDict())
        handle = module.register_forward_hook(hook, **options)
        if not options:
            self._after.append((module, handle.id, hook))
        return self._added(module, handle)

    def before_forward(self, module: nn.Module, hook: Hook) -> RemovableHandle:
        """Register a hook before each forward."""
        if not takes_hooks(module):
            return RemovableHandle(OrderedDict())
        return self._added(module, module.register_forward_pre_hook(hook))

    def _added(self, module: nn.Module, handle: RemovableHandle) -> RemovableHandle:
        if not self._handles:
            _SCRIPTS.add(self)
        self._handles.append((module, handle))
        self._kinds.append(type(module))
        _hide(type(module))
        return handle

    def pause(self) -> None:
        """Take off the hooks after forwards: a module without any is called the short way, 2 µs less a call.

        Those of modules that have others beside stay on, so that the order among them is kept.
        """
        self.paused = True
        callbacks = _compile_callbacks()
        if self._compiles not in callbacks:
            callbacks.append(self._compiles)
        for module, number, _ in self._after:
            hooks = module._forward_hooks
            if len(hooks) == 1:
                hooks.pop(number, None)

    def resume(self) -> None:
        """Put on again, before those that came meanwhile, what was taken off: by `pause`, or by a script."""
        self.paused = False
        for module, number, hook in self._after:
            hooks = module._forward_hooks
            if number not in hooks:
                hooks[number] = hook
                if isinstance(hooks, OrderedDict):  # at no time without the others: a thread may be in a forward
                    hooks.move_to_end(number, last=False)

    def _compiles(self, *arguments: Any) -> None:
        if self.paused:
            self.resume()

    def remove(self) -> None:
        """Remove the hooks."""
        if self._compiles in (callbacks := _compile_callbacks()):
            callbacks.remove(self._compiles)
        self._after = []
        handles, self._handles = self._handles, []
        kinds, self._kinds = self._kinds, []
        for module, handle in handles:
            handle.remove()
            for name in _HOOKS:
                getattr(module, name).pop(handle.id, None)
        for kind in kinds:
            _show(kind)
        if handles:
            _SCRIPTS.remove(self)


def _compile_callbacks() -> list[Callable[..., Any]]:
    """Return what dynamo calls before it compiles a frame; a list of no use where it is not there, or has none."""
    handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
    found: list[Callable[..., Any]] = getattr(handler, "start_callbacks", [])
    return found


# -- pickles and copies -----------------------------------------------------------------------------

_HIDDEN: Counter[type[nn.Module]] = Counter()  # hooks by class of their module
_REDUCERS: dict[type[nn.Module], Any] = {}  # what a script has registered for the class itself


def _hide(kind: type[nn.Module]) -> None:
    if not _HIDDEN[kind]:
        theirs = copyreg.dispatch_table.get(kind)
        _REDUCERS[kind] = None if theirs is _reduced else theirs
        copyreg.pickle(kind, _reduced)
    _HIDDEN[kind] += 1


def _show(kind: type[nn.Module]) -> None:
    _HIDDEN[kind] -= 1
    if not _HIDDEN[kind]:
        theirs = _REDUCERS.pop(kind)
        if copyreg.dispatch_table.get(kind) is _reduced:
            if theirs is None:
                del copyreg.dispatch_table[kind]
            else:
                copyreg.dispatch_table[kind] = theirs


def _reduced(module: nn.Module) -> Any:
    """Reduce a module for pickles and copies to what it would be without the hooks."""
    theirs = _REDUCERS.get(type(module))
    found = module.__reduce_ex__(2) if theirs is None else theirs(module)
    if not isinstance(found, tuple) or len(found) < 3:
        return found
    return (*found[:2], _without_hooks(found[2]), *found[3:])


def _without_hooks(state: Any) -> Any:
    if isinstance(state, tuple):  # of a class with slots
        return tuple(_without_hooks(part) for part in state)
    if not isinstance(state, dict):
        return state
    hooks = {name: state[name] for name in _HOOKS if isinstance(state.get(name), dict)}
    return {**state, **{name: _theirs(of) for name, of in hooks.items()}}


def _theirs(hooks: dict[int, Any]) -> OrderedDict[int, Any]:
    return OrderedDict((n, hook) for n, hook in hooks.items() if not isinstance(hook, Hook))


#: Where a module keeps its hooks.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


# -- torch.jit --------------------------------------------------------------------------------------


def _script(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Compile a module from which the hooks are taken for as long as that takes."""
    every = [getattr(part, name) for part in module.modules() for name in _HOOKS]
    taken = [(hooks, list(hooks.items())) for hooks in every if hooks]
    for hooks, items in taken:
        for n, hook in items:
            if isinstance(hook, Hook):
                del hooks[n]
    try:
        return _SCRIPTS.originals["create_script_module"](module, *args, **kwargs)
    finally:
        for hooks, items in taken:
            hooks.clear()
            hooks.update(items)


_SCRIPTS: MethodPatch[ModuleHooks] = MethodPatch(lambda: torch.jit._recursive, create_script_module=_script)
