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
from catalyst.daemon.app import live
from catalyst.daemon.components import Desk as Parts
from catalyst.daemon.shutdown import Exit, Stop
from catalyst.daemon.startup import open_books, sit_down, take_the_desk
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import PositionSide, Purpose, side_for
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.market.interface import BarColumns, Headline, Market, SnapshotColumns
from catalyst.simulator.server import Server, running
from catalyst.store.orders import NewOrder, OrderRow
from tests.audit import books_equal, journal_folds
from tests.crash.fault_point import Fate
from tests.simulator.manual_feed import HandTape, at

Facts = dict[str, Any]

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


class StoryMarket(HandTape):
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

    def headlines(self, start: datetime, end: datetime, when: datetime) -> Sequence[Headline]:
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
class Desk:
    """One daemon at one exchange. Everything asked of it is read from the database or from the exchange."""

    clock: ManualClock
    market: Market
    server: Server
    dsn: str
    settings: Settings
    conn: "asyncpg.Connection[asyncpg.Record]"
    parts: Parts | None = None
    stop: Stop = field(default_factory=Stop)
    fate: Fate = field(default_factory=Fate)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _life: "asyncio.Task[Exit] | None" = None
    _entries: int = 0
    _unheard: int = 0  # frames of the stream that were an earlier life's

    # -- the daemon's life

    async def opens(self) -> None:
        """Start the daemon and wait until it is ready and has heard the stream."""
        self.fate.forgets()
        await self._opens()

    async def dies_opening(self, step: str, moment: Moment) -> None:
        """Start the daemon and let its life end at a step of its recovery."""
        self.fate.forgets()
        self.fate.strikes(step, moment)
        try:
            await self._opens()
        except asyncio.CancelledError:
            assert self.fate.dead
        assert self.fate.dead, f"never came to {moment} {step}"
        await self.dies()

    async def _opens(self) -> None:
        self.stop = Stop()
        self._stack = AsyncExitStack()
        account = await sit_down(self._stack, self.settings, self.clock, witness=self.fate)
        store = await open_books(self._stack, self.dsn, self.clock, witness=self.fate)
        parts, lock = await take_the_desk(
            self._stack, self.settings, store, self.clock, account, witness=self.fate
        )
        self._unheard = self.server.frames_sent
        self.parts = parts
        self._life = asyncio.create_task(live(parts, lock, self.stop, once=True))
        ready = asyncio.ensure_future(parts.ready.wait())
        await self.clock.quiet()
        while not ready.done() and not self._life.done() and not self.fate.dead:
            await self.waits(seconds=1)
        if not ready.done():
            ready.cancel()
        if self.fate.dead:
            return
        if self._life.done():
            self._life.result()
        while parts.stream.state is not StreamState.READY:
            await self.waits(seconds=1)

    async def dies(self) -> None:
        """The daemon is gone at once: nothing of it runs another line, its connections are cut."""
        assert self._life is not None
        self.fate.dead = True
        self._life.cancel()
        await asyncio.gather(self._life, return_exceptions=True)
        await self._stack.aclose()
        self.parts = None

    async def dies_at(
        self, step: str, moment: Moment, doing: Awaitable[object] | None = None, *, nth: int = 1
    ) -> None:
        """Let the daemon's life end at a step of what it does by itself, or of `doing`; fails when it never comes
        to that step."""
        self.fate.strikes(step, moment, nth=nth)
        task = None if doing is None else asyncio.ensure_future(doing)
        for _ in range(240):
            if self.fate.dead:
                break
            await self.waits(seconds=0.5)
        assert self.fate.dead, f"never came to {moment} {step}"
        await self.dies()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def leaves(self, *, step: float = 1) -> Exit:
        """Wait, on the story's clock in steps of seconds, until the daemon has ended by itself; its exit code."""
        assert self._life is not None
        while not self._life.done():
            await self.waits(seconds=step)
        code = self._life.result()
        await self._stack.aclose()
        self.parts = None
        return code

    def settled(self) -> bool:
        """True when every frame the exchange sent has had its effect."""
        if self.fate.dead or self.parts is None:
            return True
        return self._unheard + self.parts.stream.frames_received >= self.server.frames_sent

    # -- the market

    def prints(self, symbol: str, price: str, *, size: int = 100_000, after: float = 0.0) -> None:
        """A trade on the tape, `after` seconds from now (a hair later, so that it is news)."""
        assert isinstance(self.market, StoryMarket)
        when = self.clock.now() + timedelta(seconds=after, microseconds=1)
        self.market.trades(symbol, when, price, size)
        self.server._woken.set()  # the tape was written behind the driver's back

    async def waits(self, **duration: float) -> None:
        """Let market time pass."""
        await self.clock.advance(timedelta(**duration))

    # -- orders

    async def enters(
        self, symbol: str, qty: int, *, limit: str, stop: str, target: str, side: str = "long"
    ) -> OrderRow:
        """Send a bracket entry the way the day's scan does."""
        assert self.parts is not None
        assert self.parts.day is not None
        self._entries += 1
        held = PositionSide(side)
        return await self.parts.execution.place(
            NewOrder(
                client_order_id=client_order_id(f"story|{symbol}|{self._entries}", "e", 0),
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
                cycle_id=self.parts.day.cycle_id,
                signal_id=f"story-{symbol}-{self._entries}",
                epoch=self.parts.epoch,
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

    def held(self, symbol: str) -> Decimal:
        """The shares the exchange holds for us, signed."""
        position = self.server.exchange.account.positions.get(symbol)
        return position.qty if position is not None else Decimal(0)

    async def submits(self, symbol: str) -> int:
        """How many orders of a symbol reached the exchange."""
        ledger = await self.admin(f"ledger?method=POST&path=/v2/orders&symbol={symbol}")
        return len(ledger["requests"])

    async def holds(self, symbol: str, qty: int, **orders: str) -> OrderRow:
        """Buy `qty` shares by a bracket entry that fills at once and is protected; the entry's row."""
        self.prints(symbol, "190.00")
        await self.waits(seconds=1)
        row = await self.enters(symbol, qty, **{**ENTRY, **orders})
        await self.waits(seconds=5)
        assert self.held(symbol) == qty
        return row

    async def faults(self, kind: str, **rule: object) -> None:
        """Put a rule of the fault menu in force."""
        await self.admin("faults", {"kind": kind, **rule})

    async def heals(self) -> None:
        """Lift every rule of the fault menu."""
        self.server.exchange.faults.remove()

    async def tells(self, kind: str, **arguments: object) -> Facts:
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
            await self.waits(seconds=1)
        raise AssertionError(f"nobody answered {kind}")

    async def alerts(self) -> list[str]:
        """The events of every alert so far, oldest first."""
        return [r["event"] for r in await self.conn.fetch("SELECT event FROM alerts ORDER BY alert_id")]

    async def agrees(self, *, crossed: bool = False) -> None:
        """Tables, exchange and journal tell the same story, no invariant fell, and the exchange's own audit is clean,
        but for an exit that the story made it let across zero."""
        assert "SAFE_MODE" not in await self.alerts()
        await books_equal(self.conn, await self.admin("ledger"), await self.admin("audit"), crossed=crossed)
        await journal_folds(self.conn)


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Real time passes until something outside our clock has happened; fails loudly when it never does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the other side is a socket, not an event of ours
            await asyncio.sleep(0.005)


@asynccontextmanager
async def open_desk(
    dsn: str,
    *,
    now: datetime | None = None,
    market: Market | None = None,
    switches: Switches | None = None,
    opened: bool = True,
    **sections: Facts,
) -> AsyncIterator[Desk]:
    """A desk at a quarter past ten of a quiet Monday, its daemon running unless `opened` is false.

    `market` plays something else than a hand-made tape; `sections` override the configuration.
    """
    clock = ManualClock(now or at("10:15"))
    played = market if market is not None else StoryMarket()
    exchange = Exchange(played, clock.now(), switches=switches)
    async with running(exchange, clock, market=played) as server, AsyncExitStack() as stack:
        conn = await asyncpg.connect(dsn)
        folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
        sections["database"] = {"data_dir": f"{folder}/pg", **sections.get("database", {})}
        desk = Desk(clock, played, server, dsn, settings_for(server.url, **sections), conn)
        clock.quiet_when(desk.settled)
        try:
            if opened:
                await desk.opens()
            yield desk
        finally:
            if desk.parts is not None:
                await desk.dies()
            await conn.close()
