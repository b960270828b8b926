"""CIFAR's images as files: those of its site, and archives of one image a file."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from analyses.common import archive

CLASSES = ("airplane", "bird", "cat")
CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def colour(part: str, kind: int, number: int) -> tuple[int, int, int]:
    return (40 * kind + 8 * number, 100 + 20 * number, 200 - 10 * kind if part == "train" else 90)


def packed(folder: Path, classes: tuple[str, ...] = CLASSES, per_class: int = 4) -> Path:
    """Images of one colour each, in an order that is no order, under a folder of the archive's own."""
    path = folder / "cifar.tar.xz"
    with tarfile.open(path, "w:xz") as made:
        for number in reversed(range(per_class)):
            for part in archive.PARTS:
                for kind, name in enumerate(classes):
                    content = io.BytesIO()
                    Image.new("RGB", (32, 32), colour(part, kind, number)).save(content, "JPEG", quality=95)
                    member = tarfile.TarInfo(f"./CIFAR/{part}/{name}/{number:04d}.jpg")
                    member.size = content.tell()
                    content.seek(0)
                    made.addfile(member, content)
        note = tarfile.TarInfo("./CIFAR/README.md")
        note.size = 2
        made.addfile(note, io.BytesIO(b"no"))
    return path


def cifar_files(folder: Path, fine: bool) -> None:
    """Files as the CIFAR site ships them, with twenty images each."""
    inside = folder / ("cifar-100-python" if fine else "cifar-10-batches-py")
    inside.mkdir(parents=True)
    generator = np.random.default_rng(0)
    label, names = ("fine_labels", "fine_label_names") if fine else ("labels", "label_names")
    parts = ["train", "test"] if fine else [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for part in parts:
        content = {
            "data": generator.integers(0, 256, (20, 3072), dtype=np.uint8),
            label: generator.integers(0, 100 if fine else 10, 20).tolist(),
        }
        (inside / part).write_bytes(pickle.dumps(content))
    names_of = {names: [str(k) for k in range(100 if fine else 10)]}
    (inside / ("meta" if fine else "batches.meta")).write_bytes(pickle.dumps(names_of))
