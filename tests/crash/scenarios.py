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
from catalyst.simulator.exchange.settings import Span, Switches
from catalyst.store import commands
from catalyst.store.pool import connect
from tests.crash.restartable_daemon import World
from tests.stories.scenario import Facts

# An entry that did not fill is given up soon, so that every story ends within its minute.
BRISK: Final = {"execution": {"entry_timeout_seconds": 20}}
ENTRY: Final = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@dataclass(frozen=True)
class Scenario:
    """One story. `expected` are the critical alerts it may raise, `foreign` the symbols somebody else trades."""

    name: str
    says: str
    play: Callable[[World], Awaitable[None]]
    expected: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    now: str = "10:16"
    most: Decimal = Decimal(20)
    sections: dict[str, Facts] = field(default_factory=lambda: BRISK)
    stop_by_replacement: bool = False

    def switches(self) -> Switches:
        """The exchange of this story: latencies without chance, and stops that fill as the story says."""
        return Switches(
            acknowledge=Span(0.05, 0.05),
            arrive=Span(0.05, 0.05),
            cancel=Span(0.2, 0.2),
            activate=Span(0.04, 0.04),
            leg_cancel=Span(0.1, 0.1),
            orphan_cancel=Span(1.0, 1.0),
            stop_by_replacement=self.stop_by_replacement,
        )


async def _bracket(world: World, *leaves: str) -> None:
    """An entry that fills at 190, then one print after the other."""
    world.prints("AAPL", "190.00")
    await world.opens()
    await world.signals("AAPL", 20, **ENTRY)
    await world.waits(seconds=4)
    for price in leaves:
        world.prints("AAPL", price)
        await world.waits(seconds=3)


async def bracket_win(world: World) -> None:
    await _bracket(world, "194.05")


async def bracket_loss(world: World) -> None:
    await _bracket(world, "187.50")


async def partial_entry(world: World) -> None:
    await world.admin("faults", {"kind": "partial", "symbol": "AAPL", "role": "entry", "qty": "8"})
    world.prints("AAPL", "190.00")
    await world.opens()
    await world.signals("AAPL", 20, **ENTRY)
    await world.waits(seconds=20)  # the target comes when cover must have come long ago
    world.prints("AAPL", "194.05")
    await world.waits(seconds=3)


async def entry_rejected(world: World) -> None:
    await world.admin("faults", {"kind": "reject", "symbol": "MSFT", "count": 0})
    world.prints("AAPL", "190.00")
    world.prints("MSFT", "190.00")
    await world.opens()
    await world.signals("AAPL", 20_000, **ENTRY)  # more than the account can buy: refused at the door
    await world.signals("MSFT", 20, **ENTRY)  # taken, and rejected afterwards
    await world.waits(seconds=3)


async def cancel_race(world: World) -> None:
    await world.admin("faults", {"kind": "cancel_loses", "symbol": "AAPL", "role": "entry", "count": 0})
    world.prints("AAPL", "190.00")
    await world.opens()
    await world.signals("AAPL", 20, limit="189.50", stop="188.00", target="194.00")
    await world.waits(seconds=8)
    world.prints("AAPL", "194.05")
    await world.waits(seconds=4)


async def stop_replaced(world: World) -> None:
    await _bracket(world, "187.50")


async def end_of_day(world: World) -> None:
    for symbol in ("AAPL", "MSFT", "TSLA"):
        world.prints(symbol, "190.00")
    await world.opens()
    for symbol in ("AAPL", "MSFT", "TSLA"):
        await world.signals(symbol, 20, **ENTRY)
    await world.waits(seconds=12)  # the market's day ends its entries ten minutes before the close


async def daily_loss(world: World) -> None:
    for symbol in ("AAPL", "MSFT"):
        world.prints(symbol, "190.00")
    await world.opens()
    for symbol in ("AAPL", "MSFT"):
        await world.signals(symbol, 20, **ENTRY)
    await world.waits(seconds=3)
    world.prints("AAPL", "187.50")
    await world.waits(seconds=6)


async def sigterm(world: World) -> None:
    for symbol in ("AAPL", "MSFT"):
        world.prints(symbol, "190.00")
    await world.opens()
    for symbol in ("AAPL", "MSFT"):
        await world.signals(symbol, 20, **ENTRY)
    await world.waits(seconds=3)
    await world.ready()
    world.living_now.stop.ask("SIGTERM", flatten=True)
    await world.waits(seconds=6)


async def outage(world: World) -> None:
    world.prints("AAPL", "190.00")
    await world.opens()
    await world.admin("faults", {"kind": "status", "method": "POST", "route": "/v2/orders", "status": 504})
    await world.signals("AAPL", 20, **ENTRY)
    await world.admin(
        "faults", {"id": "dark", "kind": "status_before", "route": "/v2/*", "status": 503, "count": 0}
    )
    await world.admin("faults", {"id": "mute", "kind": "stream_refuse", "count": 0})
    await world.admin("stream", {"act": "disconnect"})
    await world.waits(seconds=4)
    world.server.exchange.faults.remove("dark")
    world.server.exchange.faults.remove("mute")
    await world.waits(seconds=9)
    world.prints("AAPL", "194.05")
    await world.waits(seconds=3)


