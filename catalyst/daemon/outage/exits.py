"""Leaving without the tables: from memory, from what the broker shows, and with the spool as the only record.

Used while the database is away. It cancels, reads and sells in a circle until the broker shows nothing of ours.
Every id it gives an order follows from what the broker shows, so that whoever repeats it, even after a death, gives
the same one: the broker takes an order once, however often it is sent.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.orders.last_known_state import Memory
from catalyst.daemon.orders.submission import Execution
from catalyst.daemon.outage.spool import Spool, Step
from catalyst.domain.errors import BrokerError, DuplicateOrder, NotFound, OrderRefused
from catalyst.domain.ids import client_order_id, is_ours
from catalyst.domain.order import PositionSide, Purpose, Side, side_for
from catalyst.domain.report import OrderReport, OrderRequest, PositionReport, works
from catalyst.flat_proof_files import Proofs

log = structlog.get_logger()

PACE: Final = timedelta(seconds=1)
ASK_AGAIN: Final = timedelta(seconds=3)
LOOK_BACK: Final = timedelta(days=1)  # an order of today names a symbol of ours, whatever memory holds
QUIET: Final = timedelta(seconds=10)  # a request of ours may still be on its way that long
NOT_FOUNDS: Final = 3
ROLE: Final = "z"
NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Left:
    """What the broker showed at the end. `flat` is true only when it was asked, showed nothing of ours, no request
    of ours may still arrive, and the spool holds that."""

    flat: bool
    orders: int | None
    positions: int | None


@dataclass(frozen=True, slots=True)
class Sight:
    """The broker's own word: every order of the last day, legs beside their parents, and what is held."""

    orders: tuple[OrderReport, ...]
    tops: tuple[OrderReport, ...]
    held: dict[str, PositionReport]

    def of(self, symbol: str) -> list[OrderReport]:
        return [one for one in self.orders if one.symbol == symbol]

    def working(self, symbol: str) -> list[OrderReport]:
        """What to cancel: a working order, or the working legs of one that is not; a leg ends with its parent."""
        found: list[OrderReport] = []
        for top in self.tops:
            if top.symbol == symbol:
                found += [top] if works(top) else [leg for leg in top.legs if works(leg)]
        return found


