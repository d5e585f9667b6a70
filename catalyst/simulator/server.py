"""Simulator server: HTTP and websockets on loopback, driven by a clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from catalyst.clock import Clock, wait
from catalyst.simulator.admin.routes import AdminApi
from catalyst.simulator.data_api.routes import ENTITLEMENTS, add_data_routes
from catalyst.simulator.data_stream.server import DataStreams, add_data_streams
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.persistence import Journal
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.interface import Market
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.trading_api.calendar import CalendarApi
from catalyst.simulator.trading_api.middleware import Handler, RequestMiddleware
from catalyst.simulator.trading_api.routes import TradingApi
from catalyst.simulator.trading_api.trade_updates import TradeUpdateStreams
from catalyst.simulator.trading_api.watchlists import WatchlistApi

LOOPBACK: Final = "127.0.0.1"
MAX_REQUEST_LINE: Final = 65_536  # bytes of the request line; the data API rejects much shorter ones itself
MAX_BODY_SIZE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SimOptions:
    """Options of `run_server`."""

    market: Market
    clock: Clock
    host: str = LOOPBACK
    port: int = 0
    port_file: Path | None = None
    key: str = "demo"
    secret: str = "demo"  # noqa: S105 - the stand-in account of a local exchange has nothing to protect
    seed: int = 7
    deposit: Decimal = Decimal(100_000)
    multiplier: int = 4
    state_dir: Path | None = None
    settings: ExchangeSettings | None = None
    account_id: str | None = None  # a UUID; None: drawn from the seed; a kept state has its own


class SimulatorServer:
    """A running exchange: its address, and what a test may read."""

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        keys: dict[str, str],
        journal: Journal | None = None,
    ) -> None:
        self.exchange = exchange
        self.clock = clock
        self.host, self.port = LOOPBACK, 0
        self.streams = TradeUpdateStreams(exchange.state.faults, exchange.state.settings, clock, keys)
        self.middleware = RequestMiddleware(exchange, clock, keys, self.publish_changes)
        self.data_streams: DataStreams | None = None
        self._keys = keys
        self._journal = journal
        self._wake_event = asyncio.Event()

    @property
    def url(self) -> str:
        """Return the base of every REST path, without /v2."""
        return f"http://{self.host}:{self.port}"

    @property
    def stream_url(self) -> str:
        """Return the URL of the trade_updates websocket."""
        return f"ws://{self.host}:{self.port}/stream"

    @property
    def frames_sent(self) -> int:
        """Return the number of trade_updates frames given to live sockets."""
        return self.streams.frames_sent

    def build_application(self, market: Market | None) -> web.Application:
        """Add every route; the market data API only when the market supports it."""

        @web.middleware
        async def apply_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self.middleware.serve(request, handler)

        app = web.Application(middlewares=[apply_middleware], client_max_size=MAX_BODY_SIZE)
        TradingApi(self.exchange).mount(app)
        CalendarApi(self.exchange, self.clock).mount(app)
        WatchlistApi(self.exchange).mount(app)
        admin = AdminApi(self.exchange, self.clock, self.middleware, self.streams)
        admin.mount(app)
        for path in ("/stream", "/stream/"):  # alpaca-trade-api connects with the slash
            app.router.add_get(path, self.streams.serve)
        if market is not None:
            add_data_routes(app, market, self.clock)
            announcements = self.exchange.state.announcements
            self.data_streams = add_data_streams(app, market, self.clock, self._keys, announcements)
            admin.mount_data(app, app[ENTITLEMENTS], self.data_streams)
        if isinstance(market, OverriddenMarket):
            for symbol in sorted(self.exchange.state.halted):  # halted before this process began
                market.halt(symbol, self.exchange.state.now)
            self.exchange.state.announcements.on_change(
                partial(market.apply_announcements, self.exchange.state.announcements)
            )
            admin.mount_market(app, market)
        return app

    def publish_changes(self) -> None:
        """Save changes, send updates, and let the driver read its next event again."""
        if self._journal is not None:
            self._journal.save(self.exchange)
        updates, self.exchange.state.outbox[:] = list(self.exchange.state.outbox), []
        self.streams.broadcast(updates)
        self.wake_driver()

    def wake_driver(self) -> None:
        """Let the driver read the next event again, after the feed or the exchange was changed from outside."""
        self._wake_event.set()

    async def close(self) -> None:
        """Close hanging responses and open sockets."""
        self.middleware.server_closed.set()
        await self.streams.close()
        if self.data_streams is not None:
            await self.data_streams.disconnect()

    async def run_scheduled_events(self) -> None:
        """Advance the exchange to each instant at which something happens."""
        while True:
            self.exchange.venue.advance(self.clock.now())
            self.publish_changes()
            self._wake_event.clear()
            due = self.exchange.venue.next_event_at()
            if due is None:
                await self._wake_event.wait()
            else:
                await wait(self.clock, self._wake_event, due - self.clock.now())


@asynccontextmanager
async def run_server(
    exchange: Exchange,
    clock: Clock,
    *,
    market: Market | None = None,
    host: str = LOOPBACK,
    port: int = 0,
    keys: dict[str, str] | None = None,
    journal: Journal | None = None,
) -> AsyncIterator[SimulatorServer]:
    """Serve an exchange for the length of the block; `port` 0 takes any free one."""
    server = SimulatorServer(exchange, clock, keys or {"demo": "demo"}, journal)
    runner = web.AppRunner(
        server.build_application(market),
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=0.5,
        max_line_size=MAX_REQUEST_LINE,
    )
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    server.host, server.port = host, runner.addresses[0][1]
    driver = asyncio.ensure_future(server.run_scheduled_events())
    try:
        yield server
    finally:
        driver.cancel()
        await asyncio.gather(driver, return_exceptions=True)
        await server.close()
        await runner.cleanup()


async def serve_until_cancelled(options: SimOptions) -> None:
    """Serve until cancelled; the port file holds the port once clients can connect."""
    market = OverriddenMarket(options.market)
    exchange = Exchange(
        market,
        options.clock.now(),
        seed=options.seed,
        deposit=options.deposit,
        multiplier=options.multiplier,
        settings=options.settings,
        account_id=options.account_id,
    )
    journal = None
    if options.state_dir is not None:
        journal = Journal(options.state_dir)
        journal.restore(exchange)
    keys = {options.key: options.secret}
    async with run_server(
        exchange,
        options.clock,
        market=market,
        host=options.host,
        port=options.port,
        keys=keys,
        journal=journal,
    ) as server:
        if options.port_file is not None:
            write_port_file(options.port_file, server.port)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            exchange.venue.advance(options.clock.now())
            exchange.state.unsaved_changes = True  # a restart continues from this time
            server.publish_changes()


def write_port_file(path: Path, port: int) -> None:
    """Write the port to the file in one step, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(f"{port}\n")
    draft.replace(path)
