"""The stories in which a daemon dies at every step: the market's side of each, and what it may lead to.

Prints come at their own time, whether a daemon lives or not. A story ends by itself: flat, or protected.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID, uuid5

from catalyst.domain.ids import NAMESPACE, client_order_id
from catalyst.domain.order import PositionSide
from catalyst.pipeline.plan import Plan
from catalyst.simulator.exchange.settings import ExchangeSettings, LatencyRange
from catalyst.store import commands
from catalyst.store.pool import connect
from tests.crash.restartable_daemon import CrashHarness
from tests.stories.scenario import Facts

# An entry that did not fill is given up soon, so that every story ends within its minute.
SHORT_ENTRY_TIMEOUT: Final = {"execution": {"entry_timeout_seconds": 20}}
ENTRY: Final = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@dataclass(frozen=True)
class CrashScenario:
    """One story. `expected` are the critical alerts it may raise, `foreign` the symbols somebody else trades."""

    name: str
    description: str
    play: Callable[[CrashHarness], Awaitable[None]]
    expected_alerts: frozenset[str] = frozenset()
    external_symbols: frozenset[str] = frozenset()
    start_time: str = "10:16"
    max_qty: Decimal = Decimal(20)
    sections: dict[str, Facts] = field(default_factory=lambda: SHORT_ENTRY_TIMEOUT)
    stop_by_replacement: bool = False

    def exchange_settings(self) -> ExchangeSettings:
        """The exchange of this story: latencies without chance, and stops that fill as the story says."""
        return ExchangeSettings(
            acknowledge=LatencyRange(0.05, 0.05),
            arrive=LatencyRange(0.05, 0.05),
            cancel=LatencyRange(0.2, 0.2),
            activate=LatencyRange(0.04, 0.04),
            leg_cancel=LatencyRange(0.1, 0.1),
            entry_legs_cancel=LatencyRange(1.0, 1.0),
            stop_by_replacement=self.stop_by_replacement,
        )


async def _bracket(harness: CrashHarness, *exit_prices: str) -> None:
    """An entry that fills at 190, then one print after the other."""
    harness.prints("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.waits(seconds=4)
    for price in exit_prices:
        harness.prints("AAPL", price)
        await harness.waits(seconds=3)


async def bracket_win(harness: CrashHarness) -> None:
    await _bracket(harness, "194.05")


async def bracket_loss(harness: CrashHarness) -> None:
    await _bracket(harness, "187.50")


async def partial_entry(harness: CrashHarness) -> None:
    await harness.admin("faults", {"kind": "partial", "symbol": "AAPL", "role": "entry", "qty": "8"})
    harness.prints("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.waits(seconds=20)  # the target comes when cover must have come long ago
    harness.prints("AAPL", "194.05")
    await harness.waits(seconds=3)


async def entry_rejected(harness: CrashHarness) -> None:
    await harness.admin("faults", {"kind": "reject", "symbol": "MSFT", "count": 0})
    harness.prints("AAPL", "190.00")
    harness.prints("MSFT", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20_000, **ENTRY)  # more than the account can buy: refused at the door
    await harness.submit_signal("MSFT", 20, **ENTRY)  # taken, and rejected afterwards
    await harness.waits(seconds=3)


async def cancel_race(harness: CrashHarness) -> None:
    await harness.admin("faults", {"kind": "cancel_loses", "symbol": "AAPL", "role": "entry", "count": 0})
    harness.prints("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, limit="189.50", stop="188.00", target="194.00")
    await harness.waits(seconds=8)
    harness.prints("AAPL", "194.05")
    await harness.waits(seconds=4)


async def stop_replaced(harness: CrashHarness) -> None:
    await _bracket(harness, "187.50")


async def end_of_day(harness: CrashHarness) -> None:
    for symbol in ("AAPL", "MSFT", "TSLA"):
        harness.prints(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT", "TSLA"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.waits(seconds=12)  # the market's day ends its entries ten minutes before the close


async def daily_loss(harness: CrashHarness) -> None:
    for symbol in ("AAPL", "MSFT"):
        harness.prints(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.waits(seconds=3)
    harness.prints("AAPL", "187.50")
    await harness.waits(seconds=6)


async def sigterm(harness: CrashHarness) -> None:
    for symbol in ("AAPL", "MSFT"):
        harness.prints(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.waits(seconds=3)
    await harness.wait_until_ready()
    harness.active_run.stop.request("SIGTERM", flatten=True)
    await harness.waits(seconds=6)


async def outage(harness: CrashHarness) -> None:
    harness.prints("AAPL", "190.00")
    await harness.start()
    await harness.admin("faults", {"kind": "status", "method": "POST", "route": "/v2/orders", "status": 504})
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.admin(
        "faults",
        {"id": "requests_down", "kind": "status_before", "route": "/v2/*", "status": 503, "count": 0},
    )
    await harness.admin("faults", {"id": "stream_down", "kind": "stream_refuse", "count": 0})
    await harness.admin("stream", {"act": "disconnect"})
    await harness.waits(seconds=4)
    harness.server.exchange.faults.remove("requests_down")
    harness.server.exchange.faults.remove("stream_down")
    await harness.waits(seconds=9)
    harness.prints("AAPL", "194.05")
    await harness.waits(seconds=3)


async def external_trades(harness: CrashHarness) -> None:
    for symbol in ("AAPL", "MSFT", "TSLA"):
        harness.prints(symbol, "190.00")
    buy = {"side": "buy", "time_in_force": "day"}
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.waits(seconds=2)
    await harness.admin("order", {"symbol": "TSLA", "qty": "5", "type": "market", **buy})
    await harness.admin("order", {"symbol": "MSFT", "qty": "5", "type": "limit", "limit_price": "150", **buy})
    for order in harness.server.exchange.order_store.working("AAPL"):
        if order.type.value == "limit" and order.side.value == "sell":
            await harness.admin("cancel", {"id": order.id})  # a person takes our exits away
    await harness.waits(seconds=6)
    harness.prints("AAPL", "194.05")
    await harness.waits(seconds=3)


async def proposal(harness: CrashHarness) -> None:
    harness.prints("AAPL", "190.00")
    await harness.start()
    waiting = await _wait_for_proposal(harness)
    for _ in range(3):  # a person whose word got lost says it again
        if not await _is_undecided(harness, waiting):
            break
        await _approve(harness, waiting)
        await harness.waits(seconds=3)
        await harness.wait_until_ready()
    harness.prints("AAPL", "194.05")
    await harness.waits(seconds=3)


async def _wait_for_proposal(harness: CrashHarness) -> int:
    """A ticket that waits for a person; its id. A daemon that died over it proposes anew."""
    number = 0
    while True:
        await harness.wait_until_ready()
        found = await harness.conn.fetchval("SELECT proposal_id FROM proposals WHERE decision IS NULL")
        if found is not None:
            return int(found)
        number += 1
        assert number < 5, "no proposal came to be"
        daemon_run = harness.active_run
        assert daemon_run.components is not None
        assert daemon_run.components.trading_day is not None
        plan = _plan(harness, number)
        daemon_run.spawn(
            daemon_run.components.trading_day._propose(
                plan, daemon_run.components.trading_day._order_of(plan), "a story"
            )
        )
        await harness.waits(seconds=0.5)


def _plan(harness: CrashHarness, number: int) -> Plan:
    signal: UUID = uuid5(NAMESPACE, f"proposal {number}")
    return Plan(
        signal, client_order_id(str(signal), "e", 1), "AAPL", PositionSide.LONG, 20, Decimal("190.10"),
        Decimal("190.10"), Decimal("188.00"), Decimal("194.00"), Decimal("42"), 0.7, None, harness.clock.now(),
    )  # fmt: skip


async def _is_undecided(harness: CrashHarness, proposal_id: int) -> bool:
    status = await harness.conn.fetchval(
        "SELECT o.status FROM proposals p JOIN orders o USING (order_id) WHERE p.proposal_id = $1",
        proposal_id,
    )
    return bool(status == "created")


async def _approve(harness: CrashHarness, proposal_id: int) -> None:
    conn = await connect(harness.dsn, "a person")
    try:
        await commands.put(
            conn, "approve", {"proposal_id": proposal_id}, by="a person", at=harness.clock.now()
        )
    finally:
        await conn.close()
    await harness.waits(seconds=timedelta(seconds=0.5).total_seconds())


SCENARIOS: Final = {
    one.name: one
    for one in (
        CrashScenario("bracket_win", "an entry fills, is protected, and reaches its target", bracket_win),
        CrashScenario("bracket_loss", "an entry fills and is stopped", bracket_loss),
        CrashScenario("partial_entry", "eight of twenty fill; an OCO covers exactly eight", partial_entry),
        CrashScenario("entry_rejected", "one entry is refused at the door, one is rejected later", entry_rejected),
        CrashScenario(
            "cancel_race", "an entry times out and fills before its cancel arrives", cancel_race,
            sections={"execution": {"entry_timeout_seconds": 5}},
        ),
        CrashScenario(
            "stop_replaced", "the stop fills through an order of the broker's own", stop_replaced,
            stop_by_replacement=True,
        ),
        CrashScenario("end_of_day", "three positions are left before the close", end_of_day, start_time="15:49:50"),
        CrashScenario(
            "daily_loss", "a stop takes the day past its limit; everything is left", daily_loss,
            expected_alerts=frozenset({"EMERGENCY_STOP"}), sections={**SHORT_ENTRY_TIMEOUT, "risk": {"max_daily_loss": 40}},
        ),
        CrashScenario("sigterm", "asked to stop, the daemon leaves everything", sigterm),
        CrashScenario("outage", "an unclear answer, then neither requests nor stream", outage,
            expected_alerts=frozenset({"STREAM_LOST"}),
        ),
        CrashScenario(
            "external_trades", "a person trades the account and takes our exits away", external_trades,
            expected_alerts=frozenset({"FOREIGN_FILL", "ORPHAN_POSITION"}), external_symbols=frozenset({"TSLA", "MSFT"}),
        ),
        CrashScenario(
            "proposal", "a trade waits for a person and is approved", proposal,
            sections={**SHORT_ENTRY_TIMEOUT, "session": {"mode": "supervised"}},
        ),
    )
}  # fmt: skip
