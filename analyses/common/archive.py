"""CIFAR-10 from an archive of image files, ``train/CLASS/NAME.jpg`` and ``test/CLASS/NAME.jpg``, decoded once."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from gradscope.types import InputError

#: Where the archive is, for a command that does not say it with ``--data``.
VARIABLE = "GRADSCOPE_CIFAR10"
PARTS = ("train", "test")
ENDINGS = (".jpg", ".jpeg", ".png")

Array = NDArray[np.generic]


def cache_of(archive: Path) -> Path:
    """The folder of an archive's decoded images: by its content, among the user's caches, outside any repository."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "gradscope-studies" / hashlib.sha256(archive.read_bytes()).hexdigest()[:16]


def decoded(archive: Path) -> tuple[Array, Array, Array, Array]:
    """Images [N, channels, rows, columns] in uint8 and labels [N] for training, the same two for testing.

    Classes are numbered in the order of their names, images of a class follow each other in that of theirs.

    Raises
    ------
    InputError
        When the archive is not there, or is none, or holds no such images.
    """
    if not archive.is_file():
        raise InputError(f"{archive} is no file; expected an archive of CIFAR-10, from --data or {VARIABLE}")
    folder = cache_of(archive)
    if not folder.exists():
        _unpack(archive, folder)
    x, y, x_test, y_test = (np.load(folder / f"{part}-{what}.npy") for part in PARTS for what in ("x", "y"))
    return x, y, x_test, y_test


def _unpack(archive: Path, folder: Path) -> None:
    """Decode all images into a folder that appears whole, whoever else does the same meanwhile."""
    files = _images(archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        whole = Path(made) / "whole"
        whole.mkdir()
        for part in PARTS:
            chosen = sorted((kind, name) for where, kind, name in files if where == part)
            classes = sorted({kind for kind, _ in chosen})
            if not classes:
                raise InputError(f"{archive} holds no {part}/CLASS/NAME{ENDINGS[0]}; expected an archive of CIFAR-10")
            np.save(whole / f"{part}-x.npy", np.stack([files[part, kind, name] for kind, name in chosen]))
            np.save(whole / f"{part}-y.npy", np.array([classes.index(kind) for kind, _ in chosen]))
        try:
            whole.rename(folder)
        except OSError:
            if not folder.exists():  # nobody else was faster
                raise


def _images(archive: Path) -> dict[tuple[str, str, str], Array]:
    """Every image [channels, rows, columns] by its part, class and name."""
    from PIL import Image

    found: dict[tuple[str, str, str], Array] = {}
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                path = PurePosixPath(member.name)
                part, kind = path.parts[-3:-1] if len(path.parts) > 2 else ("", "")
                content = packed.extractfile(member)
                if part in PARTS and path.suffix.lower() in ENDINGS and content is not None:
                    with Image.open(io.BytesIO(content.read())) as image:
                        found[part, kind, path.name] = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{archive} cannot be read ({error}); expected a tar archive of images") from error
    return found
