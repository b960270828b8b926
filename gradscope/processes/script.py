"""Run a Python script in a process that has imported torch already, as an interpreter of its own would run it.

A `Stem` is a fork in which nothing has run yet. It becomes the script: its own ``__main__``, arguments, folder, path,
environment, output, signals and end. Where that would differ from a fresh start, it starts one in its place.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import io
import os
import pickle
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, NoReturn

from gradscope.processes.child import Child, start_child, starting
from gradscope.types import InputError

#: Seconds between two looks at a child that is waited for until a moment.
LOOK = 0.02


@dataclass(frozen=True)
class Script:
    """``python [-u] FILE …`` or ``python [-u] -m MODULE …``: what the interpreter is told to run.

    Attributes:
        name: of the file or module.
        is_module: whether it is a module.
        words: the whole command.
        arguments: what follows the name.
    """

    name: str
    is_module: bool
    words: tuple[str, ...]
    arguments: tuple[str, ...]

    @classmethod
    def parse(cls, words: Sequence[str]) -> Script:
        """Parse a command.

        Args:
            words: the command.

        Returns:
            The script.

        Raises:
            InputError: the command needs an interpreter of its own; it says why.
        """
        if not _is_this_python(words[0]):
            raise InputError(f"{words[0]} is not the Python that gradscope runs in")
        rest = list(words[1:])
        if rest[:1] == ["-u"]:
            del rest[0]
        is_module = rest[:1] == ["-m"] and len(rest) > 1
        if is_module:
            del rest[0]
        if not rest or rest[0].startswith("-"):
            raise InputError("it is not python FILE or python -m MODULE")
        if not is_module and not Path(rest[0]).is_file():
            raise InputError(f"{rest[0]} is no file")
        return cls(rest[0], is_module, tuple(words), tuple(rest[1:]))

    def hidden(self) -> str | None:
        """Find a module beside the script which a fresh interpreter might import, while another is loaded here."""
        if self.is_module:
            folder = Path.cwd()
        else:
            folder = Path(self.name).resolve().parent
        loaded = {name.partition(".")[0] for name in sys.modules} - {"__main__"}
        ours = {str(Path(p).resolve()) for p in sys.path}
        if str(folder) in ours:
            return None  # so it was found there in the first place
        for found in folder.iterdir():
            suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
            name = next((found.name.removesuffix(s) for s in suffixes if found.name.endswith(s)), found.name)
            if name in loaded and (found.is_file() or (found / "__init__.py").exists()):
                return found.name
        return None

    def run(self) -> NoReturn:
        """Run it as ``__main__`` in this process, and end the process as its interpreter would end."""
        before = set(sys.modules)
        code = self._code()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
        atexit._run_exitfuncs()
        _take_apart([sys.modules["__main__"], *(sys.modules[name] for name in set(sys.modules) - before)])
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code & 0xFF)

    def _code(self) -> int:
        """Run it and return its exit code, below 0 for the signal that it ends by."""
        sys.orig_argv = list(self.words)
        sys.argv = [self.name, *self.arguments]
        if "-u" in self.words[:2]:
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        if not os.environ.get("PYTHONSAFEPATH"):
            sys.path.insert(0, os.getcwd() if self.is_module else os.path.dirname(os.path.realpath(self.name)))  # noqa: PTH109, PTH120
        main = sys.modules["__main__"] = ModuleType("__main__")
        main.__dict__.update(__builtins__=builtins, __annotations__={})
        try:
            if self.is_module:
                runpy._run_module_as_main(self.name)  # type: ignore[attr-defined]  # what ``python -m`` calls
            else:
                self._run_file(main)
        except SystemExit as error:
            if error.code is None or isinstance(error.code, int):
                return error.code or 0
            print(error.code, file=sys.stderr)
            return 1
        except BaseException as error:  # printed as the interpreter does, without our own frames
            trace = _below(error.__traceback__)
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        return 0

    def _run_file(self, main: ModuleType) -> None:
        path = os.path.abspath(self.name)  # noqa: PTH100 (links stay as they are)
        main.__dict__.update(__file__=path, __loader__=SourceFileLoader("__main__", path), __cached__=None)
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)


def why_cold(words: Sequence[str]) -> str | None:
    """Return why every run of this command starts an interpreter of its own; None where it can be forked."""
    try:
        Script.parse(words)
    except InputError as error:
        return str(error)
    return "CUDA does not survive a fork" if devices_here() else None


def devices_here() -> list[str]:
    """Return the CUDA devices of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(k) for k, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def _is_this_python(word: str) -> bool:
    found = shutil.which(word)
    if found is None:
        return False
    here = Path(sys.executable)
    return Path(os.path.abspath(found)).parent == here.parent and os.path.samefile(found, here)  # noqa: PTH100, PTH121


