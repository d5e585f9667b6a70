"""Order adoption: writes a row for each external order, and for each order of ours whose row was lost."""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Literal

import structlog

from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.domain.ids import ENTRY_ROLE, is_ours, role_of
from catalyst.domain.order import PositionSide, Purpose, Side, Status, position_side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.report import OrderReport, is_working_report
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, exit_intents, orders, orphans, positions, quarantine
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.orders import NewOrder
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

# Role letter in our client order id → origin of its row: exits, protection, a repriced target; outage orders;
# orphan orders.
EXIT_ROLE_ORIGINS: Final = {
    "x": "catalyst", "f": "catalyst", "op": "catalyst", "m": "catalyst",
    "z": "outage", "zp": "outage", "ox": "orphan",
}  # fmt: skip
ORPHAN_ROLES: Final = ("op", "ox")
EXIT_PURPOSES: Final = (Purpose.EXIT, Purpose.FLATTEN)


@dataclass
class OrderAdoption:
    """Applies every order of the broker's list and adopts those without a row."""

    store: Store
    ledger: OrderLedger
    clock: Clock
    epoch: int
    _unstorable: set[str] = field(default_factory=set)  # broker ids of orders that no row can hold

    async def apply_or_adopt(self, report: OrderReport, source: str) -> None:
        """Apply one order. An order that the database cannot hold is quarantined, and the others go on."""
        if report.broker_id in self._unstorable:
            return
        try:
            if not await self.ledger.apply_report(report, source):
                await self._adopt_order(report, source)
        except Exception as error:
            if is_outage(error):
                raise
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
                    f"{report.side} {report.symbol}: an order the tables cannot hold: {error}",
                )

    async def _adopt_order(self, report: OrderReport, source: str) -> None:
        """Write the row of an external order, or of ours whose row was lost, and alert.

        A replacement of our order keeps its role. An order against an open position or orphan shares is a
        manual exit of them; any other is an entry, external unless its fills are ours to protect. An entry of
        ours whose row was lost is ours again: it expires, a flatten cancels it, and its fills become a
        protected position. An exit of ours whose row was lost is ours again when it fits what is held, else
        it is external.
        """
        if await self._adopt_replacement(report, source) or await self._adopt_lost_exit(report, source):
            return
        against = PositionSide.LONG if report.side is Side.SELL else PositionSide.SHORT
        lost = is_ours(report.client_order_id)
        async with self.store.tx("adopt_external") as conn:
            held = await positions.lock_open(conn, report.symbol, against)
            orphan = None if held else await orphans.lock_open(conn, report.symbol, against)
            purpose = _adopted_purpose(report, lost=lost, against_ours=held is not None or orphan is not None)
            today = await cycles.of_day(conn, trading_date(self.clock.now()))
            ours = lost or held is not None or report.symbol in self.ledger.last_known.symbols
            await orders.insert(
                conn,
                replace(
                    self._row_of_report(report, purpose, position_side_for(report.side, purpose)),
                    origin="catalyst" if lost and purpose is Purpose.ENTRY else "external",
                    cycle_id=held.cycle_id if held else today.cycle_id if today and ours else None,
                    position_id=held.position_id if held else None,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note="an order we have no record of placing",
            )
            await self._alert(
                conn,
                "ORDER_ADOPTED" if lost else "FOREIGN_ORDER",
                "CRITICAL" if lost else "WARNING",
                report,
                f"{report.side} {report.quantity} {report.symbol} "
                + (_describe_lost_order(purpose) if lost else "was placed by somebody else"),
            )
        log.warning(
            "external_order_adopted", symbol=report.symbol, side=report.side, broker_id=report.broker_id
        )
        await self.ledger.apply_report(report, source)

    async def _adopt_lost_exit(self, report: OrderReport, source: str) -> bool:
        """Write the lost row of an exit of ours; false when it fits no shares that are held.

        Protection counts the exit and the safe exit waits for it. The exit intent was lost with the row, so
        it is written again.
        """
        origin = (
            EXIT_ROLE_ORIGINS.get(role_of(report.client_order_id))
            if is_ours(report.client_order_id)
            else None
        )
        if origin is None:
            return False
        against = PositionSide.LONG if report.side is Side.SELL else PositionSide.SHORT
        purpose = _own_exit_purpose(report)
        try:
            async with self.store.tx("adopt_lost_exit") as conn:
                held = await positions.lock_open(conn, report.symbol, against) if origin != "orphan" else None
                if held is None:
                    if role_of(report.client_order_id) not in ORPHAN_ROLES:
                        return False
                    origin = "orphan"
                    if await orphans.lock_open(conn, report.symbol, against) is None:
                        return False
                today = await cycles.of_day(conn, trading_date(self.clock.now()))
                cycle_id = held.cycle_id if held else today.cycle_id if today else None
                await orders.insert(
                    conn,
                    replace(
                        self._row_of_report(report, purpose, against),
                        origin=origin,
                        cycle_id=cycle_id,
                        position_id=held.position_id if held else None,
                    ),
                    status=Status.SUBMITTED,
                    at=self.clock.now(),
                    source=source,
                    note="an exit of ours whose row was lost",
                )
                if (
                    held is not None
                    and purpose in EXIT_PURPOSES
                    and (is_working_report(report) or report.filled_qty)
                ):
                    await exit_intents.create_intent(
                        conn,
                        held.position_id,
                        reason=f"{CloseReason.MANUAL}: {report.symbol}, by an exit of ours whose record was lost",
                        purpose=purpose,
                        requested_by="recovery",
                        at=self.clock.now(),
                    )
                await self._alert(
                    conn,
                    "ORDER_ADOPTED",
                    "CRITICAL",
                    report,
                    f"{report.side} {report.quantity} {report.symbol} is ours by its id, and its row was lost: "
                    f"the {purpose} of what is held",
                )
        except ExitExceedsPosition as error:
            said = str(error)
            log.warning("lost_exit_unmatched", symbol=report.symbol, broker_id=report.broker_id, said=said)
            return False
        log.warning("lost_exit_adopted", symbol=report.symbol, purpose=purpose, broker_id=report.broker_id)
        await self.ledger.apply_report(report, source)
        return True

    async def _adopt_replacement(self, report: OrderReport, source: str) -> bool:
        """Write the row of an order that replaced one of ours, in the same role; false when it replaced none."""
        if report.replaces is None:
            return False
        async with self.store.tx("adopt_replacement") as conn:
            found = await orders.by_broker_ids(conn, [report.replaces])
            if not found or found[0].origin == "external":
                return False
            old = found[0]
            ours = is_ours(report.client_order_id)
            await orders.insert(
                conn,
                replace(
                    self._row_of_report(report, old.order_purpose, old.position_side),
                    side=old.side,
                    origin="orphan" if old.origin == "orphan" else "catalyst" if ours else "broker",
                    cycle_id=old.cycle_id,
                    position_id=None if old.order_purpose is Purpose.ENTRY else old.position_id,
                    parent_order_id=old.parent_order_id,
                    replaces=old.order_id,
                    bracket_stop=old.bracket_stop,
                    bracket_target=old.bracket_target,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note=f"replaces order {old.order_id}",
            )
            await self._alert(
                conn,
                "ORDER_ADOPTED" if ours else "ORDER_REPLACED",
                "CRITICAL" if ours else "WARNING",
                report,
                f"order {old.order_id} was replaced by "
                + ("one of ours, whose row was lost" if ours else "somebody else"),
            )
        log.warning("replacement_adopted", symbol=report.symbol, broker_id=report.broker_id)
        await self.ledger.apply_report(report, source)
        return True

    def _row_of_report(self, report: OrderReport, purpose: Purpose, position_side: PositionSide) -> NewOrder:
        """Return the row of an order as the broker shows it; the caller gives origin and position."""
        return NewOrder(
            client_order_id=report.client_order_id,
            symbol=report.symbol,
            purpose=purpose,
            position_side=position_side,
            side=report.side,
            quantity=report.quantity,
            order_type=report.order_type,
            time_in_force=report.time_in_force,
            order_class=report.order_class,
            limit_price=report.limit_price,
            stop_price=report.stop_price,
            bracket_stop=_bracket_level(report, "stop_price"),
            bracket_target=_bracket_level(report, "limit_price"),
            alpaca_order_id=report.broker_id,
            broker_status=report.broker_status,
            epoch=self.epoch,
        )

    async def _alert(
        self, conn: "orders.Conn", event: str, severity: str, report: OrderReport, message: str
    ) -> None:
        await alerts.put(
            conn,
            severity=severity,
            event=event,
            message=message,
            facts={"symbol": report.symbol},
            dedupe_key=f"{event}:{report.broker_id}",
            at=self.clock.now(),
        )


def _own_exit_purpose(report: OrderReport) -> Purpose:
    """Return the purpose of an exit of ours, from its shape and the role in its id."""
    if report.order_class == "oco" or role_of(report.client_order_id) == "m":
        return Purpose.TAKE_PROFIT
    if report.order_type == "stop":
        return Purpose.STOP_LOSS
    return Purpose.FLATTEN if role_of(report.client_order_id) == "f" else Purpose.EXIT


def _describe_lost_order(purpose: Purpose) -> str:
    said = "is ours by its id, and its row was lost"
    return (
        said
        if purpose is Purpose.ENTRY
        else f"{said}; it fits nothing that is held, and is not counted as ours"
    )


def _adopted_purpose(report: OrderReport, *, lost: bool, against_ours: bool) -> Purpose:
    """Return the purpose of an order without a row. An order of ours is an entry only if its id says so."""
    if lost and role_of(report.client_order_id) != ENTRY_ROLE:
        return Purpose.TAKE_PROFIT if against_ours and report.order_class == "oco" else Purpose.EXIT
    return Purpose.EXIT if against_ours else Purpose.ENTRY


def _bracket_level(report: OrderReport, name: Literal["stop_price", "limit_price"]) -> Decimal | None:
    """Return the stop or target of an order from the type of its leg."""
    for leg in report.legs:
        if (leg.order_type == "limit") is (name == "limit_price"):
            return leg.limit_price if name == "limit_price" else leg.stop_price
    return None
