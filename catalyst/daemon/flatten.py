"""Flat: no working order, no share held, and the proof of it. The close of day, the emergency stop, the operator
and SIGTERM differ only in the reason they give."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.daemon.books import Books
from catalyst.daemon.execution import Execution
from catalyst.daemon.exits import SafeExit
from catalyst.daemon.gate import Gate
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import Purpose, Status
from catalyst.store import alerts, exits, operations, orders, positions
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

STEP: Final = timedelta(seconds=1)
OURS_FOR: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for


@dataclass(frozen=True, slots=True)
class Proof:
    """What broker and tables showed at the end; None where they could not be asked."""

    flat: bool
    broker_orders: int | None
    broker_positions: int | None
    stored_orders: int
    stored_positions: int


@dataclass
class Flatten:
    """Brings the account to zero and proves it."""

    store: Store
    broker: Broker
    books: Books
    execution: Execution
    exits: SafeExit
    gate: Gate
    clock: Clock

    async def latch(self, name: str, *, reason: str, by: str) -> None:
        """Write the latch that keeps entries out until somebody resumes, and shut the gate."""
        self.gate.shut(name, reason)
        async with self.store.tx("latch") as conn:
            await exits.set_latch(conn, name, reason=reason, by=by, at=self.clock.now(), until=None)

    async def run(
        self, reason: str, *, by: str, purpose: Purpose, within: timedelta, cycle_id: str | None
    ) -> Proof:
        """Cancel every working entry, leave every position, wait, verify at the broker, write the proof.

        Returns after `within` at the latest, with whatever could be proven then.
        """
        log.warning("flatten_started", reason=reason, by=by)
        deadline = self.clock.now() + within
        asked_cancel: dict[int, int] = {}
        turn = 0
        while True:
            heard = self.books.changed.count
            working, held = await self._left()
            if not working and not held:
                break
            if self.clock.now() >= deadline:
                break
            for position in held:
                await self.exits.ask(
                    position.position_id, reason=f"{reason}: {position.symbol}", purpose=purpose, by=by
                )
            exiting = {position.position_id for position in held}
            for row in working:
                leads_nowhere = row.position_id in exiting or row.parent_order_id is not None
                if leads_nowhere or asked_cancel.get(row.order_id, -5) > turn - 5:
                    continue
                asked_cancel[row.order_id] = turn
                await self._end_order(row)
            await self.exits.serve()
            turn += 1
            if not await self.books.changed.next(self.clock, STEP, since=heard):
                await self._refresh(working, deadline)
        proof = await self._prove(reason, by=by, cycle_id=cycle_id)
        log.log(
            20 if proof.flat else 40,
            "flatten_finished",
            flat=proof.flat,
            broker_orders=proof.broker_orders,
            broker_positions=proof.broker_positions,
            stored_orders=proof.stored_orders,
            stored_positions=proof.stored_positions,
        )
        return proof

    async def nothing_left(self) -> bool:
        """True when the tables hold no order and no position of ours."""
        return not any(await self._left())

    async def _left(self) -> tuple[list[OrderRow], list[PositionRow]]:
        """Working orders and open positions that are ours to end: a stranger's own business is left alone."""
        async with self.store.read() as conn:
            working = await orders.working(conn)
            held = await positions.open_positions(conn)
        return [row for row in working if row.origin != "external" or row.position_id is not None], held

    async def _end_order(self, row: OrderRow) -> None:
        """An order that was never sent ends here; any other ends at the broker."""
        if row.status is Status.CREATED:
            async with self.store.tx("never_sent") as conn:
                await orders.move(
                    conn,
                    row.order_id,
                    seen=Status.CREATED,
                    then=Status.CANCELLED,
                    at=self.clock.now(),
                    source="operator",
                    cancel_reason="FLATTEN",
                    epoch=self.execution.epoch,
                )
            return
        await self.execution.cancel(row, "FLATTEN")

    async def _refresh(self, working: list[OrderRow], deadline: datetime) -> None:
        for row in working:
            if self.clock.now() >= deadline:
                return
            if row.alpaca_order_id is not None and row.parent_order_id is None:
                await self.execution.refresh(row.alpaca_order_id, "poll")

    async def _prove(self, reason: str, *, by: str, cycle_id: str | None) -> Proof:
        """Ask the broker and the tables once more, and write down what they say."""
        async with self.store.read() as conn:
            symbols = await positions.traded_symbols(conn, since=self.clock.now() - OURS_FOR)
        stored_orders, stored_positions = (len(left) for left in await self._left())
        broker_orders: int | None = None
        broker_positions: int | None = None
        try:
            mine = [o for o in await self.broker.orders(status="open") if o.symbol in symbols]
            held = [p for p in await self.broker.positions() if p.symbol in symbols and p.quantity != 0]
            broker_orders, broker_positions = len(mine), len(held)
        except BrokerError as error:
            log.exception("flat_unproven", error=str(error))
        flat = broker_orders == 0 and broker_positions == 0 and not stored_orders and not stored_positions
        proof = Proof(flat, broker_orders, broker_positions, stored_orders, stored_positions)
        async with self.store.tx("flat_proof") as conn:
            at = self.clock.now()
            await operations.put_flat_proof(
                conn,
                cycle_id=cycle_id,
                at=at,
                cause=reason,
                asked_by=by,
                flat=proof.flat,
                broker_orders=proof.broker_orders,
                broker_positions=proof.broker_positions,
                stored_orders=proof.stored_orders,
                stored_positions=proof.stored_positions,
            )
            if not flat:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="NOT_FLAT",
                    message=f"not flat after {reason}: look at the broker now",
                    facts={"broker_orders": broker_orders, "broker_positions": broker_positions},
                    dedupe_key=f"NOT_FLAT:{cycle_id}:{reason}",
                    at=at,
                )
        return proof
