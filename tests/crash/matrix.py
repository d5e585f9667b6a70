"""The crash matrix: every scenario, every step of it, a daemon dead before it and dead after it.

    python -m tests.crash.matrix                          everything, and docs/crash-matrix.md written anew
    python -m tests.crash.matrix --replay sigterm "latch #1 after"
    python -m tests.crash.matrix --pairs 500 --seed 7     two deaths a run, drawn by the seed

The exit code is 1 when a point is red, or was never reached.
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
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from catalyst import embedded
from catalyst.domain.fault_points import Moment
from catalyst.simulator.faults.schedule import FaultSchedule
from catalyst.store import migrate
from tests.conftest import _FAST_SETTINGS, PostgresServer, database_name
from tests.crash.restartable_daemon import ANY_STEP, CrashPoint
from tests.crash.scenario_run import RunOutcome, run_blocking
from tests.crash.scenarios import SCENARIOS

MATRIX_PAGE: Final = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
MAX_RECOVERY_STEPS: Final = 60  # transactions and requests, from a start to protection
MAX_TRIES: Final = 3  # a run in which the point did not come up again proves nothing, and is repeated
_POINT: Final = re.compile(r"(?P<label>.+) #(?P<nth>\d+) (?P<moment>before|after)")


@dataclass(frozen=True)
class Database:
    """Where runs find their databases: a server, and a migrated template on it."""

    admin_dsn: str
    template: str
    strategy: str


def parse_point(text: str) -> CrashPoint:
    """The point whose name `text` is."""
    found = _POINT.fullmatch(text)
    if found is None:
        raise SystemExit(f"{text!r} is not a point, such as 'submit #1 after'")
    return CrashPoint(found["label"], int(found["nth"]), Moment(found["moment"]))


def run_one(
    database: Database, scenario: str, crash_points: Sequence[CrashPoint], faults: FaultSchedule | None = None
) -> RunOutcome:
    """One run on a database of its own; again when the point did not come up."""
    server = _server(database.admin_dsn, database.strategy)
    for _ in range(MAX_TRIES):
        dsn = server.create(database.template)
        try:
            outcome = run_blocking(SCENARIOS[scenario], dsn, crash_points, storm=faults)
        finally:
            server.drop(dsn)
        if len(outcome.crashes) >= len([point for point in crash_points if point.label != ANY_STEP]):
            break
    return outcome


def run_without_log(
    database: Database, scenario: str, crash_points: Sequence[CrashPoint], faults: FaultSchedule | None = None
) -> RunOutcome:
    """The same without its log where it is green: thousands of outcomes are kept."""
    outcome = run_one(database, scenario, crash_points, faults)
    outcome.log_lines = [] if outcome.passed else outcome.log_lines
    return outcome


@contextmanager
def open_database() -> Iterator[Database]:
    """A PostgreSQL server for the matrix, or the one `DATABASE_URL` names."""
    if url := os.environ.get("DATABASE_URL"):
        with _migrated_template(_server(url)) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="catalyst-crash-") as folder:
        data_dir = Path(folder) / "pg"
        with (
            embedded.start(data_dir, settings=_FAST_SETTINGS) as server,
            _migrated_template(_server(server.dsn, "file_copy")) as found,
        ):
            yield found
        embedded.remove_data_dir(data_dir)


@cache
def _server(admin_dsn: str, strategy: str = "wal_log") -> PostgresServer:
    """One a process: it names its databases by the process and a number."""
    return PostgresServer(admin_dsn, strategy=strategy)


@contextmanager
def _migrated_template(server: PostgresServer) -> Iterator[Database]:
    dsn = server.create()
    server.run(lambda: migrate.migrate(dsn))
    yield Database(server.admin_dsn, database_name(dsn), server.strategy)
    server.drop(dsn)


def collect_points(base: Database, names: Sequence[str]) -> dict[str, tuple[CrashPoint, ...]]:
    """Every step of each scenario when nobody dies; a scenario that is red by itself ends the matrix."""
    found = {}
    for name in names:
        outcome = run_one(base, name, [])
        if not outcome.passed:
            print_outcome(outcome, with_log=True)
            raise SystemExit(f"{name} is red although nobody died in it")
        found[name] = tuple(dict.fromkeys(outcome.steps))
    return found


RunArguments = tuple[str, tuple[CrashPoint, ...]] | tuple[str, tuple[CrashPoint, ...], FaultSchedule]


def run_all(base: Database, work: Sequence[RunArguments], *, workers: int = 2) -> Iterator[RunOutcome]:
    """Every run, in the order in which they end."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(run_without_log, base, *one) for one in work]
        try:
            for run in as_completed(runs):
                yield run.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # asked to stop, it stops


def print_outcome(outcome: RunOutcome, *, with_log: bool = False) -> None:
    """Print what a run showed, and how to see it again."""
    name = " ".join(f'"{point}"' for point in outcome.crashes or outcome.crash_points)
    print(f"{'green' if outcome.passed else 'RED'}  {outcome.scenario} {name}")
    for problem in outcome.problems:
        print(f"      {problem}")
    if with_log:
        print("\n".join(f"      {line}" for line in outcome.log_lines))


