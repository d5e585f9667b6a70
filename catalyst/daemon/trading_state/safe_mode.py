"""SAFE mode: an invariant does not hold, so nothing is entered until a person has looked. All else goes on.

What the tables can answer is asked every few minutes, of what has changed since it was last in order. A violation
counts when two looks agree; a broken journal, and what the database itself refused, count at once.
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
RECHECK_AFTER: Final = timedelta(seconds=20)  # until the second look: longer than any race of ours lasts
JOURNAL_CHUNK: Final = 20_000  # links of an old journal that are verified before others get the connection

# What the database's refusal of a statement says about our books.
INVARIANT_BY_ERROR: Final = {
    PositionEntryMismatch: Invariant.I2,
    IllegalOrderTransition: Invariant.I6,
    FilledQtyMismatch: Invariant.I7,
    AppendOnlyViolation: Invariant.I26,
    JournalLineMissing: Invariant.I26,
}


@dataclass
class SafeMode:
    """Looks, and keeps the latch. `good` is the link up to which the journal is known to be whole."""

    store: Store
    gate: EntryGate
    clock: Clock
    proofs: FlatProofFiles
    epoch: int
    verified_to: ChainLink = START
    _suspected: dict[tuple[Invariant, str], datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store.on_constraint_error = self.on_constraint_error

    def on_constraint_error(self, error: Exception) -> None:
        """The database would not write what we asked: our books and our wishes contradict each other."""
        for kind, invariant in INVARIANT_BY_ERROR.items():
            if isinstance(error, kind):
                self.gate.enter_safe_mode(invariant, str(error).splitlines()[0])

    async def load_latch(self) -> None:
        """Know what an earlier life knew: the latch, and the place up to which its journal was proven whole."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE_MODE)
            self.verified_to = await journal.last_anchor(conn)
            broken = await self._proof_file_mismatch(conn)
        if broken is not None:
            self.gate.enter_safe_mode(Invariant.I26, broken)
        for name, why in failed_invariants_of(latched).items():
            self.gate.failed_invariants.setdefault(name, why)
        if latched is not None:
            self.gate.close(
                SAFE_MODE, safe_mode_reason(self.gate.failed_invariants) or "set by an earlier daemon"
            )

    async def run(self) -> None:
        await self.load_latch()
        while True:
            await self.check()
            await self.persist_latch()
            await wait(
                self.clock, self.gate.latch_pending, RECHECK_AFTER if self._suspected else CHECK_INTERVAL
            )

    async def check(self) -> None:
        """Ask everything once; what fails the second time in a row, twenty seconds apart, is believed."""
        since = self.verified_to
        await self._verify_journal()
        async with self.store.read() as conn:
            found = await invariant_checks.violations(conn, since_seq=since.seq)
        now = self.clock.now()
        for one in found:
            first = self._suspected.setdefault(one.key, now)
            if now - first >= RECHECK_AFTER:
                self.gate.enter_safe_mode(one.invariant, one.description)
            else:
                log.warning("invariant_suspected", invariant=one.invariant, what=one.description, **one.facts)
        self._suspected = {one.key: self._suspected[one.key] for one in found}
        if found:
            self.verified_to = since  # what is in doubt is asked again, whenever that is

    async def _verify_journal(self) -> None:
        """Verify the chain from where it was good; its break is believed at once."""
        before = self.verified_to
        while True:
            async with self.store.read() as conn:
                reached = await journal.verify(conn, self.verified_to, max_links=JOURNAL_CHUNK)
            if isinstance(reached, ChainBreak):
                self.gate.enter_safe_mode(Invariant.I26, reached.sentence)
                return
            ended = reached.link - self.verified_to.link < JOURNAL_CHUNK
            self.verified_to = reached
            if ended:
                break
        if self.verified_to != before:
            async with self.store.read() as conn:
                self.proofs.journal_head = {
                    **self.verified_to.facts,
                    "origin": await journal.first_hash(conn),
                }
            log.info("journal_verified", **self.verified_to.facts)

    async def current_violations(self) -> list[Violation]:
        """What of that which can be looked at fails now: the whole journal, and all since the latch was set."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE_MODE)
        seq = (latched or {}).get("since")
        found: list[Violation] = []
        reached: ChainLink | ChainBreak = START
        while not isinstance(reached, ChainBreak):
            async with self.store.read() as conn:
                step = await journal.verify(conn, reached, max_links=JOURNAL_CHUNK)
            if isinstance(step, ChainBreak):
                found.append(Violation(Invariant.I26, "journal", step.sentence))
                break
            if step.link - reached.link < JOURNAL_CHUNK:
                break
            reached = step
        async with self.store.read() as conn:
            since = min(seq, self.verified_to.seq) if isinstance(seq, int) else self.verified_to.seq
            found += await invariant_checks.violations(conn, since_seq=since)
            for anchor in await journal.anchors(conn):
                if (broken := await journal.check_anchor(conn, anchor)) is not None:
                    found.append(Violation(Invariant.I26, "proof", broken.sentence))
                    break
            if (beside := await self._proof_file_mismatch(conn)) is not None:
                found.append(Violation(Invariant.I26, "proof file", beside))
        return found

    async def _proof_file_mismatch(self, conn: Connection) -> str | None:
        """Why the journal is not the one that the newest proof outside the database has seen; None when it is."""
        origin = await journal.first_hash(conn)
        for path, facts in reversed(
            list(flat_proof_files.read_flat_proofs(self.proofs.folder, self.proofs.account_id))
        ):
            anchor = journal.link_from_facts(flat_proof_files.journal_head_of(facts, origin))
            if anchor is not None:
                broken = await journal.check_anchor(conn, anchor)
                return None if broken is None else f"{broken.sentence}, says {path}"
        return None

    def on_resumed(self, checked: Collection[Invariant]) -> None:
        """Somebody resumed, and nothing of what was `judged` fails: the next look begins afresh. What broke while they
        were judged nobody has looked at: it is SAFE mode still, and its latch and page are owed."""
        self._suspected.clear()
        since = {name: why for name, why in self.gate.failed_invariants.items() if name not in checked}
        self.gate.leave_safe_mode()
        for name, why in since.items():
            self.gate.enter_safe_mode(name, why)

    async def persist_latch(self) -> None:
        """Write the latch when it is owed, and page, once for as long as it lasts. Who was superseded writes none: the
        tables are another's, whose moves look wrong from here."""
        if not self.gate.latch_pending.is_set():
            return
        self.gate.latch_pending.clear()
        broken = dict(self.gate.failed_invariants)
        if not broken:
            return
        try:
            async with self.store.tx("safe") as conn:
                if not await daemon_epoch.is_current(conn, self.epoch):
                    return
                at = self.clock.now()
                facts = {"failed_invariants": broken, "since": self.verified_to.seq}
                fresh = await latches.set_latch(
                    conn,
                    SAFE_MODE,
                    reason=safe_mode_reason(broken),
                    by="invariants",
                    at=at,
                    until=None,
                    facts=facts,
                )
                if not fresh:
                    await latches.extend_latch(conn, SAFE_MODE, reason=safe_mode_reason(broken), facts=facts)
                    return
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="SAFE_MODE",
                    message=f"no entry until `catalyst resume`: {safe_mode_reason(broken)}; `catalyst doctor` says more",
                    facts=facts,
                    dedupe_key=f"SAFE_MODE:{at.isoformat()}",
                    at=at,
                )
        except BaseException:
            self.gate.latch_pending.set()  # it is still owed
            raise


def failed_invariants_of(facts: Mapping[str, object] | None) -> dict[Invariant, str]:
    """The invariants a latch was set for."""
    named = (facts or {}).get("failed_invariants")
    known = {one.value: one for one in Invariant}
    if not isinstance(named, dict):
        return {}
    return {known[name]: str(why) for name, why in named.items() if name in known}
