"""What is trained: how, at each scale, and the cells of each figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from analyses.common.results import Cell
from analyses.common.study import Options
from gradscope.types import InputError

#: Penalties by name: L1 acts by its proximal step (the document's equation 9), or by its subgradient (equation 2).
PENALTIES = ("l2", "l1", "l1-subgradient")
#: Our adaptive delay.
AUTO = "delayed:auto"
#: Of the trials of a search, whose seeds meet no other cell's.
FIRST_SEED = 10_000


@dataclass(frozen=True)
class Protocol:
    """How a net is trained: SGD with momentum .9; the rate is halved every ``halve`` epochs.

    ``size``, ``channels``: of the image. ``padding``: of random crops; 0 for digits, which are not flipped either.
    ``images``: of the training set, as many of each class; all where None. ``watched``: of the test set, after an epoch
    that is not the last. ``hopeless``: after so many epochs a run that cannot come back is ended; None: it goes on.
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
    images: int | None = None
    watched: int | None = None
    hopeless: int | None = None


#: The document's section 3. It does not say how far its crops move; 4 pixels is what its time used on CIFAR.
PAPER = Protocol(1.0, 32, 3, 0.5, 0.05, 300, 30, 128, padding=4)
SVHN = Protocol(1.0, 32, 3, 0.5, 0.05, 300, 30, 128)
#: An eighth of the widths, pairs of digits at 16 pixels, half the batch, and one halving, as there are 960 steps. With
#: a dropout of .5 a net of 64 hidden neurons hardly learns in that time, and at a rate of .05 even later.
CONV = Protocol(0.125, 16, 1, 0.1, 0.02, 12, 6, 64)
#: The deep MLP, 64 wide, on 8 × 8 digits; 552 steps.
DEEP = Protocol(1.0, 8, 1, 0.0, 0.03, 24, 6, 64)
#: Photographs: a quarter of the widths (AlexNet's are the document's), a fifth of the images. At the document's rate of
#: .05 VGG-11 is at 20 % after five epochs, at .02 at 36 %; two halvings, so that it settles within 36 epochs.
PHOTOGRAPHS = Protocol(0.25, 32, 3, 0.5, 0.02, 36, 12, 128, padding=4, images=10_000, watched=2_000, hopeless=3)
#: The document's own nets, on digit pairs: what a card does in minutes.
CARD = Protocol(1.0, 32, 3, 0.5, 0.01, 32, 8, 128)
#: The document's rate, net and images on a card, in a twelfth of its epochs.
CARD_PHOTOGRAPHS = Protocol(1.0, 32, 3, 0.5, 0.05, 25, 5, 128, padding=4, watched=2_000, hopeless=3)
TINY = Protocol(1 / 32, 32, 3, 0.5, 0.01, 1, 1, 128)


def protocol(net: str, asked: Options) -> Protocol:
    """How ``net`` is trained at the scale and on the data set asked for."""
    if asked.paper:
        return SVHN if asked.dataset == "svhn" else PAPER
    photographs = asked.dataset == "cifar10"
    if asked.scale == "card":
        return CARD_PHOTOGRAPHS if photographs else CARD
    if asked.scale == "tiny":
        return replace(TINY, padding=4, images=500, watched=500) if photographs else TINY
    if photographs:
        return replace(PHOTOGRAPHS, width=1.0) if net == "alexnet" else PHOTOGRAPHS
    return DEEP if net.startswith("mlp") else CONV


