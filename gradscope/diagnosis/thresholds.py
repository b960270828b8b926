"""Thresholds of the judge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Every number the judge uses, dimensionless: shares of the run's own quantities, counts of rows or e-foldings."""

    improved: float = 0.05  # share of the baseline loss that counts as learning (the label's own 5 %)
    established: float = 0.5  # share at which the active phase has carried the run far enough for a penalty
    patient: float = 4.0  # times as long as the escape took, after which a run that slows down is in its active phase
    standard_errors: float = 3.0  # how clearly a window has to differ
    window: int = 16  # rows in the shortest window
    shrunk: float = 1.0  # ln of the factor by which weights have to have shrunk
    silent: float = 1e-3  # share of its output that depends on the input, below which a network is a constant
    balance: float = 0.1  # radial balance below which the loss no longer holds the weights
    still: float = 0.002  # radial balance below which its growth is noise
    rising: float = 1.25  # a balance that grew by this factor from one window to the next is rising
    settled: float = 5.0  # e-folding times after which a run that learns has shown that it holds
    held: float = 0.25  # e-folding times over which a run that holds is watched
    lost: float = 4.0  # e-folding times back at the baseline after which a run that learned has lost it
    rest: float = 0.05  # ln of the factor by which weights at rest may still shrink in one e-folding time
    confirmations: int = 2  # looks in a row that have to agree before a failure is called
    exploded: float = 20.0  # multiple of the baseline loss that counts as divergence
    vanishing: float = 1e-3  # share by which the loss gradient could move the weights over the whole run
    patience: float = 0.5  # share of the run so far without a better loss: the active phase has levelled off
