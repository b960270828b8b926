"""Every statistic of parameters against a slow exact twin in float64, by every way that may be taken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradscope.recorder.kernels import addresses, statistics, table
from gradscope.recorder.kernels.statistics import QUANTITIES
from gradscope.recorder.kernels.table import TablePlan, bytes_read
from gradscope.types import InputError
from tests.helpers.paths import SCRIPTS

#: Where the Triton kernels run: on the card, or on the CPU under Triton's interpreter (see conftest.py).
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ["numba", "Triton", "foreach"]

# The interpreter computes with numpy, which warns of the overflow that the kernel looks for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
    # Of the interpreter itself, of Triton 3.2 (torch 2.6) on numpy 1.25 and later.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning"),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has all plans of a test take this way, wherever it is fit for the tensors."""
    if request.param == "foreach":
        monkeypatch.setattr(table, "_FUSED", {})
    elif request.param == "Triton" and DEVICE == "cpu":
        from gradscope.recorder.kernels.cuda_statistics import DTYPES, CudaReader

        monkeypatch.setattr(table, "_FUSED", {"cpu": set(DTYPES)})
        monkeypatch.setattr(table, "_reader", lambda *of: (CudaReader(*of), "Triton, interpreted"))
    return str(request.param)


def twin(w: Tensor, g: Tensor | None) -> dict[str, float]:
    wide = torch.complex128 if w.is_complex() else torch.float64
    w = w.detach().to(wide)
    seen = {
        "weight_l1": w.abs().sum(), "weight_norm": (w.abs() ** 2).sum().sqrt(),
        "weight_max": w.abs().max() if w.numel() else torch.zeros(()), "weight_nonzero": (w != 0).sum(),
    }  # fmt: skip
    if g is not None:
        g = g.to_dense().to(wide)
        seen |= {
            "gradient_l1": g.abs().sum(), "gradient_norm": (g.abs() ** 2).sum().sqrt(),
            "gradient_max": g.abs().max() if g.numel() else torch.zeros(()),
            "gradient_nonfinite": (~g.isfinite()).sum(), "dot": (w.conj() * g).real.sum(),
        }  # fmt: skip
    return {name: float(value) for name, value in seen.items()}


def tensors(way: str, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor | None]]:
    generator = torch.Generator().manual_seed(3)
    device = DEVICE if way == "Triton" else "cpu"
    shapes = [(7, 5), (5,), (3, 2, 4, 4), (1,), (40, 30), (20011,)]
    weights = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    weights[0][2] = 0.0
    weights[4][0, 0] = -0.0
    return weights, [torch.randn(s, generator=generator).mul(1e-3).to(device, dtype) for s in shapes]


def make(weights: list[Tensor], gradients: list[Tensor | None], quantities: tuple[str, ...] = QUANTITIES) -> Tensor:
    out = torch.full((len(quantities), len(weights)), 77.0, device=weights[0].device)
    TablePlan(weights, quantities)(weights, gradients, out)
    return out


def compare(found: Tensor, weights: list[Tensor], gradients: list[Tensor | None]) -> None:
    for column, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        exact = twin(w, g)
        scale = exact["weight_norm"] * exact.get("gradient_norm", 0.0)  # a dot may cancel to any smallness
        for row, name in enumerate(QUANTITIES):
            about = abs(exact.get(name, 0.0)) if name != "dot" else scale
            wanted = pytest.approx(exact.get(name, float("nan")), rel=0, abs=2e-6 * about + 1e-42, nan_ok=True)
            assert float(found[row, column]) == wanted, (name, column)


def test_table_equals_twin(way: str) -> None:
    weights, gradients = tensors(way)
    reasons = TablePlan(weights, QUANTITIES).reasons
    assert all(way in reason for reason in reasons), reasons
    compare(make(weights, gradients), weights, gradients)


@pytest.mark.parametrize("chosen", [QUANTITIES[:2] + QUANTITIES[4:6], ("weight_nonzero", "dot"), QUANTITIES[::-1]])
def test_rows_come_as_asked(way: str, chosen: tuple[str, ...]) -> None:
    weights, gradients = tensors(way)
    gradients[1] = None
    found, every = make(weights, gradients, chosen), make(weights, gradients)
    wanted = every[[QUANTITIES.index(name) for name in chosen]]
    # Another kernel may add up in another order.
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)


