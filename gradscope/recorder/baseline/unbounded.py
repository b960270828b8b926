"""Tell a loss that nothing bounds from below: the mean of a layer's output, as a WGAN's critic and generator log it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: Nodes of the graph that are linear in what they are made of; a product or quotient of two of these is not.
_LINEAR = {
    *("Add", "Sub", "Neg", "Mul", "Div", "Mean", "Sum", "View", "Squeeze", "Unsqueeze", "Select", "Slice"),
    *("Stack", "Cat", "Alias", "ToCopy", "UnsafeView", "T", "Expand", "ReshapeAlias"),
}
_LAYERS = {"Addmm", "Mm", "Convolution"}
#: Nodes that are looked at, at most.
_MOST = 20_000


def is_unbounded(loss: Tensor) -> bool:
    """Return whether a layer's output is part of the loss as it is, and nothing else of the loss depends on it."""
    root: Any = loss.grad_fn
    if root is None:
        return False
    linear, outputs, waiting = {root}, set(), [root]
    while waiting:
        node = waiting.pop()
        parts = _made_of(node)
        if _name(node) not in _LINEAR or (_name(node) in {"Mul", "Div"} and len(parts) > 1):
            continue
        for part in parts:
            if _name(part) in _LAYERS:
                outputs.add(part)
            elif part not in linear:
                linear.add(part)
                waiting.append(part)
    return bool(outputs) and bool(outputs - _reached_otherwise(root, linear, outputs))


def _reached_otherwise(root: Any, linear: set[Any], outputs: set[Any]) -> set[Any]:
    """Return those outputs that something else of the loss is made of, too: all of them, if the graph is too large."""
    found, seen, waiting = set(), {root}, [root]
    while waiting:
        node = waiting.pop()
        straight = node in linear and _name(node) in _LINEAR
        for part in _made_of(node):
            if part in outputs and not straight:
                found.add(part)
            if part not in seen:
                seen.add(part)
                waiting.append(part)
        if len(seen) > _MOST:
            return outputs
    return found


def _name(node: Any) -> str:
    return type(node).__name__.partition("Backward")[0]


def _made_of(node: Any) -> list[Any]:
    return [part for part, _ in node.next_functions if part is not None]
