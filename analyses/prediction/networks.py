"""The networks of the configurations that the other studies do not have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from analyses.common.networks import Residual, network
from analyses.prediction.configurations import Configuration
from analyses.prediction.tasks import CONTEXT, task

SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "leaky": lambda: nn.LeakyReLU(0.1),
}  # fmt: skip
#: These keep PyTorch's own initialisation, as those who write them do.
OWN_START = ("rnn", "gru", "lstm", "transformer", "text")


class Cells(nn.Module):
    """An RNN, GRU or LSTM written out, which `torch.func.vmap` can run; it reads an image row by row."""

    def __init__(self, cell: str, columns: int, layers: int, width: int, outputs: int) -> None:
        super().__init__()
        self.cell, self.width = cell, width
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]
        sizes = [columns, *[width] * (layers - 1)]
        self.read = nn.ModuleList(nn.Linear(size, gates * width) for size in sizes)
        self.back = nn.ModuleList(nn.Linear(width, gates * width) for _ in sizes)
        self.head = nn.Linear(width, outputs)
        for p in self.parameters():  # as torch's recurrent layers begin
            nn.init.uniform_(p, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, rows, columns] to [N, outputs]."""
        sequence = list(x.unbind(-2))
        for read, back in zip(self.read, self.back, strict=True):
            h = x.new_zeros(*x.shape[:-2], self.width)
            state = h
            out = []
            for item in sequence:
                if self.cell == "rnn":
                    h = torch.tanh(read(item) + back(h))
                elif self.cell == "gru":
                    (r, z, n), (r_back, z_back, n_back) = read(item).chunk(3, -1), back(h).chunk(3, -1)
                    n = torch.tanh(n + torch.sigmoid(r + r_back) * n_back)
                    z = torch.sigmoid(z + z_back)
                    h = (1 - z) * n + z * h
                else:
                    i, f, g, o = (read(item) + back(h)).chunk(4, -1)
                    state = torch.sigmoid(f) * state + torch.sigmoid(i) * torch.tanh(g)
                    h = torch.sigmoid(o) * torch.tanh(state)
                out.append(h)
            sequence = out
        return torch.as_tensor(self.head(sequence[-1]))


class TextModel(nn.Module):
    """A causal transformer over characters."""

    def __init__(self, classes: int, layers: int, width: int, dropout: float, context: int = CONTEXT) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width)
        self.place = nn.Parameter(0.1 * torch.randn(context, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, classes)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, x: Tensor) -> Tensor:
        """[N, context] to [N, context, classes]."""
        h = self.embed(x) + self.place
        for block in self.blocks:
            h = block(h, src_mask=self.mask)
        return torch.as_tensor(self.head(h))


def photograph_net(kind: str, layers: int, width: int, dropout: float) -> nn.Module:
    """For images [N, 3, 16, 16]: ``conv`` (strides), ``vgg`` (pooling, doubling widths) or ``mlp``."""
    parts: list[nn.Module] = []
    if kind == "mlp":
        parts = [nn.Flatten()]
        for before, after in pairwise([768, *[4 * width] * (layers - 1)]):
            parts += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*parts, nn.Dropout(dropout), nn.Linear(4 * width, 10))
    channels, size = 3, 16
    for i in range(layers - 1):
        after = width * min(4, 2 ** (i // 2)) if kind == "vgg" else width
        shrinks = i % 2 == 1 if kind == "vgg" else i < 2
        parts += [nn.Conv2d(channels, after, 3, 2 if shrinks and kind == "conv" else 1, 1), nn.ReLU()]
        if shrinks and size > 2:
            size //= 2
            parts += [nn.MaxPool2d(2)] if kind == "vgg" else []
        channels = after
    return nn.Sequential(*parts, nn.Flatten(), nn.Dropout(dropout), nn.LazyLinear(10))


def layer_normed(shape: tuple[int, int], outputs: int, layers: int, width: int) -> nn.Module:
    """A perceptron with layer normalisation without gains after each weight layer, the head included."""
    parts: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([shape[0] * shape[1], *[4 * width] * (layers - 1)]):
        parts += [nn.Linear(before, after, bias=False), nn.LayerNorm(after, elementwise_affine=False), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(4 * width, outputs))


def build(c: Configuration) -> nn.Module:
    """The network of a configuration, from the random state as it is."""
    data = task(c.task)
    if c.kind == "text":
        model: nn.Module = TextModel(data.outputs, c.layers, c.width, c.dropout)
    elif c.task == "cifar":
        model = photograph_net(c.kind, c.layers, c.width, c.dropout)
        model(data.x[:1])  # its last layer learns its width
    else:
        shape = (int(data.x.shape[1]), int(data.x.shape[2]))
        if c.kind == "layernorm":
            model = layer_normed(shape, data.outputs, c.layers, c.width)
        elif c.kind in ("rnn", "gru", "lstm"):
            model = Cells(c.kind, shape[1], c.layers, c.width, data.outputs)
        else:
            model = network(c.kind, shape, data.outputs, c.layers, c.width, c.dropout)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):  # no running averages: nobody evaluates here
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    if c.activation in SMOOTH and isinstance(model, nn.Sequential):
        model = nn.Sequential(*(SMOOTH[c.activation]() if isinstance(m, nn.ReLU) else m for m in model))
    if c.kind not in OWN_START:
        _initialise(model, c.activation)
    if c.init != 1:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(c.init if p.ndim > 1 else 1)
    return model


def _initialise(model: nn.Module, activation: str) -> None:
    """He's (Glorot's for tanh) initialisation of linear and convolution layers with biases of 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if activation == "tanh":
                nn.init.xavier_normal_(module.weight, gain=1.3)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    blocks = [module for module in model.modules() if isinstance(module, Residual)]
    with torch.no_grad():
        for block in blocks:
            [m for m in block.inner if isinstance(m, nn.Linear)][-1].weight.div_(2 * len(blocks))
