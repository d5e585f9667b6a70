"""What is held while the tables cannot be asked: what was remembered, and what the broker shows of our own orders.

So a position that opened after the database went away is watched like any other, with the stop and the target its
entry carried. What has no stop at the broker gets one, through the spool: a partly filled entry is cut short after
its grace, and an OCO placed for exactly what is held. What is held past its time limit is left. The tables are told
when they are back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.config.schema import ExecutionConfig, PositionsConfig
from catalyst.daemon.outage.exits import OutageExit, OutageSnapshot
from catalyst.daemon.outage.spool import SpoolEntryKind
from catalyst.domain.errors import BrokerError, DuplicateOrder, OrderRejected
from catalyst.domain.ids import client_order_id, is_ours
from catalyst.domain.order import PositionSide, Purpose, Side, Status, side_for, status_of
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import ExitOrder, Protection, protection_of
from catalyst.domain.report import OrderReport, OrderRequest, PositionReport, is_working_report
from catalyst.store.orders import OrderRow
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

CLIENT_ID_ROLE: Final = "zp"  # of a protection sent without the tables
UNPROTECTED_CONFIRM_AFTER: Final = timedelta(seconds=2)  # bare that long, on two looks
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)
MAX_REJECTIONS: Final = 4
EXIT_TIMEOUT: Final = timedelta(seconds=30)
ZERO: Final = Decimal(0)


@dataclass
class OutageProtection:
    """Looks at the broker in the place of the tables. `bare` are the positions without a stop at its last look."""

    outage_exit: OutageExit
    clock: Clock
    cfg: ExecutionConfig
    limits: PositionsConfig
    unprotected: set[int] = field(default_factory=set)
    _placeholder_ids: dict[str, int] = field(
        default_factory=dict
    )  # symbol → the id of a position no row is known of
    _unprotected_since: dict[str, datetime] = field(default_factory=dict)  # symbol → since when it is bare
    _partial_fill_since: dict[str, datetime] = field(
        default_factory=dict
    )  # broker id of an entry → since when it fills
    _rejection_counts: dict[str, int] = field(default_factory=dict)

    async def check(self) -> tuple[Sequence[PositionRow], Mapping[int, Sequence[OrderRow]]]:
        """Every position that is ours, as the broker has it, and the rows that are remembered of each; what is bare
        gets its stop. From memory alone when the broker cannot be read either."""
        memory = self.outage_exit.last_known
        snapshot = await self.outage_exit.read_broker()
        if snapshot is None:
            return list(memory.positions), memory.orders
        held: list[PositionRow] = []
        for symbol in sorted(self.outage_exit.our_symbols(snapshot) & snapshot.positions.keys()):
            position = self._reconstruct_position(snapshot, snapshot.positions[symbol])
            if position is not None:
                held.append(position)
        self._unprotected_since = {
            symbol: at for symbol, at in self._unprotected_since.items() if symbol in {p.symbol for p in held}
        }
        self.unprotected = set()
        for position in held:
            await self._protect_position(snapshot, position)
        return held, memory.orders

    def _reconstruct_position(self, snapshot: OutageSnapshot, held: PositionReport) -> PositionRow | None:
        """The position as remembered, with the broker's quantity; else as its entry says; None: not explained."""
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        for row in self.outage_exit.last_known.positions:
            if row.symbol == held.symbol and row.side is side:
                return replace(row, quantity=abs(held.quantity))
        entry = self._latest_entry(snapshot, held.symbol, side)
        if entry is None:
            return None
        number = self._placeholder_ids.setdefault(held.symbol, -1 - len(self._placeholder_ids))
        at = entry.submitted_at or self.clock.now()
        stop = next((leg.stop_price for leg in entry.legs if leg.order_type != "limit"), None)
        target = next((leg.limit_price for leg in entry.legs if leg.order_type == "limit"), None)
        quantity, price = abs(held.quantity), held.entry_price
        return PositionRow(
            position_id=number, cycle_id=None, security_id=0, symbol=held.symbol, sector=None, side=side,
            quantity=quantity, entered_qty=quantity, cost=quantity * price, exited_qty=ZERO, proceeds=ZERO,
            entry_price=price, stop_loss=stop, take_profit=target, entry_time=at, exit_time=None, status="open",
            realized_pnl=None, unrealized_pnl=None, last_price=None, protected_at=None, unprotected_seconds=ZERO,
            close_reason=None, carried=False,
        )  # fmt: skip

    def _latest_entry(self, snapshot: OutageSnapshot, symbol: str, side: PositionSide) -> OrderReport | None:
        """Our latest entry of a symbol and side with a fill."""
        bought = side_for(side, Purpose.ENTRY)
        mine = [
            top
            for top in snapshot.top_level_orders
            if top.symbol == symbol and top.side is bought and is_ours(top.client_order_id) and top.filled_qty
        ]
        return mine[-1] if mine else None

    async def _protect_position(self, snapshot: OutageSnapshot, position: PositionRow) -> None:
        """One step towards a stop for exactly what is held."""
        symbol = position.symbol
        state = protection_of(position.quantity, list(_exit_orders(snapshot, symbol, position.side)))
        if state in (Protection.PROTECTED, Protection.EXCESS):
            self._unprotected_since.pop(symbol, None)
            return
        self.unprotected.add(position.position_id)
        now = self.clock.now()
        since = self._unprotected_since.setdefault(symbol, now)
        working = snapshot.working_orders(symbol)
        for one in working:
            if _is_entry_side(one, position.side) and is_ours(one.client_order_id):
                first = self._partial_fill_since.setdefault(one.broker_id, now)
                if now - first >= timedelta(seconds=self.cfg.partial_entry_grace_seconds):
                    await self.outage_exit.cancel(one)
        if (
            working
            or now - since < UNPROTECTED_CONFIRM_AFTER
            or position.stop_loss is None
            or position.take_profit is None
        ):
            return
        if self._has_in_flight_request(symbol):
            return
        async with self.outage_exit.lock:
            await self._place_protection(snapshot, position)

    def _has_in_flight_request(self, symbol: str) -> bool:
        """True while a request of ours in the symbol may still arrive."""
        return any(row.symbol == symbol for row in self.outage_exit.submission.unresolved.values())

    async def _place_protection(self, snapshot: OutageSnapshot, position: PositionRow) -> None:
        symbol, held = position.symbol, snapshot.positions[position.symbol]
        quantity = self.outage_exit.exit_quantity(snapshot, held)
        if quantity == 0 or abs(held.available) < quantity:
            return
        known = sorted(f"{one.broker_id}:{one.filled_qty}" for one in snapshot.orders_of(symbol))
        tries = self._rejection_counts.get(symbol, 0)
        cid = client_order_id(f"{symbol}|{quantity}|{'|'.join(known)}", CLIENT_ID_ROLE, tries)
        request = OrderRequest(
            client_order_id=cid,
            symbol=symbol,
            side=side_for(position.side, Purpose.TAKE_PROFIT),
            quantity=quantity,
            order_type="limit",
            time_in_force="day",
            order_class="oco",
            limit_price=position.take_profit,
            take_profit=position.take_profit,
            stop_loss=position.stop_loss,
        )
        self.outage_exit.submission.outage_symbols.add(symbol)
        self.outage_exit.spool.write(
            SpoolEntryKind.PROTECT,
            self.clock.now(),
            client_order_id=cid,
            symbol=symbol,
            position_side=position.side,
            quantity=str(quantity),
            purpose=Purpose.TAKE_PROFIT,
            stop=str(position.stop_loss),
            target=str(position.take_profit),
            reason=f"stop and target for the {quantity} shares held",
        )
        log.critical(
            "outage_protection_placed", symbol=symbol, qty=str(quantity), stop=str(position.stop_loss)
        )
        try:
            await self.outage_exit.broker.submit(request, priority=Priority.EXIT)
        except DuplicateOrder:
            self.outage_exit.record_response(cid, "accepted", "the broker had it")
        except OrderRejected as error:
            log.warning("order_rejected", symbol=symbol, code=error.code, reason=error.text)
            self.outage_exit.record_response(cid, "rejected", str(error))
            self._rejection_counts[symbol] = tries + 1
        except BrokerError as error:  # the next look shows what it came to; the same id goes again
            log.warning("order_unconfirmed", symbol=symbol, error=str(error))
            self.outage_exit.record_response(cid, "unknown", str(error))
        else:
            self.outage_exit.record_response(cid, "accepted", "")

    async def exit_unprotectable(self, held: Sequence[PositionRow]) -> None:
        """Shares whose protection was refused over and over are not held."""
        for position in held:
            if self._rejection_counts.get(position.symbol, 0) < MAX_REJECTIONS:
                continue
            reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected"
            left = await self.outage_exit.exit_symbol(
                position.symbol, reason=reason, by="stop_monitor", within=EXIT_TIMEOUT
            )
            if left.flat:
                self._rejection_counts.pop(position.symbol, None)

    async def exit_overdue(self, held: Sequence[PositionRow]) -> None:
        """The time limit, which the risk watch keeps by the tables: here by what is remembered, or by when the entry
        was sent. To be called while something can be sold."""
        longest = timedelta(minutes=self.limits.max_hold_time_minutes)
        for position in held:
            lasted = self.clock.now() - position.entry_time
            if lasted < longest:
                continue
            minutes = int(lasted.total_seconds() // 60)
            reason = f"{CloseReason.TIME_LIMIT}: {position.symbol} held {minutes} minutes"
            await self.outage_exit.exit_symbol(
                position.symbol, reason=reason, by="stop_monitor", within=EXIT_TIMEOUT
            )


def _is_entry_side(one: OrderReport, side: PositionSide) -> bool:
    return one.side is side_for(side, Purpose.ENTRY)


def _exit_orders(snapshot: OutageSnapshot, symbol: str, side: PositionSide) -> "list[ExitOrder]":
    """The exits of a symbol as the broker shows them; legs of an entry that is not completely filled sleep."""
    found: list[ExitOrder] = []
    against: Side = side_for(side, Purpose.EXIT)
    for family, top in enumerate(snapshot.top_level_orders):
        if top.symbol != symbol:
            continue
        entry = _is_entry_side(top, side)
        asleep = entry and _order_status(top) is not Status.FILLED
        for one in (top, *top.legs):
            status = _order_status(one)
            if one.side is not against or not is_working_report(one) or status is None:
                continue
            purpose = Purpose.TAKE_PROFIT if one.order_type == "limit" else Purpose.STOP_LOSS
            if one.order_type == "market":
                purpose = Purpose.EXIT
            found.append(
                ExitOrder(
                    purpose,
                    status,
                    one.broker_status,
                    one.quantity - one.filled_qty,
                    inactive=asleep,
                    group=family,
                )
            )
    return found


def _order_status(one: OrderReport) -> Status | None:
    return status_of(one.broker_status, one.filled_qty, one.quantity)
