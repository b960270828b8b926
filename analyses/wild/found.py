"""What was found in the wild, run again: each case of ``shared/cases`` in a process of its own, in an empty folder.

    python -m analyses.wild.found --cases ../shared/cases --out /tmp/cases [--archive …/cifar10-jpeg.tar.xz] [NAME …]

A case prints lines that begin with ``ok`` or ``BAD``; one of the judge's leaves a record, of which the line of
``gradscope diagnose`` is kept. Standard output: one line a run. What the cases printed stays in ``--out``; what it
means is written down, by a person, in ``cases.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

LIMIT = 1500.0  # seconds for one case

PLAIN = [
    *("r10_log_before_backward", "r11_small_things", "r14_locked_after_a_failed_record", "r3_wrapped_optimizers"),
    *("r4_torch_save_of_the_model", "r5_summed_loss", "r7_healthy_above_its_baseline", "r8_decoupled_not_known"),
    "r9_scale_invariance_missed",
]
BACKENDS = ("eager", "inductor")
COMPILED = ("step", "bound step", "whole", "forward and loss", "whole, fullgraph forward inside", "compiled autograd")
DEFAULTS = ("before the model", "after the model", "after record")


def public() -> Iterator[tuple[str, list[str]]]:
    for name in PLAIN:
        yield f"public/{name}", []
    for decay in ("0.01", "1", "5", "30"):
        yield "public/r1_language_model_baseline", [decay]
    for decay in ("1e-4", "0.1"):
        yield "public/r2_train", ["--weight-decay", decay, "--out", "run.h5"]


def wild() -> Iterator[tuple[str, list[str]]]:
    for name in ("p01", "p02", "p04", "p05", "p07", "p10", "p13", "p15"):
        yield f"wild/{name}", []
    for default, model, preset in product(("f64", "f16", "bf16"), ("f32", "f64", "bf16"), ("standard", "full")):
        yield "wild/p16d", [default, model, preset]
    for when in DEFAULTS[1:]:
        yield "wild/p16d", ["f64", "f32", "standard", when]
    for backend, what in product(BACKENDS, COMPILED):
        yield "wild/p16c", [backend, what, "standard"]
    for what in ("step", "whole"):
        yield "wild/p16c", ["inductor", what, "full"]


def judge() -> Iterator[tuple[str, list[str]]]:
    variants = {
        "c01_keras_l2": ("fault", "strong", "healthy"),
        "c02_caffe_wd05": ("fault", "mid", "healthy"),
        "c04_vgg_no_bn": ("fault", "healthy-bn", "healthy-he"),
        "c05_matconvnet_wd": ("fault", "mid", "healthy"),
        "c07_tfa_decay_not_times_lr": ("fault", "mid", "healthy"),
        "c09_bn_gamma_decay": ("fault", "excluded", "gains-only", "healthy"),
        "c10_slimming": ("fault", "healthy"),
        "c11_sparse_ae": ("fault", "healthy"),
        "c12_vae_kl": ("fault", "mid", "annealed", "healthy"),
        "c14_char_rnn_l2": ("fault", "healthy"),
        "c15_imbalance": ("fault", "noise", "healthy"),
        "c17_softmax_twice": ("fault", "healthy"),
        "c22_unscaled_inputs": ("fault", "healthy"),
        "c26_clip_tight": ("fault", "healthy", "healthy-1"),
        "c28_unregistered": ("healthy",),
        "c38_adamw_wd": ("fault", "healthy"),
    }
    for name, each in variants.items():
        for variant in each:
            yield f"judge/{name}", ["--variant", variant]
    for how in ("list", "opt", "stale", "frozen", "detach"):
        yield "judge/c28_unregistered", ["--variant", "fault", "--x", how]
    for mode in ("total", "declared", "wd"):
        yield "judge/c01_keras_l2", ["--variant", "fault", "--x", mode]
    for variant in ("fault", "healthy"):
        yield "judge/c11_sparse_ae", ["--variant", variant, "--x", "gradscope"]
        yield "judge/c10_slimming", ["--variant", variant, "--x", "gradscope"]
        yield "judge/c12_vae_kl", ["--variant", variant, "--x", "total"]
        yield "judge/c15_imbalance", ["--variant", variant, "--x", "bce"]
        for kind in ("adam", "adamw"):
            yield "judge/c14_char_rnn_l2", ["--variant", variant, "--x", kind]
    yield "judge/c07_tfa_decay_not_times_lr", ["--variant", "fault", "--x", "torch"]
    yield "judge/c22_unscaled_inputs", ["--variant", "fault", "--x", "adam"]
    for how in ("constant", "delayed:auto", "delayed", "ramp", "cyclic"):
        yield "judge/t02_vae_penalty", ["--x", how]
    for kind, steps in (("mlp20", "600"), ("mlp20", "2500"), ("gpt", "300")):
        yield "judge/deep_default_init", [kind, "run.h5", steps]


def said(record: Path) -> str:
    """The verdict, its cause and the names of the findings of a record, in a line."""
    command = [sys.executable, "-m", "gradscope", "diagnose", "--json", str(record)]
    got = subprocess.run(command, capture_output=True, text=True, timeout=300)
    try:
        run = json.loads(got.stdout)["runs"][0]
    except (ValueError, KeyError, IndexError):
        return f"diagnose exits with {got.returncode}: {got.stderr.strip()[-200:]}"
    findings = sorted({found["rule"] for found in run.get("findings", [])})
    cause = run.get("cause")
    name = cause.get("name") if isinstance(cause, dict) else cause
    return (
        f"{run['verdict']}, p {run['probability_failed']:.2f}, decided {run['decided_step']}, cause {name}, "
        f"findings {findings}; remedy: {run['remedy'][:160]}"
    )


def run(cases: Path, out: Path, name: str, arguments: list[str]) -> str:
    """Runs one case; a line of what came of it."""
    tag = "_".join([name.replace("/", "_"), *arguments]).replace(" ", "-").replace("--", "").replace("/", "-")
    folder = out / "runs" / tag
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begun = time.monotonic()
    with (out / f"{tag}.txt").open("w") as told:
        command = [sys.executable, str(cases / f"{name}.py"), *arguments]
        try:
            code = subprocess.run(command, cwd=folder, stdout=told, stderr=subprocess.STDOUT, timeout=LIMIT).returncode
        except subprocess.TimeoutExpired:
            code = -1
    lines = (out / f"{tag}.txt").read_text(errors="replace").splitlines()
    ok, bad = (sum(line.startswith(word) for line in lines) for word in ("ok", "BAD"))
    what = f"{tag}: exit {code}, {ok} ok, {bad} BAD, {time.monotonic() - begun:.0f} s"
    record = folder / "run.h5"
    if record.exists():
        what += " | " + said(record)
    with (out / "table.txt").open("a") as table:
        table.write(what + "\n")
    shutil.rmtree(folder, ignore_errors=True) if not record.exists() else None
    return what


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, required=True, help="the folder that holds public, wild and judge")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archive", type=Path, help="images of CIFAR-10, for the judge's c04, c05 and c09")
    parser.add_argument("names", nargs="*", help="only cases whose name or arguments hold one of these")
    given = parser.parse_args()
    copy = given.out / "cases"  # the judge's cases keep their data beside themselves
    if not copy.exists():
        shutil.copytree(given.cases, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)
    if given.archive and not (copy / "judge" / "data").exists():
        with tarfile.open(given.archive) as archive:
            images = (member for member in archive if member.name.startswith("test/"))
            archive.extractall(copy / "judge" / "data" / "cifar", images, filter="data")
    for name, arguments in (*public(), *wild(), *judge()):
        if not given.names or any(wanted in f"{name} {' '.join(arguments)}" for wanted in given.names):
            print(run(copy, given.out, name, arguments), flush=True)


if __name__ == "__main__":
    main()