@dataclass
class Emergency:
    """One hand that leaves what is ours. `execution` is only asked what it may still have on its way."""

    broker: Broker
    execution: Execution
    memory: Memory
    spool: Spool
    proofs: Proofs
    clock: Clock
    hand: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: dict[str, datetime] = field(default_factory=dict)
    _sent: dict[str, str] = field(default_factory=dict)  # client order id → symbol, of what the broker took
    _missing: dict[int, int] = field(default_factory=dict)  # rows the broker does not know: times it said so

    async def flatten(
        self,
        *,
        latch: str | None,
        reason: str,
        by: str,
        within: timedelta,
        selling: bool,
        purpose: Purpose = Purpose.FLATTEN,
        lasting: bool = False,
    ) -> Left:
        """Leave everything that is ours; return when it is proven, or after `within`.

        With `selling` false (the market is shut) only what protects no share is cancelled. `lasting`: this process
        lives on, and nobody of it sends an order in what was left before the tables have heard.
        """
        async with self.hand:
            log.critical("flatten_without_tables", reason=reason, by=by, spool=str(self.spool.path))
            if latch is not None:
                self.spool.write(Step.LATCH, self.clock.now(), name=latch, reason=reason, by=by)
            before = set(self.execution.elsewhere)
            if lasting:
                self.execution.elsewhere |= self.memory.symbols
                await self.execution.drained(QUIET)
            left = await self._leave(None, reason, by, within, purpose, selling=selling)
            if lasting and not (left.flat and self.spool.pending):
                self.execution.elsewhere &= before  # it is tried again, with or without the tables
            return left

    async def leave(self, symbol: str, *, reason: str, by: str, within: timedelta) -> Left:
        """Leave one symbol, and nothing else. Once left, nobody of ours sends an order in it before the tables
        have heard."""
        elsewhere = self.execution.elsewhere
        async with self.hand:
            log.critical("exit_without_tables", symbol=symbol, reason=reason, spool=str(self.spool.path))
            elsewhere.add(symbol)
            await self.execution.drained(QUIET, symbol)
            left = await self._leave({symbol}, reason, by, within, Purpose.EXIT, selling=True)
            if not left.flat:
                elsewhere.discard(symbol)  # it is tried again, with or without the tables
            return left

    async def _leave(
        self,
        only: set[str] | None,
        reason: str,
        by: str,
        within: timedelta,
        purpose: Purpose,
        *,
        selling: bool,
    ) -> Left:
        deadline = self.clock.now() + within
        told: set[str] = set()
        left = Left(False, None, None)
        while True:
            sight = await self.look()
            if sight is not None:
                symbols = only if only is not None else self.ours(sight)
                left = await self._count(sight, symbols)
                if left.flat:
                    break
                for symbol in sorted(symbols):
                    if symbol not in told and (sight.working(symbol) or symbol in sight.held):
                        told.add(symbol)
                        self.spool.write(
                            Step.LEAVE, self.clock.now(), symbol=symbol, reason=reason, by=by, purpose=purpose
                        )
                    await self._step(sight, symbol, purpose, reason, selling=selling)
            if self.clock.now() >= deadline:
                break
            await self.clock.sleep(PACE)
        return self._prove(left, reason, by, only)

    def _prove(self, left: Left, reason: str, by: str, only: set[str] | None) -> Left:
        at = self.clock.now()
        facts = {
            "flat": left.flat,
            "broker_orders": left.orders,
            "broker_positions": left.positions,
            "cause": reason,
            "by": by,
            "symbol": None if only is None else ", ".join(sorted(only)),
            "journal": self.proofs.head,
        }
        file = self.proofs.write(at, {**facts, "tables": "away"}) if only is None else None
        written = self.spool.write(Step.PROOF, at, **facts, file=None if file is None else file.name)
        log.log(
            20 if left.flat and written else 50,
            "left_without_tables",
            flat=left.flat,
            broker_orders=left.orders,
            broker_positions=left.positions,
            proof=str(self.spool.path) if written else None,
            file=None if file is None else str(file),
        )
        return left if written else Left(False, left.orders, left.positions)

    # -- looking

    async def look(self) -> Sight | None:
        """The broker's word, or None when it could not be heard whole."""
        try:
            tops = await self.broker.orders(
                status="all", after=self.clock.now() - LOOK_BACK, priority=Priority.EXIT
            )
            held = await self.broker.positions(priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("broker_unreadable", error=str(error))
            return None
        flat = tuple(one for top in tops for one in (top, *top.legs))
        return Sight(flat, tuple(tops), {one.symbol: one for one in held if one.quantity != 0})

    def ours(self, sight: Sight) -> set[str]:
        mine = {top.symbol for top in sight.tops if is_ours(top.client_order_id)}
        doubtful = {row.symbol for row in self.execution.unresolved.values()}
        return self.memory.symbols | mine | doubtful

    async def _count(self, sight: Sight, symbols: set[str]) -> Left:
        working = sum(len(sight.working(symbol)) for symbol in symbols)
        held = sum(1 for symbol in symbols if symbol in sight.held)
        sure = not working and not held and not await self._may_arrive(sight, symbols)
        return Left(sure, working, held)

    async def _may_arrive(self, sight: Sight, symbols: set[str]) -> bool:
        """True while an order of ours that the broker does not show may still reach it."""
        shown = {one.client_order_id for one in sight.orders}
        pending = bool([cid for cid, symbol in self._sent.items() if symbol in symbols and cid not in shown])
        for row in list(self.execution.unresolved.values()):
            if row.symbol not in symbols or row.client_order_id in shown:
                continue
            try:
                await self.broker.order_by_client_id(row.client_order_id, priority=Priority.EXIT)
            except NotFound:
                since = self.clock.now() - (row.last_attempt_at or row.created_at)
                quiet = since >= QUIET and not self.execution.sending(row.order_id)
                self._missing[row.order_id] = self._missing.get(row.order_id, 0) + 1 if quiet else 0
                pending |= self._missing[row.order_id] < NOT_FOUNDS
            except BrokerError:
                pending = True
            else:
                pending = True  # it is there: the next look shows it
        return pending

    # -- acting

    async def _step(self, sight: Sight, symbol: str, purpose: Purpose, reason: str, *, selling: bool) -> None:
        """One step for one symbol: cancel what works, else sell what is held."""
        held = sight.held.get(symbol)
        if held is not None and not selling:
            return  # nothing can be sold: what protects the shares stays
        working = [one for one in sight.working(symbol) if not _is_emergency(one)]
        for one in working:
            await self.cancel(one)
        if held is None or working or len(sight.working(symbol)) > len(working):
            return
        shown = {one.client_order_id for one in sight.orders}
        if any(cid not in shown for cid, of in self._sent.items() if of == symbol):
            return  # the broker took one that its list does not show yet
        quantity = self.quantity(sight, held)
        if quantity > 0:
            await self._sell(sight, held, quantity, purpose, reason)

    async def cancel(self, one: OrderReport) -> None:
        """Ask for the cancel of one order, on record, and not more often than every few seconds."""
        now = self.clock.now()
        if one.broker_id in self._asked and now - self._asked[one.broker_id] < ASK_AGAIN:
            return
        self._asked[one.broker_id] = now
        self.spool.write(Step.CANCEL, now, symbol=one.symbol, broker_id=one.broker_id)
        try:
            await self.broker.cancel(one.broker_id)
        except (OrderRefused, NotFound) as error:
            log.info("cancel_refused", symbol=one.symbol, said=str(error))
        except BrokerError as error:  # unknown or unheard: the next look shows what it came to
            log.warning("cancel_unanswered", symbol=one.symbol, error=str(error))

    def quantity(self, sight: Sight, held: PositionReport) -> Decimal:
        """Shares to sell (or buy back): no more than the broker holds, nor than our own fills explain.

        Positions may lag behind fills at the broker: what its orders have sold is not sold again. A position that
        is older than the orders looked at is taken as the broker has it, less what was sold here.
        """
        orders = sight.of(held.symbol)
        known_rows = (row for rows in self.memory.rows.values() for row in rows)
        mine = list(_ours_of(orders, {row.alpaca_order_id for row in known_rows if row.alpaca_order_id}))
        carried = any(
            row.symbol == held.symbol and row.entry_time < self.clock.now() - LOOK_BACK
            for row in self.memory.held
        )
        there = abs(held.available if held.available != 0 else held.quantity)
        if carried:
            sold = sum((one.filled_qty for one in mine if _is_emergency(one)), NOTHING)
            remembered = sum((p.quantity for p in self.memory.held if p.symbol == held.symbol), NOTHING)
            return min(there, max(remembered - sold, NOTHING))
        net = sum((one.filled_qty if one.side is Side.BUY else -one.filled_qty for one in mine), NOTHING)
        if (net > 0) is not (held.quantity > 0):
            return NOTHING
        return min(there, abs(net))

    async def _sell(
        self, sight: Sight, held: PositionReport, quantity: Decimal, purpose: Purpose, reason: str
    ) -> None:
        side = PositionSide.LONG if held.quantity > 0 else PositionSide.SHORT
        known = sorted(f"{one.broker_id}:{one.filled_qty}" for one in sight.of(held.symbol))
        cid = client_order_id(f"{held.symbol}|{quantity}|{'|'.join(known)}", ROLE, 0)
        request = OrderRequest(
            client_order_id=cid,
            symbol=held.symbol,
            side=side_for(side, purpose),
            quantity=quantity,
            order_type="market",
            time_in_force="day",
            order_class="simple",
            limit_price=None,
            stop_price=None,
            take_profit=None,
            stop_loss=None,
        )
        self.spool.write(
            Step.SELL,
            self.clock.now(),
            client_order_id=cid,
            symbol=held.symbol,
            position_side=side,
            quantity=str(quantity),
            purpose=purpose,
            reason=reason,
        )
        try:
            await self.broker.submit(request, priority=Priority.EXIT)
        except OrderRefused as error:
            log.warning("order_rejected", symbol=held.symbol, code=error.code, said=error.text)
            self.answer(cid, "refused", str(error))
        except DuplicateOrder:
            self._sent[cid] = held.symbol
            self.answer(cid, "taken", "the broker had it")
        except BrokerError as error:  # the same id goes again, unless the next look shows the order
            log.warning("order_unanswered", symbol=held.symbol, error=str(error))
            self.answer(cid, "unanswered", str(error))
        else:
            self._sent[cid] = held.symbol
            self.answer(cid, "taken", "")

    def answer(self, cid: str, outcome: str, text: str) -> None:
        self.spool.write(Step.ANSWER, self.clock.now(), client_order_id=cid, outcome=outcome, text=text)


def _is_emergency(one: OrderReport) -> bool:
    return is_ours(one.client_order_id) and one.client_order_id.endswith(f"-{ROLE}")


def _ours_of(orders: Sequence[OrderReport], known: set[str]) -> Iterator[OrderReport]:
    """Our orders, those the tables had a row for in a position of ours, their legs, and what took the place of one."""
    mine = set(known)
    for one in orders:
        if is_ours(one.client_order_id) or one.replaces in mine or one.broker_id in mine:
            mine |= {one.broker_id, *(leg.broker_id for leg in one.legs)}
            yield one
