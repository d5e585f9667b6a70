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
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.outage.exits import OutageExit
from catalyst.daemon.outage.spool import SpoolContents, SpoolEntry, SpoolEntryKind
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

SOURCE: Final = "outage"
ORDER_LOOKBACK: Final = timedelta(
    days=1
)  # before the first line: what was working when the database went away


@dataclass
class SpoolImport:
    """Brings the spool of `emergency` into the tables, and gives its symbols back."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    outage_exit: OutageExit
    clock: Clock
    epoch: int

    async def run(self) -> bool:
        """The tables know what the spool knows; true when it had something to tell. Raises BrokerError and the
        outages of the database: then nothing is lost, and it is to be asked again."""
        spool = self.outage_exit.spool
        if not spool.pending:
            return False
        async with self.outage_exit.lock:
            if not spool.path.exists():  # somebody else has told it meanwhile
                return False
            read = spool.read()
            await self._import_contents(read)
            kept = spool.archive(read.key)
            self.outage_exit.submission.outage_symbols.clear()  # whatever was left without the tables is in them now
            log.warning(
                "spool_imported", lines=len(read.entries), broken=len(read.corrupt_lines), kept=str(kept)
            )
        return True

    async def _import_contents(self, contents: SpoolContents) -> None:
        reports = await self._fetch_reports(contents.entries)
        outage_order_ids = {
            entry.text("client_order_id")
            for entry in contents.entries
            if entry.kind in (SpoolEntryKind.SELL, SpoolEntryKind.PROTECT)
        }
        # First what led to it: an entry that filled meanwhile is the position that was left.
        for report in reports:
            if report.client_order_id not in outage_order_ids:
                await self.ledger.apply_report(report, "recovery")
        # Alone: a fill that is heard between the look for its position and the end of this would tie nothing.
        async with self.ledger.write_lock(), self.store.tx("spool") as conn:
            if not await _is_imported(conn, contents.key):
                unbooked = await self._symbols_with_missing_fills(conn, reports)
                await self._write_contents(
                    conn, contents, {report.client_order_id for report in reports}, unbooked
                )
        for report in reports:
            if report.client_order_id in outage_order_ids:
                await self.ledger.apply_report(report, SOURCE)
        self.ledger.changed.notify()

    async def _fetch_reports(self, entries: Sequence[SpoolEntry]) -> list[OrderReport]:
        named = (entry.text("symbol") for entry in entries if entry.kind is not SpoolEntryKind.PROOF)
        symbols = sorted({symbol for symbol in named if symbol})
        if not symbols:
            return []
        after = min(entry.at for entry in entries) - ORDER_LOOKBACK
        return await self.broker.orders(status="all", after=after, symbols=symbols, priority=Priority.EXIT)

    async def _symbols_with_missing_fills(self, conn: "Conn", reports: Sequence[OrderReport]) -> set[str]:
        """Symbols of which the broker has filled more of an entry than its ledger shows: what was sold of them has no
        position yet, or not all of it."""
        rows = await orders.by_broker_ids(conn, [report.broker_id for report in reports])
        booked = {row.alpaca_order_id: row.filled_qty for row in rows if row.order_purpose is Purpose.ENTRY}
        return {
            report.symbol
            for report in reports
            if booked.get(report.broker_id, report.filled_qty) < report.filled_qty
        }

    async def _write_contents(
        self, conn: "Conn", contents: SpoolContents, at_broker: set[str], unbooked: set[str]
    ) -> None:
        now = self.clock.now()
        for number, entry in enumerate(contents.entries):
            await orders.journal(
                conn,
                None,
                at=entry.at,
                source=SOURCE,
                kind="spool",
                note=entry.kind,
                payload={"spool": contents.key, "line": number, **entry.facts},
            )
            await self._write_entry(conn, contents.key, entry, unbooked)
        for refused in _rejections(contents.entries):
            if refused.text("client_order_id") not in at_broker:
                await self._mark_rejected(conn, refused)
        if not contents.entries:  # not one line is whole: the journal still has to know this spool
            await orders.journal(
                conn, None, at=now, source=SOURCE, kind="spool", payload={"spool": contents.key}
            )
        for raw in contents.corrupt_lines:
            await quarantine.put(
                conn, source="spool", reason="a line without its checksum", payload=raw, at=now
            )
        await self._alert_imported(conn, contents, now)

    async def _write_entry(self, conn: "Conn", key: str, entry: SpoolEntry, unbooked: set[str]) -> None:
        """What one step leaves in the tables."""
        match entry.kind:
            case SpoolEntryKind.LATCH:
                await latches.set_latch(
                    conn,
                    entry.text("name"),
                    reason=entry.text("reason"),
                    by=entry.text("by"),
                    at=entry.at,
                    until=None,
                )
            case SpoolEntryKind.LEAVE:
                await self._restore_intent(conn, entry)
            case SpoolEntryKind.SELL | SpoolEntryKind.PROTECT:
                await self._adopt_order(conn, entry, unbooked)
            case SpoolEntryKind.PROOF:
                if not entry.text("symbol"):  # of one symbol alone it proves nothing of the account
                    await self._store_proof(conn, key, entry)
            case SpoolEntryKind.CANCEL | SpoolEntryKind.RESPONSE:
                pass  # what they came to is the broker's to say

    async def _alert_imported(self, conn: "Conn", contents: SpoolContents, now: datetime) -> None:
        message = f"{len(contents.entries)} steps were taken while the database was away"
        for word, step in (("left", SpoolEntryKind.SELL), ("protected", SpoolEntryKind.PROTECT)):
            symbols = {entry.text("symbol") for entry in contents.entries if entry.kind is step}
            if symbols:
                message += f"; {word}: {', '.join(sorted(symbols))}"
        if contents.corrupt_lines:
            message += f"; {len(contents.corrupt_lines)} lines are unreadable and quarantined"
        await alerts.put(
            conn,
            severity="CRITICAL",
            event="SPOOL_IMPORTED",
            message=message,
            facts={
                "spool": contents.key,
                "lines": len(contents.entries),
                "broken": len(contents.corrupt_lines),
            },
            dedupe_key=f"SPOOL_IMPORTED:{contents.key}",
            at=now,
        )

    async def _restore_intent(self, conn: "Conn", entry: SpoolEntry) -> None:
        """The wish to leave a symbol, for whatever of it is still open."""
        for side in PositionSide:
            held = await positions.lock_open(conn, entry.text("symbol"), side)
            if held is not None:
                await exit_intents.create_intent(
                    conn,
                    held.position_id,
                    reason=entry.text("reason"),
                    purpose=Purpose(entry.text("purpose")),
                    requested_by=entry.text("by"),
                    at=entry.at,
                )

    async def _adopt_order(self, conn: "Conn", entry: SpoolEntry, unbooked: set[str]) -> None:
        """The row of an order that was sent without one; of one that was sent again, another attempt.

        Where the entry is not booked an earlier position of the symbol is not what was sold: the order is tied to its
        position once there is one.
        """
        cid = entry.text("client_order_id")
        known = await orders.by_client_id(conn, cid)
        if known is not None:
            await orders.count_attempt(conn, known.order_id, entry.at, epoch=self.epoch)
            return
        side, purpose = PositionSide(entry.text("position_side")), Purpose(entry.text("purpose"))
        symbol = entry.text("symbol")
        position = await positions.lock_open(conn, symbol, side)
        if position is None and symbol not in unbooked:
            position = await _latest_position(conn, symbol, side)
        stop, target = entry.text("stop"), entry.text("target")  # of a protection
        await orders.insert(
            conn,
            NewOrder(
                client_order_id=cid,
                symbol=symbol,
                purpose=purpose,
                position_side=side,
                side=side_for(side, purpose),
                quantity=Decimal(entry.text("quantity")),
                order_type="limit" if target else "market",
                time_in_force="day",
                order_class="oco" if target else "simple",
                limit_price=Decimal(target) if target else None,
                bracket_stop=Decimal(stop) if stop else None,
                bracket_target=Decimal(target) if target else None,
                origin="outage",
                cycle_id=None if position is None else position.cycle_id,
                position_id=None if position is None else position.position_id,
                epoch=self.epoch,
            ),
            status=Status.SUBMITTED,
            at=entry.at,
            source=SOURCE,
            note=entry.text("reason"),
        )
        if position is None:
            self.ledger.unlinked_symbols.add(symbol)

    async def _mark_rejected(self, conn: "Conn", entry: SpoolEntry) -> None:
        """The broker refused it at the door, and shows no such order."""
        row = await orders.by_client_id(conn, entry.text("client_order_id"))
        if row is not None and row.status is Status.SUBMITTED:
            await orders.transition(
                conn,
                row.order_id,
                from_status=Status.SUBMITTED,
                to_status=Status.REJECTED,
                at=entry.at,
                source=SOURCE,
                note=entry.text("text"),
                rejection_reason=entry.text("text"),
                epoch=self.epoch,
            )

    async def _store_proof(self, conn: "Conn", key: str, entry: SpoolEntry) -> None:
        """The proof, as it was made."""
        flat = entry.facts.get("flat") is True
        count = [entry.facts.get(name) for name in ("broker_orders", "broker_positions")]
        shown = [one if isinstance(one, int) else None for one in count]
        cycle = await cycles.of_day(conn, trading_date(entry.at))
        await flat_proofs.put_flat_proof(
            conn,
            cycle_id=None if cycle is None else cycle.cycle_id,
            at=entry.at,
            cause=entry.text("cause"),
            requested_by=entry.text("by"),
            flat=flat,
            broker_orders=shown[0],
            broker_positions=shown[1],
            stored_orders=None,
            stored_positions=None,
            facts={"spool": key, **entry.facts},
        )


async def _is_imported(conn: "Conn", key: str) -> bool:
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT 1 FROM order_events WHERE source = $1 AND kind = 'spool'"
            " AND payload ->> 'spool' = $2)",
            SOURCE,
            key,
        )
    )


async def _latest_position(conn: "Conn", symbol: str, side: PositionSide) -> PositionRow | None:
    """The newest position of a symbol and side, closed as it may be by now."""
    found = await conn.fetchval(
        "SELECT max(position_id) FROM positions JOIN securities USING (security_id)"
        " WHERE symbol = $1 AND side = $2",
        symbol,
        side,
    )
    return None if found is None else await positions.get(conn, found)


def _rejections(entries: Sequence[SpoolEntry]) -> list[SpoolEntry]:
    """The last answer to each order, where it was a refusal."""
    last = {
        entry.text("client_order_id"): entry for entry in entries if entry.kind is SpoolEntryKind.RESPONSE
    }
    return [entry for entry in last.values() if entry.text("outcome") == "rejected"]
