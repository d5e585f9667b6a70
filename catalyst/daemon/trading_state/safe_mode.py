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
from catalyst.daemon.trading_state.entry_gate import SAFE, Gate, reason_of
from catalyst.domain.invariants import Invariant, Violation
from catalyst.flat_proof_files import Proofs
from catalyst.store import alerts, daemon_epoch, invariant_checks, journal, latches
from catalyst.store.constraint_errors import (
    FillsContradict,
    HistoryRewritten,
    IllegalEdge,
    JournalMissing,
    PositionUnexplained,
)
from catalyst.store.journal import START, Break, Link
from catalyst.store.pool import Connection, Store

log = structlog.get_logger()

EVERY: Final = timedelta(minutes=5)
AGAIN: Final = timedelta(seconds=20)  # until the second look: longer than any race of ours lasts
CHUNK: Final = 20_000  # links of an old journal that are verified before others get the connection

# What the database's refusal of a statement says about our books.
REFUSED: Final = {
    PositionUnexplained: Invariant.I2,
    IllegalEdge: Invariant.I6,
    FillsContradict: Invariant.I7,
    HistoryRewritten: Invariant.I26,
    JournalMissing: Invariant.I26,
}


@dataclass
class Safety:
    """Looks, and keeps the latch. `good` is the link up to which the journal is known to be whole."""

    store: Store
    gate: Gate
    clock: Clock
    proofs: Proofs
    epoch: int
    good: Link = START
    _suspects: dict[tuple[Invariant, str], datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store.refused = self.hear_refusal

    def hear_refusal(self, error: Exception) -> None:
        """The database would not write what we asked: our books and our wishes contradict each other."""
        for kind, invariant in REFUSED.items():
            if isinstance(error, kind):
                self.gate.violated(invariant, str(error).splitlines()[0])

    async def begin(self) -> None:
        """Know what an earlier life knew: the latch, and the place up to which its journal was proven whole."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE)
            self.good = await journal.last_anchor(conn)
            broken = await self._beside_the_proofs(conn)
        if broken is not None:
            self.gate.violated(Invariant.I26, broken)
        for name, why in broken_of(latched).items():
            self.gate.broken.setdefault(name, why)
        if latched is not None:
            self.gate.shut(SAFE, reason_of(self.gate.broken) or "set by an earlier daemon")

    async def run(self) -> None:
        await self.begin()
        while True:
            await self.look()
            await self.settle()
            await wait(self.clock, self.gate.unsafe, AGAIN if self._suspects else EVERY)

    async def look(self) -> None:
        """Ask everything once; what fails the second time in a row, twenty seconds apart, is believed."""
        since = self.good
        await self._follow_journal()
        async with self.store.read() as conn:
            found = await invariant_checks.violations(conn, since=since.seq)
        now = self.clock.now()
        for one in found:
            first = self._suspects.setdefault(one.key, now)
            if now - first >= AGAIN:
                self.gate.violated(one.invariant, one.what)
            else:
                log.warning("invariant_doubted", invariant=one.invariant, what=one.what, **one.facts)
        self._suspects = {one.key: self._suspects[one.key] for one in found}
        if found:
            self.good = since  # what is in doubt is asked again, whenever that is

    async def _follow_journal(self) -> None:
        """Verify the chain from where it was good; its break is believed at once."""
        before = self.good
        while True:
            async with self.store.read() as conn:
                reached = await journal.verify(conn, self.good, at_most=CHUNK)
            if isinstance(reached, Break):
                self.gate.violated(Invariant.I26, reached.sentence)
                return
            ended = reached.link - self.good.link < CHUNK
            self.good = reached
            if ended:
                break
        if self.good != before:
            async with self.store.read() as conn:
                self.proofs.head = {**self.good.facts, "origin": await journal.origin(conn)}
            log.info("journal_verified", **self.good.facts)

    async def still_broken(self) -> list[Violation]:
        """What of that which can be looked at fails now: the whole journal, and all since the latch was set."""
        async with self.store.read() as conn:
            latched = await latches.latch_facts(conn, SAFE)
        seq = (latched or {}).get("since")
        found: list[Violation] = []
        reached: Link | Break = START
        while not isinstance(reached, Break):
            async with self.store.read() as conn:
                step = await journal.verify(conn, reached, at_most=CHUNK)
            if isinstance(step, Break):
                found.append(Violation(Invariant.I26, "journal", step.sentence))
                break
            if step.link - reached.link < CHUNK:
                break
            reached = step
        async with self.store.read() as conn:
            since = min(seq, self.good.seq) if isinstance(seq, int) else self.good.seq
            found += await invariant_checks.violations(conn, since=since)
            for anchor in await journal.anchors(conn):
                if (broken := await journal.holds(conn, anchor)) is not None:
                    found.append(Violation(Invariant.I26, "proof", broken.sentence))
                    break
            if (beside := await self._beside_the_proofs(conn)) is not None:
                found.append(Violation(Invariant.I26, "proof file", beside))
        return found

    async def _beside_the_proofs(self, conn: Connection) -> str | None:
        """Why the journal is not the one that the newest proof outside the database has seen; None when it is."""
        origin = await journal.origin(conn)
        for path, facts in reversed(list(flat_proof_files.read(self.proofs.folder, self.proofs.account_id))):
            anchor = journal.place(flat_proof_files.head_of(facts, origin))
            if anchor is not None:
                broken = await journal.holds(conn, anchor)
                return None if broken is None else f"{broken.sentence}, says {path}"
        return None

    def resumed(self, judged: Collection[Invariant]) -> None:
        """Somebody resumed, and nothing of what was `judged` fails: the next look begins afresh. What broke while they
        were judged nobody has looked at: it is SAFE mode still, and its latch and page are owed."""
        self._suspects.clear()
        since = {name: why for name, why in self.gate.broken.items() if name not in judged}
        self.gate.made_safe()
        for name, why in since.items():
            self.gate.violated(name, why)

    async def settle(self) -> None:
        """Write the latch when it is owed, and page, once for as long as it lasts. Who was superseded writes none: the
        tables are another's, whose moves look wrong from here."""
        if not self.gate.unsafe.is_set():
            return
        self.gate.unsafe.clear()
        broken = dict(self.gate.broken)
        if not broken:
            return
        try:
            async with self.store.tx("safe") as conn:
                if not await daemon_epoch.is_current(conn, self.epoch):
                    return
                at = self.clock.now()
                facts = {"broken": broken, "since": self.good.seq}
                fresh = await latches.set_latch(
                    conn, SAFE, reason=reason_of(broken), by="invariants", at=at, until=None, facts=facts
                )
                if not fresh:
                    await latches.deepen_latch(conn, SAFE, reason=reason_of(broken), facts=facts)
                    return
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="SAFE_MODE",
                    message=f"no entry until `catalyst resume`: {reason_of(broken)}; `catalyst doctor` says more",
                    facts=facts,
                    dedupe_key=f"SAFE_MODE:{at.isoformat()}",
                    at=at,
                )
        except BaseException:
            self.gate.unsafe.set()  # it is still owed
            raise


def broken_of(facts: Mapping[str, object] | None) -> dict[Invariant, str]:
    """The invariants a latch was set for."""
    named = (facts or {}).get("broken")
    known = {one.value: one for one in Invariant}
    if not isinstance(named, dict):
        return {}
    return {known[name]: str(why) for name, why in named.items() if name in known}
