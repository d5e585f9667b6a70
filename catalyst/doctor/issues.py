"""What a doctor can find: the types, how grave each is, and the command that mends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    CRITICAL = "CRITICAL"
    WARNING = "WARNING"
    INFO = "INFO"


class Kind(StrEnum):
    PHANTOM_POSITION = "PHANTOM_POSITION"  # we hold a row, the broker holds no share
    ORPHAN_POSITION = "ORPHAN_POSITION"  # the broker holds shares, we no row
    QTY_MISMATCH = "QTY_MISMATCH"
    OVERSOLD = "OVERSOLD"  # the broker is on the other side of zero
    UNPROTECTED_POSITION = "UNPROTECTED_POSITION"
    STUCK_ORDER = "STUCK_ORDER"
    ORDER_STATUS_MISMATCH = "ORDER_STATUS_MISMATCH"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"  # our row names an order that the broker lacks
    ORPHAN_ORDER = "ORPHAN_ORDER"  # an order of ours at the broker has no row
    ORDER_CHECK_ERROR = "ORDER_CHECK_ERROR"
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    PNL_MISMATCH = "PNL_MISMATCH"  # the tables' result is not what the broker's fills come to
    ILLEGAL_HISTORY = "ILLEGAL_HISTORY"
    SAFE_MODE = "SAFE_MODE"
    CYCLE_STALE = "CYCLE_STALE"
    STALE_POSITION_DATA = "STALE_POSITION_DATA"
    DAEMON_DOWN = "DAEMON_DOWN"
    ALPACA_ERROR = "ALPACA_ERROR"
    RECONCILIATION_SKIPPED = "RECONCILIATION_SKIPPED"
    CLOCK_SKEW = "CLOCK_SKEW"
    DISK_LOW = "DISK_LOW"
    CONFIG_WARNING = "CONFIG_WARNING"


RECONCILE: Final = "catalyst reconcile"  # only makes the tables follow the broker: safe to do unasked

# The command that helps; `{symbol}` is filled in. None of them is SQL, and only RECONCILE is ever given unasked.
FIXES: Final[dict[Kind, str]] = {
    Kind.PHANTOM_POSITION: RECONCILE,
    Kind.ORPHAN_POSITION: RECONCILE,
    Kind.QTY_MISMATCH: RECONCILE,
    Kind.OVERSOLD: RECONCILE,
    Kind.UNPROTECTED_POSITION: "catalyst close {symbol}",
    Kind.STUCK_ORDER: RECONCILE,
    Kind.ORDER_STATUS_MISMATCH: RECONCILE,
    Kind.ORDER_NOT_FOUND: RECONCILE,
    Kind.ORPHAN_ORDER: RECONCILE,
    Kind.ORDER_CHECK_ERROR: "catalyst check",
    Kind.DUPLICATE_ORDER: "catalyst orders --symbol {symbol}",
    Kind.PNL_MISMATCH: RECONCILE,
    Kind.ILLEGAL_HISTORY: "catalyst doctor --journal",
    Kind.SAFE_MODE: "catalyst resume",
    Kind.CYCLE_STALE: "catalyst status",
    Kind.STALE_POSITION_DATA: "catalyst status",
    Kind.DAEMON_DOWN: "catalyst run",
    Kind.ALPACA_ERROR: "catalyst check",
    Kind.RECONCILIATION_SKIPPED: "catalyst check",
    Kind.CLOCK_SKEW: "catalyst check",
    Kind.DISK_LOW: "catalyst check",
    Kind.CONFIG_WARNING: "catalyst check",
}

GRAVITY: Final[dict[Kind, Severity]] = {
    **dict.fromkeys(Kind, Severity.CRITICAL),
    **dict.fromkeys(
        (
            Kind.STUCK_ORDER,
            Kind.ORDER_STATUS_MISMATCH,
            Kind.ORDER_NOT_FOUND,
            Kind.CYCLE_STALE,
            Kind.ALPACA_ERROR,
            Kind.CLOCK_SKEW,
            Kind.DISK_LOW,
        ),
        Severity.WARNING,
    ),
    **dict.fromkeys(
        (
            Kind.ORDER_CHECK_ERROR,
            Kind.STALE_POSITION_DATA,
            Kind.RECONCILIATION_SKIPPED,
            Kind.CONFIG_WARNING,
        ),
        Severity.INFO,
    ),
}


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding. `passing`: a race can look like it, so it counts only when several looks agree."""

    kind: Kind
    severity: Severity
    message: str
    fix: str
    facts: Mapping[str, object] = field(default_factory=dict)
    subject: str = ""
    passing: bool = False

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.subject

    @property
    def told(self) -> dict[str, object]:
        """As it is printed."""
        return {
            "type": self.kind,
            "severity": self.severity,
            "message": self.message,
            "fix": self.fix,
            **self.facts,
        }


def issue(
    kind: Kind,
    message: str,
    *,
    subject: str = "",
    severity: Severity | None = None,
    passing: bool = False,
    known: Mapping[str, object] | None = None,
    **more: object,
) -> Issue:
    """An issue with its type's own gravity and fix; its facts are what is `known` and what is said besides."""
    facts = {**(known or {}), **more}
    fix = FIXES[kind].format(symbol=facts.get("symbol") or "SYMBOL")
    return Issue(
        kind,
        severity or GRAVITY[kind],
        message,
        fix,
        facts,
        subject or str(facts.get("symbol") or ""),
        passing,
    )


@dataclass(frozen=True, slots=True)
class Examination:
    """What one examination found."""

    at: datetime
    milliseconds: float
    mode: str | None  # None: the broker did not answer
    pipeline: Mapping[str, object]
    issues: tuple[Issue, ...]

    @property
    def status(self) -> str:
        found = {one.severity for one in self.issues}
        if Severity.CRITICAL in found:
            return "CRITICAL"
        return "WARNING" if Severity.WARNING in found else "OK"

    @property
    def exit_code(self) -> int:
        return {"OK": 0, "WARNING": 1, "CRITICAL": 2}[self.status]

    @property
    def told(self) -> dict[str, object]:
        """As it is printed."""
        counts = {name: sum(one.severity is name for one in self.issues) for name in Severity}
        return {
            "timestamp": self.at,
            "duration_ms": round(self.milliseconds, 1),
            "alpaca_connected": self.mode is not None,
            "alpaca_mode": self.mode,
            "pipeline": self.pipeline,
            "issues": [one.told for one in self.issues],
            "summary": {
                "total_issues": len(self.issues),
                "critical": counts[Severity.CRITICAL],
                "warnings": counts[Severity.WARNING],
                "info": counts[Severity.INFO],
                "status": self.status,
            },
        }