def draw_crash_pairs(
    points: dict[str, tuple[CrashPoint, ...]], number: int, seed: int
) -> list[tuple[str, tuple[CrashPoint, ...]]]:
    """Double deaths: a point of a scenario, and then one of the first steps of the daemon that recovers."""
    draw = random.Random(seed)
    found = []
    for _ in range(number):
        name = draw.choice(sorted(points))
        again = CrashPoint(ANY_STEP, draw.randint(1, MAX_RECOVERY_STEPS), draw.choice(list(Moment)))
        found.append((name, (draw.choice(points[name]), again)))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def render_figures(outcomes: Sequence[RunOutcome]) -> str:
    """Naked seconds and recovery, over all runs, and the runs that were naked longest."""
    rows = {
        "naked, market seconds": [one.unprotected_seconds for one in outcomes],
        "recovery, market seconds": [market for one in outcomes for market, _ in one.recoveries],
        "recovery, real seconds": [real for one in outcomes for _, real in one.recoveries],
    }
    lines = [
        f"{name}: p50 {quantile(v, 0.5):.2f}, p99 {quantile(v, 0.99):.2f}, max {max(v, default=0):.2f}"
        for name, v in rows.items()
    ]
    worst = sorted(outcomes, key=lambda one: one.unprotected_seconds, reverse=True)[:5]
    return "\n".join(
        lines
        + [
            f"  {one.unprotected_seconds:.2f}  {one.scenario} {', '.join(map(str, one.crashes))}"
            for one in worst
        ]
    )


def render_page(points: dict[str, tuple[CrashPoint, ...]], outcomes: Sequence[RunOutcome]) -> str:
    """The matrix as a page: no date and no commit, so that it changes only when the daemon's steps do."""
    lines = [
        "# The crash matrix",
        "",
        "Written by `make crash-matrix`. Each scenario is played once with every step of the daemon counted: each",
        "transaction by its label, each request to the broker by verb and path. Then it is played again for each",
        "step twice, the daemon dead at once before the step and dead at once after it: its tasks end, its database",
        "connections are cut, what it had sent is processed by the exchange. Three seconds of market time later a",
        "new daemon starts on the same database and the same exchange, and the market goes on. Green means that at",
        "the end the tables, the journal and the exchange's own ledger agree to the share and the cent; that no",
        "order was accepted twice and no signal filled two entries; that no exit crossed zero; that nothing is open",
        "or what is open stands under a working stop; that nobody was paged for anything but the story itself; and",
        "that two more restarts in a silent market send no changing request and change no row.",
        "",
        "| scenario | what happens | points | green |",
        "|---|---|---:|---:|",
    ]
    total = green = 0
    for name, found in points.items():
        mine = [one for one in outcomes if one.scenario == name]
        good = sum(one.passed for one in mine)
        total, green = total + len(found), green + good
        lines.append(f"| {name} | {SCENARIOS[name].description} | {len(found)} | {good} |")
    lines += [f"| **all** | | **{total}** | **{green}** |", ""]
    red = sorted(
        (one for one in outcomes if not one.passed), key=lambda one: (one.scenario, one.crash_points)
    )
    if red:
        lines += [
            "## Red",
            "",
            "Each can be seen again: `python -m tests.crash.matrix --replay SCENARIO POINT`.",
            "",
        ]
        lines += [
            f"* `{one.scenario}` `{' + '.join(map(str, one.crash_points))}`: {one.problems[0]}" for one in red
        ]
        lines += [""]
    lines += ["## Steps", ""]
    for name, found in points.items():
        labels = dict.fromkeys(point.label for point in found)
        counted = [
            f"{label} ×{n}" if (n := max(p.nth for p in found if p.label == label)) > 1 else label
            for label in labels
        ]
        lines.append(f"* **{name}**: {', '.join(counted)}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 0 when everything is green."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="only these, and no page")
    parser.add_argument("--replay", nargs="+", metavar=("SCENARIO", "POINT"), help="one run, with its log")
    parser.add_argument("--pairs", type=int, default=0, help="double deaths instead, this many")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with the server and the workers put away
    with open_database() as base:
        if asked.replay:
            name, *texts = asked.replay
            outcome = run_one(base, name, [parse_point(text) for text in texts])
            print_outcome(outcome, with_log=True)
            return 0 if outcome.passed else 1
        began = time.monotonic()
        points = collect_points(base, asked.scenarios or list(SCENARIOS))
        work: list[tuple[str, tuple[CrashPoint, ...]]] = (
            draw_crash_pairs(points, asked.pairs, asked.seed)
            if asked.pairs
            else [(name, (point,)) for name, found in points.items() for point in found]
        )
        outcomes = []
        for outcome in run_all(base, work, workers=asked.workers):
            outcomes.append(outcome)
            if not outcome.passed:
                print_outcome(outcome)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(work)}", flush=True)
        green = sum(outcome.green for outcome in outcomes)
        if not asked.scenarios and not asked.pairs:
            MATRIX_PAGE.write_text(render_page(points, outcomes))
        print(f"{green} of {len(work)} green in {time.monotonic() - began:.0f} s")
        print(render_figures(outcomes))
        return 0 if green == len(work) else 1


if __name__ == "__main__":
    sys.exit(main())
