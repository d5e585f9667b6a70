"""Crash matrix: runs every scenario with a crash before and after each of its steps.

    python -m tests.crash.matrix                          all scenarios; writes docs/crash-matrix.md
    python -m tests.crash.matrix --replay sigterm "latch #1 after"
    python -m tests.crash.matrix --pairs 500 --seed 7     two crashes a run, drawn by the seed

The exit code is 1 when a point is red or was never reached.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from catalyst import embedded
from catalyst.domain.fault_points import Moment
from catalyst.store import migrate
from tests.conftest import _FAST_SETTINGS, PostgresServer, database_name
from tests.crash.restartable_daemon import ANY_STEP, CrashPoint
from tests.crash.scenario_run import RandomFaults, RunOutcome, run_blocking
from tests.crash.scenarios import SCENARIOS

MATRIX_PAGE: Final = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
MAX_RECOVERY_STEPS: Final = 60  # transactions and requests, from a start to protection
# A run that does not reach its point proves nothing and is repeated. Runs differ: which of several concurrent exits
# comes first decides whether a poll or a cancel is repeated.
MAX_TRIES: Final = 20
_POINT: Final = re.compile(r"(?P<label>.+) #(?P<nth>\d+) (?P<moment>before|after)")


@dataclass(frozen=True)
class Database:
    """Database server of the runs, and a migrated template database on it."""

    admin_dsn: str
    template: str
    strategy: str


def parse_point(text: str) -> CrashPoint:
    """Return the crash point with the name `text`, such as "submit #1 after"; raise SystemExit when it is
    none."""
    match = _POINT.fullmatch(text)
    if match is None:
        raise SystemExit(f"{text!r} is not a crash point; write it like 'submit #1 after'")
    return CrashPoint(match["label"], int(match["nth"]), Moment(match["moment"]))


def run_one(
    database: Database, scenario: str, crash_points: Sequence[CrashPoint], faults: RandomFaults | None = None
) -> RunOutcome:
    """Run one scenario on a new database; repeat the run when it does not reach its crash points."""
    server = _server(database.admin_dsn, database.strategy)
    for _ in range(MAX_TRIES):
        dsn = server.create(database.template)
        second_dsn = None
        if faults is not None and faults.extras.second_installation:
            second_dsn = server.create(database.template)
            faults = replace(faults, second_dsn=second_dsn)
        try:
            outcome = run_blocking(SCENARIOS[scenario], dsn, crash_points, faults=faults)
        finally:
            server.drop(dsn)
            if second_dsn is not None:
                server.drop(second_dsn)
        if len(outcome.crashes) >= len([point for point in crash_points if point.label != ANY_STEP]):
            break
    return outcome


def run_without_log(
    database: Database, scenario: str, crash_points: Sequence[CrashPoint], faults: RandomFaults | None = None
) -> RunOutcome:
    """Run one scenario and drop the log of a green outcome, because thousands of outcomes are stored."""
    outcome = run_one(database, scenario, crash_points, faults)
    outcome.log_lines = [] if outcome.passed else outcome.log_lines
    return outcome


@contextmanager
def open_database() -> Iterator[Database]:
    """Start a PostgreSQL server for the matrix, or use the server of `DATABASE_URL`."""
    if url := os.environ.get("DATABASE_URL"):
        with _migrated_template(_server(url)) as database:
            yield database
        return
    with tempfile.TemporaryDirectory(prefix="catalyst-crash-") as folder:
        data_dir = Path(folder) / "pg"
        with (
            embedded.start(data_dir, settings=_FAST_SETTINGS) as server,
            _migrated_template(_server(server.dsn, "file_copy")) as database,
        ):
            yield database
        embedded.remove_data_dir(data_dir)


@cache
def _server(admin_dsn: str, strategy: str = "wal_log") -> PostgresServer:
    """Return the one server object of this process; it names databases by the process id and a number."""
    return PostgresServer(admin_dsn, strategy=strategy)


@contextmanager
def _migrated_template(server: PostgresServer) -> Iterator[Database]:
    """Create a migrated template database and drop it at the end."""
    dsn = server.create()
    server.run(lambda: migrate.migrate(dsn))
    yield Database(server.admin_dsn, database_name(dsn), server.strategy)
    server.drop(dsn)


def collect_points(base: Database, names: Sequence[str]) -> dict[str, tuple[CrashPoint, ...]]:
    """Return every step of each scenario without a crash; raise SystemExit for a scenario that is red without
    one."""
    points = {}
    for name in names:
        outcome = run_one(base, name, [])
        if not outcome.passed:
            print_outcome(outcome, with_log=True)
            raise SystemExit(f"{name} is red without a crash")
        points[name] = tuple(dict.fromkeys(outcome.steps))
    return points


RunArguments = tuple[str, tuple[CrashPoint, ...]] | tuple[str, tuple[CrashPoint, ...], RandomFaults]


def run_all(base: Database, work: Sequence[RunArguments], *, workers: int = 2) -> Iterator[RunOutcome]:
    """Run all scenarios in worker processes; yield the outcomes in the order in which they finish."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(run_without_log, base, *run_arguments) for run_arguments in work]
        try:
            for run in as_completed(runs):
                yield run.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a stopped generator starts no further run


def print_outcome(outcome: RunOutcome, *, with_log: bool = False) -> None:
    """Print the outcome of a run: its crash points, its problems and, if wanted, its log."""
    name = " ".join(f'"{point}"' for point in outcome.crashes or outcome.crash_points)
    print(f"{'green' if outcome.passed else 'RED'}  {outcome.scenario} {name}")
    for problem in outcome.problems:
        print(f"      {problem}")
    if with_log:
        print("\n".join(f"      {line}" for line in outcome.log_lines))


