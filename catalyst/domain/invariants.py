"""The numbered invariants: one sentence each that must be true, and the place that checks it.

A running system checks what it can: the database at every commit, the daemon every few minutes, the doctor on request.
The other invariants need the simulator's request log or a controlled end, and are checked by tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class VisibleTo(StrEnum):
    """The place where a violation of an invariant can be detected."""

    CONSTRAINT = "constraint"  # a database constraint, which refuses the commit
    DATABASE = "database"  # a query on the database
    BROKER = "broker"  # a comparison of the database with the broker
    CODE = "code"  # the running daemon, when it happens
    TESTS = "tests"  # only the simulator's request log, or a controlled end


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
    """One sentence that must be true, and the places that check it."""

    text: str
    visible_to: frozenset[VisibleTo]


def _statement(text: str, *visible_to: VisibleTo) -> InvariantStatement:
    return InvariantStatement(text, frozenset(visible_to))


STATEMENTS: Final[dict[Invariant, InvariantStatement]] = {
    Invariant.I1: _statement(
        "every order of ours at the broker has one row, and no row lacks its broker id",
        VisibleTo.CONSTRAINT,
        VisibleTo.BROKER,
    ),
    Invariant.I2: _statement(
        "every position was entered by an order that filled", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
    ),
    Invariant.I3: _statement(
        "the fills sum to the position, and the position equals the broker's",
        VisibleTo.DATABASE,
        VisibleTo.BROKER,
    ),
    Invariant.I4: _statement("no exit takes the account across zero", VisibleTo.BROKER),
    Invariant.I5: _statement(
        "working exits never exceed the position", VisibleTo.CONSTRAINT, VisibleTo.DATABASE
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
        "shares are under a working stop, or the stop monitor watches them",
        VisibleTo.DATABASE,
        VisibleTo.BROKER,
    ),
    Invariant.I9: _statement(
        "the realised result equals that of the fills, to the cent", VisibleTo.DATABASE, VisibleTo.BROKER
    ),
    Invariant.I10: _statement("a restart without new events changes nothing", VisibleTo.TESTS),
    Invariant.I11: _statement("a signal fills at most one entry", VisibleTo.CONSTRAINT, VisibleTo.DATABASE),
    Invariant.I12: _statement(
        "after a flatten there is no entry until the operator resumes", VisibleTo.DATABASE
    ),
    Invariant.I13: _statement(
        "after the daily loss limit there is no entry until the operator resumes", VisibleTo.DATABASE
    ),
    Invariant.I14: _statement("one epoch at a time writes orders", VisibleTo.CONSTRAINT, VisibleTo.DATABASE),
    Invariant.I15: _statement("committed data is never lost", VisibleTo.TESTS),
    Invariant.I16: _statement("no unknown message is ignored", VisibleTo.TESTS),
    Invariant.I17: _statement("every important event raises one alert within a minute", VisibleTo.TESTS),
    Invariant.I18: _statement("entries are sent only while the market is open", VisibleTo.DATABASE),
    Invariant.I19: _statement("no secret is written anywhere", VisibleTo.TESTS),
    Invariant.I20: _statement("after the faults end, everything is resolved", VisibleTo.TESTS),
    Invariant.I21: _statement("requests stay within the rate limit", VisibleTo.TESTS),
    Invariant.I22: _statement("the doctor reports every issue and no false one", VisibleTo.TESTS),
    Invariant.I23: _statement("no loop of the daemon fails", VisibleTo.CODE),
    Invariant.I24: _statement("memory and handles do not grow", VisibleTo.TESTS),
    Invariant.I25: _statement("every order has a whole quantity and prices on tick", VisibleTo.CONSTRAINT),
    Invariant.I26: _statement(
        "the journal is complete, and gives the state of every order",
        VisibleTo.CONSTRAINT,
        VisibleTo.DATABASE,
    ),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One invariant broken by one subject. `description` is a sentence; `facts` are its numbers.

    One violation, found twice, has one `key`.
    """

    invariant: Invariant
    subject: str
    description: str
    facts: Mapping[str, object] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[Invariant, str]:
        return self.invariant, self.subject
