"""The invariants by their numbers: what must be true, and who can see whether it is.

What a living system can see is checked on it: by the database at every commit, by the daemon every few minutes, by the
doctor when somebody asks. The rest is known only to a simulator's ledger or after a controlled end, and is a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Seen(StrEnum):
    """Who can see an invariant fail."""

    CONSTRAINT = "constraint"  # the database, which refuses the commit
    TABLES = "tables"  # a question to the database
    BROKER = "broker"  # the tables beside what the broker shows
    CODE = "code"  # the running daemon itself, at the moment it happens
    TESTS = "tests"  # only a simulator's own ledger, or a controlled end


class Invariant(StrEnum):
    I1 = "I1"
    I2 = "I2"
    I3 = "I3"
    I4 = "I4"
    I5 = "I5"
    I6 = "I6"
    I7 = "I7"
    I8 = "I8"
    I9 = "I9"
    I10 = "I10"
    I11 = "I11"
    I12 = "I12"
    I13 = "I13"
    I14 = "I14"
    I15 = "I15"
    I16 = "I16"
    I17 = "I17"
    I18 = "I18"
    I19 = "I19"
    I20 = "I20"
    I21 = "I21"
    I22 = "I22"
    I23 = "I23"
    I24 = "I24"
    I25 = "I25"
    I26 = "I26"


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence that must be true, and where it is looked at."""

    text: str
    seen: frozenset[Seen]


def _says(text: str, *seen: Seen) -> Statement:
    return Statement(text, frozenset(seen))


STATEMENTS: Final[dict[Invariant, Statement]] = {
    Invariant.I1: _says(
        "every order of ours at the broker has one row, and no row waits for its id",
        Seen.CONSTRAINT,
        Seen.BROKER,
    ),
    Invariant.I2: _says("every position was entered by an order that filled", Seen.CONSTRAINT, Seen.TABLES),
    Invariant.I3: _says(
        "the fills sum to the position, and the position is the broker's", Seen.TABLES, Seen.BROKER
    ),
    Invariant.I4: _says("no exit takes the account across zero", Seen.BROKER),
    Invariant.I5: _says("working exits never exceed what is held", Seen.CONSTRAINT, Seen.TABLES),
    Invariant.I6: _says("states change only along their edges", Seen.CONSTRAINT, Seen.TABLES),
    Invariant.I7: _says(
        "filled quantities are the sum of their fills, and never fall", Seen.CONSTRAINT, Seen.TABLES
    ),
    Invariant.I8: _says("shares stand under a working stop, or are watched", Seen.TABLES, Seen.BROKER),
    Invariant.I9: _says("the realised result is what the fills say, to the cent", Seen.TABLES, Seen.BROKER),
    Invariant.I10: _says("a restart in silence changes nothing", Seen.TESTS),
    Invariant.I11: _says("a signal fills one entry at most", Seen.CONSTRAINT, Seen.TABLES),
    Invariant.I12: _says("after a flatten nothing is entered until somebody resumes", Seen.TABLES),
    Invariant.I13: _says("after the daily loss nothing is entered until somebody resumes", Seen.TABLES),
    Invariant.I14: _says("one epoch at a time writes orders", Seen.CONSTRAINT, Seen.TABLES),
    Invariant.I15: _says("what was committed is there", Seen.TESTS),
    Invariant.I16: _says("nothing unknown is swallowed", Seen.TESTS),
    Invariant.I17: _says("what matters is told within a minute, once", Seen.TESTS),
    Invariant.I18: _says("entries are sent while the market is open", Seen.TABLES),
    Invariant.I19: _says("no secret is written anywhere", Seen.TESTS),
    Invariant.I20: _says("when the weather clears, everything is resolved", Seen.TESTS),
    Invariant.I21: _says("requests stay within their budget", Seen.TESTS),
    Invariant.I22: _says("the doctor tells the truth", Seen.TESTS),
    Invariant.I23: _says("no loop of the daemon fails", Seen.CODE),
    Invariant.I24: _says("memory and handles do not grow", Seen.TESTS),
    Invariant.I25: _says("every order has a whole quantity and prices on tick", Seen.CONSTRAINT),
    Invariant.I26: _says(
        "the journal is whole, and tells the state of every order", Seen.CONSTRAINT, Seen.TABLES
    ),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One invariant that one subject breaks. `what` is a sentence; `facts` are the numbers behind it.

    The same violation, seen twice, has the same `key`.
    """

    invariant: Invariant
    subject: str
    what: str
    facts: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[Invariant, str]:
        return self.invariant, self.subject
