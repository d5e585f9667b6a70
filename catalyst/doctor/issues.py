"""Issues that `catalyst doctor` reports: their kinds, their severity, and the command that fixes each kind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    CRITICAL = "CRITICAL"
    WARNING = "WARNING"
    INFO = "INFO"


class IssueKind(StrEnum):
    PHANTOM_POSITION = "PHANTOM_POSITION"  # open in the database, no shares at the broker
    ORPHAN_POSITION = "ORPHAN_POSITION"  # shares at the broker, no position in the database
    QTY_MISMATCH = "QTY_MISMATCH"
    OVERSOLD = "OVERSOLD"  # the broker's position has the opposite sign
    UNPROTECTED_POSITION = "UNPROTECTED_POSITION"
    POSITIONS_AFTER_CLOSE = "POSITIONS_AFTER_CLOSE"  # positions that should have been exited before the close
    OPEN_AFTER_CLOSE = "OPEN_AFTER_CLOSE"  # orders that are still working after the close
    CYCLE_NOT_COMPLETED = "CYCLE_NOT_COMPLETED"  # a day that was not closed and proven
    QUARANTINE_OPEN = "QUARANTINE_OPEN"  # reports that no rule could apply
    STUCK_ORDER = "STUCK_ORDER"
    ORDER_STATUS_MISMATCH = "ORDER_STATUS_MISMATCH"
    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"  # our row names an order that the broker does not have
    ORPHAN_ORDER = "ORPHAN_ORDER"  # an order of ours at the broker has no row
    ORDER_CHECK_ERROR = "ORDER_CHECK_ERROR"
    DUPLICATE_ORDER = "DUPLICATE_ORDER"
    PNL_MISMATCH = "PNL_MISMATCH"  # the database's result differs from that of the broker's fills
    ILLEGAL_HISTORY = "ILLEGAL_HISTORY"
    SAFE_MODE = "SAFE_MODE"
    GATE_CLOSED = "GATE_CLOSED"  # entries are closed by a reason that is not the day's plan
    HALTED = "HALTED"  # a person forbids entries
    DAEMON_SILENT = "DAEMON_SILENT"  # it holds the lease and writes nothing
    DATABASE_READ_ONLY = "DATABASE_READ_ONLY"  # a full disk, or a server that takes no writes
    SCAN_DEGRADED = "SCAN_DEGRADED"  # the last scan lacked news or daily bars
    SCAN_FAILED = "SCAN_FAILED"  # the last scan judged no symbol
    CYCLE_STALE = "CYCLE_STALE"
    STALE_POSITION_DATA = "STALE_POSITION_DATA"
    DAEMON_DOWN = "DAEMON_DOWN"
    ALPACA_ERROR = "ALPACA_ERROR"
    RECONCILIATION_SKIPPED = "RECONCILIATION_SKIPPED"
    CLOCK_SKEW = "CLOCK_SKEW"
    DISK_LOW = "DISK_LOW"
    BACKUP_STALE = "BACKUP_STALE"  # the last backup is too old, or there is none
    ALERTS_NOT_DELIVERED = "ALERTS_NOT_DELIVERED"  # a mail server or messenger takes no message
    KEY_OLD = "KEY_OLD"
    CONFIG_WARNING = "CONFIG_WARNING"


RECONCILE: Final = (
    "catalyst reconcile"  # only updates the database from the broker: safe without a confirmation
)
CLOSE: Final = "catalyst close "  # and the symbol: it trades, so a person confirms it

# The command that fixes each kind; `{symbol}` is filled in. None is SQL; `doctor --fix` runs RECONCILE, and CLOSE when
# a person confirms it.
FIXES: Final[dict[IssueKind, str]] = {
    IssueKind.PHANTOM_POSITION: RECONCILE,
    IssueKind.ORPHAN_POSITION: RECONCILE,
    IssueKind.QTY_MISMATCH: RECONCILE,
    IssueKind.OVERSOLD: RECONCILE,
    IssueKind.UNPROTECTED_POSITION: CLOSE + "{symbol}",
    IssueKind.POSITIONS_AFTER_CLOSE: "catalyst positions",
    IssueKind.OPEN_AFTER_CLOSE: "catalyst orders",
    IssueKind.CYCLE_NOT_COMPLETED: "catalyst run",
    IssueKind.QUARANTINE_OPEN: "catalyst doctor --resolve 'checked: NOTE'",
    IssueKind.STUCK_ORDER: RECONCILE,
    IssueKind.ORDER_STATUS_MISMATCH: RECONCILE,
    IssueKind.ORDER_NOT_FOUND: RECONCILE,
    IssueKind.ORPHAN_ORDER: RECONCILE,
    IssueKind.ORDER_CHECK_ERROR: "catalyst check",
    IssueKind.DUPLICATE_ORDER: "catalyst orders --symbol {symbol}",
    IssueKind.PNL_MISMATCH: RECONCILE,
    IssueKind.ILLEGAL_HISTORY: "catalyst doctor --journal",
    IssueKind.SAFE_MODE: "catalyst resume",
    IssueKind.GATE_CLOSED: "catalyst status",
    IssueKind.HALTED: "catalyst resume",
    IssueKind.DAEMON_SILENT: "catalyst check",
    IssueKind.DATABASE_READ_ONLY: "catalyst check",
    IssueKind.SCAN_DEGRADED: "catalyst check",
    IssueKind.SCAN_FAILED: "catalyst check",
    IssueKind.CYCLE_STALE: "catalyst status",
    IssueKind.STALE_POSITION_DATA: "catalyst status",
    IssueKind.DAEMON_DOWN: "catalyst run",
    IssueKind.ALPACA_ERROR: "catalyst check",
    IssueKind.RECONCILIATION_SKIPPED: "catalyst check",
    IssueKind.CLOCK_SKEW: "catalyst check",
    IssueKind.DISK_LOW: "catalyst check",
    IssueKind.BACKUP_STALE: "catalyst backup",
    IssueKind.ALERTS_NOT_DELIVERED: "catalyst test-alert",
    IssueKind.KEY_OLD: "catalyst check",
    IssueKind.CONFIG_WARNING: "catalyst check",
}

DEFAULT_SEVERITY: Final[dict[IssueKind, Severity]] = {
    **dict.fromkeys(IssueKind, Severity.CRITICAL),
    **dict.fromkeys(
        (
            IssueKind.OPEN_AFTER_CLOSE,
            IssueKind.CYCLE_NOT_COMPLETED,
            IssueKind.QUARANTINE_OPEN,
            IssueKind.STUCK_ORDER,
            IssueKind.ORDER_STATUS_MISMATCH,
            IssueKind.ORDER_NOT_FOUND,
            IssueKind.GATE_CLOSED,
            IssueKind.SCAN_DEGRADED,
            IssueKind.SCAN_FAILED,
            IssueKind.CYCLE_STALE,
            IssueKind.ALPACA_ERROR,
            IssueKind.CLOCK_SKEW,
            IssueKind.DISK_LOW,
            IssueKind.BACKUP_STALE,
            IssueKind.ALERTS_NOT_DELIVERED,
        ),
        Severity.WARNING,
    ),
    **dict.fromkeys(
        (
            IssueKind.HALTED,
            IssueKind.ORDER_CHECK_ERROR,
            IssueKind.STALE_POSITION_DATA,
            IssueKind.RECONCILIATION_SKIPPED,
            IssueKind.KEY_OLD,
            IssueKind.CONFIG_WARNING,
        ),
        Severity.INFO,
    ),
}

# Issues that only a comparison with the broker finds: while the broker does not answer, nobody knows whether they last.
FOUND_AT_BROKER: Final = frozenset(
    {
        IssueKind.PHANTOM_POSITION,
        IssueKind.ORPHAN_POSITION,
        IssueKind.QTY_MISMATCH,
        IssueKind.OVERSOLD,
        IssueKind.UNPROTECTED_POSITION,
        IssueKind.ORDER_STATUS_MISMATCH,
        IssueKind.ORDER_NOT_FOUND,
        IssueKind.ORPHAN_ORDER,
        IssueKind.ORDER_CHECK_ERROR,
        IssueKind.PNL_MISMATCH,
        IssueKind.CLOCK_SKEW,
    }
)

# Issues that only the rows can cause: a restored database must have none.
IN_DATABASE: Final = frozenset({IssueKind.ILLEGAL_HISTORY, IssueKind.DUPLICATE_ORDER})


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding. `transient`: a race can cause it, so it is reported only when every check finds it."""

    kind: IssueKind
    severity: Severity
    message: str
    fix: str
    facts: Mapping[str, object] = field(default_factory=dict)
    subject: str = ""
    transient: bool = False

    @property
    def key(self) -> tuple[IssueKind, str]:
        return self.kind, self.subject

    @property
    def as_dict(self) -> dict[str, object]:
        """Return the issue as it is printed in JSON."""
        return {
            "type": self.kind,
            "severity": self.severity,
            "message": self.message,
            "fix": self.fix,
            **self.facts,
        }


