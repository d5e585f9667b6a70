"""Protection: every open share under a working stop at the broker, and the time it was not, measured.

Level-triggered: each look derives from rows and the broker what is missing, so a restart needs no memory.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config import Execution as ExecutionConfig
from catalyst.daemon.books import Books, Pulse
from catalyst.daemon.execution import Execution
from catalyst.daemon.exits import SafeExit
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import EXITS, WORKING, Purpose, Status, side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import ExitOrder, Protection, protection_of
from catalyst.store import alerts, exits, orders, positions
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

LOOK: Final = timedelta(seconds=15)
NAKED_LOOK: Final = timedelta(seconds=1)
ASK_AGAIN: Final = timedelta(seconds=3)
OCO_TRIES: Final = 4  # of a refusal that may pass; after that, leave it
UNBOOKED_TRIES: Final = 15  # while the broker has not booked the shares it has just sold us
UNBOOKED: Final = ("NOT_EXIT", "INSUFFICIENT_QTY", "NOT_SHORTABLE")
PAGE_AFTER: Final = timedelta(seconds=15)  # without a working stop at the broker

Seen = tuple[object, ...]


@dataclass
class Guard:
    """Watches each open position's exits and mends what is missing."""

    store: Store
    books: Books
    execution: Execution
    exits: SafeExit
    clock: Clock
    cfg: ExecutionConfig
    epoch: int
    naked: set[int] = field(default_factory=set)  # positions not under a working stop right now
    bared: Pulse = field(default_factory=Pulse)  # one more of them
    _verified: dict[int, Seen] = field(default_factory=dict)
    _tending: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _asked: dict[int, datetime] = field(default_factory=dict)

    async def run(self) -> None:
        """Look again after every change, at least every second while anything is naked."""
        try:
            while True:
                heard = self.books.changed.count
                unsure = await self.look()
                await self.books.changed.next(self.clock, NAKED_LOOK if unsure else LOOK, since=heard)
        finally:
            for task in self._tending.values():
                task.cancel()
            await asyncio.gather(*self._tending.values(), return_exceptions=True)

    async def look(self) -> bool:
        """Start tending each open position whose protection is not known to be in order; true when one is."""
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
            leaving = {intent.position_id for intent in await exits.open_intents(conn)}
            if not self.exits.market_open:
                leaving.clear()  # nothing can be left before the open: until then it is protected
            rows = {p.position_id: await orders.of_position(conn, p.position_id) for p in held}
        self.books.memory.keep(held, rows)
        self.naked &= {position.position_id for position in held}
        unsure = False
        for position in held:
            seen = _seen(position, rows[position.position_id])
            if position.position_id in leaving or self._verified.get(position.position_id) == seen:
                continue
            if position.symbol in self.execution.elsewhere:
                continue  # left without the tables, which have not heard of it yet
            unsure = True
            task = self._tending.get(position.position_id)
            if task is None or task.done():
                self._tending[position.position_id] = asyncio.create_task(
                    self._tend_safely(position.position_id), name=f"guard-{position.position_id}"
                )
        return unsure

    async def _tend_safely(self, position_id: int) -> None:
        try:
            await self._tend(position_id)
        except Exception:  # the next look tries again; the other positions are not held up
            log.exception("protection_failed", position_id=position_id)

    async def _tend(self, position_id: int) -> None:
        """Re-read the group at the broker; then confirm it, wait for its entry, or replace it."""
        position, rows = await self._read(position_id)
        await self._reread(rows)
        position, rows = await self._read(position_id)
        if position.quantity == 0:
            return
        state = protection_of(position.quantity, _exits(rows))
        if state is Protection.COVERED:
            await self._confirm(position, rows)
            return
        await self._uncover(position, rows, state)
        entries = [row for row in rows if row.order_purpose is Purpose.ENTRY and row.status in WORKING]
        if entries:
            await self._stop_filling(position, entries)
        else:
            await self._protect(position, rows)

    async def _read(self, position_id: int) -> tuple[PositionRow, list[OrderRow]]:
        async with self.store.read() as conn:
            return await positions.get(conn, position_id), await orders.of_position(conn, position_id)

    async def _reread(self, rows: list[OrderRow]) -> None:
        """Ask the broker for every group that could protect: the entry with its legs, an OCO with its stop."""
        for row in rows:
            if row.alpaca_order_id is None or row.parent_order_id is not None:
                continue
            if row.order_class in ("bracket", "oco") or row.status in WORKING:
                await self.execution.refresh(row.alpaca_order_id, "poll")

    async def _confirm(self, position: PositionRow, rows: list[OrderRow]) -> None:
        """Write that the position is protected, and how long it was not."""
        self.naked.discard(position.position_id)
        self._verified[position.position_id] = _seen(position, rows)
        if position.protected_at is not None:
            return
        since = _uncovered_since(position, rows)
        covered = await self._covered_at(since, rows)
        naked = position.naked_seconds + Decimal(str(round((covered - since).total_seconds(), 3)))
        async with self.store.tx("protected") as conn:
            await positions.guard(
                conn, position.position_id, protected_at=covered, naked_seconds=max(naked, Decimal(0))
            )
        log.info(
            "position_protected",
            symbol=position.symbol,
            qty=str(position.quantity),
            stop=str(position.stop_loss),
            target=str(position.take_profit),
            naked_seconds=str(naked),
        )

    async def _covered_at(self, since: datetime, rows: list[OrderRow]) -> datetime:
        """When the stop went live: a bracket's with the last fill of its entry, though nobody of ours was alive to
        hear of it; any other when we saw it."""
        stops = [row for row in rows if row.order_purpose is Purpose.STOP_LOSS and row.status in WORKING]
        entries = [
            row
            for row in rows
            if row.order_purpose is Purpose.ENTRY and row.status is Status.FILLED
            if {stop.parent_order_id for stop in stops} == {row.order_id}
        ]
        if not entries:
            return self.clock.now()
        async with self.store.read() as conn:
            at = await orders.last_fill_at(conn, entries[0].order_id)
        return self.clock.now() if at is None else max(since, at)

    async def _uncover(self, position: PositionRow, rows: list[OrderRow], state: Protection) -> None:
        """Write that the position is not protected; tell somebody when it stays so."""
        if position.position_id not in self.naked:
            self.naked.add(position.position_id)
            self.bared.beat()
            log.warning(
                "position_unprotected", symbol=position.symbol, qty=str(position.quantity), state=state
            )
        if position.protected_at is not None:
            async with self.store.tx("uncovered") as conn:
                await positions.guard(
                    conn, position.position_id, protected_at=None, naked_seconds=position.naked_seconds
                )
        since = _uncovered_since(position, rows)
        if self.clock.now() - since < PAGE_AFTER:
            return
        async with self.store.tx("page") as conn:
            await alerts.put(
                conn,
                severity="CRITICAL",
                event="UNPROTECTED_POSITION",
                message=f"{position.symbol}: {position.quantity} shares have no working stop at the broker",
                facts={"position_id": position.position_id, "symbol": position.symbol, "state": state},
                dedupe_key=f"UNPROTECTED_POSITION:{position.position_id}:{since.isoformat()}",
                at=self.clock.now(),
            )

    async def _stop_filling(self, position: PositionRow, entries: list[OrderRow]) -> None:
        """A partly filled entry protects nothing: after the grace, cancel the rest and protect what filled."""
        now = self.clock.now()
        if now - position.entry_time < timedelta(seconds=self.cfg.partial_entry_grace_seconds):
            return
        for row in entries:
            if row.order_id not in self._asked or now - self._asked[row.order_id] >= ASK_AGAIN:
                self._asked[row.order_id] = now
                log.info(
                    "partial_entry_cancelled",
                    symbol=row.symbol,
                    filled=str(row.filled_qty),
                    of=str(row.quantity),
                )
                await self.execution.cancel(row, "PARTIAL_GRACE")

    async def _protect(self, position: PositionRow, rows: list[OrderRow]) -> None:
        """Clear what is left of a broken group, then put stop and target on exactly what is held."""
        leftovers = [row for row in rows if row.order_purpose in EXITS and row.status in WORKING]
        if leftovers:
            now = self.clock.now()
            for row in leftovers:
                if row.order_id not in self._asked or now - self._asked[row.order_id] >= ASK_AGAIN:
                    self._asked[row.order_id] = now
                    await self.execution.cancel(row, "OCO")
            return
        if position.stop_loss is None or position.take_profit is None:
            await self._give_up(position, "no stop is known for it")
            return
        tries = [row for row in rows if row.order_class == "oco" and row.parent_order_id is None]
        refused = [row for row in tries if row.status is Status.REJECTED]
        why = str(refused[-1].rejection_reason) if refused else ""
        if len(refused) >= (UNBOOKED_TRIES if why.startswith(UNBOOKED) else OCO_TRIES):
            await self._give_up(position, why)
            return
        sent = await self._place_oco(position, rows, attempt=len(tries))
        if sent.status is not Status.REJECTED:
            return
        if (level := _passed(position, str(sent.rejection_reason))) is not None:
            await self.exits.ask(position.position_id, reason=level, purpose=Purpose.EXIT, by="guard")
        else:
            await self.clock.sleep(NAKED_LOOK)

    async def _place_oco(self, position: PositionRow, rows: list[OrderRow], *, attempt: int) -> OrderRow:
        base = next((row.client_order_id for row in rows if row.order_purpose is Purpose.ENTRY), None)
        base = base or f"{position.symbol}|{position.entry_time.isoformat()}"
        return await self.execution.place(
            NewOrder(
                client_order_id=client_order_id(base, "op", attempt),
                symbol=position.symbol,
                purpose=Purpose.TAKE_PROFIT,
                position_side=position.side,
                side=side_for(position.side, Purpose.TAKE_PROFIT),
                quantity=position.quantity,
                order_type="limit",
                time_in_force="day",
                order_class="oco",
                limit_price=position.take_profit,
                bracket_stop=position.stop_loss,
                bracket_target=position.take_profit,
                cycle_id=position.cycle_id,
                position_id=position.position_id,
                epoch=self.epoch,
            ),
            note=f"stop and target for the {position.quantity} shares held",
        )

    async def _give_up(self, position: PositionRow, why: str) -> None:
        """Shares that cannot be protected are not held."""
        reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected: {why}"
        await self.exits.ask(position.position_id, reason=reason, purpose=Purpose.EXIT, by="guard")


