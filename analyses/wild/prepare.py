"""Data that scripts look for in files, made in a moment."""

from __future__ import annotations

import gzip
import pickle
import random
from pathlib import Path

import numpy as np

WORDS = [
    "the",
    "a",
    "net",
    "of",
    "learns",
    "weight",
    "and",
    "gradient",
    "to",
    "in",
    "is",
    "loss",
    "steps",
    "deep",
    "row",
    "small",
    "large",
    "again",
]


def _sentences(count: int, seed: int) -> str:
    draw = random.Random(seed)
    return "\n".join(" ".join(draw.choices(WORDS, range(len(WORDS), 0, -1), k=12)) for _ in range(count)) + "\n"


def wikitext(folder: Path) -> None:
    """Three files of words."""
    where = folder / "data" / "wikitext-2"
    where.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": 1200, "valid": 120, "test": 60}.items()):
        (where / f"{name}.txt").write_text(_sentences(count, seed))


def treebank(folder: Path) -> None:
    """One file of words."""
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "train.txt").write_text(_sentences(2000, 0))


def characters(folder: Path) -> None:
    """Tokens below 65 in the files that nanoGPT reads."""
    where = folder / "data" / "made"
    where.mkdir(parents=True, exist_ok=True)
    text = np.frombuffer(_sentences(4000, 0).encode(), dtype=np.uint8).astype(np.uint16) % 65
    text[:-2000].tofile(where / "train.bin")
    text[-2000:].tofile(where / "val.bin")
    (where / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 65}))


def enwik8(folder: Path) -> None:
    """Bytes of text in a gzip."""
    (folder / "data").mkdir(exist_ok=True)
    with gzip.open(folder / "data" / "enwik8.gz", "wb") as file:
        file.write(_sentences(4000, 0).encode()[:200_000])


def pictures(folder: Path, classes: int = 4, each: int = 24, size: int = 64, splits: bool = True) -> None:
    """A folder of small pictures, CLASS/N.png under train and validation; each class has a colour of its own."""
    from PIL import Image

    draw = np.random.default_rng(0)
    for split in ("train", "validation", "val") if splits else ("",):
        for label in range(classes):
            where = folder / "pictures" / split / f"class{label}"
            where.mkdir(parents=True, exist_ok=True)
            for n in range(each if split in ("train", "") else 4):
                noise = draw.integers(0, 128, (size, size, 3))
                noise[..., label % 3] += 40 * (label + 1) // 2
                Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(where / f"{n}.png")


def pets(folder: Path) -> None:
    """Pictures with their class in their names, as the Oxford pets have it."""
    from PIL import Image

    draw = np.random.default_rng(0)
    where = folder / "pets"
    where.mkdir(exist_ok=True)
    for label, name in enumerate(("abyssinian", "beagle", "pug")):
        for n in range(32):
            noise = draw.integers(0, 160, (64, 64, 3))
            noise[..., label] += 60
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(where / f"{name}_{n}.jpg")


def flat_pictures(folder: Path) -> None:
    """One folder of 128 pictures."""
    from PIL import Image

    draw = np.random.default_rng(0)
    (folder / "pictures").mkdir(exist_ok=True)
    for n in range(128):
        Image.fromarray(draw.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / "pictures" / f"{n}.png")


def masks(folder: Path) -> None:
    """Pictures of discs, and the discs."""
    from PIL import Image

    draw = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for part in ("imgs", "masks"):
        (folder / "data" / part).mkdir(parents=True, exist_ok=True)
    for n in range(48):
        disc = (x - draw.integers(16, 48)) ** 2 + (y - draw.integers(16, 48)) ** 2 < 150
        noise = draw.integers(0, 100, (64, 64, 3)) + 120 * disc[..., None]
        Image.fromarray(noise.astype(np.uint8)).save(folder / "data" / "imgs" / f"{n}.png")
        Image.fromarray((disc * 1).astype(np.uint8)).save(folder / "data" / "masks" / f"{n}_mask.png")


def citations(folder: Path) -> None:
    """A graph of 1,600 papers in the two files of Cora: numbers, words, topics; who cites whom, mostly in its topic."""
    draw = np.random.default_rng(0)
    where = folder.parent / "data" / "cora"
    where.mkdir(parents=True, exist_ok=True)
    topics = draw.integers(0, 4, 1600)
    words = draw.random((1600, 60)) < 0.05 + 0.15 * (np.arange(60) % 4 == topics[:, None])
    lines = [f"{n} {' '.join(map(str, row.astype(int)))} topic{topics[n]}" for n, row in enumerate(words)]
    (where / "cora.content").write_text("\n".join(lines) + "\n")
    pairs = [(n, int(draw.choice(np.flatnonzero(topics == topics[n])))) for n in range(1600) for _ in range(2)]
    (where / "cora.cites").write_text("".join(f"{a} {b}\n" for a, b in pairs))


def waves(folder: Path) -> None:
    """Sines of several phases, in float64."""
    import torch

    phase = np.random.default_rng(2).integers(-40, 40, (12, 1))
    torch.save(np.sin((np.arange(60) + phase) / 10.0), folder / "traindata.pt")


def tokens(folder: Path) -> None:
    """What microsoft/LoRA reads: one JSON a line, a context and a completion in token numbers."""
    import json

    draw = np.random.default_rng(0)
    for name, count in (("train", 128), ("valid", 8)):
        lines = [
            {"context": draw.integers(0, 200, 10).tolist(), "completion": draw.integers(0, 200, 8).tolist()}
            for _ in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def diffusion(folder: Path) -> None:
    """A folder of pictures, and a script like that of the README."""
    flat_pictures(folder)
    (folder / "go.py").write_text(
        "from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet\n"
        "net = GaussianDiffusion(Unet(dim=16, dim_mults=(1, 2), flash_attn=False), image_size=32, timesteps=50)\n"
        "Trainer(net, 'pictures', train_batch_size=8, gradient_accumulate_every=2, train_num_steps=100,\n"
        "        save_and_sample_every=10_000, calculate_fid=False).train()\n"
    )


def nothing(folder: Path) -> None:
    """No data."""
