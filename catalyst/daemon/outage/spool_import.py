"""Telling the tables what was done without them: the spool's lines become rows, before anything is judged.

Idempotent: everything is one transaction that names the spool in the journal, and the file is put aside only after
it. A death in between tells it again, and nothing is written a second time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.outage.exits import Emergency
from catalyst.daemon.outage.spool import Line, Reading, Step
from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.report import OrderReport
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, exit_intents, flat_proofs, latches, orders, positions, quarantine
from catalyst.store.orders import NewOrder
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

log = structlog.get_logger()

SOURCE: Final = "emergency"
LOOK_BACK: Final = timedelta(days=1)  # before the first line: what was working when the database went away


@dataclass
class Spooled:
    """Brings the spool of `emergency` into the tables, and gives its symbols back."""

    store: Store
    broker: Broker
    books: Books
    emergency: Emergency
    clock: Clock
    epoch: int

    async def bring_in(self) -> bool:
        """The tables know what the spool knows; true when it had something to tell. Raises BrokerError and the
        outages of the database: then nothing is lost, and it is to be asked again."""
        spool = self.emergency.spool
        if not spool.pending:
            return False
        async with self.emergency.hand:
            if not spool.path.exists():  # somebody else has told it meanwhile
                return False
            read = spool.read()
            await self._tell(read)
            kept = spool.archive(read.key)
            self.emergency.execution.elsewhere.clear()  # whatever was left without the tables is in them now
            log.warning("spool_imported", lines=len(read.lines), broken=len(read.broken), kept=str(kept))
        return True

    async def _tell(self, read: Reading) -> None:
        reports = await self._reports(read.lines)
        spooled = {
            line.text("client_order_id") for line in read.lines if line.step in (Step.SELL, Step.PROTECT)
        }
        # First what led to it: an entry that filled meanwhile is the position that was left.
        for report in reports:
            if report.client_order_id not in spooled:
                await self.books.hear(report, "recovery")
        # Alone: a fill that is heard between the look for its position and the end of this would tie nothing.
        async with self.books.alone(), self.store.tx("spool") as conn:
            if not await _is_known(conn, read.key):
                unbooked = await self._unbooked(conn, reports)
                await self._write(conn, read, {report.client_order_id for report in reports}, unbooked)
        for report in reports:
            if report.client_order_id in spooled:
                await self.books.hear(report, SOURCE)
        self.books.changed.beat()

    async def _reports(self, lines: Sequence[Line]) -> list[OrderReport]:
        named = (line.text("symbol") for line in lines if line.step is not Step.PROOF)
        symbols = sorted({symbol for symbol in named if symbol})
        if not symbols:
            return []
        after = min(line.at for line in lines) - LOOK_BACK
        return await self.broker.orders(status="all", after=after, symbols=symbols, priority=Priority.EXIT)

    async def _unbooked(self, conn: "Conn", reports: Sequence[OrderReport]) -> set[str]:
        """Symbols of which the broker has filled more of an entry than its ledger shows: what was sold of them has no
        position yet, or not all of it."""
        rows = await orders.by_broker_ids(conn, [report.broker_id for report in reports])
        booked = {row.alpaca_order_id: row.filled_qty for row in rows if row.order_purpose is Purpose.ENTRY}
        return {
            report.symbol
            for report in reports
            if booked.get(report.broker_id, report.filled_qty) < report.filled_qty
        }

    async def _write(self, conn: "Conn", read: Reading, at_broker: set[str], unbooked: set[str]) -> None:
        now = self.clock.now()
        for number, line in enumerate(read.lines):
            await orders.journal(
                conn,
                None,
                at=line.at,
                source=SOURCE,
                kind="spool",
                note=line.step,
                payload={"spool": read.key, "line": number, **line.facts},
            )
            await self._follow(conn, read.key, line, unbooked)
        for refused in _refusals(read.lines):
            if refused.text("client_order_id") not in at_broker:
                await self._reject(conn, refused)
        if not read.lines:  # not one line is whole: the journal still has to know this spool
            await orders.journal(conn, None, at=now, source=SOURCE, kind="spool", payload={"spool": read.key})
        for raw in read.broken:
            await quarantine.put(
                conn, source="spool", reason="a line without its checksum", payload=raw, at=now
            )
        await self._report(conn, read, now)

    async def _follow(self, conn: "Conn", key: str, line: Line, unbooked: set[str]) -> None:
        """What one step leaves in the tables."""
        match line.step:
            case Step.LATCH:
                await latches.set_latch(
                    conn,
                    line.text("name"),
                    reason=line.text("reason"),
                    by=line.text("by"),
                    at=line.at,
                    until=None,
                )
            case Step.LEAVE:
                await self._intend(conn, line)
            case Step.SELL | Step.PROTECT:
                await self._adopt(conn, line, unbooked)
            case Step.PROOF:
                if not line.text("symbol"):  # of one symbol alone it proves nothing of the account
                    await self._prove(conn, key, line)
            case Step.CANCEL | Step.ANSWER:
                pass  # what they came to is the broker's to say

    async def _report(self, conn: "Conn", read: Reading, now: datetime) -> None:
        message = f"{len(read.lines)} steps were taken while the database was away"
        for word, step in (("left", Step.SELL), ("protected", Step.PROTECT)):
            symbols = {line.text("symbol") for line in read.lines if line.step is step}
            if symbols:
                message += f"; {word}: {', '.join(sorted(symbols))}"
        if read.broken:
            message += f"; {len(read.broken)} lines are unreadable and quarantined"
        await alerts.put(
            conn,
            severity="CRITICAL",
            event="SPOOL_IMPORTED",
            message=message,
            facts={"spool": read.key, "lines": len(read.lines), "broken": len(read.broken)},
            dedupe_key=f"SPOOL_IMPORTED:{read.key}",
            at=now,
        )

    async def _intend(self, conn: "Conn", line: Line) -> None:
        """The wish to leave a symbol, for whatever of it is still open."""
        for side in PositionSide:
            held = await positions.lock_open(conn, line.text("symbol"), side)
            if held is not None:
                await exit_intents.intend(
                    conn,
                    held.position_id,
                    reason=line.text("reason"),
                    purpose=Purpose(line.text("purpose")),
                    asked_by=line.text("by"),
                    at=line.at,
                )

    async def _adopt(self, conn: "Conn", line: Line, unbooked: set[str]) -> None:
        """The row of an order that was sent without one; of one that was sent again, another attempt.

        Where the entry is not booked an earlier position of the symbol is not what was sold: the order is tied to its
        position once there is one.
        """
        cid = line.text("client_order_id")
        known = await orders.by_client_id(conn, cid)
        if known is not None:
            await orders.attempt(conn, known.order_id, line.at, epoch=self.epoch)
            return
        side, purpose = PositionSide(line.text("position_side")), Purpose(line.text("purpose"))
        symbol = line.text("symbol")
        position = await positions.lock_open(conn, symbol, side)
        if position is None and symbol not in unbooked:
            position = await _last_of(conn, symbol, side)
        stop, target = line.text("stop"), line.text("target")  # of a protection
        await orders.insert(
            conn,
            NewOrder(
                client_order_id=cid,
                symbol=symbol,
                purpose=purpose,
                position_side=side,
                side=side_for(side, purpose),
                quantity=Decimal(line.text("quantity")),
                order_type="limit" if target else "market",
                time_in_force="day",
                order_class="oco" if target else "simple",
                limit_price=Decimal(target) if target else None,
                bracket_stop=Decimal(stop) if stop else None,
                bracket_target=Decimal(target) if target else None,
                origin="emergency",
                cycle_id=None if position is None else position.cycle_id,
                position_id=None if position is None else position.position_id,
                epoch=self.epoch,
            ),
            status=Status.SUBMITTED,
            at=line.at,
            source=SOURCE,
            note=line.text("reason"),
        )
        if position is None:
            self.books.untied.add(symbol)

    async def _reject(self, conn: "Conn", line: Line) -> None:
        """The broker refused it at the door, and shows no such order."""
        row = await orders.by_client_id(conn, line.text("client_order_id"))
        if row is not None and row.status is Status.SUBMITTED:
            await orders.move(
                conn,
                row.order_id,
                seen=Status.SUBMITTED,
                then=Status.REJECTED,
                at=line.at,
                source=SOURCE,
                note=line.text("text"),
                rejection_reason=line.text("text"),
                epoch=self.epoch,
            )

    async def _prove(self, conn: "Conn", key: str, line: Line) -> None:
        """The proof, as it was made."""
        flat = line.facts.get("flat") is True
        count = [line.facts.get(name) for name in ("broker_orders", "broker_positions")]
        shown = [one if isinstance(one, int) else None for one in count]
        cycle = await cycles.of_day(conn, trading_date(line.at))
        await flat_proofs.put_flat_proof(
            conn,
            cycle_id=None if cycle is None else cycle.cycle_id,
            at=line.at,
            cause=line.text("cause"),
            asked_by=line.text("by"),
            flat=flat,
            broker_orders=shown[0],
            broker_positions=shown[1],
            stored_orders=None,
            stored_positions=None,
            facts={"spool": key, **line.facts},
        )


async def _is_known(conn: "Conn", key: str) -> bool:
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT 1 FROM order_events WHERE source = $1 AND kind = 'spool'"
            " AND payload ->> 'spool' = $2)",
            SOURCE,
            key,
        )
    )


async def _last_of(conn: "Conn", symbol: str, side: PositionSide) -> PositionRow | None:
    """The newest position of a symbol and side, closed as it may be by now."""
    found = await conn.fetchval(
        "SELECT max(position_id) FROM positions JOIN securities USING (security_id)"
        " WHERE symbol = $1 AND side = $2",
        symbol,
        side,
    )
    return None if found is None else await positions.get(conn, found)


def _refusals(lines: Sequence[Line]) -> list[Line]:
    """The last answer to each order, where it was a refusal."""
    last = {line.text("client_order_id"): line for line in lines if line.step is Step.ANSWER}
    return [line for line in last.values() if line.text("outcome") == "refused"]
