"""Spool import: writes the spool of a database outage into the database, before reconciliation.

It is idempotent: one transaction writes all rows and names the spool in the journal; the file is archived only after
it. A crash in between repeats the import, which then writes nothing again.
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
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.report import Listing, OrderReport
from catalyst.domain.rows import NewOrder, PositionRow
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, exit_intents, flat_proofs, latches, orders, positions, quarantine
from catalyst.store.pool import Store

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

log = structlog.get_logger()

SOURCE: Final = "outage"
ORDER_LOOKBACK: Final = timedelta(days=1)  # before the first entry: the orders working when the outage began


@dataclass
class SpoolImport:
    """Imports the spool of `outage_exit` and releases the symbols that it closed."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    outage_exit: OutageExit
    clock: Clock
    epoch: int

    async def run(self) -> bool:
        """Import and archive the spool; return false when there is none.

        Raises BrokerError, and database errors during an outage: then nothing is lost, and the caller retries.
        """
        spool = self.outage_exit.spool
        if not spool.pending:
            return False
        async with self.outage_exit.lock:
            if not spool.path.exists():  # another call has imported it meanwhile
                return False
            contents = spool.read()
            await self._import_contents(contents)
            archive_path = spool.archive(contents.key)
            self.outage_exit.requests.symbols.set_symbols(
                SymbolReason.OUTAGE_EXIT, ()
            )  # the database shows the exits now
            log.warning(
                "spool_imported",
                entries=len(contents.entries),
                damaged=len(contents.damaged_entries),
                kept=str(archive_path),
            )
        return True

    async def _import_contents(self, contents: SpoolContents) -> None:
        """Read the orders of the spool's symbols at the broker, apply their reports and write the spool's rows."""
        reports = await self._fetch_reports(contents.entries)
        outage_order_ids = {
            entry.text("client_order_id")
            for entry in contents.entries
            if entry.kind in (SpoolEntryKind.EXIT_ORDER, SpoolEntryKind.PROTECT)
        }
        # Earlier orders first: an entry that filled during the outage creates the position that was exited.
        for report in reports:
            if report.client_order_id not in outage_order_ids:
                await self.ledger.apply_report(report, "recovery")
        at_broker = {report.client_order_id for report in reports}
        # Under the writer lock: a fill booked between the lookup of the position and the commit would link no order.
        async with self.ledger.write_lock(), self.store.tx("spool") as conn:
            if not await _is_imported(conn, contents.key):
                unbooked = await self._symbols_with_missing_fills(conn, reports)
                await self._write_contents(
                    conn, contents, None if reports.unreadable_rows else at_broker, unbooked
                )
        for report in reports:
            if report.client_order_id in outage_order_ids:
                await self.ledger.apply_report(report, SOURCE)
        self.ledger.changed.notify()

    async def _fetch_reports(self, entries: Sequence[SpoolEntry]) -> Listing[OrderReport]:
        entry_symbols = (entry.text("symbol") for entry in entries if entry.kind is not SpoolEntryKind.PROOF)
        symbols = sorted({symbol for symbol in entry_symbols if symbol})
        if not symbols:
            return Listing()
        after = min(entry.at for entry in entries) - ORDER_LOOKBACK
        return await self.broker.orders(status="all", after=after, symbols=symbols, priority=Priority.EXIT)

    async def _symbols_with_missing_fills(self, conn: "Conn", reports: Sequence[OrderReport]) -> set[str]:
        """Return the symbols with an entry of which the broker has filled more than we booked.

        The position that their outage orders closed or protected is missing or incomplete.
        """
        rows = await orders.by_broker_ids(conn, [report.broker_id for report in reports])
        booked = {row.alpaca_order_id: row.filled_qty for row in rows if row.order_purpose is Purpose.ENTRY}
        return {
            report.symbol
            for report in reports
            if booked.get(report.broker_id, report.filled_qty) < report.filled_qty
        }

    async def _write_contents(
        self, conn: "Conn", contents: SpoolContents, at_broker: set[str] | None, unbooked: set[str]
    ) -> None:
        """Write every entry; `at_broker` are the client order ids of the broker's list, None for an incomplete list."""
        now = self.clock.now()
        sold_nothing = _has_sold_nothing(contents.entries)
        for line_number, entry in enumerate(contents.entries):
            await orders.journal(
                conn,
                None,
                at=entry.at,
                source=SOURCE,
                kind="spool",
                note=entry.kind,
                payload={"spool": contents.key, "line": line_number, **entry.facts},
            )
            is_needless = sold_nothing and entry.kind is SpoolEntryKind.LATCH and bool(entry.text("until"))
            if not is_needless:  # a stop that found nothing to sell leaves no latch
                await self._write_entry(conn, contents.key, entry, unbooked)
        for rejection in _rejections(contents.entries):
            if at_broker is not None and rejection.text("client_order_id") not in at_broker:
                await self._mark_rejected(conn, rejection)
        if not contents.entries:  # no line is valid: the journal still has to name this spool
            await orders.journal(
                conn, None, at=now, source=SOURCE, kind="spool", payload={"spool": contents.key}
            )
        for line in contents.damaged_entries:
            await quarantine.put(
                conn,
                source="spool",
                reason="spool entry with a wrong or missing checksum",
                payload=line,
                at=now,
            )
        await self._alert_imported(conn, contents, now)

    async def _write_entry(self, conn: "Conn", key: str, entry: SpoolEntry, unbooked: set[str]) -> None:
        """Write the rows of one spool entry."""
        match entry.kind:
            case SpoolEntryKind.LATCH:
                await latches.set_latch(
                    conn,
                    entry.text("name"),
                    reason=entry.text("reason"),
                    by=entry.text("by"),
                    at=entry.at,
                    until=datetime.fromisoformat(until) if (until := entry.text("until")) else None,
                    facts={"close_reason": entry.text("reason").partition(":")[0]},
                )
            case SpoolEntryKind.EXIT_BEGIN:
                await self._restore_intent(conn, entry)
            case SpoolEntryKind.EXIT_ORDER | SpoolEntryKind.PROTECT:
                await self._adopt_order(conn, entry, unbooked)
            case SpoolEntryKind.PROOF:
                if not entry.text("symbol"):  # the proof of one symbol proves nothing about the account
                    await self._store_proof(conn, key, entry)
            case SpoolEntryKind.CANCEL | SpoolEntryKind.RESPONSE:
                pass  # the broker's reports show their effect

    async def _alert_imported(self, conn: "Conn", contents: SpoolContents, now: datetime) -> None:
        message = f"the actions of a database outage were imported ({len(contents.entries)} spool entries)"
        for label, kind in (("exit orders", SpoolEntryKind.EXIT_ORDER), ("stops", SpoolEntryKind.PROTECT)):
            symbols = {entry.text("symbol") for entry in contents.entries if entry.kind is kind}
            if symbols:
                message += f"; {label}: {', '.join(sorted(symbols))}"
        if contents.damaged_entries:
            message += (
                f"; damaged spool entries in quarantine: {len(contents.damaged_entries)}, "
                "compare orders and shares with the broker's app"
            )
        await alerts.raise_alert(
            conn,
            "SPOOL_IMPORTED",
            message,
            subject=contents.key,
            facts={
                "spool": contents.key,
                "entries": len(contents.entries),
                "damaged": len(contents.damaged_entries),
            },
            at=now,
        )

    async def _restore_intent(self, conn: "Conn", entry: SpoolEntry) -> None:
        """Create the exit intent of a symbol for each of its open positions."""
        for side in PositionSide:
            position = await positions.lock_open(conn, entry.text("symbol"), side)
            if position is not None:
                await exit_intents.create_intent(
                    conn,
                    position.position_id,
                    reason=entry.text("reason"),
                    purpose=Purpose(entry.text("purpose")),
                    requested_by=entry.text("by"),
                    at=entry.at,
                )

    async def _adopt_order(self, conn: "Conn", entry: SpoolEntry, unbooked: set[str]) -> None:
        """Insert the row of an order sent during the outage; count another attempt when the row exists.

        For a symbol in `unbooked`, an earlier closed position is not the one that was sold: the order stays unlinked
        until the entry's fills create its position.
        """
        cid = entry.text("client_order_id")
        existing = await orders.by_client_id(conn, cid)
        if existing is not None:
            await orders.record_outage_attempt(conn, existing.order_id, entry.at, epoch=self.epoch)
            return
        side, purpose = PositionSide(entry.text("position_side")), Purpose(entry.text("purpose"))
        symbol = entry.text("symbol")
        position = await positions.lock_open(conn, symbol, side)
        if position is None and symbol not in unbooked:
            position = await _latest_position(conn, symbol, side)
        stop, target = entry.text("stop"), entry.text("target")  # only in PROTECT entries
        await orders.insert(
            conn,
            NewOrder(
                client_order_id=cid,
                symbol=symbol,
                purpose=purpose,
                position_side=side,
                side=side_for(side, purpose),
                quantity=Decimal(entry.text("quantity")),
                order_type="limit" if target else "stop" if stop else "market",
                time_in_force=entry.text("time_in_force") or "day",
                order_class="oco" if target else "simple",
                limit_price=Decimal(target) if target else None,
                stop_price=Decimal(stop) if stop and not target else None,
                bracket_stop=Decimal(stop) if stop and target else None,
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
            self.ledger.symbols.add(SymbolReason.UNLINKED, symbol)

    async def _mark_rejected(self, conn: "Conn", entry: SpoolEntry) -> None:
        """Mark an order as rejected that the broker rejected and does not list."""
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
        """Insert the flat proof with the counts of its entry; None where the broker could not be read."""
        flat = entry.facts.get("flat") is True
        counts = [entry.facts.get(name) for name in ("broker_orders", "broker_positions")]
        broker_counts = [count if isinstance(count, int) else None for count in counts]
        cycle = await cycles.of_day(conn, trading_date(entry.at))
        await flat_proofs.put_flat_proof(
            conn,
            cycle_id=None if cycle is None else cycle.cycle_id,
            at=entry.at,
            cause=entry.text("cause"),
            requested_by=entry.text("by"),
            flat=flat,
            broker_orders=broker_counts[0],
            broker_positions=broker_counts[1],
            stored_orders=None,
            stored_positions=None,
            facts={"spool": key, **entry.facts},
        )


def _has_sold_nothing(entries: Sequence[SpoolEntry]) -> bool:
    """Return true when the account was proven flat and nothing had to be exited for it."""
    is_flat = any(entry.kind is SpoolEntryKind.PROOF and entry.facts.get("flat") is True for entry in entries)
    return is_flat and not any(entry.kind is SpoolEntryKind.EXIT_BEGIN for entry in entries)


async def _is_imported(conn: "Conn", key: str) -> bool:
    """Return true when the journal names this spool."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT 1 FROM order_events WHERE source = $1 AND kind = 'spool'"
            " AND payload ->> 'spool' = $2)",
            SOURCE,
            key,
        )
    )


async def _latest_position(conn: "Conn", symbol: str, side: PositionSide) -> PositionRow | None:
    """Return the newest position of a symbol and side, open or closed; None when there is none."""
    position_id = await conn.fetchval(
        "SELECT max(position_id) FROM positions JOIN securities USING (security_id)"
        " WHERE symbol = $1 AND side = $2",
        symbol,
        side,
    )
    return None if position_id is None else await positions.get(conn, position_id)


def _rejections(entries: Sequence[SpoolEntry]) -> list[SpoolEntry]:
    """Return the last response to each order, where it is a rejection."""
    last_responses = {
        entry.text("client_order_id"): entry for entry in entries if entry.kind is SpoolEntryKind.RESPONSE
    }
    return [entry for entry in last_responses.values() if entry.text("outcome") == "rejected"]
