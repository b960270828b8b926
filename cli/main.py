"""Entry point: commands, exit codes, and one clear line for every mistake."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from gradscope_cli import commands
from gradscope_cli.output import say, signs_of_life

from gradscope import __version__
from gradscope.extras import missing_for
from gradscope.store.interrupts import noted_interrupts
from gradscope.types import InputError

INTERRUPTED = 130
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)

app = typer.Typer(
    name="gradscope",
    help="Why a regularised PyTorch training run does not learn, and what to do about it.",
    epilog="Example: gradscope diagnose run.h5",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradscope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Why a regularised PyTorch training run does not learn, and what to do about it."""


commands.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0, 2 (unusable input), 3 (learning failure) or 130 (interrupted)."""
    code = run(arguments)
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it has been said
    if code == INTERRUPTED and threading.active_count() > 1:
        # Threads that still end trials, say: whoever has interrupted twice waits for nobody, and the trials end by
        # themselves when they find that we are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if not (sys.argv[1:] if arguments is None else arguments):
        arguments = ["--help"]
    try:
        with noted_interrupts() as interrupts, signs_of_life() if _takes_long(arguments) else nullcontext():
            code: Any = app(args=arguments, prog_name="gradscope", standalone_mode=False)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if interrupts:
            return _interrupted()
        if isinstance(error, InputError):
            return _complain(str(error))
        if os.environ.get("GRADSCOPE_TRACEBACK"):
            raise
        if isinstance(error, ImportError) and (said := missing_for("this", error)):
            return _complain(said)
        # typer ships click, or has it beside it, depending on its version: known by what it can do.
        if type(error).__name__ == "Abort":
            return _interrupted()
        if hasattr(error, "format_message"):
            where = getattr(getattr(error, "ctx", None), "command_path", "gradscope")
            takes_command = where.split()[-1] in ("run", "search", "suggest", "tune")
            hint = "; the training command goes after --" if takes_command else ""
            return _complain(f"{error.format_message().rstrip('.')} (see {where} --help{hint})")
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in EXHAUSTED):
            what = os.strerror(error.errno or 0) if isinstance(error, OSError) else "out of memory"
            return _complain(f"{what.lower()}: the machine gives no more; free some of it, and try again")
        if isinstance(error, KeyError) and "No variable named" in str(error):  # xarray's words
            name = str(error).split("No variable named ")[1].split(".")[0].strip("'\"\\")
            return _complain(f"the record holds no variable {name!r}, which this command needs; was it changed?")
        return _complain(
            f"unexpected {type(error).__name__}: {error}; please report it with what GRADSCOPE_TRACEBACK=1 shows"
        )
    if code == INTERRUPTED:  # what typer makes of Ctrl-C, without a word, where it is the one to catch it
        return _interrupted()
    return code if isinstance(code, int) else 0


def _takes_long(arguments: list[str] | None) -> bool:
    """Return whether the command works for minutes without a picture that shows it."""
    return bool({"demo", "export", "run", "search", "suggest", "tune"} & set((arguments or sys.argv[1:])[:1]))


def _complain(message: str) -> int:
    say("gradscope: " + " ".join(message.split()))
    return 2


def _interrupted() -> int:
    say("gradscope: interrupted")
    return INTERRUPTED


if __name__ == "__main__":
    main()
