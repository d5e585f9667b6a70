"""The exchange in its own thread, for blocking clients and other processes. Its clock is manual, or runs by
itself at a speed when the client is a process that waits for events."""

import asyncio
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests

from catalyst.clock import NEW_YORK, Clock, ManualClock, ScaledClock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.rules.wire_format import JsonObject
from catalyst.simulator.server import SimulatorServer, run_server
from catalyst.simulator.synthetic import market as synthetic_market

DAY = date(2026, 6, 17)
KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
SHARED = Path(__file__).parents[3] / "shared"


@lru_cache(maxsize=1)
def small_market() -> BarMarket:
    """Return a generated day of 150 symbols, AAPL, MSFT and SPY included."""
    return synthetic_market.make_market(7, DAY, 150)


def new_york(clock_time: str, day: date = DAY) -> datetime:
    return datetime.combine(day, time.fromisoformat(clock_time), NEW_YORK).astimezone(UTC)


class ExchangeThread:
    """A served exchange, used from a thread that may block."""

    def __init__(self, server: SimulatorServer, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.clock, self._loop = server, clock, loop
        self.exchange = server.exchange
        self.url = server.url
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers.update(KEYS)

    def call_in_thread(self, act: Callable[[], Any]) -> Any:
        """Call `act` in the exchange's thread; return its result."""

        async def acting() -> Any:
            result = act()
            return await result if isinstance(result, Awaitable) else result

        return asyncio.run_coroutine_threadsafe(acting(), self._loop).result(60)

    def advance(self, seconds: float = 1.0) -> None:
        """Advance the manual clock."""
        assert isinstance(self.clock, ManualClock)
        self.call_in_thread(lambda: self.clock.advance(timedelta(seconds=seconds)))  # type: ignore[attr-defined]

    def request(self, method: str, path: str, **more: Any) -> requests.Response:
        return self.http.request(method, self.url + path, timeout=30, **more)

    def submit_order(
        self, side: str, qty: object, symbol: str, kind: str = "market", **more: object
    ) -> JsonObject:
        """Submit an order and require that it is accepted."""
        body = {"symbol": symbol, "side": side, "qty": qty, "type": kind, "time_in_force": "day", **more}
        response = self.request("POST", "/v2/orders", json=body)
        assert response.status_code == 200, response.text
        answer: JsonObject = response.json()
        return answer


@contextmanager
def run_exchange(
    *,
    market: BarMarket | None = None,
    start: str = "10:30",
    speed: float | None = None,
    deposit: int = 100_000,
    **switches: Any,
) -> Iterator[ExchangeThread]:
    """Serve an exchange during the block; with a `speed` its clock runs by itself."""
    market = market or small_market()
    begins = new_york(start, market.day)
    with tempfile.TemporaryDirectory(prefix="catalyst-conformance-") as folder:
        clock: Clock = ManualClock(begins)
        if speed is not None:
            ScaledClock.create(Path(folder) / "clock", begins)
            clock = ScaledClock(Path(folder) / "clock", drive=True, speed=speed)
        terms = ExchangeSettings(**{"rate_limit": 0, **switches})
        exchange = Exchange(market, clock.now(), deposit=Decimal(deposit), settings=terms)
        ready: list[ExchangeThread] = []
        started, stop_requested = threading.Event(), threading.Event()
        failure: list[BaseException] = []

        async def serve() -> None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            async with run_server(exchange, clock, market=market) as server:
                ready.append(ExchangeThread(server, clock, loop))
                loop.run_in_executor(
                    None, lambda: (stop_requested.wait(), loop.call_soon_threadsafe(ended.set))
                )
                started.set()
                await ended.wait()

        def run() -> None:
            try:
                asyncio.run(serve())
            except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
                failure.append(error)
            finally:
                started.set()

        thread = threading.Thread(target=run, name="exchange")
        thread.start()
        started.wait()
        try:
            if failure:
                raise failure[0]
            yield ready[0]
        finally:
            stop_requested.set()
            thread.join(30)
            if ready:
                ready[0].http.close()
        if failure:
            raise failure[0]
