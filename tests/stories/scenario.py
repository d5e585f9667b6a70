"""A trading desk for tests that tell stories: the real daemon, a real PostgreSQL, the exchange over the wire.

Time stands still until the story says how long it waits; sockets and database keep up with it. The desk's words
are the trader's: `prints`, `enters`, `waits`, `holds`, `sold`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import asyncpg
import orjson

from catalyst.broker.port import StreamState
from catalyst.clock import ManualClock
from catalyst.config.schema import Config, Mode
from catalyst.config.settings import Environment, Settings
from catalyst.daemon.app import recover_and_run
from catalyst.daemon.components import Components
from catalyst.daemon.shutdown import ExitCode, StopRequest
from catalyst.daemon.startup import acquire_account, acquire_host_lock, open_database
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import PositionSide, Purpose, side_for
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.interface import BarColumns, Market, NewsArticle, SnapshotColumns
from catalyst.simulator.server import SimulatorServer, run_server
from catalyst.store.orders import NewOrder, OrderRow
from tests.audit import assert_journal_leads_to_state, assert_ledger_equals_exchange
from tests.crash.fault_point import CrashAt
from tests.simulator.manual_feed import ManualFeed, at

Facts = dict[str, Any]

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


class ScenarioMarket(ManualFeed):
    """A hand-made tape that answers the data API too: it has prints and quotes, and no bars or headlines."""

    def snapshots(self, symbols: Sequence[str], when: datetime) -> SnapshotColumns:
        import numpy as np

        known = [symbol for symbol in symbols if self.last_print(symbol, when) is not None]
        lasts = [self.last_print(symbol, when) for symbol in known]
        quotes = [self.quote(symbol, when) for symbol in known]
        nothing = _no_bars(len(known))
        return SnapshotColumns(
            symbols=known,
            trade_at=np.array([int(p.at.timestamp()) for p in lasts if p], dtype=np.int64),
            trade_price=np.array([float(p.price) for p in lasts if p], dtype=np.float64),
            trade_size=np.array([p.size for p in lasts if p], dtype=np.int64),
            quote_at=np.array([int(q.at.timestamp()) if q else -1 for q in quotes], dtype=np.int64),
            bid=np.array([float(q.bid) if q else 0.0 for q in quotes], dtype=np.float64),
            ask=np.array([float(q.ask) if q else 0.0 for q in quotes], dtype=np.float64),
            bid_size=np.array([q.bid_size if q else 0 for q in quotes], dtype=np.int64),
            ask_size=np.array([q.ask_size if q else 0 for q in quotes], dtype=np.int64),
            minute=nothing,
            daily=nothing,
            previous=nothing,
        )

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, when: datetime
    ) -> BarColumns:
        return _no_bars(0)

    def headlines(self, start: datetime, end: datetime, when: datetime) -> Sequence[NewsArticle]:
        return []


def _no_bars(rows: int) -> BarColumns:
    import numpy as np

    return BarColumns(
        np.full(rows, -1, dtype=np.int64),
        *(np.full(rows, np.nan) for _ in range(4)),
        np.zeros(rows, dtype=np.int64),
        np.full(rows, np.nan),
        np.zeros(rows, dtype=np.int64),
    )


def settings_for(url: str, **sections: Facts) -> Settings:
    """An autonomous configuration for the exchange at `url`; `sections` override it."""
    tree: dict[str, Any] = {
        "broker": {"simulator": url},
        "session": {"mode": "autonomous"},
        "workflow": {"auto_execute": True},
        "features": {"autonomous_trading": True},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    config = Config.model_validate(tree)
    return Settings(config, Environment(), Mode.SIM, config.session.mode)


@dataclass
class Scenario:
    """One daemon at one exchange. Everything asked of it is read from the database or from the exchange."""

    clock: ManualClock
    market: Market
    server: SimulatorServer
    dsn: str
    settings: Settings
    conn: "asyncpg.Connection[asyncpg.Record]"
    components: Components | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    crash_trigger: CrashAt = field(default_factory=CrashAt)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _run_task: "asyncio.Task[ExitCode] | None" = None
    _entry_count: int = 0
    _frames_before_start: int = 0  # frames of the stream that were an earlier life's

    # -- the daemon's life

    async def start(self) -> None:
        """Start the daemon and wait until it is ready and has heard the stream."""
        self.crash_trigger.reset()
        await self._start()

    async def crash_during_start(self, step: str, moment: Moment) -> None:
        """Start the daemon and let its life end at a step of its recovery."""
        self.crash_trigger.reset()
        self.crash_trigger.arm(step, moment)
        try:
            await self._start()
        except asyncio.CancelledError:
            assert self.crash_trigger.crashed
        assert self.crash_trigger.crashed, f"never came to {moment} {step}"
        await self.crash()

    async def _start(self) -> None:
        self.stop = StopRequest()
        self._stack = AsyncExitStack()
        account = await acquire_host_lock(
            self._stack, self.settings, self.clock, fault_point=self.crash_trigger
        )
        store = await open_database(self._stack, self.dsn, self.clock, fault_point=self.crash_trigger)
        components, lock = await acquire_account(
            self._stack, self.settings, store, self.clock, account, fault_point=self.crash_trigger
        )
        self._frames_before_start = self.server.frames_sent
        self.components = components
        self._run_task = asyncio.create_task(recover_and_run(components, lock, self.stop, once=True))
        ready = asyncio.ensure_future(components.ready.wait())
        await self.clock.wait_until_quiet()
        while not ready.done() and not self._run_task.done() and not self.crash_trigger.crashed:
            await self.advance(seconds=1)
        if not ready.done():
            ready.cancel()
        if self.crash_trigger.crashed:
            return
        if self._run_task.done():
            self._run_task.result()
        while components.stream.state is not StreamState.READY:
            await self.advance(seconds=1)

    async def crash(self) -> None:
        """The daemon is gone at once: nothing of it runs another line, its connections are cut."""
        assert self._run_task is not None
        self.crash_trigger.crashed = True
        self._run_task.cancel()
        await asyncio.gather(self._run_task, return_exceptions=True)
        await self._stack.aclose()
        self.components = None

    async def crash_at(
        self, step: str, moment: Moment, doing: Awaitable[object] | None = None, *, nth: int = 1
    ) -> None:
        """Let the daemon's life end at a step of what it does by itself, or of `doing`; fails when it never comes
        to that step."""
        self.crash_trigger.arm(step, moment, nth=nth)
        task = None if doing is None else asyncio.ensure_future(doing)
        for _ in range(240):
            if self.crash_trigger.crashed:
                break
            await self.advance(seconds=0.5)
        assert self.crash_trigger.crashed, f"never came to {moment} {step}"
        await self.crash()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def wait_for_exit(self, *, step: float = 1) -> ExitCode:
        """Wait, on the story's clock in steps of seconds, until the daemon has ended by itself; its exit code."""
        assert self._run_task is not None
        while not self._run_task.done():
            await self.advance(seconds=step)
        code = self._run_task.result()
        await self._stack.aclose()
        self.components = None
        return code

    def all_frames_applied(self) -> bool:
        """True when every frame the exchange sent has had its effect."""
        if self.crash_trigger.crashed or self.components is None:
            return True
        return self._frames_before_start + self.components.stream.frames_processed >= self.server.frames_sent

    # -- the market

    def print_trade(self, symbol: str, price: str, *, size: int = 100_000, after: float = 0.0) -> None:
        """A trade on the tape, `after` seconds from now (a hair later, so that it is news)."""
        assert isinstance(self.market, ScenarioMarket)
        when = self.clock.now() + timedelta(seconds=after, microseconds=1)
        self.market.add_trade(symbol, when, price, size)
        self.server._wake_event.set()  # the tape was written behind the driver's back

    async def advance(self, **duration: float) -> None:
        """Let market time pass."""
        await self.clock.advance(timedelta(**duration))

    # -- orders

    async def submit_entry(
        self, symbol: str, qty: int, *, limit: str, stop: str, target: str, side: str = "long"
    ) -> OrderRow:
        """Send a bracket entry the way the day's scan does."""
        assert self.components is not None
        assert self.components.trading_day is not None
        self._entry_count += 1
        held = PositionSide(side)
        return await self.components.submission.place(
            NewOrder(
                client_order_id=client_order_id(f"story|{symbol}|{self._entry_count}", "e", 0),
                symbol=symbol,
                purpose=Purpose.ENTRY,
                position_side=held,
                side=side_for(held, Purpose.ENTRY),
                quantity=Decimal(qty),
                order_type="limit",
                time_in_force="day",
                order_class="bracket",
                limit_price=Decimal(limit),
                bracket_stop=Decimal(stop),
                bracket_target=Decimal(target),
                cycle_id=self.components.trading_day.cycle_id,
                signal_id=f"story-{symbol}-{self._entry_count}",
                epoch=self.components.epoch,
            ),
            note="a story",
        )

    async def admin(self, path: str, body: Facts | None = None) -> Any:
        """Ask (GET) or tell (POST) the exchange by its side door."""
        async with aiohttp.ClientSession() as http:
            verb = http.get if body is None else http.post
            options: Facts = {} if body is None else {"json": body}
            async with verb(f"{self.server.url}/admin/{path}", **options) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

    # -- what is true

    async def position(self, symbol: str) -> Facts | None:
        """The newest position of a symbol as the tables have it."""
        row = await self.conn.fetchrow(
            "SELECT p.* FROM positions p JOIN securities s USING (security_id)"
            " WHERE s.symbol = $1 ORDER BY position_id DESC LIMIT 1",
            symbol,
        )
        return None if row is None else dict(row)

    async def orders(self, symbol: str) -> list[Facts]:
        """Every order of a symbol as the tables have it, oldest first."""
        rows = await self.conn.fetch(
            "SELECT o.* FROM orders o JOIN securities s USING (security_id)"
            " WHERE s.symbol = $1 ORDER BY order_id",
            symbol,
        )
        return [dict(row) for row in rows]

    def held_qty(self, symbol: str) -> Decimal:
        """The shares the exchange holds for us, signed."""
        position = self.server.exchange.account.positions.get(symbol)
        return position.qty if position is not None else Decimal(0)

    async def count_submitted(self, symbol: str) -> int:
        """How many orders of a symbol reached the exchange."""
        ledger = await self.admin(f"logs?method=POST&path=/v2/orders&symbol={symbol}")
        return len(ledger["requests"])

    async def given_position(self, symbol: str, qty: int, **orders: str) -> OrderRow:
        """Buy `qty` shares by a bracket entry that fills at once and is protected; the entry's row."""
        self.print_trade(symbol, "190.00")
        await self.advance(seconds=1)
        row = await self.submit_entry(symbol, qty, **{**ENTRY, **orders})
        await self.advance(seconds=5)
        assert self.held_qty(symbol) == qty
        return row

    async def inject_fault(self, kind: str, **rule: object) -> None:
        """Put a rule of the fault menu in force."""
        await self.admin("faults", {"kind": kind, **rule})

    async def clear_faults(self) -> None:
        """Lift every rule of the fault menu."""
        self.server.exchange.faults.remove()

    async def send_command(self, kind: str, **arguments: object) -> Facts:
        """Leave a command for the daemon and wait for its answer: {"ok": ..., ...what it says}."""
        command_id = await self.conn.fetchval(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ($1, $2::jsonb, $3, 'trader') RETURNING command_id",
            kind,
            orjson.dumps(arguments).decode(),
            self.clock.now(),
        )
        for _ in range(200):
            row = await self.conn.fetchrow(
                "SELECT ok, result FROM commands WHERE command_id = $1", command_id
            )
            if row is not None and row["ok"] is not None:
                return {"ok": row["ok"], **orjson.loads(row["result"])}
            await self.advance(seconds=1)
        raise AssertionError(f"nobody answered {kind}")

    async def alert_events(self) -> list[str]:
        """The events of every alert so far, oldest first."""
        return [r["event"] for r in await self.conn.fetch("SELECT event FROM alerts ORDER BY alert_id")]

    async def assert_consistent(self, *, crossed_zero: bool = False) -> None:
        """Tables, exchange and journal tell the same story, no invariant fell, and the exchange's own audit is clean,
        but for an exit that the story made it let across zero."""
        assert "SAFE_MODE" not in await self.alert_events()
        await assert_ledger_equals_exchange(
            self.conn, await self.admin("logs"), await self.admin("audit"), exit_crossed_zero=crossed_zero
        )
        await assert_journal_leads_to_state(self.conn)


async def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Real time passes until something outside our clock has happened; fails loudly when it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, not an event of ours
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_scenario(
    dsn: str,
    *,
    now: datetime | None = None,
    market: Market | None = None,
    exchange_settings: ExchangeSettings | None = None,
    started: bool = True,
    **sections: Facts,
) -> AsyncIterator[Scenario]:
    """A desk at a quarter past ten of a quiet Monday, its daemon running unless `opened` is false.

    `market` plays something else than a hand-made tape; `sections` override the configuration.
    """
    clock = ManualClock(now or at("10:15"))
    played = market if market is not None else ScenarioMarket()
    exchange = Exchange(played, clock.now(), settings=exchange_settings)
    async with run_server(exchange, clock, market=played) as server, AsyncExitStack() as stack:
        conn = await asyncpg.connect(dsn)
        folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
        sections["database"] = {"data_dir": f"{folder}/pg", **sections.get("database", {})}
        scenario = Scenario(clock, played, server, dsn, settings_for(server.url, **sections), conn)
        clock.advance_only_when(scenario.all_frames_applied)
        try:
            if started:
                await scenario.start()
            yield scenario
        finally:
            if scenario.components is not None:
                await scenario.crash()
            await conn.close()
