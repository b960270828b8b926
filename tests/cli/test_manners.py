"""How every command behaves, found from the app itself: a new command is held to it as well."""

from __future__ import annotations

import ast
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from gradscope_cli import output
from gradscope_cli.main import app, run

import gradscope
from gradscope import InputError
from tests.helpers.paths import ROOT

TREE: Any = typer.main.get_command(app)
COMMANDS = sorted(TREE.commands)
BESIDE = {"plot": ["--figure", "loss"], "export": ["--to", "csv"], "compare": ["nowhere.h5"]}
#: Commands that read records, and what has to be given beside the record.
READING = {
    name: BESIDE.get(name, [])
    for name, command in TREE.commands.items()
    if any(p.param_type_name == "argument" and p.name in ("run", "runs", "path", "record") for p in command.params)
}


def options(name: str) -> set[str]:
    return {text for made in TREE.commands[name].params for text in (*made.opts, *made.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_and_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = TREE.commands[name]
    assert command.help
    assert command.epilog
    assert command.epilog.startswith(f"Example: gradscope {name}")
    assert run([name, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "Example: gradscope" in captured.out
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_can_be_parsed(name: str) -> None:
    """The options of the example exist."""
    words = TREE.commands[name].epilog.split(" -- ")[0].split()[3:]
    for word in words:
        if re.fullmatch(r"--?[a-z][a-z-]*", word):
            assert word in options(name), f"the example of {name} has {word}"


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_everywhere(name: str) -> None:
    assert "--json" in options(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_narrow_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    assert run([name, "--help"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 50 or len(line.split()) <= 2, line  # the narrowest that click lays out


@pytest.mark.parametrize("name", COMMANDS)
def test_no_color(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert run([name, "--help"]) == 0
    assert run([name, "--no-such-option"]) == 2
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--no-such-option"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("gradscope: ")
    assert f"gradscope {name} --help" in captured.err


@pytest.mark.parametrize("name", sorted(set(READING) - {"watch"}))  # watch waits for a file that is not there yet
def test_a_record_that_is_not_there_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([name, "nowhere.h5", *READING[name]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nowhere.h5" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("inside", ["Python", "HDF5"])
@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_is_130(
    name: str, inside: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if inside == "HDF5":  # which says something else then, as if the file were damaged
                raise InputError("a lock returned a result with an exception set") from None
            raise

    needed = [p for p in TREE.commands[name].params if p.required]
    words = [word for p in needed for word in ([p.opts[0], "1"] if p.param_type_name == "option" else ["1"])]
    monkeypatch.setattr(TREE.commands[name], "callback", interrupted)
    monkeypatch.setattr("gradscope_cli.main.app", TREE)
    assert run([name, *words]) == 130
    assert capsys.readouterr() == ("", "gradscope: interrupted\n")


def test_every_sentence_that_advises_a_call_names_one_that_exists() -> None:
    """Commands and options in the texts of the code: "gradscope search --delayed", "with --max-trials"."""
    every = {option for name in COMMANDS for option in options(name)}
    others = {
        "--help",
        "--version",
        "--weight-decay",
        "--force-reinstall",
        "--no-deps",
        "--logdir",
        "--only",
    }  # of others, and of analyses
    found = 0
    for path in [*ROOT.glob("gradscope/**/*.py"), *ROOT.glob("cli/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value):
                assert option in every | others, f"{path}: {option}"
            for name, given in re.findall(r"\bgradscope ([a-z]+)((?: --[a-z-]+)+)", node.value):
                assert name in COMMANDS and set(given.split()) <= options(name), f"{path}: gradscope {name}{given}"
                found += 1
    assert found > 5


def test_the_list_of_commands_shows_whole_summaries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out.partition("Commands:")[2]
    assert "..." not in shown
    assert sum(name in shown for name in COMMANDS) == len(COMMANDS)


def test_no_help_loads_anything_heavy() -> None:
    lines = [f"assert run([{name!r}, '--help']) == 0" for name in COMMANDS]
    code = "\n".join(["import sys", "from gradscope_cli.main import run", *lines, "print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"torch", "matplotlib", "bokeh", "h5py", "xarray", "numpy", "scipy", "sklearn"}


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"gradscope {gradscope.__version__}\n"
    assert run([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diagnos"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the script of ``gradscope --install-completion`` asks for at a press of the tab key."""
    monkeypatch.setenv("_GRADSCOPE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "gradscope dia")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "gradscope dia")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    with pytest.raises(SystemExit) as done:
        run(["--help"])
    assert not done.value.code
    assert "diagnose" in capsys.readouterr().out


class Terminal(io.StringIO):
    """Standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_messages_break_between_words_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(["inspect", "/no/such/folder/with/a/long/name/run.h5"]) == 2
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 40 or len(line.split()) == 1 for line in lines)
    assert "/no/such/folder/with/a/long/name/run.h5" in terminal.getvalue()


def test_json_of_numbers_that_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5]}
