"""gradscope: why a regularised PyTorch training run does not learn, and what to do about it.

The names below are loaded on first use, so that ``import gradscope`` and ``gradscope --help``
stay light: nothing here imports torch or matplotlib.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import lazy_loader

__version__ = "0.2.0.dev0"

_load, _, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are listed in __init__.pyi
__all__ = ["__version__", *__all__]
_STRATEGIES = ("EarlyStopping", "GaussianNoise", "add_noise", "fgsm")  # listed here until version 0.2


def __getattr__(name: str) -> Any:
    if name in _STRATEGIES:
        from gradscope.regularizers import strategies

        return getattr(strategies, name)
    if name not in __all__:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    try:
        value = _load(name)
    except ModuleNotFoundError as error:
        from gradscope.extras import missing_for

        if said := missing_for(f"gradscope.{name}", error):
            raise ModuleNotFoundError(said, name=error.name) from None
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


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
