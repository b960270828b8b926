"""Catalogue of the rules: names, defaults, where these come from, and how to set them.

Sources by short name: *SageMaker* is the list of built-in rules of Amazon SageMaker Debugger
(docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html). *AutoTrainer*: Zhang et al., ICSE 2021, and its
code (github.com/shiningrain/AUTOTRAINER, utils/monitor.py). *CS231n*: Karpathy's notes,
cs231n.github.io/neural-networks-3. *Recipe*: Karpathy, A Recipe for Training Neural Networks (2019). *OLMo 2*: arXiv
2501.00656, whose spike score counts values seven standard deviations off. *PaLM*: arXiv 2204.02311, section 5.1.
*DeepLocalize*: Wardat et al., ICSE 2021. *DeepDiagnosis*: Wardat et al., ICSE 2022 (arXiv 2112.04036). *UMLAUT*: Schoop
et al., CHI 2021. *ours*: chosen here, see docs/decisions/0025-rules-row-by-row.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches

from gradscope.diagnosis.rules import (
    activation_rules,
    harm_rules,
    learning_rules,
    ownership_rules,
    parameter_rules,
    slip_rules,
)
from gradscope.diagnosis.rules.columns import Columns
from gradscope.diagnosis.rules.finding import Symptom
from gradscope.diagnosis.rules.options import Look, Need, Option, Rule
from gradscope.plugins import plugged
from gradscope.run_info import RunInfo
from gradscope.types import InputError

#: Rules by name with the options they are to use.
Chosen = Mapping[str, Mapping[str, float]]

OURS = "ours"
LEARNED = Option(0.01, "share of the initial loss below which there is nothing left to learn", OURS)
_ACTIVATIONS = "record with preset='standard' or 'full', which hold activations"
_MODERN = "the record does not say which modules are tanh or sigmoid: it was written by an earlier gradscope"
_LOSS = "call Recording.log(loss=…)"


def _waiting(warm_up: int, patience: int, source: str) -> dict[str, Option]:
    return {
        "warm_up": Option(warm_up, "rows at the start that do not count", source),
        "patience": Option(patience, "samples one after the other that have to show it", source),
    }


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "dead_units",
            activation_rules.dead_units,
            {
                "share": Option(0.5, "share of a module's units that have to be dead", "SageMaker DeadRelu (50 %)"),
                "inactivity": Option(
                    0.01, "share of samples below which a unit counts as inactive", "SageMaker DeadRelu (1 %)"
                ),
                **_waiting(0, 8, OURS),
            },
            (Need(("activation_zero_fraction",), _ACTIVATIONS),),
            "SageMaker DeadRelu; AutoTrainer's dying ReLU; DeepDiagnosis' dead node",
            samples="rows in which activations were sampled",
        ),
        Rule(
            "saturated_activations",
            activation_rules.saturated_activations,
            {
                "slope": Option(
                    0.1,
                    "mean slope, as a share of the largest, below which a module is saturated",
                    "ours (tanh beyond ±.95); SageMaker SaturatedActivation asks for a slope of 1e-7",
                ),
                **_waiting(0, 8, OURS),
            },
            (Need(("activation_mean_abs",), _ACTIVATIONS), Need(("module_types",), _MODERN)),
            "SageMaker SaturatedActivation; DeepDiagnosis; Glorot and Bengio 2010",
            samples="rows in which activations were sampled",
        ),
        Rule(
            "update_ratio",
            parameter_rules.update_ratio,
            {
                "large": Option(0.1, "update/weight above which it is large", "a hundred times CS231n's 1e-3"),
                "small": Option(1e-6, "update/weight below which it is small", "a thousandth of CS231n's 1e-3"),
                **_waiting(32, 32, OURS),
            },
            (
                Need(
                    ("update_mean_abs", "loss_gradient_mean_abs"),
                    "record with preset='full', which holds the size of updates",
                ),
                Need(("loss",), f"small updates are not told: {_LOSS}"),
            ),
            "CS231n, ratio of weights and updates; SageMaker WeightUpdateRatio (1e-8 … 10)",
        ),
        Rule(
            "exploding_tensor",
            parameter_rules.exploding_tensor,
            {
                "growth": Option(
                    1000.0,
                    "times that the norm of a tensor may grow beyond the largest of its first 16 rows",
                    OURS,
                ),
                **_waiting(0, 1, "SageMaker ExplodingTensor (at once)"),
            },
            (
                Need(
                    ("nonfinite_count",),
                    "NaN in gradients is not told apart from no gradient: record with preset='standard' or 'full'",
                ),
            ),
            "SageMaker ExplodingTensor; DeepLocalize's numerical errors; UMLAUT's NaN loss",
        ),
        Rule(
            "unchanged_parameters",
            parameter_rules.unchanged_parameters,
            {
                "learned": LEARNED,
                **_waiting(0, 16, "ours; SageMaker UnchangedTensor waits for 3 saved steps"),
            },
            (Need(("weight_mean_abs",), "the record holds no weights"),),
            "SageMaker UnchangedTensor; DeepDiagnosis' unchanged weight",
        ),
        Rule(
            "untrained_parameters",
            ownership_rules.untrained_parameters,
            {**_waiting(0, 1, "ours (by the first row)")},
            (),
            "ours, after reports of layers that no optimizer moves",
        ),
        Rule(
            "slips",
            slip_rules.slips,
            {
                "share": Option(0.5, "share of the rows so far that the learning rate may be gone", OURS),
                **_waiting(0, 32, "ours (the rate; the rest by the first row)"),
            },
            (Need(("loss",), _LOSS),),
            "ours; UMLAUT's missing softmax and multiple activations; Recipe's common mistakes",
        ),
        Rule(
            "poor_initialisation",
            learning_rules.poor_initialisation,
            {
                "rows": Option(128, "rows at the start that are looked at", "ours; SageMaker looks at 10 steps"),
                "loss": Option(3.0, "times the baseline loss that the first losses may be", "ours, after Recipe"),
                "vanish": Option(1e-3, "first over last gradient norm below which it vanishes", "AutoTrainer β₁"),
                "vanish_norm": Option(1e-4, "gradient norm of the first matrix it takes for that", "AutoTrainer β₂"),
                "explode": Option(70.0, "first over last gradient norm above which it explodes", "AutoTrainer β₃"),
                **_waiting(0, 32, OURS),
            },
            (
                Need(("loss",), f"whether the run gets away from its start is not known: {_LOSS}"),
                Need(("baseline_loss",), "the loss at the start is not judged: give record(…, baseline_loss=…)"),
            ),
            "SageMaker PoorWeightInitialization; AutoTrainer; Recipe ('verify loss at init')",
        ),
        Rule(
            "loss_spikes",
            learning_rules.loss_spikes,
            {
                "deviations": Option(
                    7.0, "standard deviations above the 32 losses before (by their median distance)", "OLMo 2"
                ),
                "height": Option(0.5, "share of the initial loss that a spike of two rows has to be high", OURS),
                "alone": Option(2.0, "the same of a spike of one row", OURS),
                **_waiting(0, 1, OURS),
            },
            (Need(("loss",), _LOSS),),
            "OLMo 2's spike score; PaLM",
        ),
        Rule(
            "overfitting_gap",
            learning_rules.overfitting_gap,
            {
                "gap": Option(0.1, "(validation − training)/training that is allowed", "SageMaker Overfit (0.1)"),
                "rise": Option(0.1, "share of its best by which the validation loss has to have risen", OURS),
                **_waiting(0, 3, "ours; SageMaker Overfit waits for 1"),
            },
            (
                Need(("loss",), _LOSS),
                Need(("validation",), "no validation loss: call Recording.epoch(k, val_loss=…)"),
            ),
            "SageMaker Overfit; AutoTrainer counts epochs in which one falls and the other rises; UMLAUT",
            samples="evaluations",
        ),
        Rule(
            "penalty_dominates",
            harm_rules.penalty_dominates,
            {
                "share": Option(0.05, "share of the penalty in both gradients that is allowed", OURS),
                "height": Option(0.02, "share of the baseline loss that the penalty has to add to the loss", OURS),
                "floor": Option(0.25, "share of the baseline loss above which the loss stays", OURS),
                **_waiting(64, 64, OURS),
            },
            (
                Need(("loss",), _LOSS),
                Need(("penalty_gradient_mean_abs",), "the record holds no penalty"),
                Need(("baseline_loss",), "what the loss is worth is not known: give record(…, baseline_loss=…)"),
            ),
            OURS,
        ),
        Rule(
            "undeclared_penalty",
            harm_rules.undeclared_penalty,
            {
                "kept": Option(0.3, "norm of a matrix over its largest so far, below which it counts", OURS),
                **_waiting(0, 8, OURS),
            },
            (Need(("weight_norm",), "the record holds no weights"),),
            OURS,
        ),
        Rule(
            "decayed_gains",
            harm_rules.decayed_gains,
            {
                "kept": Option(0.3, "norm of a gain over its largest so far, below which it counts", OURS),
                **_waiting(0, 8, OURS),
            },
            (Need(("weight_norm",), "the record holds no weights"), Need(("module_types",), _MODERN)),
            "ours; the usual advice not to decay gains and biases",
        ),
        Rule(
            "lost_input",
            harm_rules.lost_input,
            {
                "kept": Option(0.05, "spread over samples, of its largest so far, below which it counts", OURS),
                **_waiting(0, 8, OURS),
            },
            (Need(("activation_std",), _ACTIVATIONS),),
            "ours; posterior collapse of variational autoencoders",
            samples="rows in which activations were sampled",
        ),
        Rule(
            "all_zero_gradients",
            parameter_rules.all_zero_gradients,
            {"learned": LEARNED, **_waiting(0, 16, OURS)},
            (Need(("loss_gradient_mean_abs",), "the record holds no gradients"),),
            "SageMaker AllZero (100 %) and VanishingGradient; DeepDiagnosis",
        ),
    )
}


def chosen(names: Iterable[str] | None = None, changes: Mapping[str, float] | None = None) -> Chosen:
    """Choose rules by name and set their options.

    Args:
        names: of the rules, all by default.
        changes: "rule.option": value.

    Returns:
        The rules with their options.

    Raises:
        InputError: a name that is none, a change to a rule that was not chosen, or a value that cannot be.
    """
    picked = list(RULES) if names is None else list(names)
    for name in picked:
        if name not in RULES:
            raise InputError(f"there is no rule {name!r}{_instead(name, RULES)}; gradscope diagnose --list-rules")
    found = {name: {key: option.default for key, option in RULES[name].options.items()} for name in picked}
    for key, value in (changes or {}).items():
        name, _, option = key.partition(".")
        if name not in RULES:
            raise InputError(f"{key}: there is no rule {name!r}{_instead(name, RULES)}; expected rule.option=value")
        if option not in RULES[name].options:
            known = RULES[name].options
            raise InputError(
                f"{key}: rule {name} has no option {option!r}{_instead(option, known)}; it has {', '.join(known)}"
            )
        if name not in found:
            raise InputError(f"{key} is set, but rule {name} was not chosen; it was {', '.join(found) or 'none'}")
        found[name][option] = _checked(key, option, value)
    return found


def _plug_in() -> None:
    """Add the rules of other packages; a name that is taken stays ours."""
    for name, rule in plugged("rules").items():
        if not isinstance(rule, Rule) or rule.name in RULES:
            why = f"there is a rule {rule.name!r}" if isinstance(rule, Rule) else f"it is a {type(rule).__name__}"
            text = f"the plug-in {name} of gradscope.rules is left out: {why}; expected a Rule with a name of its own"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            continue
        RULES[rule.name] = replace(rule, look=_guarded(rule))


def _guarded(rule: Rule) -> Look:
    """Wrap the function of a rule that is not ours: what it raises ends the rule, with a warning, and nothing else."""
    ended: list[Exception] = []

    def look(columns: Columns, facts: RunInfo, options: Mapping[str, float]) -> list[Symptom]:
        if ended:
            return []
        try:
            return rule.look(columns, facts, options)
        except Exception as error:
            ended.append(error)
            text = f"the rule {rule.name} of a plug-in looks no more: {type(error).__name__}: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            return []

    return look


def _checked(key: str, option: str, value: float) -> float:
    if option in ("warm_up", "patience", "rows"):
        least = 0 if option == "warm_up" else 1
        if value != int(value) or value < least:
            raise InputError(f"{key} is {value:g}; expected a whole number of at least {least}")
    elif not math.isfinite(value) or value < 0:
        raise InputError(f"{key} is {value:g}; expected a finite number of at least 0")
    return float(value)


def _instead(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def parse_changes(texts: Iterable[str]) -> dict[str, float]:
    """Parse ``rule.option=value``, as given on the command line."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            found[key.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or "." not in key:
            raise InputError(f"--set got {text!r}; expected rule.option=number, such as update_ratio.large=0.2")
        if math.isnan(found[key.strip()]):
            raise InputError(f"--set got {text!r}; expected a number")
    return found


def parse_names(text: str) -> list[str] | None:
    """Parse ``NAME,…``, ``all`` or ``none``, as given on the command line; all is None."""
    word = text.strip().lower()
    if word == "all":
        return None
    return [] if word == "none" else [name.strip() for name in text.split(",") if name.strip()]


_plug_in()
