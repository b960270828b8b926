"""What a result was made with: said in every results file, in the same words."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path

import torch


def machine(device: str = "cpu") -> str:
    """The card, or the processor and its cores."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}"


def stamp(device: str = "cpu") -> dict[str, str]:
    """Machine, version of torch and date, as rows carry them."""
    today = datetime.datetime.now(datetime.UTC)
    return {"machine": machine(device), "torch": torch.__version__, "date": f"{today:%Y-%m-%d}"}


def head(device: str = "cpu") -> str:
    """The same in a line, with the load that other programs make and the command: what stands above a table."""
    said = stamp(device)
    words = shlex.join(["python", "-m", "analyses", *sys.argv[1:]])
    return f"{said['date']}, {said['machine']}, load {os.getloadavg()[0]:.1f}, torch {said['torch']}: {words}"
