"""Trains small models of odd kinds with and without a recording, and compares; run in a process of its own.

    python -m tests.scripts.fuzz_kinds FIRST STOP [SEED]

Cases FIRST … STOP − 1 of all combinations, shuffled: default dtype × dtype of the model × kind of an output × kind of a
frozen parameter × kind of the gradients × preset × how the defaults are set. A case is right if the weights are those
of the training without gradscope, bit for bit, and every number is that of float64, or NaN with its module or parameter
named in ``capture``. Prints a line for each wrong case, then the counts; a fault of memory ends the process.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gradscope


class Plain(Tensor):
    """A subclass that is memory and a name."""


class Wrapped(Tensor):
    """A subclass without memory of its own: its numbers are those of another tensor, doubled."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapped:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=inner.requires_grad)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return "Wrapped"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = torch.utils._pytree.tree_map(lambda a: a.inner * 2 if isinstance(a, Wrapped) else a, args)
        return func(*plain, **(kwargs or {}))


def _freed(t: Tensor) -> Tensor:
    """Memory given back, as sharded data parallelism does between two uses."""
    made = t.detach().clone()
    made.untyped_storage().resize_(0)
    return made


def _holds_itself(t: Tensor) -> dict[str, Any]:
    made: dict[str, Any] = {"x": t}
    made["me"] = made
    return made


#: What a module puts out, and how the next one goes on from it.
OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "plain": (lambda t: t * 1, lambda o: o),
    "jagged": (
        lambda t: torch.nested.nested_tensor_from_jagged(t * 1, torch.tensor([0, 2, len(t)], device="cpu")),
        lambda o: o.values(),
    ),
    "nested": (lambda t: torch.nested.as_nested_tensor([t[:2], t[2:]]), lambda o: torch.cat(o.unbind())),
    "sparse": (lambda t: t.to_sparse(), lambda o: o.to_dense()),
    "csr": (lambda t: t.to_sparse_csr(), lambda o: o.to_dense()),
    "mkldnn": (lambda t: t.float().to_mkldnn(), lambda o: o.to_dense()),
    "complex": (lambda t: torch.complex(t.float(), t.float()), lambda o: o.real),
    "negated view": (lambda t: torch.complex(t.float(), t.float()).conj().imag, lambda o: o),
    "subclass": (lambda t: (t * 1).as_subclass(Plain), lambda o: o.as_subclass(Tensor)),
    "wrapper": (lambda t: (Wrapped(t.detach()), t * 1), lambda o: o[1]),
    "quantized": (
        lambda t: (torch.quantize_per_tensor(t.detach().float(), 0.1, 0, torch.qint8), t * 1),
        lambda o: o[1],
    ),
    "float8": (lambda t: (t.detach().to(torch.float8_e4m3fn), t * 1), lambda o: o[1]),
    "four bits": (lambda t: (torch.zeros(4, dtype=torch.uint8, device="cpu").view(torch.uint4), t * 1), lambda o: o[1]),
    "integers": (lambda t: (t.long(), t * 1), lambda o: o[1]),
    "freed": (lambda t: (_freed(t), t * 1), lambda o: o[1]),
    "meta": (lambda t: (t.detach().to("meta"), t * 1), lambda o: o[1]),
    "number": (lambda t: (t.sum(), t * 1), lambda o: o[1]),
    "empty": (lambda t: (t[:0], t * 1), lambda o: o[1]),
    "holds itself": (_holds_itself, lambda o: o["x"]),
    "gaps": (lambda t: torch.cat([t, t], 1)[:, ::2], lambda o: o),
    "expanded": (lambda t: t[:1].expand(len(t), t.shape[1]), lambda o: o),
    "transposed": (lambda t: t.t(), lambda o: o.t()),
    "double": (lambda t: t.double(), lambda o: o),
    "half": (lambda t: t.half(), lambda o: o),
}
#: A frozen parameter beside the others, in the optimizer as well.
FROZEN: dict[str, Callable[[], Tensor]] = {
    "none": lambda: torch.zeros(0, dtype=torch.float32, device="cpu"),
    **{
        name: (lambda name=name: (torch.ones(3, 4, dtype=torch.float32, device="cpu") * 2).to(getattr(torch, name)))  # type: ignore[misc]
        for name in ("int8", "uint8", "bool", "int64", "float16", "bfloat16", "float64", "float8_e5m2", "complex64")
    },
    "quantized": lambda: torch.quantize_per_tensor(
        torch.ones(3, 4, dtype=torch.float32, device="cpu"), 0.1, 0, torch.qint8
    ),
    "sparse": lambda: torch.eye(4, dtype=torch.float32, device="cpu").to_sparse(),
    "meta": lambda: torch.empty(3, 4, dtype=torch.float32, device="meta"),
    "gaps": lambda: torch.ones(3, 8, dtype=torch.float32, device="cpu")[:, ::2],
    "freed": lambda: _freed(torch.ones(3, 4, dtype=torch.float32, device="cpu")),
    "four bits": lambda: torch.zeros(4, dtype=torch.uint8, device="cpu").view(torch.uint4),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)
