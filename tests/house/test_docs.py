"""Every code block of the documentation runs, page by page; the pages that are generated hold what they should."""

from __future__ import annotations

import doctest
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.demo import training
from tests.helpers.doc_blocks import PAGES, Session, blocks, commands
from tests.helpers.paths import ROOT

pytestmark = [
    # What examples show on purpose, and what the other libraries have to say.
    pytest.mark.filterwarnings("ignore::gradscope.recording.LearningFailureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(?!gradscope)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(?!gradscope)"),
    pytest.mark.filterwarnings("ignore:.*(does not have many workers|`isinstance\\(treespec|litlogger).*"),
    pytest.mark.filterwarnings("ignore:.*number of training batches.*smaller than the logging interval.*"),
]
WITH_CODE = [page for page in PAGES if any(True for _ in blocks(page.read_text()))]
SLOW = [page for page in WITH_CODE if any(block.why == "slow" for block in blocks(page.read_text()))]

WITH_EXAMPLES = [path for path in sorted((ROOT / "gradscope").rglob("*.py")) if ">>> " in path.read_text()]


def run_page(page: Path, slow: bool) -> None:
    session = Session(page)
    for block in blocks(page.read_text()):
        if block.why != "not run" and (slow or block.why != "slow"):
            session.run(block)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # `python train.py` is that of the environment, as in a shell that has activated it.
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(training, "EPOCHS", training.EPOCHS)  # pages shorten it; put back for the tests that follow


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_blocks(page: Path) -> None:
    run_page(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.name)
def test_all_code_blocks(page: Path) -> None:
    run_page(page, slow=True)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings(path: Path) -> None:
    """Every example runs as it stands; names of `gradscope`, torch, a model and its optimizer are there."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    given = {
        **{name: getattr(gradscope, name) for name in gradscope.__all__},
        "torch": torch,
        "nn": torch.nn,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "data": torch.ones(5, 4),
    }
    done = doctest.testmod(module, extraglobs=given)
    assert done.attempted > 0
    assert done.failed == 0  # pytest shows what was printed


def test_every_fence_is_known() -> None:
    """A block that no test runs is one of output, or says why."""
    for page in PAGES:
        languages = re.findall(r"^```(\w*)", page.read_text(), re.MULTILINE)[::2]
        assert set(languages) <= {"python", "sh", "text", "json", ""}, page


def test_every_public_name_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    named = set(re.findall(r"^::: gradscope\.(?:\w+\.)*(\w+)$", reference, re.MULTILINE))
    assert set(gradscope.__all__) - {"__version__"} <= named


def test_commands_are_split_as_a_shell_does() -> None:
    assert commands("a b \\\n   c\n# note\n\nd # e\n") == ["a b     c", "d # e"]


@pytest.mark.parametrize("page", ["AGENTS.md", "llms.txt"])
def test_links_for_agents_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
