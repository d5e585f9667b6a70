"""SAFE mode: stops entries when an invariant fails, until an operator resumes. Everything else continues.

The invariants are checked in the database every five minutes, over all rows changed since the last clean check. A
violation counts when two checks agree; a broken journal chain and a constraint error count at once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst import flat_proof_files
from catalyst.clock import Clock, wait
from catalyst.daemon.trading_state.entry_gate import SAFE_MODE, EntryGate, safe_mode_reason
from catalyst.domain.invariants import Invariant, Violation
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store import alerts, daemon_epoch, invariant_checks, journal, latches
from catalyst.store.constraint_errors import (
    AppendOnlyViolation,
    FilledQtyMismatch,
    IllegalOrderTransition,
    JournalLineMissing,
    PositionEntryMismatch,
)
from catalyst.store.journal import START, ChainBreak, ChainLink
from catalyst.store.pool import Connection, Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(minutes=5)
RECHECK_AFTER: Final = timedelta(seconds=20)  # until the second check: longer than any race of ours lasts
JOURNAL_CHUNK: Final = 20_000  # links verified per connection use, so that others get the connection

# Invariant that fails when the database refuses a statement with this error.
INVARIANT_BY_ERROR: Final = {
    PositionEntryMismatch: Invariant.I2,
    IllegalOrderTransition: Invariant.I6,
    FilledQtyMismatch: Invariant.I7,
    AppendOnlyViolation: Invariant.I26,
    JournalLineMissing: Invariant.I26,
}


def report_constraint_error(gate: EntryGate, error: Exception) -> None:
    """Enter SAFE mode after a constraint error: the order ledger contradicts the change we wanted to write."""
    for error_type, invariant in INVARIANT_BY_ERROR.items():
        if isinstance(error, error_type):
            gate.enter_safe_mode(invariant, str(error).splitlines()[0])


@dataclass
class SafeMode:
    """Checks the invariants and writes the latch. The journal is verified up to the link `verified_to`."""

    store: Store
    gate: EntryGate
    clock: Clock
    proofs: FlatProofFiles
    epoch: int
    verified_to: ChainLink = START
    _suspected: dict[tuple[Invariant, str], datetime] = field(default_factory=dict)

    async def load_latch(self) -> None:
        """Load the latch of a previous run and the link up to which its journal was verified."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE_MODE)
            self.verified_to = await journal.last_anchor(conn)
            mismatch = await self._proof_file_mismatch(conn)
        if mismatch is not None:
            self.gate.enter_safe_mode(Invariant.I26, mismatch)
        for name, why in failed_invariants_of(latched).items():
            self.gate.failed_invariants.setdefault(name, why)
        if latched is not None:
            self.gate.close(
                SAFE_MODE, safe_mode_reason(self.gate.failed_invariants) or "set by a previous run"
            )

    async def run(self) -> None:
        """Load the latch, then check every five minutes, after 20 s when a violation is suspected."""
        await self.load_latch()
        while True:
            await self.check()
            await self.persist_latch()
            await wait(
                self.clock, self.gate.latch_pending, RECHECK_AFTER if self._suspected else CHECK_INTERVAL
            )

    async def check(self) -> None:
        """Check all invariants once; a violation seen in two consecutive checks, 20 s apart, enters SAFE mode."""
        since = self.verified_to
        await self._verify_journal()
        async with self.store.read() as conn:
            violations = await invariant_checks.violations(conn, since_seq=since.seq)
        now = self.clock.now()
        for violation in violations:
            suspected_at = self._suspected.setdefault(violation.key, now)
            if now - suspected_at >= RECHECK_AFTER:
                self.gate.enter_safe_mode(violation.invariant, violation.description)
            else:
                log.warning(
                    "invariant_suspected",
                    invariant=violation.invariant,
                    what=violation.description,
                    **violation.facts,
                )
        self._suspected = {violation.key: self._suspected[violation.key] for violation in violations}
        if violations:
            self.verified_to = since  # the next check covers the same rows again

    async def _verify_journal(self) -> None:
        """Verify the journal chain from `verified_to`; a break enters SAFE mode at once."""
        before = self.verified_to
        while True:
            async with self.store.read() as conn:
                reached = await journal.verify(conn, self.verified_to, max_links=JOURNAL_CHUNK)
            if isinstance(reached, ChainBreak):
                self.gate.enter_safe_mode(Invariant.I26, reached.sentence)
                return
            is_end = reached.link - self.verified_to.link < JOURNAL_CHUNK
            self.verified_to = reached
            if is_end:
                break
        if self.verified_to != before:
            async with self.store.read() as conn:
                origin = await journal.first_hash(conn)
            self.proofs.cache_journal_head({**self.verified_to.facts, "origin": origin})
            log.info("journal_verified", **self.verified_to.facts)

    async def current_violations(self) -> list[Violation]:
        """Return all violations now, over the whole journal and over all rows changed since the latch was set."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE_MODE)
        seq = (latched or {}).get("since")
        violations: list[Violation] = []
        reached: ChainLink | ChainBreak = START
        while not isinstance(reached, ChainBreak):
            async with self.store.read() as conn:
                chunk_end = await journal.verify(conn, reached, max_links=JOURNAL_CHUNK)
            if isinstance(chunk_end, ChainBreak):
                violations.append(Violation(Invariant.I26, "journal", chunk_end.sentence))
                break
            if chunk_end.link - reached.link < JOURNAL_CHUNK:
                break
            reached = chunk_end
        async with self.store.read() as conn:
            since = min(seq, self.verified_to.seq) if isinstance(seq, int) else self.verified_to.seq
            violations += await invariant_checks.violations(conn, since_seq=since)
            for anchor in await journal.anchors(conn):
                if (chain_break := await journal.check_anchor(conn, anchor)) is not None:
                    violations.append(Violation(Invariant.I26, "proof", chain_break.sentence))
                    break
            if (mismatch := await self._proof_file_mismatch(conn)) is not None:
                violations.append(Violation(Invariant.I26, "proof file", mismatch))
        return violations

    async def _proof_file_mismatch(self, conn: Connection) -> str | None:
        """Return how the journal differs from the newest proof file with an anchor; None when it agrees."""
        origin = await journal.first_hash(conn)
        for path, facts in reversed(
            list(flat_proof_files.read_flat_proofs(self.proofs.folder, self.proofs.account_id))
        ):
            anchor = journal.link_from_facts(flat_proof_files.journal_head_of(facts, origin))
            if anchor is not None:
                chain_break = await journal.check_proof(conn, anchor, flat_proof_files.written_at(facts))
                return None if chain_break is None else f"{chain_break.sentence}, according to {path}"
        return None

    def on_resumed(self, checked: Collection[Invariant]) -> None:
        """Leave SAFE mode after an operator resumed and none of the `checked` invariants fails.

        An invariant that failed during that check was not in it: SAFE mode is entered again for it, with latch and
        alert.
        """
        self._suspected.clear()
        unchecked = {name: why for name, why in self.gate.failed_invariants.items() if name not in checked}
        self.gate.leave_safe_mode()
        for invariant, why in unchecked.items():
            self.gate.enter_safe_mode(invariant, why)

    async def persist_latch(self) -> None:
        """Write a pending latch, and alert once per latch.

        A superseded daemon writes none: the database belongs to another daemon, whose changes look wrong from here.
        """
        if not self.gate.latch_pending.is_set():
            return
        self.gate.latch_pending.clear()
        failed = dict(self.gate.failed_invariants)
        if not failed:
            return
        try:
            async with self.store.tx("safe") as conn:
                if not await daemon_epoch.is_current(conn, self.epoch):
                    return
                at = self.clock.now()
                facts = {"failed_invariants": failed, "since": self.verified_to.seq}
                created = await latches.set_latch(
                    conn,
                    SAFE_MODE,
                    reason=safe_mode_reason(failed),
                    by="invariants",
                    at=at,
                    until=None,
                    facts=facts,
                )
                if not created:
                    await latches.extend_latch(conn, SAFE_MODE, reason=safe_mode_reason(failed), facts=facts)
                    return
                await alerts.raise_alert(
                    conn,
                    "SAFE_MODE",
                    f"no entries until `catalyst resume`: {safe_mode_reason(failed)}; see `catalyst doctor`",
                    subject=at.isoformat(),
                    facts=facts,
                    at=at,
                )
        except BaseException:  # even a cancelled write leaves the latch to be written
            self.gate.latch_pending.set()  # still pending
            raise


def failed_invariants_of(facts: Mapping[str, object] | None) -> dict[Invariant, str]:
    """Return the invariants of the latch's facts with their reasons; skip names that no longer exist."""
    stored = (facts or {}).get("failed_invariants")
    by_name = {invariant.value: invariant for invariant in Invariant}
    if not isinstance(stored, dict):
        return {}
    return {by_name[name]: str(why) for name, why in stored.items() if name in by_name}
