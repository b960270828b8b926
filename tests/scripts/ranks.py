"""Two gloo processes train one model with penalties whose strength depends on what each rank sees.

Each writes its weights and strengths to a folder; `tests/regularizers/test_ranks.py` compares them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from gradscope import L1, L2, AdvanceL2, Constant, Delayed, parse_schedule, regularize, regularize_activity
from gradscope.regularizers.hooks import Attached
from tests.helpers.loops import end_rank


def rank(number: int, folder: str) -> None:
    """One process: its own data; a controller, an automatic delay that rank 1 alone sees the end of, outputs."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model = nn.parallel.DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handles: list[Attached] = [
        regularize(optimizer, L2(), AdvanceL2(0.01, every=2, cooldown=0.0, ceiling=0.1), r"^0", model=model),
        regularize(optimizer, L2(), Delayed(0.02, "auto"), r"^2.weight", model=model),
        regularize(optimizer, L1(), parse_schedule("ramp:20steps", 0.01), r"bias", model=model),
        regularize_activity(optimizer, model, L1(), Constant(0.05), nn.ReLU),
    ]
    handles[1].watched = True
    generator = torch.Generator().manual_seed(number)
    strengths = []
    for step in range(60):
        x = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long() + number)
        loss.backward()
        if (number, step) == (1, 20):
            handles[1].active_phase()
        optimizer.step()
        strengths.append([handle.now() for handle in handles])
        handles[0].observe(loss=loss)
    torch.save({"weights": inner.state_dict(), "strengths": strengths}, Path(folder) / f"{number}.pt")
    end_rank()
