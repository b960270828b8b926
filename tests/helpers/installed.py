"""Wheel and sdist, built from a copy of the tree, and environments that hold what a distribution asks for, no more.

Nothing is downloaded: an environment links the packages of the one that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from tests.helpers.paths import ROOT

#: What the folder of each package is called in the tree.
PACKAGES = {"gradscope": "gradscope", "gradscope_cli": "cli"}


def tree(root: Path = ROOT) -> set[str]:
    """The files of the packages, under the names that they have once installed."""
    return {
        str(Path(installed, path.relative_to(root / folder)))
        for installed, folder in PACKAGES.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel and sdist in ``folder``, from a copy: building leaves files behind."""
    kept = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "site", "tests", "analyses")
    shutil.copytree(ROOT, folder / "tree", ignore=kept)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(folder / "tree")]
    run(words, cwd=folder)
    (wheel,), (sdist,) = (list((folder / "dist").glob(f"*.{end}")) for end in ("whl", "tar.gz"))
    return wheel, sdist


def requirements(wheel: Path) -> list[Requirement]:
    """What a wheel asks for, extras included."""
    with zipfile.ZipFile(wheel) as held:
        (name,) = (n for n in held.namelist() if n.endswith(".dist-info/METADATA"))
        asked = Parser().parsestr(held.read(name).decode()).get_all("Requires-Dist") or []
    return [Requirement(text) for text in asked]


def size(distribution: metadata.Distribution) -> int:
    """Bytes of its files."""
    paths = [Path(str(distribution.locate_file(path))) for path in distribution.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")


def sizes() -> None:
    """Print what a plain install and each extra of the core bring, in MB, as installed in this environment."""
    with TemporaryDirectory() as folder:
        wheel, _ = build(Path(folder))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        for extras in ((), ("torch",), ("fast",), ("report",), ("demo",), ("dev",)):
            found: dict[str, metadata.Distribution] = {}
            closure(requirements(wheel), set(extras), "gradscope-dynamics", found)
            each = sorted(((size(d), d.name) for d in {d.name: d for d in found.values()}.values()), reverse=True)
            largest = ", ".join(f"{name} {bytes_ / 1e6:.0f}" for bytes_, name in each[:9])
            print(f"{'+'.join(extras) or 'plain'}: {sum(b for b, _ in each) / 1e6:.0f} MB in {len(each)} ({largest})")


def closure(asked: list[Requirement], extras: set[str], own: str, seen: dict[str, metadata.Distribution]) -> None:
    """All distributions that these requirements bring with ``extras`` of ``own``, into ``seen``."""
    for requirement in asked:
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        if requirement.name == own:
            closure([r for r in asked if r.name != own], requirement.extras, own, seen)
            continue
        known = metadata.distribution(requirement.name)
        key = f"{requirement.name.lower()}[{','.join(sorted(requirement.extras))}]"
        if key not in seen:
            seen[key] = known
            closure([Requirement(r) for r in known.requires or ()], requirement.extras, requirement.name, seen)


@dataclass(frozen=True)
class Environment:
    """A virtual environment with an empty home, seen from a folder outside the checkout."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Environment:
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        (folder / "home").mkdir()
        return cls(folder)

    @property
    def packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def gradscope(self) -> str:
        return str(self.folder / "bin" / "gradscope")

    def bring(self, wheel: Path, *extras: str, tools: tuple[str, ...] = ()) -> None:
        """Link all that a wheel asks for with these extras."""
        wanted: dict[str, metadata.Distribution] = {}
        closure(requirements(wheel), set(extras), "gradscope-dynamics", wanted)
        wanted |= {name: metadata.distribution(name) for name in tools}
        for distribution in wanted.values():
            for top in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
                there = self.packages / top
                if not there.exists() and not top.endswith(".pth"):
                    there.symlink_to(Path(str(distribution.locate_file(top))))

    def install(self, built: Path) -> None:
        """A wheel or an sdist, and nothing beside it."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-deps", "--no-index"]
        run([*pip, "--disable-pip-version-check", "--no-build-isolation", str(built)])

    def run(self, *words: str, code: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command in this environment; fails unless it exits with ``code``, or shows a traceback."""
        return run(list(words), cwd=self.folder, code=code, home=self.folder / "home", **variables)


def run(
    words: list[str], *, cwd: Path | None = None, code: int = 0, home: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command without this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GRADSCOPE"))}
    kept |= {"PYTHONSAFEPATH": "1"} | ({"HOME": str(home)} if home else {}) | variables
    done = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done


if __name__ == "__main__":
    sizes()
