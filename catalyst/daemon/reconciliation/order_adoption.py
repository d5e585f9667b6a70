"""Order adoption: writes a row for each external order, and for each of our own orders whose row was lost."""

from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.legs import parent_of_leg
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.errors import BrokerError, DatabaseContention, DatabaseUnavailable
from catalyst.domain.ids import ENTRY_ROLE, is_of_another_catalyst, is_ours, role_of
from catalyst.domain.order import PositionSide, Purpose, Side, Status, position_side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.report import OrderReport, is_working_report
from catalyst.domain.report_decision import order_of_report
from catalyst.domain.rows import NewOrder
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, exit_intents, orders, orphans, positions, quarantine
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.pool import Store

log = structlog.get_logger()

# Role letters in our client order id → origin of the adopted row. First line: exits, flattens, protection, repriced
# targets. Second line: outage exits, outage protection, orphan exits.
EXIT_ROLE_ORIGINS: Final = {
    "x": "catalyst", "f": "catalyst", "op": "catalyst", "m": "catalyst",
    "z": "outage", "zp": "outage", "ox": "orphan",
}  # fmt: skip
ORPHAN_ROLES: Final = ("op", "ox")
EXIT_PURPOSES: Final = (Purpose.EXIT, Purpose.FLATTEN)
# Ends alert texts about our orders; a restored backup is the usual cause.
LOST_ROW: Final = "has one of Catalyst's order ids but no row in the database"


