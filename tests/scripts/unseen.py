"""A training script that gradscope has never seen: another network, another task size, its own options.

Its switches provoke the mistakes that real scripts make.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--decay", type=float, default=0.0)
parser.add_argument("--l1", type=float, default=0.0)
parser.add_argument("--seed", type=int, default=int(os.environ.get("GRADSCOPE_SEED", "0")))
parser.add_argument("--record", default="unseen.h5")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--optimizer", default="sgd")
parser.add_argument("--fault", default="")
options = parser.parse_args()
if options.fault == "crash":
    sys.exit("the data set is missing")
if options.fault == "no record":
    sys.exit(0)

# After the two faults above, which need none of it.
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import gradscope  # noqa: E402

torch.set_num_threads(1)
# What sklearn.datasets.load_digits reads, without the second that importing it takes in each of many processes.
found = importlib.util.find_spec("sklearn")
digits = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",", max_rows=1000)
x = torch.tensor(digits[:, :-1], dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
y = torch.tensor(digits[:, -1], dtype=torch.int64)

torch.manual_seed(0 if options.fault == "ignores the seed" else options.seed)
convolutions = []
for before, after in ((1, 8), (8, 8), (8, 8), (8, 8)):
    convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
model = nn.Sequential(*convolutions, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
decay = options.decay / 2 if options.fault == "halves the strength" else options.decay
kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[options.optimizer]
settings = {"lr": 0.05, "momentum": 0.9} if options.optimizer == "sgd" else {"lr": 0.003}
optimizer = kind(model.parameters(), weight_decay=decay, **settings)
if options.l1:
    gradscope.regularize(optimizer, gradscope.L1(), gradscope.Constant(options.l1))
loss_of = nn.CrossEntropyLoss()
if options.fault == "nan":
    x[:] = float("nan")

run = gradscope.record(model, optimizer, options.record)
for epoch in range(options.epochs):
    if options.fault != "no epochs":
        run.epoch(epoch)
    for batch in torch.randperm(len(x)).split(50):
        optimizer.zero_grad()
        loss = loss_of(model(x[batch]), y[batch])
        loss.backward()
        try:
            optimizer.step()
        except BaseException:
            if options.fault != "swallows":
                raise
        if options.fault not in ("no loss", "swallows"):
            run.log(loss=loss)
        elif options.fault == "swallows":
            with contextlib.suppress(gradscope.InputError):
                run.log(loss=loss)
if options.fault != "never closes":
    run.close()