def _passed(position: PositionRow, refusal: str) -> str | None:
    """Why to leave at once when the broker refuses the exits because the price lies beyond one of them already.

    Which one its words name; the stop, when they name both or neither.
    """
    code, _, said = refusal.partition(":")
    if code != "PRICE_RULE":
        return None
    if "take_profit" in said and "stop" not in said:
        return f"{CloseReason.TAKE_PROFIT_HIT}: {position.symbol} is beyond ${position.take_profit} already"
    return f"{CloseReason.STOP_LOSS_HIT}: {position.symbol} is beyond ${position.stop_loss} already"


def _uncovered_since(position: PositionRow, rows: list[OrderRow]) -> datetime:
    """Since when no working stop covers the position: the end of its last stop, else its first fill.

    Read from rows, so that a restart measures the same gap.
    """
    asleep = _unfinished(rows)
    ends = [
        row.closed_at
        for row in rows
        if row.order_purpose is Purpose.STOP_LOSS
        and row.closed_at is not None
        and row.status is not Status.REJECTED
        and row.parent_order_id not in asleep
    ]
    return max([position.entry_time, *ends])


def _unfinished(rows: list[OrderRow]) -> set[int | None]:
    """Entries that are not completely filled: their legs protect nothing. One that was replaced is as finished
    as the order that took its place."""
    after = {row.replaces: row for row in rows if row.replaces is not None}
    found: set[int | None] = set()
    for row in rows:
        last = row
        while last.status is Status.REPLACED and last.order_id in after:
            last = after[last.order_id]
        if row.order_purpose is Purpose.ENTRY and last.status is not Status.FILLED:
            found.add(row.order_id)
    if found:  # legs of an entry that was replaced before it filled sleep with the order in its place
        ours = {row.order_id for row in rows}
        found |= {row.parent_order_id for row in rows if row.parent_order_id not in {None, *ours}}
    return found


def _exits(rows: list[OrderRow]) -> list[ExitOrder]:
    """The exits of a position; a leg is dormant while its entry may still fill."""
    unfinished = _unfinished(rows)
    return [
        ExitOrder(
            row.order_purpose, row.status, row.broker_status, row.remaining, row.parent_order_id in unfinished
        )
        for row in rows
        if row.order_purpose in EXITS
    ]


def _seen(position: PositionRow, rows: list[OrderRow]) -> Seen:
    """What a confirmation rested on: it holds for as long as this stays the same."""
    return (
        position.quantity,
        *((row.order_id, row.status, row.broker_status, row.quantity) for row in rows),
    )
