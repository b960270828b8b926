"""CIFAR-10 from an archive of image files: decoded once, whoever has it, and one line where it is not."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.common import archive, images
from gradscope.types import InputError
from tests.helpers.image_files import colour, packed


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    images.load.cache_clear()
    return tmp_path / "caches"


def test_every_image_has_its_own_label(tmp_path: Path, cached: Path) -> None:
    x, y, x_test, y_test = archive.decoded(packed(tmp_path))
    assert (x.shape, x.dtype) == ((12, 3, 32, 32), np.uint8)
    for values, labels, part in ((x, y, "train"), (x_test, y_test, "test")):
        assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        wanted = np.array([colour(part, k // 4, k % 4) for k in range(12)])
        assert np.abs(values.mean((2, 3)) - wanted).max() < 3  # of a lossy file


def test_an_archive_is_decoded_once(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path)
    first = archive.decoded(path)
    monkeypatch.setattr(archive, "_unpack", None)
    for one, again in zip(first, archive.decoded(path), strict=True):
        assert np.array_equal(one, again)
    assert archive.cache_of(path).parent == cached / "gradscope-studies"
    assert [p.name for p in (cached / "gradscope-studies").iterdir()] == [archive.cache_of(path).name]


def test_a_second_command_may_be_faster(tmp_path: Path, cached: Path) -> None:
    path = packed(tmp_path)
    archive.decoded(path)
    archive._unpack(path, archive.cache_of(path))  # its folder is there already
    assert len(archive.decoded(path)[1]) == 12


@pytest.mark.parametrize("way", ["--data", "environment"])
def test_a_subset_has_as_many_of_each_class(
    way: str, tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path)
    if way == "environment":
        monkeypatch.setenv(archive.VARIABLE, str(path))
    data = images.load("cifar10", folder=path if way == "--data" else tmp_path / "none", count=6)
    assert data.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.y_test.tolist() == [0, 1, 2] * 4
    assert data.x.mean((0, 2, 3)) == pytest.approx(torch.zeros(3), abs=1e-4)  # by the six that are kept
    red = torch.tensor([colour("train", k % 3, k // 3)[0] / 255 for k in range(6)])
    assert data.x[:, 0, 0, 0] == pytest.approx((red - red.mean()) / red.std(correction=0), abs=0.1)
    assert data.flips


def test_a_subset_keeps_the_order_within_a_class() -> None:
    y = torch.tensor([2, 0, 0, 1, 2, 1, 0, 2, 1])
    x = torch.arange(9)
    kept, labels = images.stratified(x, y, 6)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert kept.tolist() == [1, 3, 0, 2, 5, 4]
    assert images.stratified(x, y)[0].tolist() == [1, 3, 0, 2, 5, 4, 6, 8, 7]
    for count in (0, 4, 12):
        with pytest.raises(InputError, match="expected a multiple of 3 up to 9"):
            images.stratified(x, y, count)


def test_what_is_no_archive_is_one_line(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(archive.VARIABLE, str(tmp_path / "none.tar.xz"))
    with pytest.raises(InputError, match=r"none\.tar\.xz is no file; expected an archive of CIFAR-10, from --data or"):
        images.load("cifar10")
    text = tmp_path / "notes.txt"
    text.write_text("no archive")
    with pytest.raises(InputError, match="cannot be read"):
        images.load("cifar10", folder=text)
    cut = tmp_path / "cut.tar.xz"
    cut.write_bytes(packed(tmp_path).read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        images.load("cifar10", folder=cut)
    empty = tmp_path / "empty.tar"
    with tarfile.open(empty, "w"):
        pass
    with pytest.raises(InputError, match=r"holds no train/CLASS/NAME\.jpg"):
        images.load("cifar10", folder=empty)
    assert not [*cached.glob("gradscope-studies/*")]
    monkeypatch.delenv(archive.VARIABLE)
    with pytest.raises(InputError, match=r"cifar10 is not in .*--data or GRADSCOPE_CIFAR10") as missing:
        images.load("cifar10", folder=tmp_path / "none")
    assert "\n" not in str(missing.value)
