"""The import directions of the house, and what must not be loaded on the way to a help text."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.handmade import handmade
from tests.helpers.paths import ROOT

BASE = {"types", "checks", "card", "extras", "plugins", "quantities", "run_info"}
ROOMS = {
    "types": set(),
    "checks": {"plugins", "types"},
    "plugins": set(),
    "card": set(),
    "extras": set(),
    "quantities": set(),
    "run_info": set(),
    "reading": {"diagnosis", "store"} | BASE,
    "__main__": set(),
    "processes": BASE,
    "torch_utils": BASE,
    "optimizers": {"torch_utils"} | BASE,
    "regularizers": {"optimizers", "torch_utils"} | BASE,
    "recorder": {"optimizers", "torch_utils"} | BASE,
    "store": BASE,
    "diagnosis": BASE,
    "restart": {"diagnosis", "prediction", "regularizers", "store", "processes"} | BASE,
    "restart.in_process": {"restart", "recording", "processes"} | BASE,
    "trials": {"diagnosis", "store", "processes"} | BASE,
    "prediction": {"store", "processes", "trials"} | BASE,
    "tolerance": {"diagnosis", "prediction", "processes", "store", "trials"} | BASE,
    "tuning": {"processes", "tolerance", "trials"} | BASE,
    "recording": {
        *("optimizers", "regularizers", "recorder", "store", "diagnosis", "prediction", "restart", "torch_utils"),
        "processes",
    }
    | BASE,
    "report": {"store", "diagnosis", "tolerance", "trials"} | BASE,
    "integrations": {"", "recording", "torch_utils", "store"} | BASE,
    "export": {"store", "diagnosis"} | BASE,
    "demo": {"", "processes", "restart", "diagnosis", "report", "store", "tolerance", "trials"} | BASE,
    "": {  # gradscope/__init__.py
        *(
            "recording",
            "reading",
            "restart.in_process",
            "recorder",
            "regularizers",
            "store",
            "diagnosis",
            "prediction",
            "tolerance",
            "tuning",
            "restart",
            "processes",
        ),
    }
    | BASE,
}
#: Lines of a file, at most.
LONGEST = 400
#: Folders of tests that mirror no room of gradscope: the command line, the studies, the house and foreign code.
TESTED_BESIDE = {"cli", "analyses", "house", "wild"}
#: Folders without a test of their own: what tests share, scripts that they run, faults.
SHARED = {"helpers", "scripts", "torture"}
#: The files beside the folders of tests.
ALONE = {"__init__.py", "conftest.py", "sabotage.py"}
#: What the rooms inside the recorder may import of the recorder.
INNER = {
    "kernels": {"memory", "fields"},
    "baseline": set(),
    "listeners": {
        *("kernels", "backward_passes", "captured", "distributed", "fields", "listener", "memory", "meter"),
        *("penalty_probe", "presets", "ring", "row_buffer", "host_rows", "scalars", "timeline", "update_meter"),
    },
}
LIBRARIES = {
    "torch": {
        "optimizers",
        "regularizers",
        "recorder",
        "recording",
        "torch_utils",
        "restart.checkpoint",
        "restart.states",
        "restart.in_process",
        "demo",
        "integrations",
    },
    "h5py": {"store"},
    "numba": {"recorder"},
    "triton": {"recorder"},
    "matplotlib": {"report"},
    "lightning": {"integrations"},
    "transformers": {"integrations"},
    "tensorboard": {"export", "integrations", "report"},
    "wandb": {"integrations"},
    "trackio": {"integrations"},
}


def modules() -> list[Path]:
    return sorted((ROOT / "gradscope").rglob("*.py"))


def dotted(path: Path) -> str:
    """The module below ``gradscope``, the front door as an empty word."""
    parts = path.relative_to(ROOT / "gradscope").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The smallest room that this module is in; a file in a room can be one of its own."""
    within = [name for name in ROOMS if name and f"{module}.".startswith(f"{name}.")]
    return max(within, key=len, default="")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_in_one_direction(path: Path) -> None:
    here = room(dotted(path))
    assert here or path.parent.name == "gradscope", f"{path} is in no room"
    for name in imported(path):
        first, _, rest = name.partition(".")
        if first == "gradscope":
            there = room(rest)
            assert there == here or there in ROOMS[here], f"{here or 'gradscope'} may not import {name}"
        elif first in LIBRARIES:
            allowed = any(f"{dotted(path)}.".startswith(f"{place}.") for place in LIBRARIES[first])
            assert allowed, f"{dotted(path)} may not import {first}"


@pytest.mark.parametrize("inner", INNER)
def test_rooms_inside_the_recorder_import_in_one_direction(inner: str) -> None:
    files = list((ROOT / "gradscope" / "recorder" / inner).glob("*.py"))
    assert len(files) > 1
    for path in files:
        for name in imported(path):
            if name.startswith("gradscope.recorder."):
                assert name.split(".")[2] in {inner, *INNER[inner]}, f"{path} may not import {name}"


