"""The invariants by their numbers: what must be true, and who can see whether it is.

What a living system can see is checked on it: by the database at every commit, by the daemon every few minutes, by the
doctor when somebody asks. The rest is known only to a simulator's ledger or after a controlled end, and is a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class VisibleTo(StrEnum):
    """Who can see an invariant fail."""

    CONSTRAINT = "constraint"  # the database, which refuses the commit
    DATABASE = "database"  # a question to the database
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
class InvariantStatement:
    """One sentence that must be true, and where it is looked at."""

    text: str
    visible_to: frozenset[VisibleTo]


def _statement(text: str, *visible_to: VisibleTo) -> InvariantStatement:
    return InvariantStatement(text, frozenset(visible_to))


STATEMENTS: Final[dict[Invariant, InvariantStatement]] = {
    Invariant.I1: _statement(
        "every order of ours at the broker has one row, and no row waits for its id",
        VisibleTo.CONSTRAINT,
        VisibleTo.BROKER,
    ),
    Invariant.I2: _statement(
        "every position was entered by an order that filled", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
    ),
    Invariant.I3: _statement(
        "the fills sum to the position, and the position is the broker's",
        VisibleTo.DATABASE,
        VisibleTo.BROKER,
    ),
    Invariant.I4: _statement("no exit takes the account across zero", VisibleTo.BROKER),
    Invariant.I5: _statement(
        "working exits never exceed what is held", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
    ),
    Invariant.I6: _statement(
        "states change only along their edges", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
    ),
    Invariant.I7: _statement(
        "filled quantities are the sum of their fills, and never fall",
        VisibleTo.CONSTRAINT,
        VisibleTo.DATABASE,
    ),
    Invariant.I8: _statement(
        "shares stand under a working stop, or are watched", VisibleTo.DATABASE, VisibleTo.BROKER
    ),
    Invariant.I9: _statement(
        "the realised result is what the fills say, to the cent", VisibleTo.DATABASE, VisibleTo.BROKER
    ),
    Invariant.I10: _statement("a restart in silence changes nothing", VisibleTo.TESTS),
    Invariant.I11: _statement("a signal fills one entry at most", VisibleTo.CONSTRAINT, VisibleTo.DATABASE),
    Invariant.I12: _statement(
        "after a flatten nothing is entered until somebody resumes", VisibleTo.DATABASE
    ),
    Invariant.I13: _statement(
        "after the daily loss nothing is entered until somebody resumes", VisibleTo.DATABASE
    ),
    Invariant.I14: _statement("one epoch at a time writes orders", VisibleTo.CONSTRAINT, VisibleTo.DATABASE),
    Invariant.I15: _statement("what was committed is there", VisibleTo.TESTS),
    Invariant.I16: _statement("nothing unknown is swallowed", VisibleTo.TESTS),
    Invariant.I17: _statement("what matters is told within a minute, once", VisibleTo.TESTS),
    Invariant.I18: _statement("entries are sent while the market is open", VisibleTo.DATABASE),
    Invariant.I19: _statement("no secret is written anywhere", VisibleTo.TESTS),
    Invariant.I20: _statement("when the weather clears, everything is resolved", VisibleTo.TESTS),
    Invariant.I21: _statement("requests stay within their budget", VisibleTo.TESTS),
    Invariant.I22: _statement("the doctor tells the truth", VisibleTo.TESTS),
    Invariant.I23: _statement("no loop of the daemon fails", VisibleTo.CODE),
    Invariant.I24: _statement("memory and handles do not grow", VisibleTo.TESTS),
    Invariant.I25: _statement("every order has a whole quantity and prices on tick", VisibleTo.CONSTRAINT),
    Invariant.I26: _statement(
        "the journal is whole, and tells the state of every order", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
    ),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One invariant that one subject breaks. `what` is a sentence; `facts` are the numbers behind it.

    The same violation, seen twice, has the same `key`.
    """

    invariant: Invariant
    subject: str
    description: str
    facts: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[Invariant, str]:
        return self.invariant, self.subject