def test_missing_gradient_is_nan_and_weights_are_there(way: str) -> None:
    weights, gradients = tensors(way)
    gradients[1] = gradients[5] = None
    compare(make(weights, gradients), weights, gradients)
    none: list[Tensor | None] = [None] * len(weights)
    compare(make(weights, none), weights, none)


def test_empty_parameters_are_zero(way: str) -> None:
    weights, gradients = tensors(way)
    for _ in range(2):
        weights.insert(1, torch.zeros(0, 3, device=weights[0].device))
        gradients.insert(1, torch.zeros(0, 3, device=weights[0].device))
    gradients[2] = None
    compare(make(weights, gradients), weights, gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_other_types_are_summed_exactly_enough(way: str, dtype: torch.dtype) -> None:
    weights, gradients = tensors(way, dtype)
    compare(make(weights, gradients), weights, gradients)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e17])
def test_norms_hold_where_squares_leave_the_range(way: str, scale: float) -> None:
    """A collapsed run has gradients of 1e-30, and no norm of it may be 0."""
    weights, gradients = tensors(way)
    gradients = [g and None if g is None else g * (scale * 1e3) for g in gradients]
    found = make(weights, gradients)
    compare(found, weights, gradients)
    norm = QUANTITIES.index("gradient_norm")
    assert (found[norm] > 0).all() and found[norm].isfinite().all()
    swapped = make([g for g in gradients if g is not None], list(weights))
    compare(swapped, [g for g in gradients if g is not None], list(weights))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_entries_are_counted(way: str, bad: float) -> None:
    weights, gradients = tensors(way)
    assert gradients[0] is not None and gradients[5] is not None
    gradients[0][0, 0] = gradients[0][2, 2] = bad
    gradients[5][-1] = bad
    weights[4][3, 3] = bad
    found = make(weights, gradients)
    compare(found, weights, gradients)
    assert found[QUANTITIES.index("gradient_nonfinite")].tolist() == [2, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("way", ["numba", "foreach"], indirect=True)
def test_ten_million_entries_add_up(way: str) -> None:
    """One after the other in float32, 10⁷ entries of 0.1 come out up to 9 % off."""
    w, g = torch.full((10_000_000,), 0.1), torch.full((10_000_000,), 0.3)
    compare(make([w], [g]), [w], [g])


def test_range_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on mps: the largest entry is divided out before squaring."""
    monkeypatch.setattr(table, "_FUSED", {})
    monkeypatch.setattr(statistics, "WITHOUT_FLOAT64", {"cpu"})
    weights, gradients = tensors("foreach")
    gradients[2] = gradients[2] * 1e-30  # type: ignore[operator]
    gradients[3] = gradients[3] * float("inf")  # type: ignore[operator]
    gradients[4] = gradients[4] * 0.0  # type: ignore[operator]
    row = QUANTITIES.index("gradient_norm")
    for g, found in zip(gradients, make(weights, gradients)[row], strict=True):
        assert float(found) == pytest.approx(twin(g, None)["weight_norm"], rel=1e-5)  # type: ignore[arg-type]


# -- layouts -------------------------------------------------------------------------------------------


def layouts(device: str) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Pairs that lie in memory otherwise than row by row, and whether the kernels can read them there."""
    w, g = torch.randn(4, 3, 5, 5, device=device), torch.randn(4, 3, 5, 5, device=device)
    last = {"memory_format": torch.channels_last}
    at = torch.tensor([[0, 2, 2]], device=device)
    sparse = torch.sparse_coo_tensor(at, torch.randn(3, 4, device=device), (6, 4), check_invariants=True)
    return {
        "channels-last": (w.to(**last), g.to(**last)),
        "transposed": (torch.randn(4, 6, device=device).t(), torch.randn(4, 6, device=device).t()),
        "mixed orders": (w, g.to(**last)),
        "mixed orders the other way": (w.to(**last), g),
        "with gaps": (torch.randn(8, 6, device=device)[:, ::2], torch.randn(8, 3, device=device)),
        "expanded": (torch.randn(6, 4, device=device), torch.randn(4, device=device).expand(6, 4)),
        "sparse": (torch.randn(6, 4, device=device), sparse),
    }


@pytest.mark.parametrize("name", list(layouts("cpu")))
def test_layouts(way: str, name: str) -> None:
    weights, gradients = tensors(way)
    w, g = layouts(str(weights[0].device))[name]
    weights.insert(2, w)
    gradients.insert(2, g)
    compare(make(weights, gradients), weights, gradients)


def test_dense_layouts_are_read_where_they_lie() -> None:
    """In their parameter's order, without a copy; anything else is odd and goes to foreach."""
    for name, (w, g) in layouts("cpu").items():
        if not addresses.is_readable(w):
            assert name == "with gaps"
            continue
        pointers, odd = addresses.Addresses([w]).read([w], [g])
        fits = name in ("channels-last", "transposed")
        assert odd == ([] if fits else [0]), name
        assert pointers == ([w.data_ptr(), g.data_ptr()] if fits and g is not None else [0, 0])


def test_the_order_of_the_axes_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken out: read as if the orders were the same, the scalar product is wrong."""
    monkeypatch.setattr(addresses.Addresses, "_fits", lambda *of: True)
    monkeypatch.setattr(addresses, "_same_order", lambda *of: True)
    w, g = layouts("cpu")["mixed orders"]
    with pytest.raises(AssertionError, match="dot"):
        compare(make([w], [g]), [w], [g])


def test_addresses_are_read_anew(way: str) -> None:
    """Gradients are other tensors at each step; a parameter may be moved, cut or retyped under its name."""
    weights, gradients = tensors(way)
    plan = TablePlan(weights, QUANTITIES)
    out = torch.empty(len(QUANTITIES), len(weights), device=weights[0].device)
    for step in range(3):
        gradients = [g if g is None else g * (step + 1) for g in gradients]
        weights[0] = weights[0] + step
        plan(weights, gradients, out)
        compare(out, weights, gradients)
    weights[5], gradients[5] = weights[5][:100].clone(), torch.randn(100, device=weights[5].device)
    weights[4], gradients[4] = weights[4].half(), torch.randn_like(weights[4], dtype=torch.float16)
    plan(weights, gradients, out)
    compare(out, weights, gradients)


def test_a_parameter_retyped_without_a_gradient_to_tell(way: str) -> None:
    weights, gradients = tensors(way)
    plan = TablePlan(weights, QUANTITIES)
    out = torch.empty(len(QUANTITIES), len(weights), device=weights[0].device)
    plan(weights, gradients, out)
    weights[2], gradients[2] = weights[2].half(), None
    plan(weights, gradients, out)
    compare(out, weights, gradients)


def test_a_parameter_cut_where_it_lies(way: str) -> None:
    """The same address, fewer entries: the gradient's number of entries tells."""
    weights, gradients = tensors(way)
    plan = TablePlan(weights, QUANTITIES)
    out = torch.empty(len(QUANTITIES), len(weights), device=weights[0].device)
    plan(weights, gradients, out)
    weights[5], gradients[5] = weights[5][:100], torch.randn(100, device=weights[5].device)
    plan(weights, gradients, out)
    compare(out, weights, gradients)


# -- the plan ------------------------------------------------------------------------------------------


def test_imaginary_entries_are_not_zero() -> None:
    z = torch.tensor([1j, 0, 2, -3j])
    compare(make([z], [z * 1e-30]), [z], [z * 1e-30])


def test_ways_may_mix() -> None:
    weights, gradients = tensors("numba")
    weights[1], gradients[1] = weights[1].double(), torch.randn(5, dtype=torch.float64)
    weights[3], gradients[3] = weights[3].to(torch.complex64), torch.randn(1, dtype=torch.complex64)
    plan = TablePlan(weights, QUANTITIES)
    assert plan.reasons == [
        "4 parameters: numba, one pass over memory",
        "1 parameters: foreach, for float64 on cpu",
        "1 parameters: foreach, for complex64 on cpu",
    ]
    compare(make(weights, gradients), weights, gradients)


def test_rows_of_a_ring_are_written_in_place(way: str) -> None:
    weights, gradients = tensors(way)
    ring = torch.full((3, len(QUANTITIES) + 1, len(weights)), -1.0, device=weights[0].device)
    TablePlan(weights, QUANTITIES)(weights, gradients, ring[1, :-1])
    compare(ring[1, :-1], weights, gradients)
    assert (ring[0] == -1).all() and (ring[2] == -1).all() and (ring[1, -1] == -1).all()


def test_nothing_asks_the_device(way: str) -> None:
    """No number leaves for the host, whatever the gradients are, from the second step on."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    weights, gradients = tensors(way)
    gradients[1] = None
    plan = TablePlan(weights, QUANTITIES)
    out = torch.empty(len(QUANTITIES), len(weights), device=weights[0].device)
    plan(weights, gradients, out)
    gradients[0] = gradients[0].t().contiguous().t()  # type: ignore[union-attr]
    with Asked():
        plan(weights, gradients, out)
    compare(out, weights, gradients)


def test_a_kernel_that_fails_is_replaced_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, gradients = tensors("numba")

    def broken(*of: object) -> None:
        raise RuntimeError("no ptxas\nin this container")

    plan = TablePlan(weights, QUANTITIES)
    plan._parts[0].reader = broken  # type: ignore[assignment]
    out = torch.empty(len(QUANTITIES), len(weights))
    plan(weights, gradients, out)
    compare(out, weights, gradients)
    assert plan.reasons == ["6 parameters: foreach, for the fused kernel failed: RuntimeError: no ptxas"]
    monkeypatch.setattr(table, "_reader", broken)
    plan = TablePlan(weights, QUANTITIES)
    assert plan.reasons == ["6 parameters: foreach, for the fused kernel does not work here: RuntimeError: no ptxas"]
    compare(make(weights, gradients), weights, gradients)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradscope.recorder.kernels.host_statistics", None)
    weights, gradients = tensors("numba")
    (reason,) = TablePlan(weights, QUANTITIES).reasons
    assert reason.startswith("6 parameters: foreach, for the fused kernel does not work here: ModuleNotFoundError")
    compare(make(weights, gradients), weights, gradients)


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A home and a package that are read-only: compiled anew in each process, the same table."""
    code = (
        "from numba.core import caching\n"
        "for locator in caching.CacheImpl._locator_classes: locator.ensure_cache_path = lambda self: 1/0\n"
        "for locator in caching.CacheImpl._locator_classes:\n"
        "    locator.from_function = classmethod(lambda *of: None)\n"
        "import torch\n"
        "from gradscope.recorder.kernels.table import TablePlan\n"
        "w, out = [torch.full((4,), 3.0)], torch.zeros(1, 1)\n"
        "plan = TablePlan(w, ['weight_norm'])\n"
        "plan(w, w, out)\n"
        "print(float(out), plan.reasons)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6.0 ['1 parameters: numba, one pass over memory']"


def test_bad_plans() -> None:
    with pytest.raises(InputError, match="the quantity 'gradient_l3'; expected parameters, and quantities of"):
        TablePlan([torch.zeros(2)], ["gradient_l3"])
    with pytest.raises(InputError, match="no parameters"):
        TablePlan([], ["dot"])


def test_bytes_read() -> None:
    assert bytes_read([torch.zeros(3), torch.zeros(5).half()], [torch.zeros(3), None]) == 12 + 12 + 10


def test_the_hot_path_of_a_module_in_training() -> None:
    """Parameters and their .grad as they are, in one call, against the twin."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.LazyLinear(5))
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    weights = list(model.parameters())
    gradients = [w.grad for w in weights]
    with torch.no_grad():
        compare(make(weights, gradients), weights, gradients)


@pytest.mark.thorough
def test_kernels_compile_for_cards() -> None:
    """Triton compiles for a card that is not there; loads of whole chunks are 16 bytes wide."""
    script = SCRIPTS / "compile_for_cards.py"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("16-byte loads") == 6
