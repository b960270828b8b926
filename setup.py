"""What pyproject.toml cannot say: packages found although cli/ has another name once installed, and an index page."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
REPOSITORY = re.search(r'^Repository = "(.*)"$', (HERE / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def index_page() -> str:
    """The README with absolute links, for a page that has no files beside it."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"<!-- .*?-->\n?", "", text, flags=re.S)  # what the tests of the README need
    text = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\1{REPOSITORY}/raw/HEAD/", text)
    return re.sub(r"((?<!!)\[[^]]*\]\()(?!\w+:|#)", rf"\1{REPOSITORY}/blob/HEAD/", text)


setup(
    packages=[
        *find_packages(include=["gradscope", "gradscope.*"]),
        "gradscope_cli",
        *(f"gradscope_cli.{name}" for name in find_packages("cli")),
    ],
    package_dir={"gradscope_cli": "cli"},
    long_description=index_page(),
    long_description_content_type="text/markdown",
)
