"""Scenario tests: the real daemon and a real PostgreSQL trade on the simulated exchange over HTTP and
WebSocket.

The clock is manual: time stands still until the test advances it, and sockets and database keep up with it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
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
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import PositionSide, Purpose, side_for
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.interface import BarColumns, Market, NewsArticle, SnapshotColumns
from catalyst.simulator.server import SimulatorServer, run_server
from tests.audit import assert_journal_leads_to_state, assert_ledger_equals_exchange
from tests.crash.fault_point import CrashAt
from tests.fault_rules import assert_every_rule_fired
from tests.simulator.manual_feed import ManualFeed, at

Facts = dict[str, Any]

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


class ScenarioMarket(ManualFeed):
    """Market with prints and quotes set by the test; it serves snapshots and daily bars, but no shorter bars and no
    headlines."""

    has_daily_bars = True

    def snapshots(self, symbols: Sequence[str], when: datetime) -> SnapshotColumns:
        """Return the last print and quote of each symbol that has a print."""
        import numpy as np

        with_print = [symbol for symbol in symbols if self.last_print(symbol, when) is not None]
        lasts = [self.last_print(symbol, when) for symbol in with_print]
        quotes = [self.quote(symbol, when) for symbol in with_print]
        no_bars = _no_bars(len(with_print))
        return SnapshotColumns(
            symbols=with_print,
            trade_at=np.array([int(p.at.timestamp()) for p in lasts if p], dtype=np.int64),
            trade_price=np.array([float(p.price) for p in lasts if p], dtype=np.float64),
            trade_size=np.array([p.size for p in lasts if p], dtype=np.int64),
            quote_at=np.array([int(q.at.timestamp()) if q else -1 for q in quotes], dtype=np.int64),
            bid=np.array([float(q.bid) if q else 0.0 for q in quotes], dtype=np.float64),
            ask=np.array([float(q.ask) if q else 0.0 for q in quotes], dtype=np.float64),
            bid_size=np.array([q.bid_size if q else 0 for q in quotes], dtype=np.int64),
            ask_size=np.array([q.ask_size if q else 0 for q in quotes], dtype=np.int64),
            minute=no_bars,
            daily=no_bars,
            previous=no_bars,
        )

    def bars(
        self, symbol: str, length: timedelta, start: datetime, end: datetime, when: datetime
    ) -> BarColumns:
        """Return thirty daily bars of the weekdays before, and no shorter ones."""
        import numpy as np

        if not self.has_daily_bars or length < timedelta(days=1):
            return _no_bars(0)
        days = [when.date() - timedelta(days=n) for n in range(42, 0, -1)]
        at_s = np.array(
            [int(at("00:00", day).timestamp()) for day in days if day.weekday() < 5], dtype=np.int64
        )
        at_s = at_s[(at_s >= start.timestamp()) & (at_s <= end.timestamp())]
        prices = (np.full(len(at_s), 190.0) for _ in range(4))
        volume = np.full(len(at_s), 1_000_000, dtype=np.int64)
        return BarColumns(at_s, *prices, volume, np.full(len(at_s), 190.0), volume)

    def headlines(self, start: datetime, end: datetime, when: datetime) -> Sequence[NewsArticle]:
        """Return no headlines."""
        return []


def _no_bars(rows: int) -> BarColumns:
    """Return bar columns without a value for this number of symbols."""
    import numpy as np

    return BarColumns(
        np.full(rows, -1, dtype=np.int64),
        *(np.full(rows, np.nan) for _ in range(4)),
        np.zeros(rows, dtype=np.int64),
        np.full(rows, np.nan),
        np.zeros(rows, dtype=np.int64),
    )


def settings_for(url: str, **sections: Facts) -> Settings:
    """Return settings for autonomous trading on the exchange at `url`; `sections` override the configuration."""
    tree: dict[str, Any] = {
        "broker": {"simulator": url},
        "session": {"mode": "autonomous"},
        "workflow": {"auto_execute": True},
        "features": {"autonomous_trading": True},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    config = Config.model_validate(tree)
    variables = frozenset(item for item in os.environ.items() if item[0] != "PYTEST_CURRENT_TEST")
    return Settings(config, _read_environment(variables), Mode.SIM, config.session.mode)


@cache
def _read_environment(_variables: frozenset[tuple[str, str]]) -> Environment:
    """Return the settings in the environment; reading them takes longer than anything else before the start."""
    return Environment()


@dataclass
class Scenario:
    """One daemon on one exchange. Its state is read from the database and from the exchange."""

    clock: ManualClock
    market: Market
    server: SimulatorServer
    dsn: str
    settings: Settings
    conn: "asyncpg.Connection[asyncpg.Record]"
    components: Components | None = None
    once: bool = True  # the daemon exits at the end of the day
    gets_stream: bool = True  # no other connection has it
    stop: StopRequest = field(default_factory=StopRequest)
    crash_trigger: CrashAt = field(default_factory=CrashAt)
    reasons_of_silence: dict[str, str] = field(default_factory=dict)  # of fault rules, by id
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _run_task: "asyncio.Task[ExitCode] | None" = None
    _entry_count: int = 0
    _frames_before_start: int = 0  # stream frames sent before this process run

    # -- the daemon

    async def start(self) -> None:
        """Start the daemon and wait until it and its stream are ready."""
        self.crash_trigger.reset()
        await self._start()

    async def crash_during_start(self, step: str, moment: Moment) -> None:
        """Start the daemon and crash it at this step of its recovery; fail when the step is never reached."""
        self.crash_trigger.reset()
        self.crash_trigger.arm(step, moment)
        try:
            await self._start()
        except asyncio.CancelledError:
            assert self.crash_trigger.crashed
        assert self.crash_trigger.crashed, f"never reached {moment} {step}"
        await self.crash()

    async def _start(self) -> None:
        """Start the daemon and wait until it and its stream are ready, or until it crashes."""
        self.stop = StopRequest()
        self._stack = AsyncExitStack()
        account = await acquire_host_lock(
            self._stack,
            self.settings,
            self.clock,
            dsn=self.dsn,
            stop=self.stop,
            fault_point=self.crash_trigger,
        )
        gate = EntryGate(self.clock)
        store = await open_database(self._stack, self.dsn, self.clock, gate, fault_point=self.crash_trigger)
        components, lock = await acquire_account(
            self._stack, self.settings, store, self.clock, gate, account, fault_point=self.crash_trigger
        )
        self._frames_before_start = self.server.frames_sent
        self.components = components
        self._run_task = asyncio.create_task(recover_and_run(components, lock, self.stop, once=self.once))
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
        while self.gets_stream and components.stream.state is not StreamState.READY:
            await self.advance(seconds=1)

    async def crash(self) -> None:
        """Crash the daemon: no later line runs, and its connections are cut."""
        assert self._run_task is not None
        self.crash_trigger.crashed = True
        self._run_task.cancel()
        await asyncio.gather(self._run_task, return_exceptions=True)
        await self._stack.aclose()
        self.components = None

    async def crash_at(
        self, step: str, moment: Moment, action: Awaitable[object] | None = None, *, nth: int = 1
    ) -> None:
        """Crash the daemon at this step, while it works on its own or while `action` runs; fail when the step
        is never reached."""
        self.crash_trigger.arm(step, moment, nth=nth)
        task = None if action is None else asyncio.ensure_future(action)
        for _ in range(240):
            if self.crash_trigger.crashed:
                break
            await self.advance(seconds=0.5)
        assert self.crash_trigger.crashed, f"never reached {moment} {step}"
        await self.crash()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def wait_for_exit(self, *, step: float = 1) -> ExitCode:
        """Advance time in steps of `step` seconds until the daemon has exited; return its exit code."""
        assert self._run_task is not None
        while not self._run_task.done():
            await self.advance(seconds=step)
        code = self._run_task.result()
        await self._stack.aclose()
        self.components = None
        return code

    def all_frames_applied(self) -> bool:
        """Return true when the daemon has processed every frame that the exchange sent."""
        if self.crash_trigger.crashed or self.components is None:
            return True
        return self._frames_before_start + self.components.stream.frames_processed >= self.server.frames_sent

    # -- the market

    def print_trade(self, symbol: str, price: str, *, size: int = 100_000, after: float = 0.0) -> None:
        """Print a trade `after` seconds from now, plus one microsecond so that it is newer than now."""
        assert isinstance(self.market, ScenarioMarket)
        when = self.clock.now() + timedelta(seconds=after, microseconds=1)
        self.market.add_trade(symbol, when, price, size)
        self.server._wake_event.set()  # the server does not notice new prints by itself

    async def advance(self, **duration: float) -> None:
        """Advance market time."""
        await self.clock.advance(timedelta(**duration))

    # -- orders

    async def submit_entry(
        self,
        symbol: str,
        qty: int,
        *,
        limit: str,
        stop: str,
        target: str,
        side: str = "long",
        client_order_id: str | None = None,
    ) -> OrderRow:
        """Submit a bracket entry as the scan of the day does."""
        assert self.components is not None
        self._entry_count += 1
        position_side = PositionSide(side)
        return await self.components.submission.place(
            NewOrder(
                client_order_id=client_order_id
                or self.own_order_id(f"story|{symbol}|{self._entry_count}", "e"),
                symbol=symbol,
                purpose=Purpose.ENTRY,
                position_side=position_side,
                side=side_for(position_side, Purpose.ENTRY),
                quantity=Decimal(qty),
                order_type="limit",
                time_in_force="day",
                order_class="bracket",
                limit_price=Decimal(limit),
                bracket_stop=Decimal(stop),
                bracket_target=Decimal(target),
                cycle_id=self.components.current_day.cycle_id,
                signal_id=f"story-{symbol}-{self._entry_count}",
                epoch=self.components.epoch,
            ),
            note="scenario test",
        )

    def own_order_id(self, base: str, role: str) -> str:
        """Return a client order id of this installation."""
        assert self.components is not None
        return client_order_id(self.components.submission.installation, base, role, 0)

    async def admin(self, path: str, body: Facts | None = None) -> Any:
        """Send GET (without a body) or POST to the exchange's admin API; return the JSON response."""
        async with aiohttp.ClientSession() as http:
            send = http.get if body is None else http.post
            options: Facts = {} if body is None else {"json": body}
            async with send(f"{self.server.url}/admin/{path}", **options) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

    # -- state

    async def position(self, symbol: str) -> Facts | None:
        """Return the newest position row of a symbol."""
        row = await self.conn.fetchrow(
            "SELECT p.* FROM positions p JOIN securities s USING (security_id)"
            " WHERE s.symbol = $1 ORDER BY position_id DESC LIMIT 1",
            symbol,
        )
        return None if row is None else dict(row)

    async def orders(self, symbol: str) -> list[Facts]:
        """Return every order row of a symbol, oldest first."""
        rows = await self.conn.fetch(
            "SELECT o.* FROM orders o JOIN securities s USING (security_id)"
            " WHERE s.symbol = $1 ORDER BY order_id",
            symbol,
        )
        return [dict(row) for row in rows]

    def held_qty(self, symbol: str) -> Decimal:
        """Return our shares at the exchange; negative when short."""
        position = self.server.exchange.state.account.positions.get(symbol)
        return position.qty if position is not None else Decimal(0)

    async def count_submitted(self, symbol: str) -> int:
        """Return how many order requests of a symbol reached the exchange."""
        logs = await self.admin(f"logs?method=POST&path=/v2/orders&symbol={symbol}")
        return len(logs["requests"])

    async def given_position(self, symbol: str, qty: int, **orders: str) -> OrderRow:
        """Buy `qty` shares by a bracket entry that fills at once and is protected; return the entry's row."""
        self.print_trade(symbol, "190.00")
        await self.advance(seconds=1)
        row = await self.submit_entry(symbol, qty, **{**ENTRY, **orders})
        await self.advance(seconds=5)
        assert self.held_qty(symbol) == qty
        return row

    async def inject_fault(self, kind: str, *, may_stay_silent: str = "", **rule: object) -> None:
        """Add a fault rule to the exchange. It must fire before the scenario ends, unless `may_stay_silent` says
        why it need not."""
        added = await self.admin("faults", {"kind": kind, **rule})
        if may_stay_silent:
            self.reasons_of_silence[added["id"]] = may_stay_silent

    async def refuse_replacements(self, *, may_stay_silent: str = "") -> None:
        """Let the broker refuse every replacement, so that an exit cancels the legs and sends a sale."""
        await self.inject_fault(
            "status_before", method="PATCH", route="/v2/orders/*", status=422, code=40010001, count=0,
            message="unable to replace order, order isn't sent to exchange yet", may_stay_silent=may_stay_silent,
        )  # fmt: skip

    async def clear_faults(self) -> None:
        """Remove every fault rule of the exchange."""
        self.server.exchange.state.faults.remove()

    async def send_command(self, kind: str, **arguments: object) -> Facts:
        """Insert a command and wait for the daemon's answer: {"ok": ..., and its result}."""
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
        raise AssertionError(f"the daemon did not answer {kind}")

    async def alert_events(self) -> list[str]:
        """Return the events of all alerts, oldest first."""
        return [r["event"] for r in await self.conn.fetch("SELECT event FROM alerts ORDER BY alert_id")]

    async def assert_consistent(self, *, crossed_zero: bool = False) -> None:
        """Check that database, journal and exchange agree and no invariant failed. `crossed_zero`: the
        scenario lets the exchange fill an exit across zero."""
        assert "SAFE_MODE" not in await self.alert_events()
        await assert_ledger_equals_exchange(
            self.conn, await self.admin("logs"), await self.admin("audit"), exit_crossed_zero=crossed_zero
        )
        await assert_journal_leads_to_state(self.conn)


