"""Tell, from within a hook, what the running backward pass does."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch


def runs_for_the_first_time() -> bool:
    """Return whether a forward inside a backward has not been seen before.

    Checkpointing runs forwards again. Without reentry the first run was a common forward; with it, or in any other
    autograd function that recomputes, the first run was without gradients and did not count.

    Returns:
        False in a rerun whose first run counted.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "unpack_hook":
            return False
        if frame.f_code.co_name == "backward":
            return True
        frame = frame.f_back
    return False


def accumulates_below(node: Any) -> bool:
    """Return whether a leaf below this node of the graph is given a gradient by the pass that runs now.

    A pass that only hands gradients out executes what lies on the way to them, and refuses to tell of the leaves.

    Returns:
        False for such a pass.
    """
    try:
        while ahead := [child for child, _ in node.next_functions if child is not None]:
            running = [child for child in ahead if torch._C._will_engine_execute_node(child)]
            if not running:
                return False
            node = next((child for child in running if not child.next_functions), running[0])
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return False
