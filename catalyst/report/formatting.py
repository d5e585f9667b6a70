"""Formatting of figures for people: New York times, signed dollars, prices, durations and scan counts."""

from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, TypeVar

from catalyst.domain.position import CENT
from catalyst.domain.session import NEW_YORK
from catalyst.store.flat_proofs import FlatProofRow

MINUS: Final = "−"

# The stages whose rows and times a scan records, in the order of the pipeline.
STAGE_ORDER: Final = (
    "listed", "universe", "snapshots", "scan", "headlines", "news", "bars", "pattern", "technical", "score", "risk",
    "plan",
)  # fmt: skip

T = TypeVar("T")


def new_york_time(at: datetime) -> str:
    """Return the New York wall-clock time as HH:MM:SS."""
    return at.astimezone(NEW_YORK).strftime("%H:%M:%S")


def new_york_moment(at: datetime, now: datetime) -> str:
    """Return the New York time, with the date in front when it is not that of `now`."""
    local = at.astimezone(NEW_YORK)
    return (
        f"{local:%H:%M:%S}"
        if local.date() == now.astimezone(NEW_YORK).date()
        else f"{local:%Y-%m-%d %H:%M:%S}"
    )


def dollars(amount: Decimal, *, signed: bool = False) -> str:
    """Format dollars like $1,234.50; `signed` adds a plus sign to a gain."""
    cents = amount.quantize(CENT, ROUND_HALF_EVEN)
    sign = MINUS if cents < 0 else "+" if signed and cents > 0 else ""
    return f"{sign}${abs(cents):,.2f}"


def price(amount: Decimal | None) -> str:
    """Format a price with two to four decimals; a dash for None."""
    if amount is None:
        return "–"
    rounded = amount.quantize(Decimal("0.0001"), ROUND_HALF_EVEN).normalize()
    return format(rounded if rounded.as_tuple().exponent < -2 else amount.quantize(CENT), "f")  # type: ignore[operator]


def quantity(shares: Decimal) -> str:
    """Format a number of shares without trailing zeros."""
    return f"{shares.normalize():f}"


def duration(seconds: float | Decimal | None) -> str:
    """Format a duration in its two largest units; a dash for None."""
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
    """Sort the keys in the order of the pipeline; jsonb does not store their order."""
    ordered = {name: by_stage[name] for name in STAGE_ORDER if name in by_stage}
    return ordered | dict(by_stage)


def describe_funnel(counts: Mapping[str, int]) -> str:
    """Describe the rows left after each stage, like `listed 9,000 → universe 4,200`."""
    return " → ".join(f"{name} {count:,}" for name, count in in_stage_order(counts).items())


def describe_proof(flat_proof: FlatProofRow | None, *, holds: bool = True) -> str:
    """Describe the latest flat proof in one sentence. `holds`: nothing was traded after it."""
    if flat_proof is None:
        return "not proven flat yet"
    facts = flat_proof.facts
    if not flat_proof.proven:
        missing = facts.get("unproven_reason") or "the broker still shows orders or shares, or did not answer"
        return f"NOT proven flat at {new_york_time(flat_proof.at)} ({flat_proof.cause}): {missing}"
    result = facts.get("realized_broker")
    detail = "the database was down" if result is None else f"realised {result} on both sides"
    if not holds:
        return (
            f"not flat any more: it was proven at {new_york_time(flat_proof.at)} ({flat_proof.cause}), and the account "
            "traded after that"
        )
    return f"proven flat at {new_york_time(flat_proof.at)} ({flat_proof.cause}): no order, no share, {detail}"
