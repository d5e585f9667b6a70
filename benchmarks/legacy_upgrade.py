"""Upgrade of a large database of the earlier Catalyst: seconds of the upgrade and memory of this process.

`python -m benchmarks.legacy_upgrade --rows 1000000`: so many closed positions, each with an entry in `orders`.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from catalyst import embedded
from catalyst.domain.fault_points import Moment
from catalyst.store.legacy.upgrade import upgrade
from catalyst.store.pool import connected
from tests.store import legacy_database as old

SLOW_S = 1.0  # a statement that takes as long is named
GROW = """
    INSERT INTO positions (cycle_id, security_id, side, quantity, entry_price, exit_price, entry_time, closed_at,
                           status, realized_pnl, alpaca_order_id, alpaca_status, updated_at)
    SELECT p.cycle_id, p.security_id, p.side, p.quantity, p.entry_price, p.exit_price, p.entry_time, p.closed_at,
           p.status, p.realized_pnl, 'grown-' || n, 'filled', p.updated_at
      FROM generate_series(1, $1) n JOIN positions p ON p.position_id = 1 + n % 67
"""


async def measure(dsn: str, rows: int) -> None:
    """Create the old database and upgrade it; print what it took."""
    async with connected(dsn, "benchmark", statement_timeout=0) as conn:
        await old.create(conn, "v6")
        await conn.execute(GROW.replace("$1", str(rows)))
        await conn.execute(old.ORDERS_TABLE)
        await conn.execute(old.MIGRATE_ORDERS.replace("$1", "NULL"))

    async def no_backup() -> str:
        return "memory"

    began = time.monotonic()
    started: dict[str, float] = {}

    def print_slow(step: str, moment: Moment) -> None:
        if moment is Moment.BEFORE:
            started[step] = time.monotonic()
        elif (took := time.monotonic() - started.get(step, began)) >= SLOW_S:
            print(f"{took:8.1f} s  {step}")

    now = datetime(2026, 1, 5, 22, tzinfo=UTC)
    done = await upgrade(dsn, now=now, create_backup=no_backup, fault_point=print_slow)
    seconds = time.monotonic() - began
    assert done is not None
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{done.counts['positions'][0]:,.0f} positions, {done.counts['orders'][0]:,.0f} orders: {seconds:.1f} s, "
    )
    print(f"{len(done.statements)} statements, {megabytes:.0f} MB in this process")


def main() -> None:
    """Run the benchmark on an embedded server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="catalyst-bench-") as folder:
        data_dir = Path(folder) / "pg"
        with embedded.start(data_dir) as server:
            asyncio.run(measure(server.dsn, arguments.rows))
        embedded.remove_data_dir(data_dir)


if __name__ == "__main__":
    main()
