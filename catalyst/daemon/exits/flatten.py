"""Flat: no working order, no share held, and the proof of it. The close of day, the emergency stop, the operator
and SIGTERM differ only in the reason they give."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.orders.submission import Execution
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.errors import BrokerError
from catalyst.domain.invariants import Invariant
from catalyst.domain.order import Purpose, Status
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.flat_proof_files import Proofs
from catalyst.store import alerts, exit_intents, flat_proofs, journal, latches, orders, positions
from catalyst.store.day_result import Result, compare, earliest, traded
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

STEP: Final = timedelta(seconds=1)
RESULT_TRIES: Final = 4  # of reading the broker's fills, which may come a moment after its positions
OURS_FOR: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for


@dataclass(frozen=True, slots=True)
class Proof:
    """What broker and tables showed at the end; None where they could not be asked."""

    flat: bool
    broker_orders: int | None
    broker_positions: int | None
    stored_orders: int
    stored_positions: int
    result: Result | None

    @property
    def proven(self) -> bool:
        """True when nothing is left on either side, and both come to the same result, to the cent."""
        return self.flat and self.result is not None and not self.result.differences

    @property
    def unread(self) -> bool:
        """True when the broker did not say all that a proof needs."""
        return self.broker_orders is None or self.result is None

    @property
    def missing(self) -> str | None:
        """What keeps it from being a proof; None when nothing does."""
        if self.broker_orders is None:
            return "the broker could not be asked"
        if not self.flat:
            return (
                f"{self.broker_positions} positions and {self.broker_orders} orders are left at the broker, "
                f"{self.stored_positions} and {self.stored_orders} in the tables"
            )
        if self.result is None:
            return "the broker's fills could not be read"
        return "; ".join(self.result.differences) or None

    @property
    def facts(self) -> dict[str, object]:
        """As it is kept, in the row and in the file."""
        return {
            "proven": self.proven,
            "missing": self.missing,
            "realized_tables": None if self.result is None else str(self.result.tables),
            "realized_broker": None if self.result is None else str(self.result.broker),
        }


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
    proofs: Proofs
    under_way: int = 0  # calls of `run` that have not ended

    async def latch(self, name: str, *, reason: str, by: str) -> None:
        """Write the latch that keeps entries out until somebody resumes, and shut the gate."""
        self.gate.shut(name, reason)
        async with self.store.tx("latch") as conn:
            await latches.set_latch(conn, name, reason=reason, by=by, at=self.clock.now(), until=None)

    async def run(
        self, reason: str, *, by: str, purpose: Purpose, within: timedelta, cycle_id: str | None
    ) -> Proof:
        """Cancel every working entry, leave every position, wait, verify at the broker, write the proof.

        Returns after `within` at the latest, with whatever could be proven then.
        """
        log.warning("flatten_started", reason=reason, by=by)
        deadline = self.clock.now() + within
        self.under_way += 1
        try:
            await self._leave(reason, by, purpose, deadline)
        finally:
            self.under_way -= 1
        return await self.prove(reason, by=by, cycle_id=cycle_id, deadline=deadline)

    async def _leave(self, reason: str, by: str, purpose: Purpose, deadline: datetime) -> None:
        """Cancel and leave until nothing is left, or until the deadline."""
        asked_cancel: dict[int, int] = {}
        turn = 0
        while True:
            heard = self.books.changed.count
            working, held = await self._left()
            if (not working and not held) or self.clock.now() >= deadline:
                return
            leaving = await self._leaving()
            for position in held:
                if position.position_id not in leaving:
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

    async def end_entries(self, *, within: timedelta) -> bool:
        """Every entry that works is at its end, what is held stays under its stop; false when one still works."""
        deadline = self.clock.now() + within
        asked: dict[int, datetime] = {}
        while True:
            heard = self.books.changed.count
            entries = [row for row in (await self._left())[0] if row.order_purpose is Purpose.ENTRY]
            now = self.clock.now()
            if not entries or now >= deadline:
                return not entries
            for row in entries:
                if row.order_id not in asked or now - asked[row.order_id] >= timedelta(seconds=5):
                    asked[row.order_id] = now
                    await self._end_order(row)
            if not await self.books.changed.next(self.clock, STEP, since=heard):
                await self._refresh(entries, deadline)

    async def nothing_left(self) -> bool:
        """True when the tables hold no order and no position of ours."""
        return not any(await self._left())

    async def no_entry_works(self) -> bool:
        """True when the tables hold no entry of ours that may still fill."""
        return not any(row.order_purpose is Purpose.ENTRY for row in (await self._left())[0])

    async def something_new(self) -> bool:
        """True when an entry works, or a position is held that nobody has asked to leave."""
        working, held = await self._left()
        leaving = await self._leaving()
        return any(row.order_purpose is Purpose.ENTRY for row in working) or any(
            position.position_id not in leaving for position in held
        )

    async def _leaving(self) -> set[int]:
        """The positions that somebody has asked to leave."""
        async with self.store.read() as conn:
            return {intent.position_id for intent in await exit_intents.open_intents(conn)}

    async def _left(self) -> tuple[list[OrderRow], list[PositionRow]]:
        """Working orders and open positions that are ours to end: a stranger's own business is left alone, and so is
        what protects shares that no position explains."""
        async with self.store.read() as conn:
            working = await orders.working(conn)
            held = await positions.open_positions(conn)
        of_orphans = {row.order_id for row in working if row.origin == "orphan"}
        mine = [
            row
            for row in working
            if (row.origin not in ("external", "orphan") or row.position_id is not None)
            and row.parent_order_id not in of_orphans
        ]
        return mine, held

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

    async def prove(
        self,
        reason: str,
        *,
        by: str,
        cycle_id: str | None,
        page: bool = True,
        deadline: datetime | None = None,
    ) -> Proof:
        """Ask the broker and the tables once more, and keep what they say: a row, and a file beside the database.

        A broker that cannot be read is asked again until the deadline: flat and unproven is no end while there is time.
        """
        proof = await self._look(since=None)
        while proof.broker_orders is None and deadline is not None and self.clock.now() < deadline:
            await self.clock.sleep(STEP)
            proof = await self._look(since=None)
        await self._keep(proof, reason, by=by, cycle_id=cycle_id, page=page)
        return proof

    async def prove_if_read(
        self,
        reason: str,
        *,
        by: str,
        cycle_id: str | None,
        page: bool,
        deadline: datetime,
        since: datetime | None = None,
    ) -> Proof | None:
        """The same where the caller asks again: None, and nothing kept or told, when the broker or its fills could not
        be read until the deadline. `since`: the day whose result is proven, today when it is not given."""
        proof = await self._look(since=since)
        while proof.unread and self.clock.now() < deadline:
            await self.clock.sleep(STEP)
            proof = await self._look(since=since)
        if proof.unread:
            return None
        await self._keep(proof, reason, by=by, cycle_id=cycle_id, page=page)
        return proof

    async def _keep(self, proof: Proof, reason: str, *, by: str, cycle_id: str | None, page: bool) -> None:
        """Its row, its file and its line of the log; with `page`, somebody is told of one that proves nothing."""
        at = self.clock.now()
        async with self.store.tx("flat_proof") as conn:
            head = self.proofs.head = await journal.written_down(conn)
            await flat_proofs.put_flat_proof(
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
                facts={**proof.facts, "journal": head},
            )
            if page and not proof.proven:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="FLAT_UNPROVEN" if proof.flat else "NOT_FLAT",
                    message=f"not proven flat after {reason}: {proof.missing}; look at the broker now",
                    facts={"broker_orders": proof.broker_orders, "broker_positions": proof.broker_positions},
                    dedupe_key=f"NOT_FLAT:{cycle_id}:{reason}",
                    at=at,
                )
        told = {
            "cause": reason,
            "asked_by": by,
            "cycle_id": cycle_id,
            "flat": proof.flat,
            "broker_orders": proof.broker_orders,
            "broker_positions": proof.broker_positions,
            "stored_orders": proof.stored_orders,
            "stored_positions": proof.stored_positions,
            **proof.facts,
            "journal": head,
        }
        file = self.proofs.write(at, told)
        log.log(
            20 if proof.proven else 40, "flatten_finished", **told, file=None if file is None else str(file)
        )

    async def _look(self, *, since: datetime | None) -> Proof:
        """What both sides show now, and the result since then (today's, when None)."""
        async with self.store.read() as conn:
            symbols = await positions.traded_symbols(conn, since=self.clock.now() - OURS_FOR)
        stored_orders, stored_positions = (len(left) for left in await self._left())
        broker_orders: int | None = None
        broker_positions: int | None = None
        try:
            mine = [
                o
                for o in await self.broker.orders(status="open", priority=Priority.EXIT)
                if o.symbol in symbols
            ]
            held = [
                p
                for p in await self.broker.positions(priority=Priority.EXIT)
                if p.symbol in symbols and p.quantity != 0
            ]
            broker_orders, broker_positions = len(mine), len(held)
        except BrokerError as error:
            log.warning("flat_unproven", error=str(error))
        flat = broker_orders == 0 and broker_positions == 0 and not stored_orders and not stored_positions
        result = None if broker_orders is None else await self._result(since)
        return Proof(flat, broker_orders, broker_positions, stored_orders, stored_positions, result)

    async def _result(self, since: datetime | None) -> Result | None:
        """The day's result by the tables and by the broker's fills, which are heard once more where they differ;
        None when they could not be read."""
        if since is None:
            since = datetime.combine(trading_date(self.clock.now()), time(), NEW_YORK).astimezone(UTC)
        found: Result | None = None
        for attempt in range(RESULT_TRIES):
            if attempt:
                await self.clock.sleep(STEP)
            async with self.store.read() as conn:
                rows = await traded(conn, since)
            try:
                found = compare(
                    rows,
                    await self.broker.fills(after=earliest(rows, since), priority=Priority.EXIT)
                    if rows
                    else [],
                )
            except BrokerError as error:
                log.warning("ledger_unreadable", error=str(error))
                continue
            if not found.differences:
                return found
            for broker_id in sorted(found.broker_ids):
                await self.books.catch_up(broker_id, "reconcile")
        if found is not None:
            self.gate.violated(Invariant.I9, "; ".join(found.differences))
        return found
