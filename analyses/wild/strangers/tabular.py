"""An MLP on scikit-learn's diabetes table under AdamW, the targets left as they are (25 to 346)."""

import argparse

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradscope

parser = argparse.ArgumentParser()
parser.add_argument("--weight-decay", type=float, default=1e-2)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--epochs", type=int, default=150)
parser.add_argument("--standardise", action="store_true", help="a remedy: targets of mean 0 and variance 1")
parser.add_argument("--out", default="run.h5")
args = parser.parse_args()

torch.manual_seed(0)
table = load_diabetes()
x = torch.tensor(table.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(table.target, dtype=torch.float32)[:, None]
if args.standardise:
    y = (y - y.mean()) / y.std()
order = torch.randperm(len(x))
train, val = order[:353], order[353:]
loader = DataLoader(TensorDataset(x[train], y[train]), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
criterion = nn.MSELoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
run = gradscope.record(model, optimizer, args.out)

for epoch in range(args.epochs):
    for bx, by in loader:
        loss = criterion(model(bx), by)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(loss=loss)
    with torch.no_grad():
        val_loss = criterion(model(x[val]), y[val]).item()
    run.epoch(epoch, val_loss=val_loss)
run.close()
print(f"val_loss {val_loss / y[train].var().item():.3f} of the variance of the targets")
