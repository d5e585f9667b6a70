"""Alerts and the order path: signal to the wire while a mail server accepts and never answers, over none configured.

Rounds run in turns. In both an alert is raised before the signal. In one nobody receives alerts; in the other the
delivery of alerts runs in the same event loop, and its message hangs at the mail server while the order is sent.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from uuid import uuid4

import structlog

from benchmarks._floor import (
    BarePost,
    Row,
    bare_broker,
    database_server,
    measure_interleaved,
    new_database,
    percentile,
)
from benchmarks.order_path import BareBroker, OrderPath, Step, SymbolSequence, insert_day, lifecycle_of
from catalyst.clock import SystemClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.runtime.alert_delivery import AlertDelivery
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.notify.channel import Channel, Recipients
from catalyst.notify.mail import MailChannel, MailServer
from catalyst.store import alerts
from catalyst.store.pool import Store, open_store

ROUNDS = int(os.environ.get("ROUNDS", "200"))
TARGET = 1.1


def run() -> list[Row]:
    return asyncio.run(measure_all())


async def measure_all() -> list[Row]:
    """Measure both and return p50 and p99 in milliseconds with their ratios."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with database_server() as server:
        async with (
            bare_broker() as (url, received_at),
            silent_server() as (port, hanging),
            AsyncExitStack() as stack,
        ):
            dsn = await new_database(server, "today")
            await insert_day(dsn)
            clock = SystemClock()
            store = await open_store(dsn, clock)
            stack.push_async_callback(store.close)
            broker = BareBroker(await BarePost.open(url))
            stack.callback(broker.http.close)
            config, gate = CurrentConfig(Config()), EntryGate(clock, reasons={})
            ledger = OrderLedger(store, broker, clock, 1, config, gate)  # type: ignore[arg-type]
            submission = OrderSubmission(store, broker, ledger, gate, clock, config, 1, "0a1b2c")  # type: ignore[arg-type]
            order_path = OrderPath(store, ledger, submission, SymbolSequence(0))
            lifecycle = lifecycle_of(order_path, received_at)
            mail = MailChannel(
                MailServer("127.0.0.1", port, "catalyst@example.com"),
                Recipients(frozenset({"CRITICAL"}), ("ann@example.com",)),
                clock,
            )
            spent = await measure_interleaved(
                {
                    "none": beside_alerts(store, lifecycle, [], hanging),
                    "silent": beside_alerts(store, lifecycle, [mail], hanging),
                },
                ROUNDS,
            )
    none, silent = spent["none"][0], spent["silent"][0]
    return [
        ("signal to the wire, nobody receives alerts: p50", median(none), "ms"),
        ("signal to the wire, nobody receives alerts: p99", percentile(none, 99), "ms"),
        ("signal to the wire, silent mail server: p50", median(silent), "ms"),
        ("signal to the wire, silent mail server: p99", percentile(silent, 99), "ms"),
        ("ratio of p50", median(silent) / median(none), "x"),
        (f"ratio of p99, target <= {TARGET}", percentile(silent, 99) / percentile(none, 99), "x"),
    ]


def beside_alerts(store: Store, lifecycle: Step, channels: list[Channel], hanging: asyncio.Event) -> Step:
    """Return a step that measures one order after an alert, while the delivery of alerts runs."""

    async def step(number: int) -> Sequence[float]:
        clock = SystemClock()
        async with store.tx("alert") as conn:
            await alerts.raise_alert(
                conn, "NOT_FLAT", "20 AAPL", facts={}, subject=uuid4().hex, at=clock.now()
            )
        hanging.clear()
        task = asyncio.create_task(AlertDelivery(store, channels, clock).run())
        await asyncio.sleep(0.02)
        if channels:
            await hanging.wait()
        try:
            return await lifecycle(number)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return step


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Accept connections and never answer; yield the port and an event that each connection sets."""
    held: list[asyncio.StreamWriter] = []
    hanging = asyncio.Event()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        hanging.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], hanging
    finally:
        server.close()
        for writer in held:
            writer.close()
