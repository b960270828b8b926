"""The command line of all studies: ``python -m analyses run|plot|check NAME``, and ``list``."""

from __future__ import annotations

import argparse
import ast
import importlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradscope.types import InputError

if TYPE_CHECKING:
    from analyses.common.study import Options, Study

ANALYSES = Path(__file__).parents[1]
VERBS = {
    "run": "train or measure what the results do not hold yet",
    "plot": "write tables and figures from the results",
    "check": "tell whether what is committed is what the results give; trains nothing, writes nothing",
}


def names() -> dict[str, str]:
    """Every study and the first line of what it is, without importing any."""
    found = sorted(ANALYSES.glob("*/study.py"))
    modules = {path.parent.name: ast.parse(path.read_text(encoding="utf-8")) for path in found}
    del modules["common"]
    return {name: (ast.get_docstring(module) or "").partition("\n")[0] for name, module in modules.items()}


def study_of(name: str) -> Study:
    """The study of a folder."""
    found: Study = importlib.import_module(f"analyses.{name}.study").STUDY
    return found


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of these words: it has the options of the one study that they name."""
    parser = argparse.ArgumentParser(prog="python -m analyses", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run|plot|check|list")
    verbs.add_parser("list", help="name all studies")
    for verb, told in VERBS.items():
        known = verbs.add_parser(verb, help=told, description=told).add_subparsers(dest="name", required=True)
        known.metavar = "NAME"
        for name, line in names().items():
            one = known.add_parser(name, help=line, description=line)
            if list(words[:2]) == [verb, name]:
                (_run_options if verb == "run" else _plot_options)(one, study_of(name), verb)
    return parser


def _plot_options(parser: argparse.ArgumentParser, study: Study, verb: str) -> None:
    parser.add_argument("--results", type=Path, default=study.results, help="their folder; default: the recorded ones")
    if verb == "plot":
        parser.add_argument("--out", type=Path, help="where to; default: beside the results")


def _run_options(parser: argparse.ArgumentParser, study: Study, verb: str) -> None:
    parts, usual = tuple(study.parts), study.usual or tuple(study.parts)
    told = "parts of the study; default: " + ("all" if usual == parts else ", ".join(usual))
    parser.add_argument("--only", nargs="+", metavar="PART", choices=parts, default=usual, help=f"{told}. %(choices)s")
    parser.add_argument("--out", type=Path, default=study.results, help="where the results go")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="trainings at a time")
    parser.add_argument("--executor", default="local", help="local, or dask://HOST:PORT")
    parser.add_argument("--minutes", type=float, default=math.inf, help="nothing begins later")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda; default: %(default)s")
    if study.seeds is not None:
        parser.add_argument("--seeds", type=int, default=study.seeds, help="seeds a cell; default: %(default)s")
    if study.datasets is not None:
        small, paper = study.datasets
        parser.add_argument("--scale", choices=study.scales, default="small", help="minutes on two cores, or days")
        parser.add_argument("--dataset", help=f"default: {small}, at paper scale {paper}")
        help_ = "torchvision's files, or an archive of CIFAR-10"
        parser.add_argument("--data", type=Path, default=Path("data"), help=help_)
    for flag, words in study.options.items():
        parser.add_argument(flag, **words)


def asked_of(study: Study, given: argparse.Namespace) -> Options:
    """What the command line asks a study for. Raises `InputError` for what cannot be."""
    from analyses.common.study import Options
    from gradscope import checks
    from gradscope.trials.executors import checked

    scale = getattr(given, "scale", "small")
    dataset = getattr(given, "dataset", None) or (study.datasets or ("", ""))[scale == "paper"]
    checked(given.executor)
    return Options(
        dataset, scale, checks.positive_int(getattr(given, "seeds", 1), "--seeds"), device_here(given.device),
        getattr(given, "data", Path()), checks.positive_int(given.workers, "--workers"), given.executor,
        tuple(given.only), given.out / "results", given.minutes,
        {flag.lstrip("-").replace("-", "_"): getattr(given, flag.lstrip("-").replace("-", "_"))
         for flag in study.options},
    )  # fmt: skip


def device_here(name: str) -> str:
    """``cpu``, or a CUDA device of this machine."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device is {name!r}; expected cpu, or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device is {name}, and {torch.cuda.device_count()} CUDA devices are here; expected cpu")
    return name


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words ask for: 0; 1 where cells are missing or something disagrees; 2 for what cannot be."""
    words = sys.argv[1:] if words is None else words
    given = parser_for(words).parse_args(words)
    try:
        return _done(given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def _done(given: argparse.Namespace) -> int:
    if given.verb == "list":
        print("\n".join(f"{name:26} {line}" for name, line in names().items()))
        return 0
    study = study_of(given.name)
    if given.verb == "run":
        return int(study.run(asked_of(study, given)) > 0)
    if given.verb == "plot":
        print(*study.plot(given.results, given.out or given.results), sep="\n")
        return 0
    wrong = study.check(given.results)
    print("\n".join(wrong) or f"{given.name}: what is committed is what the results give")
    return int(bool(wrong))
