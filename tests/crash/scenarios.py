"""Scenarios of the crash matrix: the market's side of each, and the alerts it may raise.

Prints come at their own time, whether a daemon runs or not. Each scenario ends flat or protected.
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

# A short entry time-out, so that every scenario ends within one minute.
SHORT_ENTRY_TIMEOUT: Final = {"execution": {"entry_timeout_seconds": 20}}
ENTRY: Final = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@dataclass(frozen=True)
class CrashScenario:
    """One scenario. It may raise `expected_alerts`; other people trade the `external_symbols`."""

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
        """Return exchange settings without randomness: fixed latencies, and the stop behaviour of this
        scenario."""
        return ExchangeSettings(
            acknowledge=LatencyRange(0.05, 0.05),
            arrive=LatencyRange(0.05, 0.05),
            cancel=LatencyRange(0.2, 0.2),
            activate=LatencyRange(0.04, 0.04),
            leg_cancel=LatencyRange(0.1, 0.1),
            entry_legs_cancel=LatencyRange(1.0, 1.0),
            stop_by_replacement=self.stop_by_replacement,
            emit_pending_new=False,  # the seeds were chosen by their messages
        )


async def _bracket(harness: CrashHarness, *exit_prices: str) -> None:
    """Fill an entry at 190, then print the exit prices three seconds apart."""
    harness.print_trade("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.advance(seconds=4)
    for price in exit_prices:
        harness.print_trade("AAPL", price)
        await harness.advance(seconds=3)


async def bracket_win(harness: CrashHarness) -> None:
    """Fill an entry and its target."""
    await _bracket(harness, "194.05")


async def bracket_loss(harness: CrashHarness) -> None:
    """Fill an entry and its stop."""
    await _bracket(harness, "187.50")


async def partial_entry(harness: CrashHarness) -> None:
    """Fill 8 of 20 shares; an OCO must protect exactly these."""
    await harness.admin("faults", {"kind": "partial", "symbol": "AAPL", "role": "entry", "qty": "8"})
    harness.print_trade("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.advance(seconds=20)  # by then the shares must be protected
    harness.print_trade("AAPL", "194.05")
    await harness.advance(seconds=3)


async def entry_rejected(harness: CrashHarness) -> None:
    """Reject one entry in the response and another one after its acceptance."""
    await harness.admin("faults", {"kind": "reject", "symbol": "MSFT", "count": 0})
    harness.print_trade("AAPL", "190.00")
    harness.print_trade("MSFT", "190.00")
    await harness.start()
    await harness.submit_signal(
        "AAPL", 20_000, **ENTRY
    )  # more than the account can buy: rejected in the response
    await harness.submit_signal("MSFT", 20, **ENTRY)  # accepted, then rejected
    await harness.advance(seconds=3)


async def cancel_race(harness: CrashHarness) -> None:
    """Let an entry fill although its cancel was requested."""
    await harness.admin("faults", {"kind": "cancel_loses", "symbol": "AAPL", "role": "entry", "count": 0})
    harness.print_trade("AAPL", "190.00")
    await harness.start()
    await harness.submit_signal("AAPL", 20, limit="189.50", stop="188.00", target="194.00")
    await harness.advance(seconds=8)
    harness.print_trade("AAPL", "194.05")
    await harness.advance(seconds=4)


async def stop_replaced(harness: CrashHarness) -> None:
    """Fill the stop through a replacement order of the broker."""
    await _bracket(harness, "187.50")


async def end_of_day(harness: CrashHarness) -> None:
    """Hold three positions when the exits before the close begin."""
    for symbol in ("AAPL", "MSFT", "TSLA"):
        harness.print_trade(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT", "TSLA"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.advance(seconds=12)  # the end of day begins ten minutes before the close


async def daily_loss(harness: CrashHarness) -> None:
    """Lose more than the daily limit by a stop while another position is open."""
    for symbol in ("AAPL", "MSFT"):
        harness.print_trade(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.advance(seconds=3)
    harness.print_trade("AAPL", "187.50")
    await harness.advance(seconds=6)


async def sigterm(harness: CrashHarness) -> None:
    """Request a stop with flatten while two positions are open."""
    for symbol in ("AAPL", "MSFT"):
        harness.print_trade(symbol, "190.00")
    await harness.start()
    for symbol in ("AAPL", "MSFT"):
        await harness.submit_signal(symbol, 20, **ENTRY)
    await harness.advance(seconds=3)
    await harness.wait_until_ready()
    harness.active_run.stop.request("SIGTERM", flatten=True)
    await harness.advance(seconds=6)


async def outage(harness: CrashHarness) -> None:
    """Let a submit time out with 504, then take requests and stream down for four seconds."""
    harness.print_trade("AAPL", "190.00")
    await harness.start()
    await harness.admin("faults", {"kind": "status", "method": "POST", "route": "/v2/orders", "status": 504})
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.admin(
        "faults",
        {"id": "requests_down", "kind": "status_before", "route": "/v2/*", "status": 503, "count": 0},
    )
    await harness.admin("faults", {"id": "stream_down", "kind": "stream_refuse", "count": 0})
    await harness.admin("stream", {"act": "disconnect"})
    await harness.advance(seconds=4)
    harness.server.exchange.state.faults.remove("requests_down")
    harness.server.exchange.state.faults.remove("stream_down")
    await harness.advance(seconds=9)
    harness.print_trade("AAPL", "194.05")
    await harness.advance(seconds=3)


async def external_trades(harness: CrashHarness) -> None:
    """Let an operator trade two symbols and cancel the legs of a third."""
    for symbol in ("AAPL", "MSFT", "TSLA"):
        harness.print_trade(symbol, "190.00")
    buy = {"side": "buy", "time_in_force": "day"}
    await harness.start()
    await harness.submit_signal("AAPL", 20, **ENTRY)
    await harness.advance(seconds=2)
    await harness.admin("order", {"symbol": "TSLA", "qty": "5", "type": "market", **buy})
    await harness.admin("order", {"symbol": "MSFT", "qty": "5", "type": "limit", "limit_price": "150", **buy})
    for order in harness.server.exchange.state.order_store.working("AAPL"):
        if order.type.value == "limit" and order.side.value == "sell":
            await harness.admin("cancel", {"id": order.id})  # the operator cancels our exits
    await harness.advance(seconds=6)
    harness.print_trade("AAPL", "194.05")
    await harness.advance(seconds=3)


REFUSED_SALE: Final[Facts] = {
    "id": "sale", "kind": "status_before", "method": "POST", "route": "/v2/orders", "client_order_id": "cat-*-[xf]",
    "status": 403, "code": 40310000, "message": "insufficient day trading buying power", "count": 0,
}  # fmt: skip
REFUSED_REPLACEMENT: Final[Facts] = {
    "id": "replacement", "kind": "status_before", "method": "PATCH", "route": "/v2/orders/*", "status": 422,
    "code": 40010001, "message": "unable to replace order, order isn't sent to exchange yet", "count": 0,
}  # fmt: skip


async def refused_exit(harness: CrashHarness) -> None:
    """Refuse the sale of a position that a person closes, and accept it six seconds later."""
    await _bracket(harness)
    await harness.admin("faults", REFUSED_SALE)
    await harness.admin("faults", REFUSED_REPLACEMENT)
    await _close(harness, "AAPL")
    await harness.advance(seconds=6)
    for rule in ("sale", "replacement"):
        harness.server.exchange.state.faults.remove(rule)
    await harness.advance(seconds=30)


async def late_lists(harness: CrashHarness) -> None:
    """Answer each list of orders eight seconds late while a position exits and its first sale gets a 401."""
    await _bracket(harness)
    await harness.admin("faults", REFUSED_REPLACEMENT)
    await harness.admin(
        "faults",
        {"id": "lists", "kind": "slow", "method": "GET", "route": "/v2/orders", "seconds": 8, "count": 0},
    )
    await harness.advance(seconds=12)  # a poll of the orders is under way
    await harness.admin(
        "faults",
        {"kind": "unauthorized", "method": "POST", "route": "/v2/orders", "client_order_id": "cat-*-[xf]"},
    )
    await _close(harness, "AAPL")
    await harness.advance(seconds=20)
    for rule in ("lists", "replacement"):
        harness.server.exchange.state.faults.remove(rule)
    await harness.advance(seconds=10)


async def stop_cancelled_while_dead(harness: CrashHarness) -> None:
    """Cancel the legs of a position at the broker while no daemon runs."""
    await _bracket(harness)
    await harness.crash()
    for order in harness.server.exchange.state.order_store.working("AAPL"):
        if order.type.value == "limit" and order.side.value == "sell":
            await harness.admin("cancel", {"id": order.id})
    await harness.advance(seconds=3)
    await harness.start()
    await harness.advance(seconds=6)
    harness.print_trade("AAPL", "187.50")
    await harness.advance(seconds=3)


async def _close(harness: CrashHarness, symbol: str) -> None:
    """Insert a command to close the position, as an operator would; a crash does not lose it."""
    await harness.wait_until_ready()
    await _put_command(harness, "close", {"symbol": symbol})


async def _put_command(harness: CrashHarness, kind: str, arguments: Facts) -> None:
    """Insert a command, as the command line does."""
    conn = await connect(harness.dsn, "a person")
    try:
        await commands.put(conn, kind, arguments, by="a person", at=harness.clock.now())
    finally:
        await conn.close()


async def proposal(harness: CrashHarness) -> None:
    """Approve a proposal; repeat the approval when a crash loses it."""
    harness.print_trade("AAPL", "190.00")
    await harness.start()
    proposal_id = await _wait_for_proposal(harness)
    for _ in range(3):  # the operator repeats a command that a crash lost
        if not await _is_undecided(harness, proposal_id):
            break
        await _approve(harness, proposal_id)
        await harness.advance(seconds=3)
        await harness.wait_until_ready()
    harness.print_trade("AAPL", "194.05")
    await harness.advance(seconds=3)


async def _wait_for_proposal(harness: CrashHarness) -> int:
    """Create a proposal and return its id; create another one when the daemon crashed before it was stored."""
    number = 0
    while True:
        await harness.wait_until_ready()
        proposal_id = await harness.conn.fetchval("SELECT proposal_id FROM proposals WHERE decision IS NULL")
        if proposal_id is not None:
            return int(proposal_id)
        number += 1
        assert number < 5, "no proposal was stored"
        daemon_run = harness.active_run
        assert daemon_run.components is not None
        components = daemon_run.components
        plan = _plan(harness, components.submission.installation, number)
        daemon_run.spawn(components.entries.propose(plan, "scenario test"))
        await harness.advance(seconds=0.5)


def _plan(harness: CrashHarness, installation: str, number: int) -> Plan:
    """Return a plan to buy 20 AAPL; `number` makes its ids unique."""
    signal: UUID = uuid5(NAMESPACE, f"proposal {number}")
    return Plan(
        signal, client_order_id(installation, str(signal), "e", 1), "AAPL", PositionSide.LONG, 20, Decimal("190.10"),
        Decimal("190.10"), Decimal("188.00"), Decimal("194.00"), Decimal("42"), 0.7, None, harness.clock.now(),
    )  # fmt: skip


async def _is_undecided(harness: CrashHarness, proposal_id: int) -> bool:
    """Return true while the order of the proposal is still created."""
    status = await harness.conn.fetchval(
        "SELECT o.status FROM proposals p JOIN orders o USING (order_id) WHERE p.proposal_id = $1",
        proposal_id,
    )
    return bool(status == "created")


async def _approve(harness: CrashHarness, proposal_id: int) -> None:
    """Insert an approve command, as an operator would."""
    await _put_command(harness, "approve", {"proposal_id": proposal_id})
    await harness.advance(seconds=timedelta(seconds=0.5).total_seconds())


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        CrashScenario("bracket_win", "an entry fills, is protected, and reaches its target", bracket_win),
        CrashScenario("bracket_loss", "an entry fills and is stopped", bracket_loss),
        CrashScenario("partial_entry", "8 of 20 shares fill; an OCO protects exactly 8", partial_entry),
        CrashScenario("entry_rejected", "one entry is rejected in the response, one later", entry_rejected),
        CrashScenario(
            "cancel_race", "an entry times out and fills before its cancel arrives", cancel_race,
            sections={"execution": {"entry_timeout_seconds": 5}},
        ),
        CrashScenario(
            "stop_replaced", "the stop fills through a replacement order of the broker", stop_replaced,
            stop_by_replacement=True,
        ),
        CrashScenario("end_of_day", "three positions are closed before the close", end_of_day, start_time="15:49:50"),
        CrashScenario(
            "daily_loss", "a stop exceeds the daily loss limit; all positions are closed", daily_loss,
            expected_alerts=frozenset({"EMERGENCY_STOP"}),
            sections={**SHORT_ENTRY_TIMEOUT, "risk": {"max_daily_loss": 40}},
        ),
        CrashScenario("sigterm", "the daemon closes all positions and stops", sigterm),
        CrashScenario("outage", "a submit with unknown outcome, then a broker outage of requests and stream", outage,
            expected_alerts=frozenset({"STREAM_LOST"}),
        ),
        CrashScenario(
            "external_trades", "an operator trades the account and cancels our exits", external_trades,
            expected_alerts=frozenset({"EXTERNAL_FILL", "ORPHAN_POSITION"}),
            external_symbols=frozenset({"TSLA", "MSFT"}),
        ),
        CrashScenario(
            "refused_exit", "the sale of a position is refused for a while", refused_exit,
            expected_alerts=frozenset({"EXIT_REFUSED"}),
        ),
        CrashScenario(
            "late_lists", "lists of orders answer late during an exit, and its first sale is refused", late_lists,
            expected_alerts=frozenset({"AUTH_REFUSED"}),
        ),
        CrashScenario(
            "stop_cancelled_while_dead", "the legs of a position are cancelled while no daemon runs",
            stop_cancelled_while_dead,
        ),
        CrashScenario(
            "proposal", "a proposal waits for the operator and is approved", proposal,
            sections={**SHORT_ENTRY_TIMEOUT, "session": {"mode": "supervised"}},
        ),
    )
}  # fmt: skip
