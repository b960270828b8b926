"""What is trained: how, at each scale, and the cells of each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyses.common.study import Cell, Options
from gradscope.types import InputError

#: The document's delay, in epochs, and those between which it saw no difference.
DELAYED = "delayed:5"
GAMMAS = (2, 5, 10, 20)
#: Penalties by name: L1 acts by its proximal step (the document's equation 9), or by its subgradient (equation 2).
PENALTIES = ("l2", "l1", "l1-subgradient")


@dataclass(frozen=True)
class Protocol:
    """How a net is trained: SGD with momentum .9; the rate is halved every ``halve`` epochs.

    ``size``, ``channels``: of the image. ``padding``: of random crops; 0 for digits, which are not flipped either.
    """

    width: float
    size: int
    channels: int
    dropout: float
    lr: float
    epochs: int
    halve: int
    batch: int
    padding: int = 0


#: The document's section 3. It does not say how far its crops move; 4 pixels is what its time used on CIFAR.
PAPER = Protocol(1.0, 32, 3, 0.5, 0.05, 300, 30, 128, padding=4)
SVHN = Protocol(1.0, 32, 3, 0.5, 0.05, 300, 30, 128)
#: An eighth of the widths, pairs of digits at 16 pixels, half the batch, and fewer halvings, as there are few steps.
CONV = Protocol(0.125, 16, 1, 0.5, 0.02, 24, 6, 64)
#: The deep MLP, 64 wide, on 8 × 8 digits.
DEEP = Protocol(1.0, 8, 1, 0.0, 0.03, 48, 12, 64)
#: The document's own nets, on digit pairs: what a card does in minutes.
CARD = Protocol(1.0, 32, 3, 0.5, 0.01, 32, 8, 128)
TINY = Protocol(1 / 32, 32, 3, 0.5, 0.01, 1, 1, 128)


def protocol(net: str, asked: Options) -> Protocol:
    """How ``net`` is trained at the scale and on the data set asked for."""
    if asked.paper:
        return SVHN if asked.dataset == "svhn" else PAPER
    if asked.scale in ("card", "tiny"):
        return CARD if asked.scale == "card" else TINY
    return DEEP if net.startswith("mlp") else CONV


@dataclass(frozen=True)
class Setup:
    """The nets and strengths of a data set. ``main``: VGG-16 in the document. ``second``: AlexNet.

    ``strong``: just above the tolerance level of ``main``, by penalty: where the document looks at failing.
    """

    main: str
    second: str
    depth: tuple[str, ...]
    l2: tuple[float, ...]
    l1: tuple[float, ...]
    strong: dict[str, float]
    search: tuple[tuple[str, str], ...] = ()

    def strengths(self, penalty: str) -> tuple[float, ...]:
        """Those to try of a penalty."""
        return self.l2 if penalty == "l2" else self.l1


_DOCUMENT = Setup(
    "vgg16", "alexnet", ("vgg11", "vgg16", "vgg19"),
    (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2),
    (1e-7, 1e-6, 3e-6, 1e-5, 2e-5, 3e-5, 4e-5, 6e-5, 1e-4, 2e-4, 5e-4, 1e-3),
    {"l2": 2e-3, "l1": 6e-5},
    tuple((net, penalty) for net in ("alexnet", "vgg16") for penalty in PENALTIES),
)  # fmt: skip
_CONV = Setup(
    "vgg11", "alexnet", ("vgg11", "vgg16", "vgg19"),
    (0.0003, 0.001, 0.002, 0.004, 0.006, 0.009),
    (1e-5, 1e-4, 3e-4, 1e-3),
    {"l2": 0.006, "l1": 1e-3},
    (("vgg11", "l2"), ("vgg16", "l2"), ("vgg19", "l2"), ("vgg11", "l1")),
)  # fmt: skip
_DEEP = Setup(
    "mlp10", "mlp4", ("mlp6", "mlp10", "mlp16"),
    (0.001, 0.003, 0.01, 0.02, 0.03, 0.042, 0.056, 0.075, 0.1),
    (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03),
    {"l2": 0.056, "l1": 0.01},
    tuple((net, penalty) for net in ("mlp6", "mlp10", "mlp16") for penalty in PENALTIES),
)  # fmt: skip


def setup(asked: Options) -> Setup:
    """The plan for a data set. Raises `InputError` where the scale has none."""
    plans = {"pairs": _CONV, "digits": _DEEP}
    if asked.paper:
        plans = dict.fromkeys(("cifar10", "cifar100", "svhn"), _DOCUMENT)
    if asked.dataset not in plans:
        raise InputError(f"--dataset is {asked.dataset}; at {asked.scale} scale expected one of {', '.join(plans)}")
    return plans[asked.dataset]


def cell(net: str, penalty: str, strength: float, schedule: str, seed: int) -> Cell:
    """One training. Without a penalty ``penalty`` is ``none`` and the strength 0."""
    return {"net": net, "penalty": penalty, "strength": strength, "schedule": schedule, "seed": seed}


def panel(net: str, penalty: str, strengths: Sequence[float], seeds: int) -> Iterator[Cell]:
    """A panel of Figures 3, 4, 6, 7: none, then baseline and delayed at every strength, seed by seed."""
    for seed in range(seeds):
        yield cell(net, "none", 0.0, "constant", seed)
        for strength in strengths:
            for schedule in ("constant", DELAYED):
                yield cell(net, penalty, strength, schedule, seed)


def timed(net: str, penalty: str, strength: float, schedules: Sequence[str], seeds: int) -> Iterator[Cell]:
    """One strength under several schedules."""
    for seed in range(seeds):
        for schedule in schedules:
            yield cell(net, penalty, strength, schedule, seed)


#: Beside the fixed delay: ours, and CPR, which sets its own strengths and has a rate of 1 in the place of λ.
ADAPTIVE = (("delayed:auto", None), ("cpr:5", 1.0), ("cpr:inflection", 1.0))
#: Appendix B. ``ivanov:0.5``: while ‖w‖₁ is above half of what it was at the start; ``strong``: to 0 at the end.
APPENDIX = ("constant", DELAYED, "ramp:5", "ivanov:0.5", "strong")


def cells(part: str, asked: Options) -> list[Cell]:
    """The cells of a part of the study, first those that say most."""
    plan, seeds = setup(asked), asked.seeds
    both = [(penalty, plan.strengths(penalty)) for penalty in ("l2", "l1")]
    collapse = cell(plan.main, "l2", plan.strong["l2"], "constant", 100)  # a seed of its own: a cell of its own
    found: dict[str, list[Iterator[Cell]]] = {
        "figure3": [panel(plan.main, penalty, some, seeds) for penalty, some in both],
        "figure4": [panel(plan.second, penalty, some, seeds) for penalty, some in both],
        "figure6": [panel(net, "l2", plan.l2, seeds) for net in plan.depth],
        "figure7": [panel(net, "l1", plan.l1, seeds) for net in plan.depth],
        "subgradient": [panel(plan.main, "l1-subgradient", plan.l1, seeds)],
        "gamma": [timed(plan.main, "l2", plan.strong["l2"], [f"delayed:{g}" for g in GAMMAS], seeds)],
        "adaptive": [timed(plan.main, "l2", s or plan.strong["l2"], [text], seeds) for text, s in ADAPTIVE],
        "appendix": [timed(plan.main, p, plan.strong[p], APPENDIX, seeds) for p in ("l2", "l1")],
        "equations": [({**collapse, "layers": True, "biases": biases} for biases in (True, False))],
        "tolerance": [iter([{"net": net, "penalty": p, "search": True} for net, p in plan.search])],
    }
    return list({tuple(one.items()): one for some in found[part] for one in some}.values())


PARTS = (
    "figure3", "figure4", "figure6", "figure7", "subgradient", "gamma", "adaptive", "appendix", "equations",
    "tolerance",
)  # fmt: skip
