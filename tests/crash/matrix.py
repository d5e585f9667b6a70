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
from catalyst.simulator.faults.schedule import Schedule
from catalyst.store import migrate
from tests.conftest import _FAST, Server, name_of
from tests.crash.restartable_daemon import ANY, Point
from tests.crash.scenario_run import Outcome, play
from tests.crash.scenarios import SCENARIOS

PAGE: Final = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
STEPS_OF_RECOVERY: Final = 60  # transactions and requests, from a start to protection
TRIES: Final = 3  # a run in which the point did not come up again proves nothing, and is repeated
_POINT: Final = re.compile(r"(?P<label>.+) #(?P<nth>\d+) (?P<moment>before|after)")


@dataclass(frozen=True)
class Database:
    """Where runs find their databases: a server, and a migrated template on it."""

    admin_dsn: str
    template: str
    strategy: str


def point_of(text: str) -> Point:
    """The point whose name `text` is."""
    found = _POINT.fullmatch(text)
    if found is None:
        raise SystemExit(f"{text!r} is not a point, such as 'submit #1 after'")
    return Point(found["label"], int(found["nth"]), Moment(found["moment"]))


def run_one(
    database: Database, scenario: str, deaths: Sequence[Point], storm: Schedule | None = None
) -> Outcome:
    """One run on a database of its own; again when the point did not come up."""
    server = _server(database.admin_dsn, database.strategy)
    for _ in range(TRIES):
        dsn = server.create(database.template)
        try:
            outcome = play(SCENARIOS[scenario], dsn, deaths, storm=storm)
        finally:
            server.drop(dsn)
        if len(outcome.died) >= len([point for point in deaths if point.label != ANY]):
            break
    return outcome


def run_briefly(
    database: Database, scenario: str, deaths: Sequence[Point], storm: Schedule | None = None
) -> Outcome:
    """The same without its log where it is green: thousands of outcomes are kept."""
    outcome = run_one(database, scenario, deaths, storm)
    outcome.lines = [] if outcome.green else outcome.lines
    return outcome


@contextmanager
def database() -> Iterator[Database]:
    """A PostgreSQL server for the matrix, or the one `DATABASE_URL` names."""
    if url := os.environ.get("DATABASE_URL"):
        with _migrated(_server(url)) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="catalyst-crash-") as folder:
        data_dir = Path(folder) / "pg"
        with (
            embedded.start(data_dir, settings=_FAST) as server,
            _migrated(_server(server.dsn, "file_copy")) as found,
        ):
            yield found
        embedded.remove(data_dir)


@cache
def _server(admin_dsn: str, strategy: str = "wal_log") -> Server:
    """One a process: it names its databases by the process and a number."""
    return Server(admin_dsn, strategy=strategy)


@contextmanager
def _migrated(server: Server) -> Iterator[Database]:
    dsn = server.create()
    server.run(lambda: migrate.migrate(dsn))
    yield Database(server.admin_dsn, name_of(dsn), server.strategy)
    server.drop(dsn)


def points_of(base: Database, names: Sequence[str]) -> dict[str, tuple[Point, ...]]:
    """Every step of each scenario when nobody dies; a scenario that is red by itself ends the matrix."""
    found = {}
    for name in names:
        outcome = run_one(base, name, [])
        if not outcome.green:
            show(outcome, whole=True)
            raise SystemExit(f"{name} is red although nobody died in it")
        found[name] = tuple(dict.fromkeys(outcome.points))
    return found


Work = tuple[str, tuple[Point, ...]] | tuple[str, tuple[Point, ...], Schedule]


def run_all(base: Database, work: Sequence[Work], *, workers: int = 2) -> Iterator[Outcome]:
    """Every run, in the order in which they end."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(run_briefly, base, *one) for one in work]
        try:
            for run in as_completed(runs):
                yield run.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # asked to stop, it stops


def show(outcome: Outcome, *, whole: bool = False) -> None:
    """Print what a run showed, and how to see it again."""
    name = " ".join(f'"{point}"' for point in outcome.died or outcome.deaths)
    print(f"{'green' if outcome.green else 'RED'}  {outcome.scenario} {name}")
    for problem in outcome.problems:
        print(f"      {problem}")
    if whole:
        print("\n".join(f"      {line}" for line in outcome.lines))


def pairs(
    points: dict[str, tuple[Point, ...]], number: int, seed: int
) -> list[tuple[str, tuple[Point, ...]]]:
    """Double deaths: a point of a scenario, and then one of the first steps of the daemon that recovers."""
    draw = random.Random(seed)
    found = []
    for _ in range(number):
        name = draw.choice(sorted(points))
        again = Point(ANY, draw.randint(1, STEPS_OF_RECOVERY), draw.choice(list(Moment)))
        found.append((name, (draw.choice(points[name]), again)))
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def figures(outcomes: Sequence[Outcome]) -> str:
    """Naked seconds and recovery, over all runs, and the runs that were naked longest."""
    rows = {
        "naked, market seconds": [one.naked for one in outcomes],
        "recovery, market seconds": [market for one in outcomes for market, _ in one.recoveries],
        "recovery, real seconds": [real for one in outcomes for _, real in one.recoveries],
    }
    lines = [
        f"{name}: p50 {quantile(v, 0.5):.2f}, p99 {quantile(v, 0.99):.2f}, max {max(v, default=0):.2f}"
        for name, v in rows.items()
    ]
    worst = sorted(outcomes, key=lambda one: one.naked, reverse=True)[:5]
    return "\n".join(
        lines + [f"  {one.naked:.2f}  {one.scenario} {', '.join(map(str, one.died))}" for one in worst]
    )


def page(points: dict[str, tuple[Point, ...]], outcomes: Sequence[Outcome]) -> str:
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
        good = sum(one.green for one in mine)
        total, green = total + len(found), green + good
        lines.append(f"| {name} | {SCENARIOS[name].says} | {len(found)} | {good} |")
    lines += [f"| **all** | | **{total}** | **{green}** |", ""]
    red = sorted((one for one in outcomes if not one.green), key=lambda one: (one.scenario, one.deaths))
    if red:
        lines += [
            "## Red",
            "",
            "Each can be seen again: `python -m tests.crash.matrix --replay SCENARIO POINT`.",
            "",
        ]
        lines += [
            f"* `{one.scenario}` `{' + '.join(map(str, one.deaths))}`: {one.problems[0]}" for one in red
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
    with database() as base:
        if asked.replay:
            name, *texts = asked.replay
            outcome = run_one(base, name, [point_of(text) for text in texts])
            show(outcome, whole=True)
            return 0 if outcome.green else 1
        began = time.monotonic()
        points = points_of(base, asked.scenarios or list(SCENARIOS))
        work: list[tuple[str, tuple[Point, ...]]] = (
            pairs(points, asked.pairs, asked.seed)
            if asked.pairs
            else [(name, (point,)) for name, found in points.items() for point in found]
        )
        outcomes = []
        for outcome in run_all(base, work, workers=asked.workers):
            outcomes.append(outcome)
            if not outcome.green:
                show(outcome)
            if len(outcomes) % 100 == 0:
                print(f"{len(outcomes)} of {len(work)}", flush=True)
        green = sum(outcome.green for outcome in outcomes)
        if not asked.scenarios and not asked.pairs:
            PAGE.write_text(page(points, outcomes))
        print(f"{green} of {len(work)} green in {time.monotonic() - began:.0f} s")
        print(figures(outcomes))
        return 0 if green == len(work) else 1


if __name__ == "__main__":
    sys.exit(main())