@dataclass(frozen=True)
class Setup:
    """The nets and strengths of a data set, in the order in which they are trained.

    ``main``: VGG-16 in the document. ``second``: AlexNet.
    ``strong``: just above the tolerance level of ``main``, by penalty: where the document looks at failing.
    ``search``: nets and penalties whose levels are searched. ``suggested``: those that `suggest` is asked for, too (the
    nets on digits and pairs are in analyses/prediction). ``gamma``: the delay in epochs. ``gammas``: those that are
    compared with it; the document saw no difference between 2 and 20. ``auto``: the panels have our adaptive delay too.
    ``compared``: nets that are trained with a recording and without.
    """

    main: str
    second: tuple[str, ...]
    depth: tuple[str, ...]
    grids: dict[str, tuple[float, ...]]
    strong: dict[str, float]
    search: tuple[tuple[str, str], ...] = ()
    suggested: tuple[tuple[str, str], ...] = ()
    gamma: int = 5
    gammas: tuple[int, ...] = (2, 5, 10, 20)
    auto: bool = False
    compared: tuple[str, ...] = ()

    @property
    def nets(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.main, *self.second, *self.depth)))

    @property
    def delayed(self) -> str:
        """The document's own."""
        return f"delayed:{self.gamma}"

    @property
    def delays(self) -> tuple[str, ...]:
        """The schedules of the panels beside the baseline."""
        return (self.delayed, AUTO) if self.auto else (self.delayed,)

    @property
    def rounds(self) -> tuple[tuple[str, ...], ...]:
        """The schedules of a panel, in the order in which all seeds have them."""
        first, *others = self.delays
        return (("constant", first), *((other,) for other in others))


_L1 = (1e-7, 1e-6, 3e-6, 1e-5, 2e-5, 3e-5, 4e-5, 6e-5, 1e-4, 2e-4, 5e-4, 1e-3)
_DOCUMENT = Setup(
    "vgg16", ("alexnet",), ("vgg11", "vgg16", "vgg19"),
    {
        "l2": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 1e-2),
        "l1": _L1,
        "l1-subgradient": tuple(x / 10 for x in _L1),
    },
    {"l2": 2e-3, "l1": 6e-5},
    tuple((net, penalty) for penalty in PENALTIES for net in ("vgg16", "alexnet", "vgg11", "vgg19")),
)  # fmt: skip
_CONV = Setup(
    "vgg11", ("alexnet",), ("vgg11", "vgg16", "vgg19"),
    {
        "l2": (6e-4, 0.002, 0.004, 0.006, 0.012, 0.02),
        "l1": (3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.04),
        "l1-subgradient": (1e-4, 3e-4, 1e-3, 3e-3),
    },
    {"l2": 0.012, "l1": 0.02},
    tuple((net, penalty) for net in ("alexnet", "vgg11", "vgg16", "vgg19") for penalty in PENALTIES),
    gamma=3,
    gammas=(1, 2, 3, 5, 8),
)  # fmt: skip
_DEEP = Setup(
    "mlp10", (), ("mlp6", "mlp10", "mlp16"),
    {
        "l2": (0.01, 0.03, 0.042, 0.056, 0.075, 0.1),
        "l1": (3e-3, 0.01, 0.03, 0.06, 0.1, 0.2),
        "l1-subgradient": (3e-4, 1e-3, 3e-3, 6e-3, 0.01, 0.02),
    },
    {"l2": 0.056, "l1": 0.1},
    tuple((net, penalty) for penalty in PENALTIES for net in ("mlp10", "mlp16", "mlp6")),
)  # fmt: skip


_PHOTOGRAPHS = Setup(
    "vgg11", ("alexnet",), ("vgg11", "vgg16"),
    {
        "l2": (0.012, 0.002, 0.008, 0.001, 0.005, 0.003, 0.016, 5e-4),
        "l1": (0.008, 0.001, 0.005, 3e-4, 0.003, 0.002, 0.012, 1e-4),
        "l1-subgradient": (),
    },
    {"l2": 0.012, "l1": 0.008},
    tuple((net, penalty) for penalty in ("l2", "l1") for net in ("vgg11", "alexnet", "vgg16")),
    suggested=(("vgg11", "l2"), ("alexnet", "l2"), ("vgg11", "l1")),
    auto=True,
    compared=("vgg11", "alexnet", "vgg16"),
)  # fmt: skip


