"""Two minutes of the exchange under load: 50 connections, 2,000 orders, 20 account and 10 data subscribers, its audit.

The exchange is a separate process in real time; LOAD_SECONDS makes the load shorter. Refused orders, unequal streams or
a problem of the audit fail the benchmark.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles
from time import perf_counter
from typing import Any, Final

import aiohttp
import orjson

from benchmarks.exchange import KEYS, SYMBOLS, Row, exchange_process

CONNECTIONS: Final = 50
ORDERS: Final = 2_000
ACCOUNT_SUBSCRIBERS: Final = 20
DATA_SUBSCRIBERS: Final = 10
SECONDS: Final = float(os.environ.get("LOAD_SECONDS", "120"))
QUIET_S: Final = 3.0  # after the last order: its fill and its messages
AUTH: Final = {"action": "auth", "key": "demo", "secret": "demo"}


@dataclass(slots=True)
class Load:
    """What the clients saw."""

    latencies_s: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    updates: list[int] = field(default_factory=lambda: [0] * ACCOUNT_SUBSCRIBERS)
    data_messages: int = 0
    data_frames: int = 0
    largest_frame: int = 0


def run() -> list[Row]:
    """Measure latencies, streams, processor and memory of the exchange under the load."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    load = Load()
    async with exchange_process(SYMBOLS) as (url, used):
        limits = aiohttp.TCPConnector(limit=CONNECTIONS + ACCOUNT_SUBSCRIBERS + DATA_SUBSCRIBERS + 5)
        async with aiohttp.ClientSession(url, headers=KEYS, connector=limits) as http:
            await _post(http, "/admin/deposit", {"amount": "100000000"})
            await _post(http, "/admin/settings", {"one_stream": False})
            await _post(http, "/admin/data", {"connection_limit": DATA_SUBSCRIBERS})
            subscribers = await _subscribe(http, load)
            started, cpu = perf_counter(), used()
            symbols = await _most_active_symbols(http)
            await asyncio.gather(*(_trade(http, load, n, symbols[n]) for n in range(CONNECTIONS)))
            await asyncio.sleep(QUIET_S)
            wall, cpu = perf_counter() - started, used() - cpu
            audit = await _get(http, "/admin/audit")
            state = await _get(http, "/admin/state")
            for task in subscribers:
                task.cancel()
            await asyncio.gather(*subscribers, return_exceptions=True)
    assert load.refused == [], load.refused[:3]
    assert audit["problems"] == [], audit["problems"]
    assert len(set(load.updates)) == 1, load.updates
    cuts = quantiles(load.latencies_s, n=100)
    return [
        (f"orders sent over {CONNECTIONS} connections", float(len(load.latencies_s)), "orders"),
        ("order, median", cuts[49] * 1e3, "ms"),
        ("order, 99 of 100 within", cuts[98] * 1e3, "ms"),
        ("order, slowest", max(load.latencies_s) * 1e3, "ms"),
        ("executions", float(audit["executions"]), "executions"),
        ("problems of the audit", float(len(audit["problems"])), "problems"),
        (
            f"account messages to each of {ACCOUNT_SUBSCRIBERS} subscribers",
            float(load.updates[0]),
            "messages",
        ),
        (
            f"market data to {DATA_SUBSCRIBERS} subscribers of {SYMBOLS:,} symbols",
            load.data_messages / wall,
            "messages/s",
        ),
        ("market data, largest frame", load.largest_frame / 1e3, "kB"),
        ("CPU of the exchange", cpu / wall * 100, "% of a core"),
        ("requests in its log", float(state["requests"]), "requests"),
        ("load average of the machine at the end", os.getloadavg()[0], "processes"),
    ]


async def _trade(http: aiohttp.ClientSession, load: Load, number: int, symbol: str) -> None:
    """Send a connection's share of the orders, evenly over the time: buy, sell a part, rest an order and cancel it."""
    count = ORDERS // CONNECTIONS
    price = float((await _get(http, f"/v2/stocks/{symbol}/trades/latest"))["trade"]["p"])
    began, pause = perf_counter(), SECONDS / count
    orders = (
        {"side": "buy", "qty": "4", "type": "market"},
        {"side": "sell", "qty": "2", "type": "market"},
        {"side": "sell", "qty": "1", "type": "limit", "limit_price": f"{price * 1.2:.2f}"},
        {"side": "sell", "qty": "1", "type": "market"},
    )
    for sent in range(count):
        await asyncio.sleep(max(began + (sent + number / CONNECTIONS) * pause - perf_counter(), 0))
        body = {"symbol": symbol, "time_in_force": "day", **orders[sent % len(orders)]}
        at = perf_counter()
        async with http.post("/v2/orders", json=body) as response:
            answer = await response.json()
        load.latencies_s.append(perf_counter() - at)
        if response.status != 200:
            load.refused.append(f"{body}: {answer}")
        elif body["type"] == "limit":
            async with http.delete(f"/v2/orders/{answer['id']}") as cancelled:
                assert cancelled.status == 204, await cancelled.text()


async def _subscribe(http: aiohttp.ClientSession, load: Load) -> list["asyncio.Task[None]"]:
    """Open every stream; return the tasks that read them."""

    def count_update(number: int) -> Callable[[bytes], None]:
        def count(_: bytes) -> None:
            load.updates[number] += 1

        return count

    def count_data(frame: bytes) -> None:
        load.data_frames += 1
        load.data_messages += len(orjson.loads(frame))
        load.largest_frame = max(load.largest_frame, len(frame))

    readers = []
    for number in range(ACCOUNT_SUBSCRIBERS):
        listen = {"action": "listen", "data": {"streams": ["trade_updates"]}}
        socket = await http.ws_connect("/stream")
        readers.append(_read(socket, [AUTH, listen], count_update(number), answers=2))
    for _ in range(DATA_SUBSCRIBERS):
        wanted = {"action": "subscribe", "trades": ["*"], "quotes": ["*"], "bars": ["*"]}
        socket = await http.ws_connect("/v2/sip", max_msg_size=1 << 20)  # the limit of alpaca-py
        readers.append(_read(socket, [wanted], count_data, answers=3))
    return [asyncio.ensure_future(reader) for reader in readers]


async def _read(
    socket: aiohttp.ClientWebSocketResponse,
    opening: list[object],
    count: Callable[[bytes], None],
    *,
    answers: int,
) -> None:
    """Send the opening messages, skip their answers, and count every later frame."""
    for message in opening:
        await socket.send_bytes(orjson.dumps(message))
    async for frame in socket:
        if answers:
            answers -= 1
            continue
        count(frame.data if isinstance(frame.data, bytes) else frame.data.encode())


async def _most_active_symbols(http: aiohttp.ClientSession) -> list[str]:
    rows = (await _get(http, f"/v1beta1/screener/stocks/most-actives?top={CONNECTIONS}"))["most_actives"]
    return [row["symbol"] for row in rows]


async def _get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def _post(http: aiohttp.ClientSession, path: str, body: object) -> None:
    async with http.post(path, json=body) as response:
        assert response.status == 200, await response.text()