@dataclass
class OrderAdoption:
    """Applies the orders of the broker's list; an order without a row gets one."""

    store: Store
    ledger: OrderLedger
    clock: Clock
    epoch: int
    installation: str
    _unstorable: set[str] = field(default_factory=set)  # broker ids of orders that could not be stored

    async def apply_or_adopt(self, report: OrderReport, source: str) -> None:
        """Apply one order; adopt it when it has no row.

        An order that cannot be stored is quarantined with an alert and skipped from then on. Raises only
        DatabaseUnavailable and DatabaseContention, which pass by themselves.
        """
        if report.broker_id in self._unstorable:
            return
        try:
            if await self.ledger.apply_report(report, source):
                return
            parent = await parent_of_leg(self.ledger.broker, report)
            if parent is None:
                await self._adopt_order(report, source)
            else:
                await self.apply_or_adopt(parent, source)  # it tells whose the leg is, and writes its row
        except BrokerError as error:
            log.warning("orders_read_failed", error=str(error))
        except (DatabaseUnavailable, DatabaseContention):
            raise
        except Exception as error:  # one order that cannot be stored must not stop the others
            log.exception("order_not_storable", symbol=report.symbol, broker_id=report.broker_id)
            self._unstorable.add(report.broker_id)
            async with self.store.tx("quarantine") as conn:
                at = self.clock.now()
                await quarantine.put(conn, source=source, reason=str(error), payload=report.raw, at=at)
                await self._alert(
                    conn,
                    "ORDER_UNACCEPTABLE",
                    "CRITICAL",
                    report,
                    f"{report.side} {report.symbol}: the database cannot store this order: {error}",
                )

    async def _adopt_order(self, report: OrderReport, source: str) -> None:
        """Write the row of an external order, or of our order whose row was lost, and alert.

        A replacement of our order keeps the role of the order that it replaced. An external order against an open
        position or orphan shares is a manual exit of them; any other external order is an entry. It belongs to
        today's cycle only if we trade its symbol.

        An order of another Catalyst gets its row and nothing else: it belongs to no position and no cycle of ours, and
        `AnotherCatalyst` alerts.

        Our entry whose row was lost is ours again: it expires, a flatten cancels it, and its fills become a protected
        position. Our exit whose row was lost is ours again if it fits the held shares; otherwise it is external.
        """
        if await self._adopt_replacement(report, source) or await self._adopt_lost_exit(report, source):
            return
        exited_side = PositionSide.LONG if report.side is Side.SELL else PositionSide.SHORT
        row_lost = is_ours(report.client_order_id, self.installation)
        anothers = is_of_another_catalyst(report.client_order_id, self.installation)
        if anothers:
            self.ledger.symbols.add(SymbolReason.ANOTHER_CATALYST, report.symbol)
        async with self.store.tx("adopt_external") as conn:
            held = None if anothers else await positions.lock_open(conn, report.symbol, exited_side)
            orphan = None if held else await orphans.lock_open(conn, report.symbol, exited_side)
            against_ours = held is not None or orphan is not None
            if anothers:
                is_entry = report.client_order_id.endswith(f"-{ENTRY_ROLE}")
                purpose = Purpose.ENTRY if is_entry else Purpose.EXIT
            else:
                purpose = _adopted_purpose(report, row_lost=row_lost, against_ours=against_ours)
            today = await cycles.of_day(conn, trading_date(self.clock.now()))
            ours = not anothers and (
                row_lost or held is not None or report.symbol in self.ledger.last_known.symbols
            )
            await orders.insert(
                conn,
                replace(
                    self._row_of_report(report, purpose, position_side_for(report.side, purpose)),
                    origin="catalyst" if row_lost and purpose is Purpose.ENTRY else "external",
                    cycle_id=held.cycle_id if held else today.cycle_id if today and ours else None,
                    position_id=held.position_id if held else None,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note="an order without a row: its placement is not recorded",
            )
            if not anothers:
                await self._alert(
                    conn,
                    "ORDER_ADOPTED" if row_lost else "EXTERNAL_ORDER",
                    "CRITICAL" if row_lost else "WARNING",
                    report,
                    f"{report.side} {report.quantity} {report.symbol} "
                    + (
                        _describe_lost_order(purpose)
                        if row_lost
                        else "is an external order: Catalyst did not place it"
                    ),
                )
        log.warning(
            "lost_order_adopted" if row_lost else "external_order_adopted",
            symbol=report.symbol,
            side=report.side,
            broker_id=report.broker_id,
        )
        await self.ledger.apply_report(report, source)

    async def _adopt_lost_exit(self, report: OrderReport, source: str) -> bool:
        """Write the lost row of our exit; false when the order is no exit of ours or fits no held shares.

        With the row, protection counts the exit and the safe exit waits for it. The exit intent was lost with the
        row, so it is written again.
        """
        origin = (
            EXIT_ROLE_ORIGINS.get(role_of(report.client_order_id))
            if is_ours(report.client_order_id, self.installation)
            else None
        )
        if origin is None:
            return False
        exited_side = PositionSide.LONG if report.side is Side.SELL else PositionSide.SHORT
        purpose = _own_exit_purpose(report)
        try:
            async with self.store.tx("adopt_lost_exit") as conn:
                held = (
                    await positions.lock_open(conn, report.symbol, exited_side)
                    if origin != "orphan"
                    else None
                )
                if held is None:
                    if role_of(report.client_order_id) not in ORPHAN_ROLES:
                        return False
                    origin = "orphan"
                    if await orphans.lock_open(conn, report.symbol, exited_side) is None:
                        return False
                today = await cycles.of_day(conn, trading_date(self.clock.now()))
                cycle_id = held.cycle_id if held else today.cycle_id if today else None
                await orders.insert(
                    conn,
                    replace(
                        self._row_of_report(report, purpose, exited_side),
                        origin=origin,
                        cycle_id=cycle_id,
                        position_id=held.position_id if held else None,
                    ),
                    status=Status.SUBMITTED,
                    at=self.clock.now(),
                    source=source,
                    note="our exit; its row was lost",
                )
                if (
                    held is not None
                    and purpose in EXIT_PURPOSES
                    and (is_working_report(report) or report.filled_qty)
                ):
                    await exit_intents.create_intent(
                        conn,
                        held.position_id,
                        reason=f"{CloseReason.MANUAL}: {report.symbol}, by our exit whose row was lost",
                        purpose=purpose,
                        requested_by="recovery",
                        at=self.clock.now(),
                    )
                await self._alert(
                    conn,
                    "ORDER_ADOPTED",
                    "CRITICAL",
                    report,
                    f"{report.side} {report.quantity} {report.symbol} {LOST_ROW}; "
                    f"adopted as the {purpose} of the held shares",
                )
        except ExitExceedsPosition as error:
            reason = str(error)
            log.warning("lost_exit_unmatched", symbol=report.symbol, broker_id=report.broker_id, error=reason)
            return False
        log.warning("lost_exit_adopted", symbol=report.symbol, purpose=purpose, broker_id=report.broker_id)
        await self.ledger.apply_report(report, source)
        return True

    async def _adopt_replacement(self, report: OrderReport, source: str) -> bool:
        """Write the row of an order that replaced one of ours, with the role of the replaced order.

        False when it replaced no order of ours.
        """
        if report.replaces is None:
            return False
        async with self.store.tx("adopt_replacement") as conn:
            replaced_rows = await orders.by_broker_ids(conn, [report.replaces])
            if not replaced_rows or replaced_rows[0].origin == "external":
                return False
            replaced = replaced_rows[0]
            ours = is_ours(report.client_order_id, self.installation)
            await orders.insert(
                conn,
                replace(
                    self._row_of_report(report, replaced.order_purpose, replaced.position_side),
                    side=replaced.side,
                    origin="orphan" if replaced.origin == "orphan" else "catalyst" if ours else "broker",
                    cycle_id=replaced.cycle_id,
                    position_id=None if replaced.order_purpose is Purpose.ENTRY else replaced.position_id,
                    parent_order_id=replaced.parent_order_id,
                    replaces=replaced.order_id,
                    bracket_stop=replaced.bracket_stop,
                    bracket_target=replaced.bracket_target,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note=f"replaces order {replaced.order_id}",
            )
            await self._alert(
                conn,
                "ORDER_ADOPTED" if ours else "ORDER_REPLACED",
                "CRITICAL" if ours else "WARNING",
                report,
                f"order {replaced.order_id} was replaced by "
                + (f"an order that {LOST_ROW}" if ours else "an external order"),
            )
        log.warning("replacement_adopted", symbol=report.symbol, broker_id=report.broker_id)
        await self.ledger.apply_report(report, source)
        return True

    def _row_of_report(self, report: OrderReport, purpose: Purpose, position_side: PositionSide) -> NewOrder:
        """Return the row of an order from the broker's report; the caller sets origin, cycle and position.

        The report is applied afterwards; it stores the broker's status.
        """
        order = order_of_report(report, purpose, position_side)
        return replace(order, broker_status=None, epoch=self.epoch)

    async def _alert(
        self, conn: "orders.Conn", event: str, severity: str, report: OrderReport, message: str
    ) -> None:
        await alerts.raise_alert(
            conn,
            event,
            message,
            severity=severity,
            subject=report.broker_id,
            facts={"symbol": report.symbol},
            at=self.clock.now(),
        )


def _own_exit_purpose(report: OrderReport) -> Purpose:
    """Return the purpose of our exit, from its class, its type and the role in its client order id."""
    if report.order_class == "oco" or role_of(report.client_order_id) == "m":
        return Purpose.TAKE_PROFIT
    if report.order_type == "stop":
        return Purpose.STOP_LOSS
    return Purpose.FLATTEN if role_of(report.client_order_id) == "f" else Purpose.EXIT


def _describe_lost_order(purpose: Purpose) -> str:
    """Return the end of the alert text for our order whose row was lost."""
    if purpose is Purpose.ENTRY:
        return f"{LOST_ROW}; the row was written again"
    return f"{LOST_ROW}; no held shares match it, so it is treated as an external order"


def _adopted_purpose(report: OrderReport, *, row_lost: bool, against_ours: bool) -> Purpose:
    """Return the purpose of an order without a row. Our order is an entry only if its id has the entry role."""
    if row_lost and role_of(report.client_order_id) != ENTRY_ROLE:
        return Purpose.TAKE_PROFIT if against_ours and report.order_class == "oco" else Purpose.EXIT
    return Purpose.EXIT if against_ours else Purpose.ENTRY