def new_issue(
    kind: IssueKind,
    message: str,
    *,
    subject: str = "",
    severity: Severity | None = None,
    transient: bool = False,
    base_facts: Mapping[str, object] | None = None,
    **more_facts: object,
) -> Issue:
    """Create an issue with the severity and fix of its kind; its facts are `base_facts` and `more_facts`."""
    facts = {**(base_facts or {}), **more_facts}
    fix = FIXES[kind].format(symbol=facts.get("symbol") or "SYMBOL")
    return Issue(
        kind,
        severity or DEFAULT_SEVERITY[kind],
        message,
        fix,
        facts,
        subject or str(facts.get("symbol") or ""),
        transient,
    )


@dataclass(frozen=True, slots=True)
class Examination:
    """The result of one examination: issues by severity, the cycle's summary, the broker's mode, and the delivery of
    alerts."""

    at: datetime
    milliseconds: float
    mode: (
        str | None
    )  # of the running daemon, else of this command's settings; None: the broker did not answer
    pipeline: Mapping[str, object]
    alerts: Mapping[str, object]
    issues: tuple[Issue, ...]

    @property
    def status(self) -> str:
        severities = {issue.severity for issue in self.issues}
        if Severity.CRITICAL in severities:
            return "CRITICAL"
        return "WARNING" if Severity.WARNING in severities else "OK"

    @property
    def exit_code(self) -> int:
        return {"OK": 0, "WARNING": 1, "CRITICAL": 2}[self.status]

    @property
    def as_dict(self) -> dict[str, object]:
        """Return the examination as it is printed in JSON."""
        counts = {severity: sum(issue.severity is severity for issue in self.issues) for severity in Severity}
        return {
            "timestamp": self.at,
            "duration_ms": round(self.milliseconds, 1),
            "alpaca_connected": self.mode is not None,
            "alpaca_mode": self.mode,
            "pipeline": self.pipeline,
            "alerts": self.alerts,
            "issues": [issue.as_dict for issue in self.issues],
            "summary": {
                "total_issues": len(self.issues),
                "critical": counts[Severity.CRITICAL],
                "warnings": counts[Severity.WARNING],
                "info": counts[Severity.INFO],
                "status": self.status,
            },
        }
