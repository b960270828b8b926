"""Write docs/rules.md from the catalogue."""

from __future__ import annotations

import inspect
from typing import Any

from gradscope.diagnosis.rules import catalogue
from gradscope.diagnosis.rules.options import Rule


def page() -> str:
    """Write the part of docs/rules.md that follows from the catalogue."""
    return "\n\n".join(_section(rule) for rule in catalogue.RULES.values())


def _section(rule: Rule) -> str:
    lines = [f"### `{rule.name}`", "", inspect.cleandoc(rule.look.__doc__ or ""), ""]
    lines += ["| option | default | meaning | source |", "|---|---|---|---|"]
    for name, option in rule.options.items():
        meaning = option.meaning
        if name == "patience" and rule.samples != "rows":
            meaning = meaning.replace("samples", rule.samples)
        lines.append(f"| `{name}` | {option.default:g} | {meaning} | {option.source} |")
    lines += ["", f"After: {rule.sources}.", ""]
    for need in rule.needs:
        names = " or ".join(f"`{name}`" for name in need.names)
        lines.append(f"* without {names}: {need.without}")
    return "\n".join(lines)


def listing() -> list[dict[str, Any]]:
    """Return the catalogue as plain values, as ``gradscope diagnose --list-rules --json`` prints it."""
    return [
        {
            "rule": rule.name,
            "what": summary(rule),
            "options": {
                name: {"default": option.default, "meaning": option.meaning, "source": option.source}
                for name, option in rule.options.items()
            },
            "sources": rule.sources,
        }
        for rule in catalogue.RULES.values()
    ]


def summary(rule: Rule) -> str:
    """Return the first sentence of what a rule is about."""
    return " ".join(inspect.cleandoc(rule.look.__doc__ or "").split("\n\n")[0].split())