def _take_apart(modules: Sequence[ModuleType]) -> None:
    """Release what the script holds: files are flushed by their end. What was there before stays, to save seconds."""
    for module in modules:
        for name in [name for name in vars(module) if name != "__builtins__"]:
            vars(module)[name] = None
    gc.collect()


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that lies in the script."""
    own = (__file__, runpy.__file__)
    while trace is not None and (trace.tb_frame.f_code.co_filename in own or "frozen runpy" in str(trace.tb_frame)):
        trace = trace.tb_next
    return trace


class BecomesError(BaseException):
    """Raised in a stem once it knows its script: up to the outermost frame, where ``script.run()`` is to be called.

    Args:
        script: what to run.
    """

    def __init__(self, script: Script) -> None:
        self.script = script


class Forked:
    """Child that was forked, not started: what `subprocess.Popen` is to `run_child`.

    Args:
        pid: of the process.

    Attributes:
        pid: of the process.
        returncode: its exit code, None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Args:
            timeout: seconds, None for any number.

        Returns:
            Its exit code, below 0 for a signal.

        Raises:
            TimeoutExpired: it still runs then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            found, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            else:
                time.sleep(LOOK)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Stem:
    """Fork of this process that waits for its script. To be made before the process has a second thread.

    A context manager: inside, `run_child` starts children by it.

    Args:
        held: a connection of this process, which the fork closes.
    """

    def __init__(self, held: Connection) -> None:
        ours, theirs = socket.socketpair()
        self._child = Forked(os.fork())
        if not self._child.pid:
            ours.close()
            held.close()
            _wait(theirs)
        theirs.close()
        self._socket: socket.socket | None = ours

    def __enter__(self) -> None:
        self._meanwhile = contextlib.ExitStack()
        self._meanwhile.enter_context(starting(self._start))

    def __exit__(self, *error: object) -> None:
        self._meanwhile.close()
        if self._socket is not None:  # no script has come
            self._socket.close()
            self._child.wait()

    def _start(self, words: Sequence[str], environment: Mapping[str, str], log: IO[bytes]) -> Child:
        """Start a command: a script in the stem, if it is still free; anything else as ever."""
        try:
            script = Script.parse(words)
        except InputError:
            return start_child(words, environment, log)
        if self._socket is None:
            return start_child(words, environment, log)
        with self._socket as there:
            self._socket = None
            socket.send_fds(there, [b"."], [log.fileno()])
            there.sendall(pickle.dumps((script, dict(environment))))
        return self._child


def _wait(there: socket.socket) -> None:
    """Wait in the stem: become the script that is told, or end if none is."""
    with there:
        told, descriptors, *_ = socket.recv_fds(there, 1, 1)
        packed = b"".join(iter(lambda: there.recv(1 << 16), b"")) if told else b""
    if not packed:
        os._exit(0)
    script, environment = pickle.loads(packed)
    for output in (1, 2):
        os.dup2(descriptors[0], output)
    os.close(descriptors[0])
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if script.hidden() is not None:
        os.execvpe(script.words[0], script.words, environment)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as a fresh one is; Python's own has been
    raise BecomesError(script)
