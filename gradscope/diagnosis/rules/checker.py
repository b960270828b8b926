"""Check all rules on a run: take rows as they come, live or from a record, and hold what was found.

Every number follows from the rows up to its own, never from where blocks were cut: live and post hoc find the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.diagnosis.loss_terms import LossTerms
from gradscope.diagnosis.rules.catalogue import RULES, Chosen, chosen
from gradscope.diagnosis.rules.columns import Columns
from gradscope.diagnosis.rules.derived import (
    VALIDATION,
    Epochs,
    Evaluations,
    Losses,
    Past,
    PenaltyShares,
    Rates,
    Rows,
    Signals,
    Weights,
)
from gradscope.diagnosis.rules.finding import Finding, NotChecked, Symptom
from gradscope.diagnosis.rules.options import Rule
from gradscope.diagnosis.rules.streaks import Streaks
from gradscope.quantities import RULED
from gradscope.run_info import RunInfo


class Checker:
    """Checker of one run.

    Args:
        facts: of the run.
        rules: what `catalogue.chosen` returns, all by default.
        of_epochs: validation losses by epoch; it may be added to while the run goes on.
    """

    def __init__(self, facts: RunInfo, rules: Chosen | None = None, of_epochs: dict[int, float] | None = None) -> None:
        self.facts = facts
        self.rules = chosen() if rules is None else rules
        self.findings: list[Finding] = []
        self._streaks: dict[tuple[str, str], Streaks] = {}
        self._where: dict[tuple[str, str, int, int], tuple[Streaks, list[int]]] = {}  # of each finding
        self._seen: set[str] = set()
        self._count = 0
        self.of_epochs = {} if of_epochs is None else of_epochs
        self._signals, self._rates, self._epochs = Signals(), Rates(), Epochs()
        self._past, self._shares, self._terms = Past(), PenaltyShares(), LossTerms(facts)
        self._losses, self._weights = Losses(), Weights(facts.numel)
        self._evaluations = Evaluations(self.of_epochs)

    def update(self, rows: Rows) -> list[Finding]:
        """Take a block of rows, in order, arrays by variable name; return what is new."""
        n = len(rows["step"])
        if not n or not self.rules:
            return []
        columns = self._columns(rows, n)
        new = [
            finding
            for name, options in self.rules.items()
            for symptom in RULES[name].look(columns, self.facts, options)
            for finding in self._lasting(RULES[name], symptom, rows["step"], columns.number, options)
        ]
        new.sort(key=lambda finding: finding.found_step)
        self.findings += new
        self._see_ends()
        return new

    def _see_ends(self) -> None:
        for at, finding in enumerate(self.findings):
            streaks, layers = self._where[_key(finding)]
            if (over := streaks.over_since(layers)) != finding.over_step:
                self.findings[at] = replace(finding, over_step=over)

    def not_checked(self) -> list[NotChecked]:
        """List what could not be looked at in the rows so far, and what to record for it."""
        return [
            NotChecked(name, need.without)
            for name in self.rules
            for need in RULES[name].needs
            if not need.met(self._seen, self.facts)
        ]

    def _columns(self, rows: Rows, n: int) -> Columns:
        number = self._count + np.arange(n)
        self._count += n
        for name in {*NEEDED, *rows} - self._seen:
            if name in rows and _says_something(rows[name]):
                self._seen.add(name)
        loss = np.asarray(rows["loss"], dtype=np.float64) if "loss" in rows else np.full(n, np.nan)
        derived = self._losses.columns(loss) | self._weights.columns(rows, number)
        derived |= self._past.columns(derived["loss_level"], number)
        derived |= self._evaluations.columns(rows, loss) | self._signals.columns(rows)
        derived |= self._shares.columns(rows, self.facts) | self._terms.columns(rows)
        derived |= self._rates.columns(rows) | self._epochs.columns(rows)
        if np.isfinite(derived["validation"]).any():
            self._seen.add("validation")
        return Columns({**rows, **derived}, number)

    def _lasting(
        self, rule: Rule, symptom: Symptom, steps: Any, number: NDArray[np.int64], options: Mapping[str, float]
    ) -> list[Finding]:
        streaks = self._streaks.setdefault((rule.name, symptom.kind), Streaks(len(symptom.layers)))
        steps = np.asarray(steps, dtype=np.int64)
        found = []
        for row, since, layers in streaks.advance(
            symptom, steps, number >= options["warm_up"], int(options["patience"])
        ):
            values = symptom.values[row, layers]
            numbers = {symptom.quantity: float(np.nanmax(values)), "limit": symptom.limit}
            names = tuple(symptom.layers[i] for i in layers if symptom.layers[i])
            found.append(
                Finding(
                    rule=rule.name,
                    kind=symptom.kind,
                    layers=names,
                    since_step=since,
                    found_step=int(steps[row]),
                    numbers=numbers,
                    text=symptom.text,
                    suggestion=symptom.suggestion,
                )
            )
            self._where[_key(found[-1])] = streaks, layers
        return found


def _key(finding: Finding) -> tuple[str, str, int, int]:
    return finding.rule, finding.kind, finding.since_step, finding.found_step


def _says_something(values: Any) -> bool:
    values = np.asarray(values)
    return values.dtype.kind in "iub" or bool(np.isfinite(values).any())


#: The recorded variables that rules look at.
NEEDED = ("step", *RULED, *VALIDATION)
