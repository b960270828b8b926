"""Contrast of two views of an image (InfoNCE) by a convolutional encoder with a projection, under AdamW."""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from gradscope.demo.data import digits

parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=1e-2)
parser.add_argument("--lr", type=float, default=2e-3)
parser.add_argument("--temperature", type=float, default=0.2)
parser.add_argument("--no-decay-on-norm", action="store_true", help="a remedy: gains and biases do not decay")
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--out", default="run.h5")
args = parser.parse_args()

torch.manual_seed(0)
data = digits()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.projector = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.backbone(x))
        return projected


def augment(x: Tensor) -> Tensor:
    x = torch.roll(x, (int(torch.randint(-1, 2, ())), int(torch.randint(-1, 2, ()))), (2, 3))
    return x * (torch.rand_like(x) > 0.15) + 0.1 * torch.randn_like(x)


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    z = F.normalize(torch.cat([a, b]), dim=1)
    similar = (z @ z.T / args.temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    positive = torch.arange(len(z)).roll(len(a))
    return F.cross_entropy(similar, positive)


model = Encoder()
groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
if args.no_decay_on_norm:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
run = gradscope.record(model, optimizer, args.out)
for _ in range(args.steps):
    x = data.x[torch.randperm(len(data.x))[:64]].view(-1, 1, 8, 8)
    loss = info_nce(model(augment(x)), model(augment(x)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
run.close()
model.eval()
with torch.no_grad():
    known, asked = (F.normalize(model.backbone(x.view(-1, 1, 8, 8)), dim=1) for x in (data.x, data.x_validation))
    accuracy = (data.y[(asked @ known.T).argmax(1)] == data.y_validation).float().mean().item()
print(f"nearest neighbour's class {accuracy:.3f}")
