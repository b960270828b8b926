"""A net that knows the digits 0 to 4 learns all ten: the first layer frozen, the second slow, the new head fast."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

import gradscope
from gradscope.demo.data import digits

parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=1e-2)
parser.add_argument("--lr", type=float, default=1e-3, help="of the head; the backbone has a tenth")
parser.add_argument("--steps", type=int, default=800)
parser.add_argument("--out", default="run.h5")
args = parser.parse_args()

torch.manual_seed(0)
data = digits()


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 1, 1), nn.Conv2d(32, 32, 3)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x.view(-1, 1, 8, 8)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        logits: torch.Tensor = self.fc(F.relu(self.conv3(x)).mean((2, 3)))
        return logits


model = Net(5)
known = data.y < 5
pretraining = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(300):
    batch = torch.randint(int(known.sum()), (64,))
    loss = F.cross_entropy(model(data.x[known][batch]), data.y[known][batch])
    pretraining.zero_grad()
    loss.backward()
    pretraining.step()

model.fc = nn.Linear(32, 10)
for p in [*model.conv1.parameters()]:
    p.requires_grad = False
optimizer = torch.optim.AdamW(
    [
        {"params": [*model.conv2.parameters(), *model.conv3.parameters()], "lr": args.lr / 10},
        {"params": model.fc.parameters(), "lr": args.lr},
    ],
    weight_decay=args.weight_decay,
)
run = gradscope.record(model, optimizer, args.out)
for _ in range(args.steps):
    batch = torch.randint(len(data.x), (32,))
    loss = F.cross_entropy(model(data.x[batch]), data.y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss=loss)
run.close()
with torch.no_grad():
    accuracy = (model(data.x_validation).argmax(1) == data.y_validation).float().mean().item()
print(f"val_accuracy {accuracy:.3f}")
