"""gradscope diagnose: verdict, evidence, onset, layers, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from gradscope_cli.output import Json, print_json, say, tell

from gradscope.types import InputError

if TYPE_CHECKING:
    from gradscope.diagnosis.rules.checker import Checker
    from gradscope.diagnosis.verdict import Diagnosis


def diagnose(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Records, finished or still being written.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow one running record until it ends, telling each change.")] = False,
    rules: Annotated[
        str, typer.Option(metavar="NAME,...|all|none", help="The rules beside the verdict that are looked at.")
    ] = "all",
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="RULE.OPTION=VALUE", help="Set an option of a rule.")
    ] = None,
    list_rules: Annotated[bool, typer.Option("--list-rules", help="Print the rules, their options and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a recorded run learns; if not, why and what to do.

    Exits with 3 if a learning failure was found in any run; what the rules find beside the verdict changes nothing
    in that.
    """
    from gradscope.diagnosis.rules.catalogue import chosen, parse_changes, parse_names

    if list_rules:
        _list_rules(as_json)
        return
    wanted = chosen(parse_names(rules), parse_changes(changes or []))
    if not runs:
        raise InputError("no record was given; expected at least one, such as gradscope diagnose run.h5")
    from gradscope.diagnosis.cost import costs
    from gradscope.reading import finished, judged
    from gradscope.store.record import Record

    if follow:
        if len(runs) != 1:
            raise InputError(f"{len(runs)} records were given; --follow takes one")
        _follow(runs[0])
    found = []
    for path in runs:
        with Record(path) as record:
            found.append((path, *judged(record, wanted)))
    told = costs([finished(path, d.failed) for path, d, _ in found]) if len(found) > 1 else []
    if as_json:
        print_json({"runs": [_as_dict(path, diagnosis, checker) for path, diagnosis, checker in found], "costs": told})
    else:
        for path, diagnosis, checker in found:
            first, *rest = diagnosis.lines
            for line in (f"{path}: {first}", *rest):
                tell(line)
            for left in checker.not_checked():
                tell(f"  not checked, {left.rule}: {left.why}")
        for line in told:
            tell(line)
    if any(diagnosis.failed for _, diagnosis, _ in found):
        raise typer.Exit(3)


def _as_dict(path: Path, diagnosis: Diagnosis, checker: Checker) -> dict[str, Any]:
    return {
        "path": str(path),
        **diagnosis.as_dict(),
        "findings": [finding.as_dict() for finding in diagnosis.findings],
        "not_checked": [left.as_dict() for left in checker.not_checked()],
    }


def _list_rules(as_json: bool) -> None:
    from gradscope.diagnosis.rules.page import listing

    if as_json:
        print_json({"rules": listing()})
        return
    for rule in listing():
        tell(f"{rule['rule']}: {rule['what']}")
        for name, option in rule["options"].items():
            tell(f"  {rule['rule']}.{name}={option['default']:g}  {option['meaning']} ({option['source']})")


def _follow(path: Path) -> None:
    """Tell each change of the verdict as the rows come, until the run has ended."""
    from gradscope.diagnosis.judge import Judge
    from gradscope.quantities import JUDGED
    from gradscope.store.follow import follow
    from gradscope.store.record import Record

    judge, told = None, ""
    for block in follow(path, JUDGED):
        if judge is None:
            with Record(path) as record:
                judge = Judge(record.info)
        judge.update(block)
        diagnosis = judge.diagnosis()
        if diagnosis.verdict != told:
            told = diagnosis.verdict
            say(f"step {int(block['step'][-1])}: {diagnosis.sentence}")
