"""A small residual net with batch normalisation on a part of CIFAR-10: SGD, cosine schedule, label smoothing."""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope
from analyses.common.images import load

parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=5e-4)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--no-decay-on-norm", action="store_true", help="a remedy: gains and biases do not decay")
parser.add_argument("--out", default="run.h5")
args = parser.parse_args()


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        added: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        return F.relu(added)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.layers = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layers(self.stem(x)).mean((2, 3)))
        return logits


torch.manual_seed(0)
data = load("cifar10", count=5000)
x_val, y_val = data.x_test[:1000], data.y_test[:1000]
model = ResNet()
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
if args.no_decay_on_norm:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, weight_decay=args.weight_decay, nesterov=True)
steps = args.epochs * (len(data.x) // 64)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
run = gradscope.record(model, optimizer, args.out)

for epoch in range(args.epochs):
    model.train()
    order = torch.randperm(len(data.x))
    for i in range(len(data.x) // 64):
        batch = order[64 * i : 64 * i + 64]
        images = data.x[batch]
        if torch.rand(()) < 0.5:
            images = images.flip(3)
        loss = criterion(model(images), data.y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.log(loss=loss)
    model.eval()
    with torch.no_grad():
        accuracy = (model(x_val).argmax(1) == y_val).float().mean().item()
    run.epoch(epoch, val_accuracy=accuracy)
run.close()
print(f"val_accuracy {accuracy:.3f}")
