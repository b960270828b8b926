"""Where users already are: Lightning, Hugging Face, and the tools that show curves.

Each module needs the package it is named after, and nothing here is imported by ``import gradscope``.
"""

from __future__ import annotations


def missing(module: str, package: str, extra: str) -> ImportError:
    """The error of a module here whose package is not installed."""
    return ImportError(f"{module} needs the package {package}: pip install 'gradscope[{extra}]'")
