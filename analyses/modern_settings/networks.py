"""The nets of the study: a narrow ResNet-18, a small vision transformer and a character transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision import models


def resnet18(width: float) -> nn.Module:
    """torchvision's for 32 × 32 images: a 3 × 3 stem, no first pooling. ``width``: of every layer, as a share."""
    planes = round(64 * width)
    model: nn.Module = models.ResNet(models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=10)
    narrow(model, width)
    model.conv1, model.maxpool = nn.Conv2d(3, planes, 3, padding=1, bias=False), nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def narrow(model: nn.Module, width: float) -> None:
    """Replace every layer by one with a share of its channels; images and classes keep theirs."""
    for name, part in list(model.named_children()):
        if isinstance(part, nn.Conv2d):
            into, out = (max(1, round(count * width)) for count in (part.in_channels, part.out_channels))
            narrower: nn.Module = nn.Conv2d(into, out, part.kernel_size, part.stride, part.padding, bias=False)  # type: ignore[arg-type]
        elif isinstance(part, nn.BatchNorm2d):
            narrower = nn.BatchNorm2d(round(part.num_features * width))
        elif isinstance(part, nn.Linear):
            narrower = nn.Linear(round(part.in_features * width), part.out_features)
        else:
            narrow(part, width)
            continue
        setattr(model, name, narrower)


def encoder(width: int, layers: int) -> nn.TransformerEncoder:
    """Blocks with layer normalisation before attention and MLP, and at the end; no dropout."""
    block = nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(block, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


class ViT(nn.Module):
    """Patches of 4 × 4 pixels as tokens, ``layers`` blocks, the mean of the tokens is classified."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.place = nn.Parameter(0.02 * torch.randn(64, width))
        self.encoder = encoder(width, layers)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to [N, 10]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return torch.as_tensor(self.head(self.encoder(tokens).mean(1)))


class CharacterTransformer(nn.Module):
    """Predicts the next character from those before it."""

    def __init__(self, characters: int, context: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, width)
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.encoder = encoder(width, layers)
        self.head = nn.Linear(width, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Characters [N, context] to [N, characters, context], as cross-entropy wants them."""
        hidden = self.encoder(self.embed(x) + self.place, mask=self.mask, is_causal=True)
        return torch.as_tensor(self.head(hidden)).transpose(1, 2)
