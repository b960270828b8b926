"""A search that begins where probes predict the level."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradscope_cli.main import run as cli

import gradscope
from gradscope import InputError
from gradscope.prediction.ask_tell import FREE, LATE, ROWS, Prober
from gradscope.tolerance.ask_tell import ToleranceSearch
from gradscope.tolerance.posterior import SURE, Posterior, Predicted
from gradscope.tolerance.prior_from_probes import _Gate, worth_predicting
from gradscope.trials.journal import Journal
from gradscope.trials.runner import Runner
from gradscope.trials.trial import Outcome, Trial
from tests.helpers.loops import a_deep_net as train
from tests.helpers.paths import ROOT
from tests.helpers.probes import Knowing, a_probe

KNOWN = Predicted.from_interval(0.05, 0.05 * 10**0.375)


# -- the prior --------------------------------------------------------------------------------------


def test_the_density_of_a_prediction() -> None:
    """Against the definition, point by point; it integrates to 1 where the grid holds the normal curve."""
    x = np.linspace(-5.0, 1.0, 6001)
    density = np.exp(KNOWN.log_density(x))
    assert float(np.trapezoid(density, x)) == pytest.approx(1.0, abs=1e-4)
    mean, spread = math.log10(0.05), 0.375 / 1.96
    for at in (0, 1000, 3699, 4000):
        normal = math.exp(-0.5 * ((x[at] - mean) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        assert density[at] == pytest.approx(SURE * normal + (1 - SURE) / 6.0)


def test_a_posterior_with_a_prediction_against_a_slow_twin() -> None:
    flat, known = Posterior(1e-4, 1.0), Posterior(1e-4, 1.0, predicted=KNOWN)
    for outcome in (Outcome(0.1, 1.0), Outcome(0.01, 0.02, early=True)):
        flat.update(outcome)
        known.update(outcome)
    by_hand = flat.weights * np.exp(KNOWN.log_density(flat.level))[:, None]
    assert np.allclose(known.weights, by_hand / by_hand.sum(), atol=1e-15)


def simulated(predicted: Predicted | None, number: int, level: float) -> tuple[int, bool]:
    """Trials of a search to .34 decades, and whether its interval holds the level."""
    random, search = np.random.default_rng(number), ToleranceSearch(1e-4, 1.0, precision=0.34, seed=number)
    if predicted is not None:
        search.expect(predicted)
    while not search.done:
        plan = search.ask()
        fails = random.random() < 0.5 * math.erfc(-(math.log10(plan.strength) - level) / 0.03 / math.sqrt(2))
        search.tell(plan.over(0.98 if fails else 0.02, 120, stopped_early=True))
    found = search.estimate()
    assert found.low is not None
    assert found.high is not None
    return len(search.told), found.low <= 10**level <= found.high


def test_a_prediction_saves_trials_and_a_wrong_one_costs_no_truth() -> None:
    level = math.log10(0.05)
    for error, most in ((0.0, 5.5), (0.2, 6.5), (1.0, 14.0)):
        known = Predicted(level + error, KNOWN.spread)
        found = [simulated(known, number, level) for number in range(12)]
        assert float(np.mean([trials for trials, _ in found])) < most, error
        assert all(held for _, held in found), error
    flat = [simulated(None, number, level)[0] for number in range(12)]
    assert 7 < float(np.mean(flat)) < 10


def test_a_prediction_counts_the_same_whenever_it_comes() -> None:
    """Beside the first trials it comes late."""
    searches = [ToleranceSearch(1e-4, 1.0), ToleranceSearch(1e-4, 1.0)]
    searches[0].expect(KNOWN)
    for search in searches:
        search.tell(Trial(0, 0.01, 0).over(0.02, 100, stopped_early=True))
        search.tell(Trial(1, 0.1, 1, audit=True).over(1.0, 300, early_failed=True))
    searches[1].expect(KNOWN)
    assert np.allclose(searches[0].posterior.weights, searches[1].posterior.weights, atol=1e-14)


def test_what_is_worth_predicting() -> None:
    assert worth_predicting("l2", 1e-3, 1.0, scripts=True)
    assert worth_predicting("l1", 1e-3, 1.0, scripts=True)
    assert not worth_predicting("l2", 0.1, 1.0, scripts=True)
    assert not worth_predicting("linf", 1e-3, 1.0, scripts=True)
    assert not worth_predicting("l2", 1e-3, 1.0, scripts=False)
    assert worth_predicting("l2", 0.0, 1.0, scripts=True)  # which is refused in words of its own


def test_probes_that_would_cost_as_much_as_trials_are_not_run() -> None:
    late = Prober({"direct": Knowing(0.05)}, quick=True, horizon=400)
    for expected in (FREE, LATE):
        plan = late.ask()
        assert plan.steps == expected
        late.tell(plan, a_probe(0.0, plan.steps, loss=np.full(plan.steps, 2.3)))
    assert late.done
    assert "probes would cost as much as trials" in late.reason
    short = Prober({"direct": Knowing(0.05)}, quick=True, horizon=100)
    short.tell(short.ask(), a_probe(0.0, 20))
    assert short.done
    assert "a run has 100 steps" in short.reason


# -- beside the first trials ------------------------------------------------------------------------


class Slow:
    """An executor's worth of futures that the test ends itself."""

    def __init__(self) -> None:
        self.open: list[tuple[Trial, Future[Trial]]] = []

    def start(self, _executor: Any, plan: Trial, _path: Path) -> Future[Trial]:
        self.open.append((plan, Future()))
        if len(self.open) == 2:  # the second place was not taken until the probes were over
            assert self.probes.done()
        if not self.probes.done():
            self.probes.set_result("predicted")
        future = self.open[-1][1]
        failed = plan.strength > 0.03
        future.set_result(plan.over(float(failed), 100, verdict="collapsed" if failed else "healthy",
                                    fingerprint=(float(plan.seed),), stopped_early=True))  # fmt: skip
        return future

    probes: Future[str] = Future()


