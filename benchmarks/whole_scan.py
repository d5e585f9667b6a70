"""Whole scan of more than 7,000 symbols, from snapshots on the wire to the stored candidates.

The exchange is a separate process; the scan runs in this process, so its CPU seconds are the daemon's. A generated
market at 10:30, an embedded PostgreSQL with fsync on. Medians of seven scans after one warm-up.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from decimal import Decimal
from pathlib import Path

from catalyst import embedded
from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.clock import ScaledClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.daemon.trading_day.scan_records import records_of
from catalyst.daemon.trading_day.scanner import Scanner
from catalyst.domain.cycle import cycle_id
from catalyst.pipeline.risk_inputs import AccountState, Portfolio
from catalyst.store import candidates, cycles, securities
from catalyst.store.migrate import migrate
from catalyst.store.pool import open_store

SYMBOLS = 7_600
DAY = date(2026, 4, 8)
ROUNDS = 7
RATE = 100_000  # requests a minute, so that the budget does not limit the scan


def run() -> list[tuple[str, float, str]]:
    """Measure the wall and CPU seconds of a scan, and its milliseconds by stage."""
    with tempfile.TemporaryDirectory(prefix="catalyst-bench-") as name:
        folder = Path(name)
        command = [
            sys.executable, "-m", "catalyst", "sim", "--generated", "7", "--symbols", str(SYMBOLS),
            "--day", DAY.isoformat(), "--start", "10:30", "--port", "0", "--port-file", str(folder / "port"),
            "--new-clock", str(folder / "clock"), "--write-listings", str(folder / "listings.csv"),
        ]  # fmt: skip
        exchange = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not (folder / "port").is_file():
                assert exchange.poll() is None, "the exchange did not start"
                time.sleep(0.05)
            with embedded.start(folder / "pg") as server:
                return asyncio.run(_measure(folder, server.dsn))
        finally:
            exchange.terminate()
            exchange.wait()


async def _measure(folder: Path, dsn: str) -> list[tuple[str, float, str]]:
    await migrate(dsn)
    clock = ScaledClock(folder / "clock", drive=True, speed=1.0, held_speed=1.0)
    clock.set_pace(1.0)
    url = f"http://127.0.0.1:{(folder / 'port').read_text().strip()}"
    keys = {"key": "demo", "secret": "demo"}
    broker = AlpacaBroker(clock, base_url=url, rate_limit=RATE, **keys)
    market = AlpacaMarketData(clock, base_url=url, rate_limit=RATE, **keys)
    news = AlpacaNews(clock, base_url=url, rate_limit=RATE, **keys)
    config = Config.model_validate({"universe": {"listings_file": str(folder / "listings.csv")}})
    scanner = Scanner(broker, market, news, clock, CurrentConfig(config), "0a1b2c")
    store = await open_store(dsn, clock)
    session = (await broker.calendar(DAY, DAY))[0]
    await scanner.prepare(session)
    await broker.close()
    async with store.tx("prepare") as conn:
        await securities.refresh(conn, scanner.assets, at=clock.now())
        row, _ = await cycles.open_day(
            conn, cycle_id=cycle_id(clock.now()), day=DAY, mode="autonomous", max_positions=5,
            max_daily_loss=Decimal(2000), scan_frequency=1800, start_equity=None, config_hash="", at=clock.now(),
        )  # fmt: skip
    account = AccountState(Decimal(100_000), Decimal(100_000), Decimal(400_000))
    walls, cpus, stores, stages, counts = [], [], [], [], {}
    for _ in range(ROUNDS + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        result = await scanner.scan(session, Portfolio(), account, slots=5)
        scanned = time.perf_counter()
        records = records_of(result, row.cycle_id)
        async with store.tx("scan") as conn:
            await candidates.record(
                conn,
                records.scan,
                records.candidates,
                news=records.news,
                patterns=records.patterns,
                indicators=records.indicators,
            )
        stores.append(time.perf_counter() - scanned)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        stages.append(result.milliseconds)
        counts = result.counts
    await market.close()
    await news.close()
    await store.close()
    return [
        ("symbols scanned", counts["universe"], ""),
        ("wall, snapshots to stored", statistics.median(walls[1:]), "s"),
        ("CPU of the daemon's process", statistics.median(cpus[1:]), "s"),
        *((f"stage {name}", statistics.median(s[name] for s in stages[1:]), "ms") for name in stages[-1]),
        ("storing the scan, one commit", statistics.median(stores[1:]) * 1000, "ms"),
        *((f"remaining after {name}", n, "") for name, n in counts.items()),
    ]
