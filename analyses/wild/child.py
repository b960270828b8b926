"""One run of a script under a witness, in a process that ends with it."""

from __future__ import annotations

import contextlib
import json
import random
import runpy
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

from analyses.wild import stand_ins
from analyses.wild.witness import Clock, Enough, Twin, Witness, compare, state


def load() -> None:
    """Load what most scripts load, before processes are split off."""
    import sklearn.datasets
    import torchvision

    import gradscope.recording.opening
    from gradscope.recorder.kernels.unit_statistics import host_kernel

    host_kernel("add_units")
    assert sklearn.datasets
    assert torchvision
    assert gradscope.recording.opening


def run(path: Path) -> None:
    """Run what the request says, a file of JSON, and write what was seen where it says."""
    request = json.loads(path.read_text())
    torch.set_num_threads(1)
    stand_ins.install()
    random.seed(0)
    answer: dict[str, Any] = {"error": None}
    told: list[str] = []
    witness = Witness(request["mode"] == "checked") if request["mode"] != "bare" else None
    pipes = tuple(request["pipes"]) if request["pipes"] else None
    sys.argv = [request["script"], *request["arguments"]]
    sys.path[:0] = [str(Path(request["script"]).resolve().parent), *request["path"]]
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        clock = Clock(request["steps"], request["turn"], pipes)
        try:
            with contextlib.suppress(Enough):
                runpy.run_path(request["script"], run_name="__main__")
        except SystemExit as end:
            answer["error"] = None if end.code in (None, 0) else f"SystemExit({end.code!r})"
        except BaseException as error:
            answer["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            traceback.print_exc()
        answer |= {"steps": clock.count, "state": state(clock.optimizers), "turns": clock.turns}
        for recording in witness.recordings if witness else ():
            recording.close()
        told = [str(one.message) for one in given if "gradscope" in one.category.__module__ + one.filename]
    answer["warnings"] = list(dict.fromkeys(told))
    if witness:
        answer["recordings"] = [read(recording, witness.twins) for recording in witness.recordings]
    Path(request["answer"]).write_text(json.dumps(answer))


def read(recording: Any, twins: list[Twin]) -> dict[str, Any]:
    """What the record says, and how far it is from its twin."""
    import gradscope

    with gradscope.open_run(recording.path) as dataset:
        dataset.load()
    found = gradscope.diagnose(dataset)
    told: dict[str, Any] = {
        "rows": dataset.sizes["step"], "parameters": dataset.sizes["parameter"], "status": dataset.attrs["status"],
        "verdict": str(found.verdict), "sentence": found.sentence, "capture": json.loads(dataset.attrs["capture"]),
    }  # fmt: skip
    for twin in twins:
        if twin.recording is recording:
            told["twin"] = compare(twin, dataset)
    return told