async def foreign_hands(world: World) -> None:
    for symbol in ("AAPL", "MSFT", "TSLA"):
        world.prints(symbol, "190.00")
    buy = {"side": "buy", "time_in_force": "day"}
    await world.opens()
    await world.signals("AAPL", 20, **ENTRY)
    await world.waits(seconds=2)
    await world.admin("order", {"symbol": "TSLA", "qty": "5", "type": "market", **buy})
    await world.admin("order", {"symbol": "MSFT", "qty": "5", "type": "limit", "limit_price": "150", **buy})
    for order in world.server.exchange.book.working("AAPL"):
        if order.type.value == "limit" and order.side.value == "sell":
            await world.admin("cancel", {"id": order.id})  # a person takes our exits away
    await world.waits(seconds=6)
    world.prints("AAPL", "194.05")
    await world.waits(seconds=3)


async def proposal(world: World) -> None:
    world.prints("AAPL", "190.00")
    await world.opens()
    waiting = await _proposed(world)
    for _ in range(3):  # a person whose word got lost says it again
        if not await _undecided(world, waiting):
            break
        await _approve(world, waiting)
        await world.waits(seconds=3)
        await world.ready()
    world.prints("AAPL", "194.05")
    await world.waits(seconds=3)


async def _proposed(world: World) -> int:
    """A ticket that waits for a person; its id. A daemon that died over it proposes anew."""
    number = 0
    while True:
        await world.ready()
        found = await world.conn.fetchval("SELECT proposal_id FROM proposals WHERE decision IS NULL")
        if found is not None:
            return int(found)
        number += 1
        assert number < 5, "no proposal came to be"
        life = world.living_now
        assert life.parts is not None
        assert life.parts.day is not None
        plan = _plan(world, number)
        life.spawn(life.parts.day._propose(plan, life.parts.day._order_of(plan), "a story"))
        await world.waits(seconds=0.5)


def _plan(world: World, number: int) -> Plan:
    signal: UUID = uuid5(NAMESPACE, f"proposal {number}")
    return Plan(
        signal, client_order_id(str(signal), "e", 1), "AAPL", PositionSide.LONG, 20, Decimal("190.10"),
        Decimal("190.10"), Decimal("188.00"), Decimal("194.00"), Decimal("42"), 0.7, None, world.clock.now(),
    )  # fmt: skip


async def _undecided(world: World, proposal_id: int) -> bool:
    status = await world.conn.fetchval(
        "SELECT o.status FROM proposals p JOIN orders o USING (order_id) WHERE p.proposal_id = $1",
        proposal_id,
    )
    return bool(status == "created")


async def _approve(world: World, proposal_id: int) -> None:
    conn = await connect(world.dsn, "a person")
    try:
        await commands.put(conn, "approve", {"proposal_id": proposal_id}, by="a person", at=world.clock.now())
    finally:
        await conn.close()
    await world.waits(seconds=timedelta(seconds=0.5).total_seconds())


SCENARIOS: Final = {
    one.name: one
    for one in (
        Scenario("bracket_win", "an entry fills, is protected, and reaches its target", bracket_win),
        Scenario("bracket_loss", "an entry fills and is stopped", bracket_loss),
        Scenario("partial_entry", "eight of twenty fill; an OCO covers exactly eight", partial_entry),
        Scenario("entry_rejected", "one entry is refused at the door, one is rejected later", entry_rejected),
        Scenario(
            "cancel_race", "an entry times out and fills before its cancel arrives", cancel_race,
            sections={"execution": {"entry_timeout_seconds": 5}},
        ),
        Scenario(
            "stop_replaced", "the stop fills through an order of the broker's own", stop_replaced,
            stop_by_replacement=True,
        ),
        Scenario("end_of_day", "three positions are left before the close", end_of_day, now="15:49:50"),
        Scenario(
            "daily_loss", "a stop takes the day past its limit; everything is left", daily_loss,
            expected=frozenset({"EMERGENCY_STOP"}), sections={**BRISK, "risk": {"max_daily_loss": 40}},
        ),
        Scenario("sigterm", "asked to stop, the daemon leaves everything", sigterm),
        Scenario("outage", "an unclear answer, then neither requests nor stream", outage,
            expected=frozenset({"STREAM_LOST"}),
        ),
        Scenario(
            "foreign_hands", "a person trades the account and takes our exits away", foreign_hands,
            expected=frozenset({"FOREIGN_FILL", "ORPHAN_POSITION"}), foreign=frozenset({"TSLA", "MSFT"}),
        ),
        Scenario(
            "proposal", "a trade waits for a person and is approved", proposal,
            sections={**BRISK, "session": {"mode": "supervised"}},
        ),
    )
}  # fmt: skip
