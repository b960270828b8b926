"""gradscope: why a regularised PyTorch training run does not learn, and what to do about it.

The names below are loaded on first use, so that ``import gradscope`` and ``gradscope --help``
stay light: nothing here imports torch or matplotlib.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

_HOME = {
    "DenseStart": "gradscope.recorder.cadence",
    "Every": "gradscope.recorder.cadence",
    "Windows": "gradscope.recorder.cadence",
    "Recording": "gradscope.recording.recording",
    "record": "gradscope.recording.opening",
    "close_recordings": "gradscope.recording.open_recordings",
    "Restarts": "gradscope.restart.in_process",
    "Checkpoint": "gradscope.restart.checkpoint",
    "resume_from": "gradscope.processes.instructions",
    "Penalty": "gradscope.regularizers.penalties",
    "Term": "gradscope.regularizers.term",
    "L0": "gradscope.regularizers.penalties",
    "L1": "gradscope.regularizers.penalties",
    "L2": "gradscope.regularizers.penalties",
    "L1L2": "gradscope.regularizers.penalties",
    "Lp": "gradscope.regularizers.penalties",
    "LInf": "gradscope.regularizers.penalties",
    "GroupLasso": "gradscope.regularizers.groups",
    "Constant": "gradscope.regularizers.schedule",
    "Schedule": "gradscope.regularizers.schedule",
    "Cyclic": "gradscope.regularizers.timed",
    "Delayed": "gradscope.regularizers.timed",
    "Ramp": "gradscope.regularizers.timed",
    "StrongFirst": "gradscope.regularizers.timed",
    "Table": "gradscope.regularizers.timed",
    "Ivanov": "gradscope.regularizers.coupled",
    "Taper": "gradscope.regularizers.coupled",
    "AdvanceL2": "gradscope.regularizers.controllers",
    "AutoL2": "gradscope.regularizers.controllers",
    "CPR": "gradscope.regularizers.constrained",
    "parse_schedule": "gradscope.regularizers.schedules",
    "regularize": "gradscope.regularizers.attach",
    "regularize_activity": "gradscope.regularizers.activity",
    "mask_gradients": "gradscope.regularizers.masks",
    "EarlyStopping": "gradscope.regularizers.strategies",
    "GaussianNoise": "gradscope.regularizers.strategies",
    "add_noise": "gradscope.regularizers.strategies",
    "fgsm": "gradscope.regularizers.strategies",
    "Sink": "gradscope.recording.sink",
    "Storage": "gradscope.store.storage",
    "open_run": "gradscope.store.reader",
    "diagnose": "gradscope.reading",
    "Diagnosis": "gradscope.diagnosis.verdict",
    "search_tolerance": "gradscope.tolerance.search",
    "Suggestion": "gradscope.prediction.suggest",
    "suggest_strength": "gradscope.prediction.suggest",
    "ToleranceResult": "gradscope.tolerance.result",
    "tune_strength": "gradscope.tuning.tune",
    "TuneResult": "gradscope.tuning.result",
    "InputError": "gradscope.types",
    "LearningFailure": "gradscope.types",
    "RecordExistsError": "gradscope.types",
    "RecordNotFoundError": "gradscope.types",
    "Verdict": "gradscope.types",
}

__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from gradscope.diagnosis.verdict import Diagnosis as Diagnosis
    from gradscope.prediction.suggest import Suggestion as Suggestion
    from gradscope.prediction.suggest import suggest_strength as suggest_strength
    from gradscope.processes.instructions import resume_from as resume_from
    from gradscope.reading import diagnose as diagnose
    from gradscope.recorder.cadence import DenseStart as DenseStart
    from gradscope.recorder.cadence import Every as Every
    from gradscope.recorder.cadence import Windows as Windows
    from gradscope.recording.open_recordings import close_recordings as close_recordings
    from gradscope.recording.opening import record as record
    from gradscope.recording.recording import Recording as Recording
    from gradscope.recording.sink import Sink as Sink
    from gradscope.regularizers.activity import regularize_activity as regularize_activity
    from gradscope.regularizers.attach import regularize as regularize
    from gradscope.regularizers.constrained import CPR as CPR
    from gradscope.regularizers.controllers import AdvanceL2 as AdvanceL2
    from gradscope.regularizers.controllers import AutoL2 as AutoL2
    from gradscope.regularizers.coupled import Ivanov as Ivanov
    from gradscope.regularizers.coupled import Taper as Taper
    from gradscope.regularizers.groups import GroupLasso as GroupLasso
    from gradscope.regularizers.masks import mask_gradients as mask_gradients
    from gradscope.regularizers.penalties import L0 as L0
    from gradscope.regularizers.penalties import L1 as L1
    from gradscope.regularizers.penalties import L1L2 as L1L2
    from gradscope.regularizers.penalties import L2 as L2
    from gradscope.regularizers.penalties import LInf as LInf
    from gradscope.regularizers.penalties import Lp as Lp
    from gradscope.regularizers.penalties import Penalty as Penalty
    from gradscope.regularizers.schedule import Constant as Constant
    from gradscope.regularizers.schedule import Schedule as Schedule
    from gradscope.regularizers.schedules import parse_schedule as parse_schedule
    from gradscope.regularizers.strategies import EarlyStopping as EarlyStopping
    from gradscope.regularizers.strategies import GaussianNoise as GaussianNoise
    from gradscope.regularizers.strategies import add_noise as add_noise
    from gradscope.regularizers.strategies import fgsm as fgsm
    from gradscope.regularizers.term import Term as Term
    from gradscope.regularizers.timed import Cyclic as Cyclic
    from gradscope.regularizers.timed import Delayed as Delayed
    from gradscope.regularizers.timed import Ramp as Ramp
    from gradscope.regularizers.timed import StrongFirst as StrongFirst
    from gradscope.regularizers.timed import Table as Table
    from gradscope.restart.checkpoint import Checkpoint as Checkpoint
    from gradscope.restart.in_process import Restarts as Restarts
    from gradscope.store.reader import open_run as open_run
    from gradscope.store.storage import Storage as Storage
    from gradscope.tolerance.result import ToleranceResult as ToleranceResult
    from gradscope.tolerance.search import search_tolerance as search_tolerance
    from gradscope.tuning.result import TuneResult as TuneResult
    from gradscope.tuning.tune import tune_strength as tune_strength
    from gradscope.types import InputError as InputError
    from gradscope.types import LearningFailure as LearningFailure
    from gradscope.types import RecordExistsError as RecordExistsError
    from gradscope.types import RecordNotFoundError as RecordNotFoundError
    from gradscope.types import Verdict as Verdict


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        from gradscope.extras import missing_for

        if said := missing_for(f"gradscope.{name}", error):
            raise ModuleNotFoundError(said, name=error.name) from None
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _warn_of_a_namesake() -> None:
    """Say so where a stranger's distribution, whose files have the same names, lies in the same folder."""
    try:
        beside = os.listdir(os.path.dirname(__path__[0]))  # noqa: PTH120, PTH208 (pathlib takes as long as all the rest)
    except OSError:
        return
    if any(name.startswith("gradscope-") and name.endswith(".dist-info") for name in beside):
        warnings.warn(
            "the distribution 'gradscope', which is somebody else's, is installed in the same folder as "
            "gradscope-dynamics, and the two overwrite each other: pip uninstall gradscope, then "
            "pip install --force-reinstall --no-deps gradscope-dynamics",
            stacklevel=2,
        )


_warn_of_a_namesake()