def test_nothing_goes_round() -> None:
    files = {f"gradscope.{dotted(path)}": path for path in modules() if path.name != "__init__.py"}
    graph = {
        name: {module for n in imported(path) for module in (n, n.rpartition(".")[0]) if module in files}
        for name, path in files.items()
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_a_public_class_has_a_name_of_its_own() -> None:
    found: dict[str, list[Path]] = {}
    for path in [*modules(), *(ROOT / "cli").glob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path)
    twice = {name: paths for name, paths in found.items() if len(paths) > 1}
    assert set(twice) <= {"GradscopeCallback"}, twice  # one a framework, each in a module of its own


@pytest.mark.parametrize("room", ["recorder", "recording", "torch_utils"])
def test_no_file_is_long(room: str) -> None:
    paths = (ROOT / "gradscope" / room).rglob("*.py")
    lines = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert max(lines.values()) <= LONGEST, lines


def test_tests_mirror_the_rooms() -> None:
    tests = ROOT / "tests"
    rooms = {path.parent.name for path in (ROOT / "gradscope").glob("*/__init__.py")}
    for path in tests.rglob("*.py"):
        *folders, name = path.relative_to(tests).parts
        if not folders:
            assert name in ALONE, f"tests/{name} belongs into the folder of a room"
        else:
            assert len(folders) == 1, f"{path}: folders of tests are flat"
            assert folders[0] in rooms | TESTED_BESIDE | SHARED, f"tests/{folders[0]} is the folder of no room"
            assert folders[0] not in SHARED or not name.startswith("test_"), f"{path} would not be looked for there"


def test_no_test_imports_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for name in imported(path):
            tested = name.startswith("tests.") and any(part.startswith("test_") for part in name.split(".")[:3])
            assert not tested, f"{path} imports {name}: what tests share is in tests/helpers"


def test_compilers_are_named_in_the_kernels_alone() -> None:
    for path in (ROOT / "gradscope" / "recorder").rglob("*.py"):
        compilers = {name.partition(".")[0] for name in imported(path)} & {"numba", "triton"}
        assert not compilers or path.parent.name == "kernels", f"{path} imports {compilers}"


def loaded_after(code: str) -> set[str]:
    """Packages, and torch's compiler by itself."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules}, *{'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["search", "--help"], ["diagnose", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_after(f"from gradscope_cli.main import run; assert run({arguments!r}) == 0")
    assert not loaded & {"torch", "matplotlib", "h5py", "xarray", "numpy", "scipy", "sklearn"}


@pytest.mark.parametrize("command", [["diagnose"], ["inspect"], ["tolerance"], ["watch", "--once"]])
def test_reading_loads_neither_torch_nor_xarray(command: list[str], tmp_path: Path) -> None:
    path = handmade(tmp_path / "run.h5", 3, 300)
    loaded = loaded_after(f"from gradscope_cli.main import run; run({[*command, str(path)]!r})")
    assert not loaded & {"torch", "xarray", "pandas", "h5netcdf", "matplotlib"}


def test_import_gradscope_is_light() -> None:
    assert not loaded_after("import gradscope") & {"torch", "matplotlib", "h5py", "xarray", "numpy"}


def test_a_sink_needs_no_torch() -> None:
    assert "torch" not in loaded_after("import gradscope; gradscope.Sink")


@pytest.mark.parametrize("module", ["restart.supervisor", "restart.policy", "tolerance.search", "tuning.tune"])
def test_who_decides_loads_no_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import gradscope.{module}")


def test_record_loads_no_compiler_and_nothing_optional() -> None:
    """Whatever `import torch` does not load by itself (the compiler takes longer than all of torch) comes when used."""
    bare, ours = loaded_after("import torch"), loaded_after("import gradscope; gradscope.record")
    beside = {name for name in ours - bare - set(sys.stdlib_module_names) if not name.startswith("_")}
    assert beside <= {"gradscope", "h5py", "isal", "lazy_loader", "numpy"}
    assert "torch._dynamo" not in ours


@pytest.mark.parametrize("name", ["EarlyStopping", "GaussianNoise", "add_noise", "fgsm"])
def test_what_is_no_diagnostic_has_a_module_of_its_own(name: str) -> None:
    import gradscope
    from gradscope.regularizers import strategies

    assert name not in gradscope.__all__
    assert getattr(gradscope, name) is getattr(strategies, name)  # scripts of before


def test_every_public_name_is_there() -> None:
    import gradscope

    for name in gradscope.__all__:
        assert getattr(gradscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tolerate'"):
        _ = gradscope.tolerate