@asynccontextmanager
async def second_installation(
    first: Scenario, dsn: str, *, gets_stream: bool, same_machine: bool = False, **sections: Facts
) -> AsyncIterator[Scenario]:
    """Start a daemon with another database on the exchange account of `first`, on another machine or the same."""
    conn = await asyncpg.connect(dsn)
    with TemporaryDirectory(prefix="catalyst-tests-") as folder:
        data_dir = str(first.settings.data_dir) if same_machine else f"{folder}/pg"
        settings = settings_for(first.server.url, database={"data_dir": data_dir}, **sections)
        second = Scenario(
            first.clock, first.market, first.server, dsn, settings, conn, gets_stream=gets_stream
        )
        if gets_stream:
            first.clock.advance_only_when(second.all_frames_applied)
        try:
            await second.start()
            yield second
        finally:
            if second.components is not None:
                await second.crash()
            await conn.close()


@asynccontextmanager
async def open_scenario(
    dsn: str,
    *,
    now: datetime | None = None,
    market: Market | None = None,
    exchange_settings: ExchangeSettings | None = None,
    started: bool = True,
    once: bool = True,
    **sections: Facts,
) -> AsyncIterator[Scenario]:
    """Open a scenario at 10:15 on a quiet Monday; its daemon runs unless `started` is false.

    `market` replaces the ScenarioMarket; `once` false: the daemon runs one day after the other; `sections` override
    the configuration. At the end every fault rule must have fired.
    """
    clock = ManualClock(now or at("10:15"))
    scenario_market = market if market is not None else ScenarioMarket()
    # Rules that count messages count from the acknowledgement on; test_stream_faults.py has the message before it.
    terms = exchange_settings or ExchangeSettings(emit_pending_new=False)
    exchange = Exchange(scenario_market, clock.now(), settings=terms)
    async with run_server(exchange, clock, market=scenario_market) as server, AsyncExitStack() as stack:
        conn = await asyncpg.connect(dsn)
        folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
        sections["database"] = {"data_dir": f"{folder}/pg", **sections.get("database", {})}
        settings = settings_for(server.url, **sections)
        scenario = Scenario(clock, scenario_market, server, dsn, settings, conn, once=once)
        clock.advance_only_when(scenario.all_frames_applied)
        try:
            if started:
                await scenario.start()
            yield scenario
            assert_every_rule_fired(exchange.state.faults, scenario.reasons_of_silence)
        finally:
            if scenario.components is not None:
                await scenario.crash()
            await conn.close()
