"""The measurements of cost measure: what they call is as they call it."""

from __future__ import annotations

import pytest

from analyses.benchmarks import kernels


@pytest.mark.parametrize("what", ["MLP, cheap", "MLP, standard", "activations [64, 64]", "row of 16 modules"])
def test_kernels_are_measured(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROUNDS", 1)
    assert all(microseconds > 0 for microseconds in kernels.WHAT[what]().values())
