"""A script with a checkpoint: the two lines that a restart from the last healthy state takes."""

import itertools
import os
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import gradscope

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("GRADSCOPE_SEED", "0")))
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images[:512], dtype=torch.float32) / 8 - 1, torch.tensor(labels[:512])
widths = [64, 32, 32, 32, 32, 10]
layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
model = nn.Sequential(*layers[:-1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
gradscope.regularize(optimizer, gradscope.L2(), gradscope.Delayed(0.3, epochs=2))

checkpoint = gradscope.Checkpoint(model, optimizer)
with gradscope.record(model, optimizer, "run.h5", horizon=160, checkpoint=checkpoint) as run:
    for epoch in range(20) if "--forgets" in sys.argv else checkpoint.epochs(20):
        run.epoch(epoch)
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
