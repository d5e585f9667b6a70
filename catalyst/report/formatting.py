"""Figures in the words a trader reads: New York times, signed dollars, spans of time."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, TypeVar

from catalyst.domain.session import NEW_YORK
from catalyst.store.flat_proofs import FlatProofRow

CENT: Final = Decimal("0.01")
MINUS: Final = "−"

# What a scan counts or times, in the order in which it happens.
STAGE_ORDER: Final = (
    "listed", "universe", "snapshots", "scan", "headlines", "news", "bars", "pattern", "technical", "score", "risk",
    "plan",
)  # fmt: skip

T = TypeVar("T")


def new_york_time(at: datetime) -> str:
    """The New York wall-clock time."""
    return at.astimezone(NEW_YORK).strftime("%H:%M:%S")


def dollars(amount: Decimal, *, signed: bool = False) -> str:
    """$1,234.50; with `signed` a plus stands before a gain."""
    cents = amount.quantize(CENT, ROUND_HALF_EVEN)
    sign = MINUS if cents < 0 else "+" if signed and cents > 0 else ""
    return f"{sign}${abs(cents):,.2f}"


def price(amount: Decimal | None) -> str:
    """At least cents, more digits only where there are some; a dash for none."""
    if amount is None:
        return "–"
    rounded = amount.quantize(Decimal("0.0001"), ROUND_HALF_EVEN).normalize()
    return format(rounded if rounded.as_tuple().exponent < -2 else amount.quantize(CENT), "f")  # type: ignore[operator]


def quantity(shares: Decimal) -> str:
    """Shares without needless zeros."""
    return f"{shares.normalize():f}"


def duration(seconds: float | Decimal | None) -> str:
    """A duration in its two largest units."""
    if seconds is None:
        return "–"
    whole = int(seconds)
    if whole < 60:
        return f"{float(seconds):.1f} s" if whole < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def in_stage_order(by_stage: Mapping[str, T]) -> dict[str, T]:
    """The same in the order of the route; the database keeps no order of keys."""
    known = {name: by_stage[name] for name in STAGE_ORDER if name in by_stage}
    return known | dict(by_stage)


def describe_funnel(counts: Mapping[str, int]) -> str:
    """Rows standing after each stage."""
    return " → ".join(f"{name} {count:,}" for name, count in in_stage_order(counts).items())


def describe_proof(flat_proof: FlatProofRow | None) -> str:
    """One sentence about the latest proof of being flat."""
    if flat_proof is None:
        return "not proven flat yet"
    facts = flat_proof.facts
    if not flat_proof.proven:
        missing = facts.get("unproven_reason") or "something is left at the broker, or it could not be asked"
        return f"NOT proven flat at {new_york_time(flat_proof.at)} ({flat_proof.cause}): {missing}"
    result = facts.get("realized_broker")
    detail = "the tables were away" if result is None else f"realised {result} on both sides"
    return f"proven flat at {new_york_time(flat_proof.at)} ({flat_proof.cause}): no order, no share, {detail}"