def setup(asked: Options) -> Setup:
    """The plan for a data set. Raises `InputError` where the scale has none."""
    plans = {"pairs": _CONV, "digits": _DEEP, "cifar10": _PHOTOGRAPHS}
    if asked.paper:
        plans = dict.fromkeys(("cifar10", "cifar100", "svhn"), _DOCUMENT)
    elif asked.scale in ("card", "tiny"):
        plans = {"pairs": _DOCUMENT, "cifar10": _DOCUMENT}
    if asked.dataset not in plans:
        raise InputError(f"--dataset is {asked.dataset}; at {asked.scale} scale expected one of {', '.join(plans)}")
    return plans[asked.dataset]


def cell(net: str, penalty: str, strength: float, schedule: str, seed: int) -> Cell:
    """One training. Without a penalty ``penalty`` is ``none`` and the strength 0."""
    return {"net": net, "penalty": penalty, "strength": strength, "schedule": schedule, "seed": seed}


def panel(plan: Setup, net: str, penalty: str, seed: int, schedules: Sequence[str]) -> Iterator[Cell]:
    """A panel of Figures 3, 4, 6, 7 for one seed: none, then the schedules at every strength."""
    yield cell(net, "none", 0.0, "constant", seed)
    for strength in plan.grids[penalty]:
        for schedule in schedules:
            yield cell(net, penalty, strength, schedule, seed)


def adaptive(plan: Setup) -> list[tuple[str, str, float]]:
    """Beside the fixed delay: ours, and CPR, which sets its own strengths and has a rate of 1 in the place of λ."""
    return [
        ("l2", AUTO, plan.strong["l2"]),
        *(("l2", f"cpr:{when}", 1.0) for when in (plan.gamma, "inflection")),
    ]


def appendix(plan: Setup) -> list[tuple[str, str, float]]:
    """Appendix B. ``ivanov:0.5``: while ‖w‖₁ is above half of its first value; ``strong``: to 0 at the end."""
    texts = ("constant", f"ramp:{plan.gamma}", "ivanov:0.5", "ivanov:0.1", "strong")
    return [(penalty, text, strength) for penalty, strength in plan.strong.items() for text in texts]


def cells(part: str, asked: Options) -> list[Cell]:
    """The cells of a part of the study, by round and seed, so that a part that is cut short is whole figures."""
    plan = setup(asked)
    if part == "tolerance":
        return [{"net": net, "penalty": penalty, "search": True} for net, penalty in plan.search]
    if part == "suggested":
        return [{"net": net, "penalty": penalty, "suggest": True} for net, penalty in plan.suggested]
    if part == "recording":
        return [{"net": net, "recording": True, "seed": seed} for net in plan.compared for seed in range(asked.seeds)]
    strong = plan.strong["l2"]
    if part == "equations":  # with a seed of its own: this cell is no other part's
        collapse = {**cell(plan.main, "l2", strong, "constant", 100), "layers": True}
        return [{**collapse, "biases": biases} for biases in (True, False)]
    panels = {
        "figure3_l2": [(plan.main, "l2")],
        "figure3_l1": [(plan.main, "l1")],
        "figure4": [(net, penalty) for net in plan.second for penalty in ("l2", "l1")],
        "figure6": [(net, "l2") for net in plan.depth],
        "figure7": [(net, "l1") for net in plan.depth],
        "subgradient": [(plan.main, "l1-subgradient")],
    }
    schedules = {
        "gamma": [("l2", f"delayed:{gamma}", strong) for gamma in plan.gammas],
        "adaptive": adaptive(plan),
        "appendix": appendix(plan),
    }
    found: list[Cell] = []
    for names, seed in product(plan.rounds, range(asked.seeds)):
        for net, penalty in panels.get(part, ()):
            found += panel(plan, net, penalty, seed, names)
        found += [cell(plan.main, penalty, strength, text, seed) for penalty, text, strength in schedules.get(part, ())]
    return list({tuple(one.items()): one for one in found}.values())


PARTS = (
    "figure3_l2", "figure3_l1", "figure4", "figure6", "figure7", "subgradient", "gamma", "adaptive", "appendix",
    "equations", "recording", "suggested", "tolerance",
)  # fmt: skip
