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
from catalyst.config.schema import Execution as ExecutionConfig
from catalyst.config.schema import PositionsConfig
from catalyst.daemon.outage.exits import Emergency, Sight
from catalyst.daemon.outage.spool import Step
from catalyst.domain.errors import BrokerError, DuplicateOrder, OrderRefused
from catalyst.domain.ids import client_order_id, is_ours
from catalyst.domain.order import PositionSide, Purpose, Side, Status, side_for, status_of
from catalyst.domain.position import CloseReason
from catalyst.domain.protection import ExitOrder, Protection, protection_of
from catalyst.domain.report import OrderReport, OrderRequest, PositionReport, works
from catalyst.store.orders import OrderRow
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

ROLE: Final = "zp"  # of a protection sent without the tables
SURE_AFTER: Final = timedelta(seconds=2)  # bare that long, on two looks
ASK_AGAIN: Final = timedelta(seconds=3)
TRIES: Final = 4
LEAVE_WITHIN: Final = timedelta(seconds=30)
NOTHING: Final = Decimal(0)


@dataclass
class Blind:
    """Looks at the broker in the place of the tables. `bare` are the positions without a stop at its last look."""

    emergency: Emergency
    clock: Clock
    cfg: ExecutionConfig
    limits: PositionsConfig
    bare: set[int] = field(default_factory=set)
    _numbers: dict[str, int] = field(default_factory=dict)  # symbol → the id of a position no row is known of
    _since: dict[str, datetime] = field(default_factory=dict)  # symbol → since when it is bare
    _partial: dict[str, datetime] = field(default_factory=dict)  # broker id of an entry → since when it fills
    _refused: dict[str, int] = field(default_factory=dict)

    async def look(self) -> tuple[Sequence[PositionRow], Mapping[int, Sequence[OrderRow]]]:
        """Every position that is ours, as the broker has it, and the rows that are remembered of each; what is bare
        gets its stop. From memory alone when the broker cannot be read either."""
        memory = self.emergency.memory
        sight = await self.emergency.look()
        if sight is None:
            return list(memory.held), memory.rows
        held: list[PositionRow] = []
        for symbol in sorted(self.emergency.ours(sight) & sight.held.keys()):
            position = self._position(sight, sight.held[symbol])
            if position is not None:
                held.append(position)
        self._since = {symbol: at for symbol, at in self._since.items() if symbol in {p.symbol for p in held}}
        self.bare = set()
        for position in held:
            await self._tend(sight, position)
        return held, memory.rows

    def _position(self, sight: Sight, held: PositionReport) -> PositionRow | None:
        """The position as remembered, with the broker's quantity; else as its entry says; None: not explained."""
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        for row in self.emergency.memory.held:
            if row.symbol == held.symbol and row.side is side:
                return replace(row, quantity=abs(held.quantity))
        entry = self._entry(sight, held.symbol, side)
        if entry is None:
            return None
        number = self._numbers.setdefault(held.symbol, -1 - len(self._numbers))
        at = entry.submitted_at or self.clock.now()
        stop = next((leg.stop_price for leg in entry.legs if leg.order_type != "limit"), None)
        target = next((leg.limit_price for leg in entry.legs if leg.order_type == "limit"), None)
        quantity, price = abs(held.quantity), held.entry_price
        return PositionRow(
            position_id=number, cycle_id=None, security_id=0, symbol=held.symbol, sector=None, side=side,
            quantity=quantity, entered_qty=quantity, cost=quantity * price, exited_qty=NOTHING, proceeds=NOTHING,
            entry_price=price, stop_loss=stop, take_profit=target, entry_time=at, exit_time=None, status="open",
            realized_pnl=None, unrealized_pnl=None, last_price=None, protected_at=None, naked_seconds=NOTHING,
            close_reason=None, carried=False,
        )  # fmt: skip

    def _entry(self, sight: Sight, symbol: str, side: PositionSide) -> OrderReport | None:
        """Our latest entry of a symbol and side with a fill."""
        bought = side_for(side, Purpose.ENTRY)
        mine = [
            top
            for top in sight.tops
            if top.symbol == symbol and top.side is bought and is_ours(top.client_order_id) and top.filled_qty
        ]
        return mine[-1] if mine else None

    async def _tend(self, sight: Sight, position: PositionRow) -> None:
        """One step towards a stop for exactly what is held."""
        symbol = position.symbol
        state = protection_of(position.quantity, list(_exits(sight, symbol, position.side)))
        if state in (Protection.COVERED, Protection.EXCESS):
            self._since.pop(symbol, None)
            return
        self.bare.add(position.position_id)
        now = self.clock.now()
        since = self._since.setdefault(symbol, now)
        working = sight.working(symbol)
        for one in working:
            if _is_entry(one, position.side) and is_ours(one.client_order_id):
                first = self._partial.setdefault(one.broker_id, now)
                if now - first >= timedelta(seconds=self.cfg.partial_entry_grace_seconds):
                    await self.emergency.cancel(one)
        if working or now - since < SURE_AFTER or position.stop_loss is None or position.take_profit is None:
            return
        if self._may_move(symbol):
            return
        async with self.emergency.hand:
            await self._protect(sight, position)

    def _may_move(self, symbol: str) -> bool:
        """True while a request of ours in the symbol may still arrive."""
        return any(row.symbol == symbol for row in self.emergency.execution.unresolved.values())

    async def _protect(self, sight: Sight, position: PositionRow) -> None:
        symbol, held = position.symbol, sight.held[position.symbol]
        quantity = self.emergency.quantity(sight, held)
        if quantity == 0 or abs(held.available) < quantity:
            return
        known = sorted(f"{one.broker_id}:{one.filled_qty}" for one in sight.of(symbol))
        tries = self._refused.get(symbol, 0)
        cid = client_order_id(f"{symbol}|{quantity}|{'|'.join(known)}", ROLE, tries)
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
        self.emergency.execution.elsewhere.add(symbol)
        self.emergency.spool.write(
            Step.PROTECT,
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
            "protected_without_tables", symbol=symbol, qty=str(quantity), stop=str(position.stop_loss)
        )
        try:
            await self.emergency.broker.submit(request, priority=Priority.EXIT)
        except DuplicateOrder:
            self.emergency.answer(cid, "taken", "the broker had it")
        except OrderRefused as error:
            log.warning("order_rejected", symbol=symbol, code=error.code, said=error.text)
            self.emergency.answer(cid, "refused", str(error))
            self._refused[symbol] = tries + 1
        except BrokerError as error:  # the next look shows what it came to; the same id goes again
            log.warning("order_unanswered", symbol=symbol, error=str(error))
            self.emergency.answer(cid, "unanswered", str(error))
        else:
            self.emergency.answer(cid, "taken", "")

    async def leave_what_cannot_be_protected(self, held: Sequence[PositionRow]) -> None:
        """Shares whose protection was refused over and over are not held."""
        for position in held:
            if self._refused.get(position.symbol, 0) < TRIES:
                continue
            reason = f"{CloseReason.EMERGENCY_STOP}: {position.symbol} cannot be protected"
            left = await self.emergency.leave(
                position.symbol, reason=reason, by="stop_monitor", within=LEAVE_WITHIN
            )
            if left.flat:
                self._refused.pop(position.symbol, None)

    async def leave_what_is_held_too_long(self, held: Sequence[PositionRow]) -> None:
        """The time limit, which the risk watch keeps by the tables: here by what is remembered, or by when the entry
        was sent. To be called while something can be sold."""
        longest = timedelta(minutes=self.limits.max_hold_time_minutes)
        for position in held:
            lasted = self.clock.now() - position.entry_time
            if lasted < longest:
                continue
            minutes = int(lasted.total_seconds() // 60)
            reason = f"{CloseReason.TIME_LIMIT}: {position.symbol} held {minutes} minutes"
            await self.emergency.leave(position.symbol, reason=reason, by="stop_monitor", within=LEAVE_WITHIN)


def _is_entry(one: OrderReport, side: PositionSide) -> bool:
    return one.side is side_for(side, Purpose.ENTRY)


def _exits(sight: Sight, symbol: str, side: PositionSide) -> "list[ExitOrder]":
    """The exits of a symbol as the broker shows them; legs of an entry that is not completely filled sleep."""
    found: list[ExitOrder] = []
    against: Side = side_for(side, Purpose.EXIT)
    for family, top in enumerate(sight.tops):
        if top.symbol != symbol:
            continue
        entry = _is_entry(top, side)
        asleep = entry and _status(top) is not Status.FILLED
        for one in (top, *top.legs):
            status = _status(one)
            if one.side is not against or not works(one) or status is None:
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
                    dormant=asleep,
                    family=family,
                )
            )
    return found


def _status(one: OrderReport) -> Status | None:
    return status_of(one.broker_status, one.filled_qty, one.quantity)
