"""Flatten: cancels every working order, exits every position and proves that the account is flat.

The close of day, the emergency stop, the operator and SIGTERM use one path and differ only in the reason.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.daemon.exits.flat_proof import FlatProof, ProofReader
from catalyst.daemon.exits.report_wait import POLL_INTERVAL, OrderPolls
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.domain.order import Purpose
from catalyst.domain.position import is_planned_exit
from catalyst.domain.protection import Protection, lasting_stop, protection_by_rows
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.domain.session import trading_date
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store import alerts, cycles, exit_intents, flat_proofs, journal, orders, positions
from catalyst.store.pool import Store

log = structlog.get_logger()

FLATTEN_LATCH: Final = "flatten"
PROTECT_REST_BEFORE: Final = timedelta(seconds=20)  # the deadline: what is not sold by then keeps a stop
RETRY_EXIT_AFTER: Final = timedelta(seconds=30)  # a postponed exit is tried again, whatever its pause
CANCEL_RETRY_AFTER: Final = timedelta(seconds=5)


@dataclass
class Flatten:
    """Exits everything that is ours and stores the flat proof."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    exits: SafeExit
    clock: Clock
    proofs: FlatProofFiles
    proof_reader: ProofReader
    active_runs: int = 0  # calls of `run` that have not ended

    async def run(
        self,
        reason: str,
        *,
        by: str,
        purpose: Purpose,
        within: timedelta,
        cycle_id: str | None,
        protect_rest_at: datetime | None = None,
    ) -> FlatProof:
        """Cancel every working entry, exit every position, wait, verify at the broker and write the proof.

        After `within`, return what could be proven by then. `protect_rest_at`: the process or the session ends, so what
        is not sold by then gets a good-till-cancelled stop and is named in an alert.
        """
        log.log(
            logging.INFO if is_planned_exit(reason) else logging.WARNING,
            "flatten_started",
            reason=reason,
            by=by,
        )
        deadline = self.clock.now() + within
        self.active_runs += 1
        try:
            await self._exit_all(reason, by, purpose, deadline, protect_rest_at)
        finally:
            self.active_runs -= 1
        if self._must_protect(protect_rest_at):
            await self._alert_not_sold(reason, cycle_id)
        return await self.prove(reason, by=by, cycle_id=cycle_id, deadline=deadline)

    async def _exit_all(
        self,
        reason: str,
        by: str,
        purpose: Purpose,
        deadline: datetime,
        protect_rest_at: datetime | None,
    ) -> None:
        """Cancel orders and exit positions until none remains or the deadline is reached.

        With `protect_rest_at`, each exit is tried at least once, ended then, and not begun again here; return as soon
        as nothing but positions with a good-till-cancelled stop remains.
        """
        cancels = CancelThrottle[int](CANCEL_RETRY_AFTER)
        requested: dict[int, datetime] = {}  # by position id: when its exit was requested last
        ended: set[int] = set()  # position ids
        polls = OrderPolls(self.clock, self.ledger.changed)
        while True:
            seen_version = self.ledger.changed.version
            working, held = await self._read_remaining()
            if (not working and not held) or self.clock.now() >= deadline:
                return
            held_ids = {position.position_id for position in held}
            must_protect = self._must_protect(protect_rest_at)
            if must_protect:
                ending = held_ids & requested.keys() if self.exits.market_open else held_ids
                self.exits.end_exits(ending - ended)
                ended |= ending
                if held and await self._only_lasting_stops_remain(held, working):
                    return
            await self._request_exits(held, requested, ended, reason, by, purpose)
            for row in working:
                ends_with_exit_or_parent = row.position_id in held_ids or row.parent_order_id is not None
                if not ends_with_exit_or_parent and cancels.acquire(row.order_id, self.clock.now()):
                    await self.submission.cancel(row, "FLATTEN")
            await self.exits.start_open_intents()
            if protect_rest_at is None and self._waits_for_open(working, held_ids):
                return
            await self._refresh_orders(await polls.await_report(working, seen_version), deadline)

    async def _request_exits(
        self,
        held: list[PositionRow],
        requested: dict[int, datetime],
        ended: set[int],
        reason: str,
        by: str,
        purpose: Purpose,
    ) -> None:
        """Request the exit of each position that has none, and again one that is postponed too long."""
        with_intent = await self._exiting_position_ids()
        for position in held:
            position_id, now = position.position_id, self.clock.now()
            is_due = position_id not in requested or (
                position_id not in ended and now - requested[position_id] >= RETRY_EXIT_AFTER
            )
            if is_due or position_id not in with_intent:
                requested[position_id] = now
                await self.exits.request(
                    position_id,
                    reason=f"{reason}: {position.symbol}",
                    purpose=purpose,
                    by=by,
                    retry_now=position_id not in ended,
                )

    def _waits_for_open(self, working: list[OrderRow], held_ids: set[int]) -> bool:
        """Return true when the market is closed and only positions under their protective orders remain."""
        return not self.exits.market_open and all(
            row.position_id in held_ids or row.parent_order_id is not None for row in working
        )

    def _must_protect(self, protect_rest_at: datetime | None) -> bool:
        """Return true when what is not sold has to keep a stop: from the time given, and while the market is closed."""
        return protect_rest_at is not None and (
            not self.exits.market_open or self.clock.now() >= protect_rest_at
        )

    async def _only_lasting_stops_remain(self, held: list[PositionRow], working: list[OrderRow]) -> bool:
        """Return true when each position is under a stop that outlives the session, and nothing else works."""
        held_ids = {position.position_id for position in held}
        if any(row.position_id not in held_ids for row in working):
            return False
        async with self.store.read() as conn:
            rows = await orders.of_positions(conn, sorted(held_ids))
        return all(
            protection_by_rows(position.quantity, rows[position.position_id]) is Protection.PROTECTED
            and lasting_stop(rows[position.position_id]) is not None
            for position in held
        )

    async def _alert_not_sold(self, reason: str, cycle_id: str | None) -> None:
        """Name each position that remains, with the stop that protects it and the broker's last refusal."""
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
            if not held:
                return
            rows = await orders.of_positions(conn, [position.position_id for position in held])
            refusals = {
                intent.position_id: intent.refusal for intent in await exit_intents.open_intents(conn)
            }
        sentences = []
        for position in held:
            protection = _describe_stop(rows[position.position_id])
            refusal = refusals.get(position.position_id)
            sentences.append(
                f"{position.symbol} {position.quantity} shares, {protection}"
                + (f" ({refusal})" if refusal else "")
            )
        symbols = [position.symbol for position in held]
        log.error("positions_not_sold", symbols=symbols, reason=reason)
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                "NOT_SOLD",
                f"not sold at {reason}: {'; '.join(sentences)}; they stay overnight, check them at the broker",
                subject=f"{cycle_id}:{reason}",
                facts={"symbols": symbols, "reason": reason},
                at=self.clock.now(),
            )

    async def cancel_entries(self, *, within: timedelta) -> bool:
        """Cancel every working entry and wait until all are terminal; positions keep their stops.

        Return false when an entry still works after `within`.
        """
        deadline = self.clock.now() + within
        cancels = CancelThrottle[int](CANCEL_RETRY_AFTER)
        polls = OrderPolls(self.clock, self.ledger.changed)
        while True:
            seen_version = self.ledger.changed.version
            entries = [row for row in (await self._read_remaining())[0] if row.order_purpose is Purpose.ENTRY]
            now = self.clock.now()
            if not entries or now >= deadline:
                return not entries
            for row in entries:
                if cancels.acquire(row.order_id, now):
                    await self.submission.cancel(row, "FLATTEN")
            await self._refresh_orders(await polls.await_report(entries, seen_version), deadline)

    async def is_flat(self) -> bool:
        """Return true when the database has no working order and no open position of ours."""
        return not any(await self._read_remaining())

    async def has_positions(self) -> bool:
        """Return true when the database has an open position of ours."""
        return bool((await self._read_remaining())[1])

    async def has_no_working_entry(self) -> bool:
        """Return true when the database has no entry of ours that may still fill."""
        return not any(row.order_purpose is Purpose.ENTRY for row in (await self._read_remaining())[0])

    async def has_new_exposure(self) -> bool:
        """Return true when an entry is working, or an open position has no exit intent."""
        working, held = await self._read_remaining()
        with_intent = await self._exiting_position_ids()
        return any(row.order_purpose is Purpose.ENTRY for row in working) or any(
            position.position_id not in with_intent for position in held
        )

    async def _exiting_position_ids(self) -> set[int]:
        """Return the ids of the positions with an open exit intent."""
        async with self.store.read() as conn:
            return {intent.position_id for intent in await exit_intents.open_intents(conn)}

    async def _read_remaining(self) -> tuple[list[OrderRow], list[PositionRow]]:
        """Return our working orders and our open positions.

        External orders without a position and the orders that protect orphan shares are excluded.
        """
        async with self.store.read() as conn:
            working = await orders.working(conn)
            held = await positions.open_positions(conn)
        orphan_order_ids = {row.order_id for row in working if row.origin == "orphan"}
        own_orders = [
            row
            for row in working
            if (row.origin not in ("external", "orphan") or row.position_id is not None)
            and row.parent_order_id not in orphan_order_ids
        ]
        return own_orders, held

    async def _refresh_orders(self, working: list[OrderRow], deadline: datetime) -> None:
        """Poll every order that is not a leg, until the deadline."""
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
        """Read broker and database once more, and store the proof as a row and as a file outside the database.

        A failed read of the broker, or one with an unreadable row, is repeated until the deadline.
        """
        proof = await self._read_proof(since=None)
        while (
            (proof.broker_orders is None or proof.unreadable_rows)
            and deadline is not None
            and self.clock.now() < deadline
        ):
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
        """Prove as `prove` does, for callers that try again later.

        Return None, without a row, file or alert, when the broker or its fills could not be read until the deadline.
        `since` is the start of the day whose result is proven; None means today.
        """
        proof = await self._read_proof(since=since)
        while (proof.incomplete or proof.unreadable_rows) and self.clock.now() < deadline:
            await self.clock.sleep(POLL_INTERVAL)
            proof = await self._read_proof(since=since)
        if proof.incomplete:
            return None
        await self._store_proof(proof, reason, by=by, cycle_id=cycle_id, alert=alert)
        return proof

    async def _store_proof(
        self, proof: FlatProof, reason: str, *, by: str, cycle_id: str | None, alert: bool
    ) -> None:
        """Write the proof as a row, a file and a log event; with `alert`, raise an alert when it is not proven."""
        at = self.clock.now()
        async with self.store.tx("flat_proof") as conn:
            if cycle_id is None:  # a flatten before this process has begun the day
                cycle = await cycles.of_day(conn, trading_date(at))
                cycle_id = None if cycle is None else cycle.cycle_id
            head = await journal.head_facts(conn)
            self.proofs.cache_journal_head(head)
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
                await alerts.raise_alert(
                    conn,
                    "FLAT_NOT_PROVEN" if proof.flat else "NOT_FLAT",
                    f"account not proven flat after {reason}: {proof.unproven_reason}; check the broker now",
                    subject=f"{cycle_id}:{reason}",
                    facts={"broker_orders": proof.broker_orders, "broker_positions": proof.broker_positions},
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
        """Return what broker and database show now, with the result since `since` (None: today)."""
        stored_orders, stored_positions = (len(remaining) for remaining in await self._read_remaining())
        return await self.proof_reader.read(
            since=since, stored_orders=stored_orders, stored_positions=stored_positions
        )


def protect_rest_time(now: datetime, deadline: datetime) -> datetime:
    """Return when a flatten of an ending process stops selling: the exits get two thirds of a short time."""
    return deadline - min(PROTECT_REST_BEFORE, (deadline - now) / 3)


def _describe_stop(rows: Sequence[OrderRow]) -> str:
    """Return the words of the alert about the stop of a position that stays."""
    if (stop := lasting_stop(rows)) is not None:
        return f"stop ${stop.stop_price:.2f} good till cancelled"
    working = [row for row in rows if row.order_purpose is Purpose.STOP_LOSS and row.is_working]
    return f"stop ${working[0].stop_price:.2f} that ends with the session" if working else "no stop"
