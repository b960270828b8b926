"""What mkdocs does beside rendering: the pages that are made from the code, and links that leave docs/."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent
_LINK = re.compile(r"(?<!\!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in what is generated, and turn links to files outside docs/ into their paths."""
    source = page.file.src_uri
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n".join(command_reference()))
    if "<!-- decisions -->" in markdown:
        markdown = markdown.replace("<!-- decisions -->", "\n".join(decisions()))

    def inside(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if "://" in target or not path.startswith(".."):
            return match[0]
        return f"{text} (`{path.removeprefix('../')}` in the repository)"

    return _LINK.sub(inside, markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Load nothing from the network: the theme takes a shim for its search from there, and counts a repository's stars.

    Without the shim the theme hides its search where a page is read from disk.
    """
    there = posixpath.relpath("site/iframe-worker.js", posixpath.dirname(page.url) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", there).replace(' data-md-component="source"', "")


def decisions() -> Iterator[str]:
    """The notes, by number."""
    for note in sorted((DOCS / "decisions").glob("*.md")):
        title = note.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        yield f"* [{title}](decisions/{note.name})"


def command_reference() -> Iterator[str]:
    """Every command of the command line, from its own declaration."""
    import typer
    from gradscope_cli.main import app

    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        yield f"## gradscope {name}\n"
        context = type(command).context_class(command, info_name=f"gradscope {name}")
        yield "```text\n" + " ".join([f"gradscope {name}", *command.collect_usage_pieces(context)]) + "\n```\n"
        yield _plain(command.help or "") + "\n"
        rows = [row for p in command.params if (row := _row(p, context))]
        if rows:
            yield "| argument or option | meaning |\n|---|---|"
            yield "\n".join(rows) + "\n"
        if command.epilog:
            example = command.epilog.removeprefix("Example: ")
            yield f"```text\n{example}\n```\n"


def _row(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        name, help_text = f"`{' '.join(parameter.get_usage_pieces(context))}`", parameter.help or ""
    else:
        record = parameter.get_help_record(context)
        if record is None:
            return ""
        name, help_text = f"`{record[0]}`", record[1]
    cells = [" ".join(_plain(cell).split()).replace("|", "\\|") for cell in (name, help_text)]
    return f"| {cells[0]} | {cells[1]} |"


def _plain(text: str) -> str:
    return text.replace("\b", "").strip()
