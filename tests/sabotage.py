"""Takes one handling out of the code at a time and runs the test that has to notice: python -m tests.sabotage.

Each piece stands in the file exactly once; a copy of the tree is changed, never the tree. Writes sabotage.json:
what was taken out, the test, and whether it failed; what was noticed before is not tried again without --again. A
handling whose test still passes is not tested.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

RESULTS = Path(__file__).parent / "sabotage.json"


@dataclass(frozen=True)
class Sabotage:
    """``piece`` of ``file`` becomes ``instead``; then ``test`` (arguments of pytest) has to fail."""

    what: str
    file: str
    piece: str
    instead: str
    test: str


_HURT = "tests/store/test_hostile_records.py -k "
_STORE, _LIVE = "gradscope/store/", "gradscope/report/live/web.py"
#: What opens regular files only, and what would open anything.
_ANYTHING = "    try:\n        found = path.lstat().st_mode\n"
_OPENED = "    return os.open(path, flags | os.O_CLOEXEC, 0o666)\n" + _ANYTHING
SABOTAGES = (
    Sabotage("texts are counted", _STORE + "bounds.py", "total > min(MOST_TEXT, view.held)", "False",
             _HURT + "one_text_many_times"),
    Sabotage("texts are no more than so many", _STORE + "bounds.py", "item.size > MOST_TEXTS", "False",
             _HURT + "more_texts"),
    Sabotage("what HDF5 reads has no more chunks than are stored", _STORE + "bounds.py", "len(stored) < expected",
             "False", _HURT + "events_that_were_never"),
    Sabotage("what HDF5 reads inflates to no more than its chunk", _STORE + "bounds.py",
             "max(stored, default=0) > 2 * size + 4096", "False", _HURT + "events_that_inflate"),
    Sabotage("variables claim no more than their bytes", _STORE + "bounds.py",
             "total > SLACK + MOST_PER_BYTE * held", "False", _HURT + "a_wide_variable"),
    Sabotage("a chunk inflates to its own size", _STORE + "chunks.py", "stream.decompress(data, size + 1)",
             "stream.decompress(data)", _HURT + "a_chunk_that_inflates"),
    Sabotage("rot in a chunk is told", _STORE + "chunks.py", "checksum(data) != told", "False",
             "tests/store/test_checksums.py"),
    Sabotage("holes of a file are not its bytes", _STORE + "regular.py",
             "size = os.fstat(descriptor).st_size\n    held",
             "return os.fstat(descriptor).st_size\n    held", _HURT + "sparse"),
    Sabotage("chunks are bounded", _STORE + "bounds.py", "size > CHUNK_BYTES and size > held", "False",
             _HURT + "chunks_of_gigabytes"),
    Sabotage("attributes are counted", _STORE + "bounds.py", "len(item.attrs) > MOST_ATTRIBUTES", "False",
             _HURT + "many_attributes"),
    Sabotage("attributes are bounded", _STORE + "bounds.py",
             "count > (MOST_AXES if texts else _FIXED) or known.get_storage_size() > _FIXED * (1 if texts else 8)",
             "False",
             _HURT + "attributes_that_share"),
    Sabotage("attributes are numbers or texts", _STORE + "bounds.py", "if not isinstance(kind, PLAIN):", "if False:",
             _HURT + "attribute_of_references"),
    Sabotage("lists of dimensions are such lists", _STORE + "bounds.py", "and kind.encode()[3] == 0", "",
             _HURT + "dimensions_of_an_unknown"),
    Sabotage("variables are numbers or texts", _STORE + "validation.py",
             "if not isinstance(item.id.get_type(), bounds.PLAIN):", "if False:", _HURT + "texts_of_an_unknown"),
    Sabotage("chunks hold more than their checksum", _STORE + "bounds.py",
             "min(stored, default=size) <= CHECKSUM_BYTES * (h5py.h5z.FILTER_FLETCHER32 in filters(item))", "False",
             _HURT + "no_bytes"),
    Sabotage("heaps have an end", _STORE + "heaps.py", "        if not size:\n", "        if False:\n",
             _HURT + "free_space_is_nothing"),
    Sabotage("columns of a table are of one length", _STORE + "validation.py",
             "len(shapes) != 1 or len(shapes.pop()) != 1", "False", _HURT + "different_lengths"),
    Sabotage("members are counted", _STORE + "validation.py",
             "len(group) > bounds.MOST_LINKS", "False", _HURT + "many_m"),
    Sabotage("values of JSON are counted", _STORE + "bounds.py",
             'text.count(",") + text.count("[") + text.count("{") > MOST_VALUES', "False", _HURT + "many_values"),
    Sabotage("JSON is read to some depth", _STORE + "bounds.py", "for _ in range(DEEPEST):", "while True:",
             _HURT + "json_just_as_deep"),
    Sabotage("links are not followed", _STORE + "validation.py",
             "not isinstance(group.get(name, getlink=True), h5py.HardLink)", "False",
             _HURT + "link_to_another or soft"),
    Sabotage("nothing is stored elsewhere", _STORE + "validation.py", "item.external or item.is_virtual", "False",
             _HURT + "virtual or elsewhere"),
    Sabotage("pipes are not waited for", _STORE + "regular.py", _ANYTHING, _OPENED, _HURT + "pipe_for_a_log"),
    Sabotage("a log links nowhere", _STORE + "regular.py", _ANYTHING, _OPENED, _HURT + "link_for_a_log"),
    Sabotage("a log knows its record", _STORE + "redo_log.py",
             "any(byte not in pair for byte, *pair in zip(here, stamp.before, stamp.after, strict=True))", "False",
             "tests/store/test_log.py -k another_record"),
    Sabotage("a log knows the state of its record", _STORE + "redo_log.py",
             'return stamp.before != _NONE or _holds_only(transaction, descriptor, length)', "return True",
             "tests/store/test_log.py"),
    Sabotage("a record is one file, however it is spelled", _STORE + "regular.py", "os.path.realpath(path) + suffix",
             "str(path) + suffix", "tests/store/test_log.py -k any_spelling"),
    Sabotage("a user's own file is not touched", _STORE + "redo_log.py",
             "return start in (_MAGIC, _WITHOUT_STAMP) or (bool(start) and not any(start))", "return True",
             "tests/store/test_log.py -k users_own_file"),
    Sabotage("files get the user's umask", _STORE + "regular.py", "os.O_CLOEXEC, 0o666)", "os.O_CLOEXEC, 0o600)",
             "tests/store/test_log.py -k umask"),
    Sabotage("a lost folder is told", "gradscope/restart/history.py", "_identity(self.folder) == self._identity",
             "True", "tests/restart/test_axe.py -k folder_that_goes"),
    Sabotage("the folder is held beside the .alive file", "gradscope/processes/detached.py",
             "return holds_a_training(self._folder)", "return False", "tests/restart/test_axe.py -k deleted_beside"),
    Sabotage("a worker ends with its search", "gradscope/processes/worker.py", "    watch.start()\n", "",
             "tests/restart/test_axe.py -k leaves_no_traceback"),
    Sabotage("an interrupt of a sink's is its own", "gradscope/recording/sink_thread.py",
             "except BaseException as error:", "except Exception as error:",
             "tests/recording/test_sinks_that_fail.py -k raises"),
    Sabotage("what waits for a sink is bounded", "gradscope/recording/sink_thread.py",
             "self._queue.qsize() < (WAITING if act in (self._show, self._sink.histograms) else 100 * WAITING)", "True",
             "tests/recording/test_sinks_that_fail.py -k bounded"),
    Sabotage("sinks are waited for together", "gradscope/recording/sink_thread.py",
             "max(0.0, deadline - time.monotonic())", "PATIENCE",
             "tests/recording/test_sinks_that_fail.py -k together"),
    Sabotage("words are inert", "gradscope/card.py", "    if not text.isprintable():", "    if False:",
             "tests/report/test_shown.py"),
    Sabotage("markup is inert", "gradscope/card.py", "return escaped(plain(text, LONG))", "return plain(text, LONG)",
             "tests/report/test_shown.py -k card"),
    Sabotage("long words are cut", "gradscope/card.py", "most is not None and len(text) > most", "False",
             "tests/report/test_shown.py"),
    Sabotage("a cell is no formula", "gradscope/export/csv.py", "value.startswith(_FORMULA)", "False",
             "tests/report/test_shown.py -k formula"),
    Sabotage("TensorBoard is given no links", "gradscope/export/tensorboard.py", '.replace("](", "]\\\\(")', "",
             "tests/report/test_shown.py -k tensorboard"),
    Sabotage("the page asks for Host", _LIVE, "len(hosts) == 1\n            and hosts[0] in ours\n            and ", "",
             "tests/report/test_shown.py -k served"),
    Sabotage("the page asks for Origin", _LIVE,
             'all(origin in {f"http://{name}:{port}" for name in NAMES} for origin in origins)', "True",
             "tests/report/test_shown.py -k served"),
    Sabotage("silent connections are closed", _LIVE, "timeout = IDLE", "timeout = None",
             "tests/report/test_shown.py -k say_nothing"),
    Sabotage("connections are counted", _LIVE, "full = len(self._connections) >= MOST", "full = False",
             "tests/report/test_shown.py -k so_many"),
)  # fmt: skip


def noticed(one: Sabotage, copy: Path) -> bool:
    """Whether the test fails without the handling. Raises `ValueError` where the piece does not stand there once."""
    path = copy / one.file
    sound = path.read_text(encoding="utf-8")
    if sound.count(one.piece) != 1:
        raise ValueError(f"{one.what}: {one.file} holds the piece {sound.count(one.piece)} times")
    path.write_text(sound.replace(one.piece, one.instead), encoding="utf-8")
    try:
        return _failed(one, copy)
    finally:
        path.write_text(sound, encoding="utf-8")


def _failed(one: Sabotage, copy: Path) -> bool:
    file, *chosen = one.test.split(" ", 2)
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, *chosen]
    environment = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{copy / 'links'}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return True  # it waits for ever without it
    if done.returncode not in (0, 1):
        raise ValueError(f"{one.what}: pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="those whose words hold this")
    parser.add_argument("--again", action="store_true", help="also what was noticed before")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("gradscope", "cli", "tests", "analyses", "docs"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "links").mkdir()
        (copy / "links" / "gradscope_cli").symlink_to(copy / "cli")
        for one in SABOTAGES:
            known = results.get(one.what, {"noticed": False})["noticed"] and not options.again
            if options.only in one.what and not known:
                found = noticed(one, copy)
                results[one.what] = {"file": one.file, "test": one.test, "noticed": found}
                print("ok " if found else "NOT NOTICED", one.what, flush=True)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