def test_probes_take_the_place_of_one_trial(tmp_path: Path) -> None:
    journal, slow = Journal(tmp_path, {"command": "x"}), Slow()
    slow.probes = Future()
    heard: list[Any] = []
    search = ToleranceSearch(1e-3, 1.0, max_trials=4)
    runner = Runner(slow.start, None, 2, journal, tmp_path)  # type: ignore[arg-type]
    runner.level("tolerance", search, None, (slow.probes, heard.append))
    journal.close()
    assert heard == ["predicted"]
    assert len(search.told) == 4


def test_what_is_over_is_kept_where_probes_end_the_search(tmp_path: Path) -> None:
    """No record at all is a mistake; the trial that ended in the same moment is in the journal."""
    journal, slow = Journal(tmp_path, {"command": "x"}), Slow()
    slow.probes = Future()

    def start(_executor: Any, plan: Trial, path: Path) -> Future[Trial]:
        future = Slow.start(slow, _executor, plan, path) if slow.probes.done() else Future()
        if not slow.probes.done():
            future.set_result(plan.over(0.0, 100, verdict="healthy", fingerprint=(0.0,), stopped_early=True))
            slow.probes.set_exception(InputError("no record"))
        return future

    runner = Runner(start, None, 2, journal, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no record"):
        runner.level("tolerance", ToleranceSearch(1e-3, 1.0, max_trials=4), None, (slow.probes, lambda _: None))
    journal.close()
    assert len(journal.trials["tolerance"]) == 1


def test_no_probe_begins_once_the_search_is_over() -> None:
    with ThreadPoolExecutor(1) as threads:
        gate = _Gate(threads)
        assert gate.submit(abs, -1).result() == 1
        blocked, waiting = threading.Event(), gate.submit(time.sleep, 0)
        waiting.result()
        first = threads.submit(blocked.wait, 30)
        last = gate.submit(abs, -2)
        gate.close()
        assert last.cancelled()
        with pytest.raises(InputError, match="the search is over"):
            gate.submit(abs, -3)
        blocked.set()
        first.result()


def test_a_trial_asked_to_end_as_it_ends_says_nothing() -> None:
    """From its answer on no handler of ours stands between the signal and its end."""
    script = """
    import os, pickle, signal
    from multiprocessing import Pipe
    from gradscope.processes.worker import packed, serve
    ours, theirs = Pipe()
    ours.send_bytes(pickle.dumps({"environment": dict(os.environ), "folder": "."}))
    ours.send_bytes(packed(abs, -1))
    serve(theirs)
    assert pickle.loads(ours.recv_bytes()) == (True, 1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)


# -- real trainings ---------------------------------------------------------------------------------


def interrupted(strength: float, seed: int, path: Path) -> None:
    raise KeyboardInterrupt


def broken(strength: float, seed: int, path: Path) -> None:
    if strength == 0:
        raise RuntimeError("no penalty, no training")
    train(strength, seed, path)


def test_an_interrupt_of_a_probe_is_one_of_the_search(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        gradscope.search_tolerance(interrupted, 1e-4, 1.0, out=tmp_path / "s", max_trials=3, predict=True)
    assert '"predicted"' not in (tmp_path / "s" / "search.jsonl").read_text()


def test_a_probe_that_cannot_be_run_leaves_the_search_to_its_trials(tmp_path: Path) -> None:
    told: list[Any] = []
    out = tmp_path / "s"
    found = gradscope.search_tolerance(
        broken, 1e-4, 1.0, out=out, max_trials=1, predict=True, on_prediction=told.append
    )
    assert len(found.trials) == 1
    assert told == []
    assert found.predicted is not None
    assert found.predicted["lost"]
    assert "no penalty, no training" in found.predicted["reason"]
    assert '"predicted"' not in (out / "search.jsonl").read_text()  # another call may try again


def test_a_function_is_probed_where_that_is_asked_for(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    out = tmp_path / "s"
    found = gradscope.search_tolerance(train, 1e-4, 1.0, out=out, max_trials=3, predict=True, on_prediction=told.append)
    assert told == [found.predicted]
    assert found.predicted is not None
    assert found.predicted["tolerance"] is not None, found.predicted["reason"]
    assert found.predicted["low"] < found.predicted["tolerance"] < found.predicted["high"]
    assert found.predicted["steps"] <= FREE + LATE + 3 * ROWS
    assert found.trials[0].strength == pytest.approx(found.predicted["tolerance"], rel=0.05)
    assert found.as_dict()["predicted"] == found.predicted
    # The same call goes on: what was predicted is known, and no probe is run again.
    again = gradscope.search_tolerance(train, 1e-4, 1.0, out=out, max_trials=4, predict=True, on_prediction=told.append)
    assert len(told) == 1
    assert again.predicted == found.predicted
    assert again.trials[:3] == found.trials
    plain = gradscope.search_tolerance(train, 1e-4, 1.0, out=tmp_path / "t", max_trials=1)
    assert plain.predicted is None
    refused = gradscope.search_tolerance(train, 1e-4, 1.0, out=out, max_trials=4, predict=False)
    assert refused.predicted is None  # nor is what is known taken
    with pytest.raises(InputError, match="a level is predicted for l2 and l1 only"):
        gradscope.search_tolerance(train, 1e-4, 1.0, penalty="linf", predict=True)


SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.helpers.loops import a_deep_net
a_deep_net(float(os.environ.get("GRADSCOPE_STRENGTH", 0)), int(os.environ["GRADSCOPE_SEED"]), Path("run.h5"))
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return ["--", sys.executable, str(path)]


@pytest.mark.parametrize("options", ["", "--no-predict"])
def test_a_script_is_probed_unless_told_otherwise(
    script: list[str], tmp_path: Path, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ["--low", "1e-3", "--high", "1", "--max-trials", "1", "--out", str(tmp_path / "s")]
    assert cli(["search", *limits, *options.split(), "--json", *script]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    if options:
        assert "predicted" not in found
        assert "probes" not in captured.err
    else:
        assert found["predicted"]["tolerance"] is not None, found["predicted"]
        assert "probes predict" in captured.err
        assert found["runs"][0]["strength"] == pytest.approx(found["predicted"]["tolerance"], rel=0.05)
        assert len(list((tmp_path / "s").glob("probe-*.h5"))) >= 3
    assert found["steps_run"] == sum(r["steps"] for r in found["runs"])


@pytest.mark.parametrize(
    ("body", "message"), [("", "ended without the record"), ("raise SystemExit('no data')", "no data")]
)
def test_a_script_that_cannot_be_probed_is_told_of_once(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.py"
    path.write_text(f"open('ran', 'a').write('.')\n{body}")
    monkeypatch.chdir(tmp_path)
    assert cli(["search", "--low", "1e-3", "--high", "1", "--out", "s", "--", sys.executable, str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert len((tmp_path / "ran").read_text()) <= 2
