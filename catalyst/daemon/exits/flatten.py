"""Flat: no working order, no share held, and the proof of it. The close of day, the emergency stop, the operator
and SIGTERM differ only in the reason they give."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import BrokerError
from catalyst.domain.invariants import Invariant
from catalyst.domain.order import Purpose, Status
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store import alerts, exit_intents, flat_proofs, journal, latches, orders, positions
from catalyst.store.day_result import DayResult, compare, fills_needed_from, position_results
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=1)
MAX_RESULT_ATTEMPTS: Final = 4  # of reading the broker's fills, which may come a moment after its positions
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for


@dataclass(frozen=True, slots=True)
class FlatProof:
    """What broker and tables showed at the end; None where they could not be asked."""

    flat: bool
    broker_orders: int | None
    broker_positions: int | None
    stored_orders: int
    stored_positions: int
    result: DayResult | None

    @property
    def proven(self) -> bool:
        """True when nothing is left on either side, and both come to the same result, to the cent."""
        return self.flat and self.result is not None and not self.result.discrepancies

    @property
    def incomplete(self) -> bool:
        """True when the broker did not say all that a proof needs."""
        return self.broker_orders is None or self.result is None

    @property
    def unproven_reason(self) -> str | None:
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
        return "; ".join(self.result.discrepancies) or None

    @property
    def facts(self) -> dict[str, object]:
        """As it is kept, in the row and in the file."""
        return {
            "proven": self.proven,
            "unproven_reason": self.unproven_reason,
            "realized_database": None if self.result is None else str(self.result.database),
            "realized_broker": None if self.result is None else str(self.result.broker),
        }


@dataclass
class Flatten:
    """Brings the account to zero and proves it."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    gate: EntryGate
    clock: Clock
    proofs: FlatProofFiles
    active_runs: int = 0  # calls of `run` that have not ended

    async def latch(self, name: str, *, reason: str, by: str) -> None:
        """Write the latch that keeps entries out until somebody resumes, and shut the gate."""
        self.gate.close(name, reason)
        async with self.store.tx("latch") as conn:
            await latches.set_latch(conn, name, reason=reason, by=by, at=self.clock.now(), until=None)

    async def run(
        self, reason: str, *, by: str, purpose: Purpose, within: timedelta, cycle_id: str | None
    ) -> FlatProof:
        """Cancel every working entry, leave every position, wait, verify at the broker, write the proof.

        Returns after `within` at the latest, with whatever could be proven then.
        """
        log.warning("flatten_started", reason=reason, by=by)
        deadline = self.clock.now() + within
        self.active_runs += 1
        try:
            await self._exit_all(reason, by, purpose, deadline)
        finally:
            self.active_runs -= 1
        return await self.prove(reason, by=by, cycle_id=cycle_id, deadline=deadline)

    async def _exit_all(self, reason: str, by: str, purpose: Purpose, deadline: datetime) -> None:
        """Cancel and leave until nothing is left, or until the deadline."""
        asked_cancel: dict[int, int] = {}
        turn = 0
        while True:
            seen_version = self.ledger.changed.version
            working, held = await self._read_remaining()
            if (not working and not held) or self.clock.now() >= deadline:
                return
            leaving = await self._exiting_position_ids()
            for position in held:
                if position.position_id not in leaving:
                    await self.exits.request(
                        position.position_id, reason=f"{reason}: {position.symbol}", purpose=purpose, by=by
                    )
            exiting = {position.position_id for position in held}
            for row in working:
                leads_nowhere = row.position_id in exiting or row.parent_order_id is not None
                if leads_nowhere or asked_cancel.get(row.order_id, -5) > turn - 5:
                    continue
                asked_cancel[row.order_id] = turn
                await self._cancel_order(row)
            await self.exits.start_open_intents()
            turn += 1
            if not await self.ledger.changed.wait(self.clock, POLL_INTERVAL, since=seen_version):
                await self._refresh_orders(working, deadline)

    async def cancel_entries(self, *, within: timedelta) -> bool:
        """Every entry that works is at its end, what is held stays under its stop; false when one still works."""
        deadline = self.clock.now() + within
        asked: dict[int, datetime] = {}
        while True:
            seen_version = self.ledger.changed.version
            entries = [row for row in (await self._read_remaining())[0] if row.order_purpose is Purpose.ENTRY]
            now = self.clock.now()
            if not entries or now >= deadline:
                return not entries
            for row in entries:
                if row.order_id not in asked or now - asked[row.order_id] >= timedelta(seconds=5):
                    asked[row.order_id] = now
                    await self._cancel_order(row)
            if not await self.ledger.changed.wait(self.clock, POLL_INTERVAL, since=seen_version):
                await self._refresh_orders(entries, deadline)

    async def is_flat(self) -> bool:
        """True when the tables hold no order and no position of ours."""
        return not any(await self._read_remaining())

    async def has_no_working_entry(self) -> bool:
        """True when the tables hold no entry of ours that may still fill."""
        return not any(row.order_purpose is Purpose.ENTRY for row in (await self._read_remaining())[0])

    async def has_new_exposure(self) -> bool:
        """True when an entry works, or a position is held that nobody has asked to leave."""
        working, held = await self._read_remaining()
        leaving = await self._exiting_position_ids()
        return any(row.order_purpose is Purpose.ENTRY for row in working) or any(
            position.position_id not in leaving for position in held
        )

    async def _exiting_position_ids(self) -> set[int]:
        """The positions that somebody has asked to leave."""
        async with self.store.read() as conn:
            return {intent.position_id for intent in await exit_intents.open_intents(conn)}

    async def _read_remaining(self) -> tuple[list[OrderRow], list[PositionRow]]:
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

    async def _cancel_order(self, row: OrderRow) -> None:
        """An order that was never sent ends here; any other ends at the broker."""
        if row.status is Status.CREATED:
            async with self.store.tx("never_sent") as conn:
                await orders.transition(
                    conn,
                    row.order_id,
                    from_status=Status.CREATED,
                    to_status=Status.CANCELLED,
                    at=self.clock.now(),
                    source="operator",
                    cancel_reason="FLATTEN",
                    epoch=self.submission.epoch,
                )
            return
        await self.submission.cancel(row, "FLATTEN")

    async def _refresh_orders(self, working: list[OrderRow], deadline: datetime) -> None:
        for row in working:
            if self.clock.now() >= deadline:
                return
            if row.alpaca_order_id is not None and row.parent_order_id is None:
                await self.submission.refresh(row.alpaca_order_id, "poll")

    async def prove(
        self,
        reason: str,
        *,
        by: str,
        cycle_id: str | None,
        alert: bool = True,
        deadline: datetime | None = None,
    ) -> FlatProof:
        """Ask the broker and the tables once more, and keep what they say: a row, and a file beside the database.

        A broker that cannot be read is asked again until the deadline: flat and unproven is no end while there is time.
        """
        proof = await self._read_proof(since=None)
        while proof.broker_orders is None and deadline is not None and self.clock.now() < deadline:
            await self.clock.sleep(POLL_INTERVAL)
            proof = await self._read_proof(since=None)
        await self._store_proof(proof, reason, by=by, cycle_id=cycle_id, alert=alert)
        return proof

    async def prove_if_complete(
        self,
        reason: str,
        *,
        by: str,
        cycle_id: str | None,
        alert: bool,
        deadline: datetime,
        since: datetime | None = None,
    ) -> FlatProof | None:
        """The same where the caller asks again: None, and nothing kept or told, when the broker or its fills could not
        be read until the deadline. `since`: the day whose result is proven, today when it is not given."""
        proof = await self._read_proof(since=since)
        while proof.incomplete and self.clock.now() < deadline:
            await self.clock.sleep(POLL_INTERVAL)
            proof = await self._read_proof(since=since)
        if proof.incomplete:
            return None
        await self._store_proof(proof, reason, by=by, cycle_id=cycle_id, alert=alert)
        return proof

    async def _store_proof(
        self, proof: FlatProof, reason: str, *, by: str, cycle_id: str | None, alert: bool
    ) -> None:
        """Its row, its file and its line of the log; with `page`, somebody is told of one that proves nothing."""
        at = self.clock.now()
        async with self.store.tx("flat_proof") as conn:
            head = self.proofs.journal_head = await journal.head_facts(conn)
            await flat_proofs.put_flat_proof(
                conn,
                cycle_id=cycle_id,
                at=at,
                cause=reason,
                requested_by=by,
                flat=proof.flat,
                broker_orders=proof.broker_orders,
                broker_positions=proof.broker_positions,
                stored_orders=proof.stored_orders,
                stored_positions=proof.stored_positions,
                facts={**proof.facts, "journal": head},
            )
            if alert and not proof.proven:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="FLAT_NOT_PROVEN" if proof.flat else "NOT_FLAT",
                    message=f"not proven flat after {reason}: {proof.unproven_reason}; look at the broker now",
                    facts={"broker_orders": proof.broker_orders, "broker_positions": proof.broker_positions},
                    dedupe_key=f"NOT_FLAT:{cycle_id}:{reason}",
                    at=at,
                )
        proof_facts = {
            "cause": reason,
            "requested_by": by,
            "cycle_id": cycle_id,
            "flat": proof.flat,
            "broker_orders": proof.broker_orders,
            "broker_positions": proof.broker_positions,
            "stored_orders": proof.stored_orders,
            "stored_positions": proof.stored_positions,
            **proof.facts,
            "journal": head,
        }
        file = self.proofs.write(at, proof_facts)
        log.log(
            20 if proof.proven else 40,
            "flatten_finished",
            **proof_facts,
            file=None if file is None else str(file),
        )

    async def _read_proof(self, *, since: datetime | None) -> FlatProof:
        """What both sides show now, and the result since then (today's, when None)."""
        async with self.store.read() as conn:
            symbols = await positions.traded_symbols(conn, since=self.clock.now() - OWN_SYMBOL_WINDOW)
        stored_orders, stored_positions = (len(left) for left in await self._read_remaining())
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
            log.warning("flat_not_proven", error=str(error))
        flat = broker_orders == 0 and broker_positions == 0 and not stored_orders and not stored_positions
        result = None if broker_orders is None else await self._compare_results(since)
        return FlatProof(flat, broker_orders, broker_positions, stored_orders, stored_positions, result)

    async def _compare_results(self, since: datetime | None) -> DayResult | None:
        """The day's result by the tables and by the broker's fills, which are heard once more where they differ;
        None when they could not be read."""
        if since is None:
            since = datetime.combine(trading_date(self.clock.now()), time(), NEW_YORK).astimezone(UTC)
        found: DayResult | None = None
        for attempt in range(MAX_RESULT_ATTEMPTS):
            if attempt:
                await self.clock.sleep(POLL_INTERVAL)
            async with self.store.read() as conn:
                rows = await position_results(conn, since)
            try:
                found = compare(
                    rows,
                    await self.broker.fills(after=fills_needed_from(rows, since), priority=Priority.EXIT)
                    if rows
                    else [],
                )
            except BrokerError as error:
                log.warning("activities_read_failed", error=str(error))
                continue
            if not found.discrepancies:
                return found
            for broker_id in sorted(found.broker_ids):
                await self.ledger.fetch_missing_fills(broker_id, "reconcile")
        if found is not None:
            self.gate.enter_safe_mode(Invariant.I9, "; ".join(found.discrepancies))
        return found
