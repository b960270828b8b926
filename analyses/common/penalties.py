"""Penalties as the documents apply them, where gradscope's own way is another."""

from __future__ import annotations

from copy import copy

from gradscope.regularizers.penalties import Penalty


def subgradient(penalty: Penalty) -> Penalty:
    """The penalty acting through the gradient, as Keras adds it, where it would act by its proximal step."""
    other = copy(penalty)
    other.proximal_step = False
    return other