DEFAULTS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHEN = ("before", "after", "device", "inference")
GRADIENTS = ("plain", "sparse", "set anew", "batched", "transform")
PRESETS = ("cheap", "standard", "full")


class Odd(nn.Module):
    def __init__(self, act: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Any:
        return self.act(x)


class Net(nn.Module):
    def __init__(self, output: str, frozen: str, dtype: torch.dtype) -> None:
        super().__init__()
        with torch.device("cpu"):
            self.words = nn.Embedding(7, 6, sparse=True, dtype=dtype)
            self.first, self.last = nn.Linear(6, 4, dtype=dtype), nn.Linear(4, 3, dtype=dtype)
        self.odd, self.then = Odd(OUTPUTS[output][0]), OUTPUTS[output][1]
        self.kept = nn.Parameter(FROZEN[frozen](), requires_grad=False)

    def forward(self, tokens: Tensor, sparse: bool) -> Tensor:
        x = self.words(tokens) if sparse else nn.functional.embedding(tokens, self.words.weight)
        return self.last(self.then(self.odd(self.first(x))).to(self.last.weight.dtype))


def _batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator("cpu").manual_seed(7)
    for _ in range(3):
        yield (
            torch.randint(0, 7, (5,), generator=generator, device="cpu"),
            torch.randint(0, 3, (5,), generator=generator, device="cpu"),
        )


def _step(model: Net, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, gradients: str) -> Tensor:
    optimizer.zero_grad()
    output = model(x, gradients == "sparse").float()
    loss = nn.functional.cross_entropy(output, y)
    if gradients == "batched":
        many = torch.eye(3, dtype=torch.float32, device="cpu")[:, None].expand(3, 5, 3).contiguous()
        torch.autograd.grad(output, [model.last.weight], many, is_grads_batched=True, retain_graph=True)
    if gradients == "transform":
        torch.func.vmap(model.last)(torch.ones(2, 1, 4, dtype=model.last.weight.dtype, device="cpu"))
    loss.backward()
    if gradients == "set anew":
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad * 1
    optimizer.step()
    return loss


def _gradients(model: Net) -> list[float]:
    found = [p.grad for p in model.parameters()]
    return [float("nan") if g is None else float(g.to_dense().double().norm()) for g in found]


def _plain(output: Any) -> Tensor | None:
    if isinstance(output, dict):
        output = output["x"]
    if isinstance(output, tuple):
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _trained(case: tuple[Any, ...], path: Path | None) -> tuple[Any, ...]:
    default, dtype, output, frozen, gradients, preset, when = case
    torch.manual_seed(0)
    if when != "after":
        torch.set_default_dtype(default)
    model = Net(output, frozen, dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = None
    if when == "device":
        torch.set_default_device("meta")
    if path is not None:
        with torch.inference_mode(when == "inference"):
            run = gradscope.record(model, optimizer, path, preset=preset, every={"activations": 1}, on_failure="ignore")
    torch.set_default_dtype(default)
    norms, losses = [], []
    try:
        for x, y in _batches():
            loss = _step(model, optimizer, x, y, gradients)
            norms.append(_gradients(model))
            losses.append(loss.item())
            if run is not None:
                run.log(loss=loss)
    finally:
        if run is not None:
            run.close()
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    return [p.detach().clone() for p in model.parameters() if p.requires_grad], norms, losses


def wrong(case: tuple[Any, ...], folder: Path) -> tuple[str, int]:
    """What is wrong in a case, and how many quantities were named rather than recorded."""
    default, dtype, output, frozen, _, preset, _ = case
    try:
        weights, norms, losses = _trained(case, None)
    except Exception:
        return "skipped", 0  # torch itself does not train it
    path = folder / "run.h5"
    path.unlink(missing_ok=True)
    try:
        mine, _, _ = _trained(case, path)
    except gradscope.InputError as error:
        return ("" if "meta" in str(error) else f"InputError: {error}"), 1
    except Exception as error:
        return f"{type(error).__name__}: {error}", 0
    if not all(torch.equal(a, b) for a, b in zip(weights, mine, strict=True)):
        return "other weights", 0
    with gradscope.open_run(path) as opened:
        data = opened.load()
    capture = json.loads(data.attrs["capture"])
    rtol = 1e-4
    if not np.allclose(data["loss"], losses, rtol=1e-6):
        return f"loss {data['loss'].values} for {losses}", 0
    if not np.allclose(data["loss_gradient_norm"], norms, rtol=rtol, equal_nan=True):
        return f"gradients {data['loss_gradient_norm'].values.tolist()} for {norms}", 0
    named = capture.get("not_read", {})
    names = list(data["parameter"].values)
    for name, found in zip(names, data["weight_norm"].values[0], strict=True):
        if np.isnan(found) and name not in named:
            return f"the weight {name} is NaN and not named", 0
    if frozen in ("float16", "bfloat16", "float64", "float8_e5m2", "complex64"):
        kept = float(data["weight_norm"].values[0][names.index("kept")])
        if not np.isclose(kept, 2 * 12**0.5, rtol=rtol):
            return f"the frozen weight has norm {kept}", 0
    count = len(named)
    if preset != "cheap":
        torch.manual_seed(0)
        torch.set_default_dtype(default if case[-1] != "after" else torch.float32)
        model = Net(output, frozen, dtype)
        torch.set_default_dtype(torch.float32)
        kept_outputs: list[Any] = []
        model.odd.register_forward_hook(lambda m, i, o: kept_outputs.append(_plain(o)))
        model(next(_batches())[0], False)
        found = float(data["activation_mean_abs"].sel(module="odd").values[0])
        if np.isnan(found):
            count += 1
            if "odd" not in capture["modules_not_seen"]:
                return "the output is NaN and not named", 0
        elif not np.isclose(found, _mean(kept_outputs[0]), rtol=1e-3):
            return f"mean |a| is {found} for {_mean(kept_outputs[0])}", 0
    return "", count


def _mean(output: Tensor | None) -> float:
    assert output is not None
    if output.is_nested:
        return float(torch.cat([part.flatten() for part in output.unbind()]).double().abs().mean())
    plain = output.as_subclass(Tensor) if type(output) is Plain else output
    return float((plain.to_dense() if plain.layout is not torch.strided else plain).double().abs().mean())


def cases(seed: int) -> list[tuple[Any, ...]]:
    """All combinations, in an order of chance."""
    every = list(itertools.product(DEFAULTS, DTYPES, OUTPUTS, FROZEN, GRADIENTS, PRESETS, WHEN))
    random.Random(seed).shuffle(every)
    return every


def main(first: int, stop: int, seed: int = 0) -> int:
    """Run some cases; the exit code is 1 if one is wrong."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    counts = {"right": 0, "with something named": 0, "skipped": 0, "wrong": 0}
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases(seed)[first:stop], first):
            found, named = wrong(case, Path(folder))
            kind = "skipped" if found == "skipped" else "wrong" if found else "right"
            counts[kind] += 1
            counts["with something named"] += kind == "right" and named > 0
            if kind == "wrong":
                print(number, [str(part) for part in case], found, flush=True)
    print(json.dumps(counts))
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
