"""Recording: `record`, the `Recording` it returns, and the parts that the two bring together.

The names below are loaded on first use, so that a module of this room can be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "FindingWarning": "gradscope.recording.notes",
    "LearningFailureWarning": "gradscope.recording.notes",
    "Recording": "gradscope.recording.recording",
    "close_recordings": "gradscope.recording.open_recordings",
    "record": "gradscope.recording.opening",
}

if TYPE_CHECKING:
    from gradscope.recording.notes import FindingWarning as FindingWarning
    from gradscope.recording.notes import LearningFailureWarning as LearningFailureWarning
    from gradscope.recording.open_recordings import close_recordings as close_recordings
    from gradscope.recording.opening import record as record
    from gradscope.recording.recording import Recording as Recording


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value
