"""Fault days: whole days of real processes under random faults that never end, drawn from seeds, and judged.

    python -m tests.fault_days --days 20 --first-seed 1       writes docs/fault-days.md
    python -m tests.fault_days --days 1 --short               the last 90 minutes of a day; writes no page
    python -m tests.fault_days --replay 17                    one day: prints its plan, keeps its folder

The exit code is 1 when a day has a violation. A seed draws the same market, faults and incidents each time; which
request meets a fault also depends on the order in which concurrent requests arrive.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tests.fault_days.day import open_fault_day
from tests.fault_days.judge import Verdict, judge
from tests.fault_days.page import PAGE, render_page, render_verdict
from tests.fault_days.plan import draw_plan

ROOT = Path(__file__).parents[2]


def run_day(seed: int, *, short: bool = False, keep: Path | None = None) -> Verdict:
    """Run and judge the day of a seed; keep the folder of a red day below `keep`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in a worker: stops the processes of its day
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="catalyst-fault-day-"))
    folder.chmod(0o711)  # PostgreSQL never runs as root: its own user must reach its data
    try:
        verdict = asyncio.run(_run_day(seed, folder, short=short, keep=keep))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdict.real_seconds = time.monotonic() - began
    return verdict


async def _run_day(seed: int, folder: Path, *, short: bool, keep: Path | None) -> Verdict:
    async with open_fault_day(draw_plan(seed, short=short), folder) as day:
        record = await day.run()
        verdict = await judge(seed, record, day.database.dsn, folder, day.clock.now())
        if keep is not None and (not verdict.passed or not verdict.fills):
            _keep_folder(
                folder, keep / f"seed-{seed}", day.database.running.binaries, day.database.dsn, record
            )
    return verdict


def _keep_folder(folder: Path, to: Path, binaries: Path, dsn: str, record: object) -> None:
    """Copy logs and state of a day, with a dump of its database and the plan of its incidents."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("pg"))
    with (to / "database.sql").open("wb") as dump:
        subprocess.run([str(binaries / "pg_dump"), dsn], stdout=dump, stderr=subprocess.DEVNULL, check=False)
    (to / "incidents.txt").write_text("\n".join(getattr(record, "done", [])) + "\n")


def run_days(seeds: range, *, short: bool, workers: int, keep: Path | None) -> Iterator[Verdict]:
    """Run the days in worker processes; yield the verdicts in the order in which they finish."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        days = [pool.submit(run_day, seed, short=short, keep=keep) for seed in seeds]
        try:
            for day in as_completed(days):
                yield day.result()
        finally:
            for worker in list((pool._processes or {}).values()):  # a stopped run leaves no process
                worker.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def main() -> int:
    """Run the selected days; return 0 when every one is green, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault_days",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--short", action="store_true", help="the last 90 minutes of a day; write no page")
    parser.add_argument("--replay", type=int, help="run one seed and keep its folder")
    parser.add_argument("--page", type=Path, help=f"default: {PAGE.name}, none for short and repeated days")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fault-days")
    options = parser.parse_args()
    os.environ.pop("DATABASE_URL", None)  # each day has its own server
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the servers and the workers
    if options.replay is not None:
        options.days, options.first_seed, options.workers = 1, options.replay, 1
    elif options.page is None and not options.short:
        options.page = PAGE
    seeds = range(options.first_seed, options.first_seed + options.days)
    for seed in seeds if options.days == 1 else []:
        print(draw_plan(seed, short=options.short), flush=True)
    verdicts: list[Verdict] = []
    for verdict in run_days(seeds, short=options.short, workers=options.workers, keep=options.keep):
        verdicts = sorted([*verdicts, verdict], key=lambda each: each.seed)
        print(render_verdict(verdict), flush=True)
        if (
            options.replay is None and not options.short
        ):  # after each day: a stopped run leaves what it has found
            PAGE.write_text(render_page(verdicts, _commit()))
    red = [verdict.seed for verdict in verdicts if not verdict.passed]
    print(f"{len(verdicts) - len(red)} of {len(verdicts)} days green", *(["; red:", *red] if red else []))
    return 1 if red else 0


def _commit() -> str:
    """Return the short hash of the tree; with a plus sign when it has changes."""
    git = ["git", "-C", str(ROOT)]
    run = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False
    )
    return (run.stdout.strip() or "unknown") + ("+" if dirty.stdout.strip() else "")