def draw_crash_pairs(
    points: dict[str, tuple[CrashPoint, ...]], number: int, seed: int
) -> list[tuple[str, tuple[CrashPoint, ...]]]:
    """Draw pairs of crashes: a point of a scenario, then one of the first steps of the recovering daemon."""
    draw = random.Random(seed)
    pairs = []
    for _ in range(number):
        name = draw.choice(sorted(points))
        second = CrashPoint(ANY_STEP, draw.randint(1, MAX_RECOVERY_STEPS), draw.choice(list(Moment)))
        pairs.append((name, (draw.choice(points[name]), second)))
    return pairs


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def render_figures(outcomes: Sequence[RunOutcome]) -> str:
    """Render unprotected and recovery times over all runs, and the five runs with the longest unprotected
    time."""
    rows = {
        "unprotected, market seconds": [outcome.unprotected_seconds for outcome in outcomes],
        "recovery, market seconds": [market for outcome in outcomes for market, _ in outcome.recoveries],
        "recovery, real seconds": [real for outcome in outcomes for _, real in outcome.recoveries],
    }
    lines = [
        f"{name}: p50 {quantile(v, 0.5):.2f}, p99 {quantile(v, 0.99):.2f}, max {max(v, default=0):.2f}"
        for name, v in rows.items()
    ]
    worst = sorted(outcomes, key=lambda outcome: outcome.unprotected_seconds, reverse=True)[:5]
    return "\n".join(
        lines
        + [
            f"  {outcome.unprotected_seconds:.2f}  {outcome.scenario} {', '.join(map(str, outcome.crashes))}"
            for outcome in worst
        ]
    )


def render_page(points: dict[str, tuple[CrashPoint, ...]], outcomes: Sequence[RunOutcome]) -> str:
    """Render the page of the matrix, without date and commit: it changes only when the daemon's steps change."""
    lines = [
        "# The crash matrix",
        "",
        "Written by `make crash-matrix`. Each scenario is played once, and every step of the daemon is counted: each",
        "transaction by its label, each request to the broker by verb and path. Then the scenario is played twice",
        "more for each step: with a crash directly before the step and with a crash directly after it. A crash ends",
        "the daemon's tasks and cuts its database connections; the exchange processes the requests it received.",
        "Three seconds of market time later a new daemon starts on the same database and the same exchange. Green",
        "means that at the end: database, journal and exchange agree to the share and the cent; no order was",
        "accepted twice and no signal filled two entries; no exit crossed zero; each open position has a working",
        "stop for all its shares; no CRITICAL alert was raised but those that belong to the scenario; and two more",
        "restarts without prints send no changing request and change no row.",
        "",
        "| scenario | what happens | points | green |",
        "|---|---|---:|---:|",
    ]
    total = green = 0
    for name, steps in points.items():
        own = [outcome for outcome in outcomes if outcome.scenario == name]
        passed = sum(outcome.passed for outcome in own)
        total, green = total + len(steps), green + passed
        lines.append(f"| {name} | {SCENARIOS[name].description} | {len(steps)} | {passed} |")
    lines += [f"| **all** | | **{total}** | **{green}** |", ""]
    red = sorted(
        (outcome for outcome in outcomes if not outcome.passed),
        key=lambda outcome: (outcome.scenario, outcome.crash_points),
    )
    if red:
        lines += [
            "## Red",
            "",
            "Repeat one with `python -m tests.crash.matrix --replay SCENARIO POINT`.",
            "",
        ]
        lines += [
            f"* `{outcome.scenario}` `{' + '.join(map(str, outcome.crash_points))}`: {outcome.problems[0]}"
            for outcome in red
        ]
        lines += [""]
    lines += ["## Steps", ""]
    for name, steps in points.items():
        labels = dict.fromkeys(point.label for point in steps)
        counted = [
            f"{label} ×{n}" if (n := max(p.nth for p in steps if p.label == label)) > 1 else label
            for label in labels
        ]
        lines.append(f"* **{name}**: {', '.join(counted)}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected points; return 0 when every run is green, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", choices=[*SCENARIOS, []], help="run only these; write no page"
    )
    parser.add_argument(
        "--replay", nargs="+", metavar=("SCENARIO", "POINT"), help="repeat one run and print its log"
    )
    parser.add_argument("--pairs", type=int, default=0, help="run this many pairs of crashes instead")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the server and the workers
    with open_database() as base:
        if options.replay:
            name, *texts = options.replay
            outcome = run_one(base, name, [parse_point(text) for text in texts])
            print_outcome(outcome, with_log=True)
            return 0 if outcome.passed else 1
        began = time.monotonic()
        points = collect_points(base, options.scenarios or list(SCENARIOS))
        work: list[tuple[str, tuple[CrashPoint, ...]]] = (
            draw_crash_pairs(points, options.pairs, options.seed)
            if options.pairs
            else [(name, (point,)) for name, steps in points.items() for point in steps]
        )
        outcomes = []
        for outcome in run_all(base, work, workers=options.workers):
            outcomes.append(outcome)
            if not outcome.passed:
                print_outcome(outcome)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(work)}", flush=True)
        green = sum(outcome.passed for outcome in outcomes)
        if not options.scenarios and not options.pairs:
            MATRIX_PAGE.write_text(render_page(points, outcomes))
        print(f"{green} of {len(work)} green in {time.monotonic() - began:.0f} s")
        print(render_figures(outcomes))
        return 0 if green == len(work) else 1


if __name__ == "__main__":
    sys.exit(main())
