"""What others install: it is whole, small, says what is missing, and reads records where there is no torch."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gradscope
from gradscope.extras import DISTRIBUTION, EXTRA_OF
from tests.helpers.installed import Environment, build, run, tree
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

#: Every module of both packages; prints what could not be imported, and what it wanted.
IMPORT_ALL = """
import gradscope, gradscope_cli, importlib, json, pkgutil
wanted = {}
for package in (gradscope, gradscope_cli):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            wanted[found.name] = (error.name or "").partition(".")[0]
        except ImportError as error:
            wanted[found.name] = str(error)
print(json.dumps(wanted))
"""

TRAIN = """
import argparse, torch, gradscope
from torch import nn
given = argparse.ArgumentParser()
given.add_argument("--weight-decay", type=float, default=0.0)
given.add_argument("--seed", type=int, default=0)
given.add_argument("--out", default="run.h5")
given = given.parse_args()
torch.set_num_threads(1)
torch.manual_seed(given.seed)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=given.weight_decay)
with gradscope.record(model, optimizer, given.out, horizon=100) as run:
    for _ in range(100):
        x = torch.randn(32, 6)
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        run.log(loss=loss)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record made here, by the environment that has torch."""
    folder = tmp_path_factory.mktemp("record")
    (folder / "train.py").write_text(TRAIN)
    run([sys.executable, "train.py"], cwd=folder, PYTHONPATH=str(ROOT))
    return folder / "run.h5"


def test_the_wheel_holds_the_tree_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as held:
        files = {name for name in held.namelist() if ".dist-info/" not in name}
    assert files == tree(), "packages and data files are found, not listed"
    with tarfile.open(sdist) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {name.replace("gradscope_cli/", "cli/") for name in tree()} <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not [name for name in names if name.startswith(("tests", "analyses"))], "all tests or none"
    assert wheel.name.startswith(f"gradscope_dynamics-{gradscope.__version__}-")


def test_an_index_would_take_it(built: tuple[Path, Path]) -> None:
    """Also its page: no link or picture of the README points at a file that is not beside it."""
    run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)])
    with zipfile.ZipFile(built[0]) as held:
        (name,) = (n for n in held.namelist() if n.endswith("METADATA"))
        page = held.read(name).decode()
    links = re.findall(r"\]\(([^)]*)\)", page.partition("\n\n")[2])
    assert len(links) > 10
    assert all(link.startswith(("https://", "#")) for link in links)
    for path in re.findall(rf"{PROJECT['urls']['Repository']}/(?:raw|blob|tree)/HEAD/([^)#\s]*)", page):
        assert (ROOT / path).exists(), path
    assert "<!--" not in page


@pytest.mark.thorough
def test_a_plain_install_reads_without_torch(built: tuple[Path, Path], record: Path, tmp_path: Path) -> None:
    plain = Environment.make(tmp_path / "plain")
    plain.bring(built[0])
    plain.install(built[0])
    told = plain.run(plain.gradscope, "--version").stdout
    assert told == plain.run(plain.python, "-m", "gradscope", "--version").stdout
    assert told == f"gradscope {gradscope.__version__}\n"
    assert "diagnose" in plain.run(plain.gradscope, "--help").stdout

    wanted = json.loads(plain.run(plain.python, "-c", IMPORT_ALL).stdout)
    assert set(wanted.values()) <= set(EXTRA_OF) | {"triton"} | {w for w in wanted.values() if "pip install" in w}
    assert not [name for name in wanted if name.startswith(("gradscope.diagnosis", "gradscope.store", "gradscope_cli"))]

    run = str(record)
    assert json.loads(plain.run(plain.gradscope, "diagnose", run, "--json").stdout)["runs"][0]["verdict"] == "healthy"
    for words in (
        ["inspect", run],
        ["compare", run, run],
        ["tolerance", run],
        ["watch", run, "--once"],
        ["export", run, "--to", "csv", "-o", "run.csv"],
        ["export", run, "--to", "netcdf", "-o", "run.nc"],
        ["recover", run, "-o", "saved.h5"],
        ["schedule", "delayed:100steps", "--strength", "0.01", "--steps", "200"],
    ):
        plain.run(plain.gradscope, *words)
    for words in (["report", run, "-o", "page.html"], ["plot", run, "--figure", "loss", "-o", "loss.png"], ["demo"]):
        (line,) = plain.run(plain.gradscope, *words, code=2).stderr.splitlines()
        assert re.fullmatch(r"gradscope: .* needs the package \w+, .*: pip install 'gradscope-dynamics\[\w+\]'", line)
    no_torch = "import gradscope\ntry: gradscope.record\nexcept ImportError as error: print(error)"
    assert "pip install 'gradscope-dynamics[torch]'" in plain.run(plain.python, "-c", no_torch).stdout

    plain.bring(built[0], "report")
    for words in (["report", run, "-o", "page.html"], ["plot", run, "--figure", "loss", "-o", "loss.png"]):
        plain.run(plain.gradscope, *words)
    plain.run(plain.python, "-c", "try: import torch\nexcept ImportError: pass\nelse: raise SystemExit(1)")


def test_all_of_it_runs_from_the_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    full = Environment.make(tmp_path / "full")
    full.bring(built[0], "torch")
    full.install(built[0])
    (full.folder / "train.py").write_text(TRAIN)
    told = full.run(full.python, "train.py", "--out", "slow.h5").stderr
    assert told.count("pip install 'gradscope-dynamics[fast]'") == 1
    assert "healthy" in full.run(full.gradscope, "diagnose", "slow.h5").stdout

    full.bring(built[0], "demo")
    wanted = json.loads(full.run(full.python, "-c", IMPORT_ALL).stdout)
    others = {e for e in EXTRA_OF.values() if e not in ("torch", "fast", "report", "demo")}
    assert all(EXTRA_OF.get(w, "") in others or w == "triton" or f"{DISTRIBUTION}[" in w for w in wanted.values())
    assert full.run(full.python, "train.py").stderr == ""
    assert "healthy" in full.run(full.gradscope, "diagnose", "run.h5").stdout
    full.run(full.gradscope, "report", "run.h5", "-o", "page.html")
    words = ["search", "--low", "1e-4", "--high", "1", "--max-trials", "2", "--out", "level", "--json", "--"]
    command = [full.python, "train.py", "--weight-decay", "{weight_decay}", "--seed", "{seed}", "--out", "{out}"]
    assert json.loads(full.run(full.gradscope, *words, *command).stdout)["trials"] == 2


def test_the_sdist_installs(built: tuple[Path, Path], tmp_path: Path) -> None:
    plain = Environment.make(tmp_path / "plain")
    plain.bring(built[0], tools=("setuptools",))
    plain.install(built[1])
    assert plain.run(plain.gradscope, "--version").stdout == f"gradscope {gradscope.__version__}\n"
    assert {str(p.relative_to(plain.packages)) for p in plain.packages.glob("gradscope*/**/*.json")} - {
        f"gradscope_dynamics-{gradscope.__version__}.dist-info/direct_url.json"
    } == {name for name in tree() if name.endswith(".json")}


# -- names ---------------------------------------------------------------------------------------------


def test_every_extra_that_is_named_is_there_and_brings_its_package() -> None:
    imports = {"sklearn": "scikit-learn", "google_crc32c": "google-crc32c", "mlflow": "mlflow-skinny"}
    for package, extra in EXTRA_OF.items():
        assert imports.get(package, package) in {Requirement(r).name for r in EXTRAS[extra]}, package
    asked = {Requirement(r).name for extra in EXTRAS.values() for r in extra}
    assert {name for r in EXTRAS.values() for x in r for name in Requirement(x).extras} - {"python"} <= set(EXTRAS)
    assert asked.isdisjoint({Requirement(r).name for r in PROJECT["dependencies"]})


def test_every_pip_install_that_is_written_names_what_exists() -> None:
    found = 0
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("analyses/**/*.md")]:
        for named, extras in re.findall(r"pip install[^`\n]*?'([\w.-]*)\[([\w,]*)\]'", path.read_text()):
            assert named in (DISTRIBUTION, ".") or not named.startswith("gradscope"), f"{path}: {named}"
            assert set(extras.split(",")) <= set(EXTRAS), f"{path}: {extras}"
            found += 1
    assert found > 3
    for path in [*ROOT.glob("gradscope/**/*.py"), *ROOT.glob("cli/*.py")]:
        if path.name not in ("extras.py", "__init__.py"):
            assert "pip install" not in path.read_text(), f"{path}: extras.missing says it"


def test_a_namesake_in_the_same_folder_is_noticed(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Somebody else's distribution is called gradscope on the index, and so are its import package and command."""
    both = Environment.make(tmp_path / "both")
    both.bring(built[0])
    both.install(built[0])
    (both.packages / "gradscope-0.1.0.dist-info").mkdir()
    done = both.run(both.gradscope, "--version")
    assert done.stdout and done.stderr.count("pip uninstall gradscope") == 1
    for path in (both.packages / "gradscope").iterdir():  # the stranger's files, written over ours
        path.rename(path.with_name("_" + path.name))
    (both.packages / "gradscope" / "__init__.py").write_text("__version__ = '0.1.0'\n")
    (line,) = both.run(both.gradscope, "--version", code=2).stderr.splitlines()
    assert "somebody else's" in line and "pip uninstall gradscope" in line
