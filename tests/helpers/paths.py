"""Where the tree is, and the scripts that tests run."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "tests" / "scripts"
