"""Alert messages: which waiting alerts one message carries, when it may be sent, and its text. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from textwrap import indent
from typing import Final, Literal

from catalyst.domain.session import NEW_YORK

Severity = Literal["INFO", "WARNING", "CRITICAL"]
SEVERITIES: Final[tuple[Severity, ...]] = ("CRITICAL", "WARNING", "INFO")  # gravest first

GROUP_WAIT: Final = timedelta(
    seconds=30
)  # alerts below CRITICAL wait so long for others, to share one message
MAX_LISTED: Final = 50  # alerts named in one message
# Messages of one channel in an hour: beyond, alerts wait and share a later message. Critical ones have more.
HOURLY_LIMIT: Final = 20
HOURLY_LIMIT_CRITICAL: Final = 40
# A critical alert that nobody acknowledged is sent again after each of these times.
REMIND_AFTER: Final = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4))


@dataclass(frozen=True, slots=True)
class WaitingAlert:
    """An alert that some channel still has to send; `sent_by` names the channels that have."""

    alert_id: int
    severity: Severity
    event: str
    message: str
    created_at: datetime
    repeats: int = 0
    sent_by: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """One message to people: a subject of one line, and plain text."""

    subject: str
    body: str


def next_batch(
    waiting: Sequence[WaitingAlert], *, now: datetime, sent_at: Sequence[datetime]
) -> tuple[WaitingAlert, ...]:
    """Return the alerts that one message should carry now, gravest first; none while they have to wait.

    A critical alert leaves at once and takes the others along. `sent_at`: when the channel sent its last messages.
    """
    if not waiting:
        return ()
    has_critical = any(alert.severity == "CRITICAL" for alert in waiting)
    if not has_critical and now - min(alert.created_at for alert in waiting) < GROUP_WAIT:
        return ()
    limit = HOURLY_LIMIT_CRITICAL if has_critical else HOURLY_LIMIT
    if sum(now - at < timedelta(hours=1) for at in sent_at) >= limit:
        return ()
    return tuple(sorted(waiting, key=lambda alert: (SEVERITIES.index(alert.severity), alert.alert_id)))


def alert_message(alerts: Sequence[WaitingAlert]) -> AlertMessage:
    """Return the message that carries these alerts, gravest first."""
    first, others = alerts[0], len(alerts) - 1
    more = f" (and {others} more)" if others else ""
    summary = first.message.partition("\n")[0]
    return AlertMessage(f"[Catalyst {first.severity}] {first.event}{more}: {summary}", _list_of(alerts))


def reminder_message(alerts: Sequence[WaitingAlert]) -> AlertMessage:
    """Return the message that repeats critical alerts that nobody acknowledged."""
    first, others = alerts[0], len(alerts) - 1
    more = f" and {others} more" if others else ""
    since = _time_text(min(alert.created_at for alert in alerts))
    return AlertMessage(
        f"[Catalyst CRITICAL] not acknowledged since {since}: {first.event}{more}",
        f"Nobody has acknowledged these alerts.\n\n{_list_of(alerts)}",
    )


def _list_of(alerts: Sequence[WaitingAlert]) -> str:
    lines = []
    for alert in alerts[:MAX_LISTED]:
        again = f" ({alert.repeats} times again)" if alert.repeats else ""
        lines += [
            f"#{alert.alert_id}  {_time_text(alert.created_at)}  {alert.severity}  {alert.event}{again}"
        ]
        lines += [indent(alert.message, "    "), ""]
    if len(alerts) > MAX_LISTED:
        lines += [f"and {len(alerts) - MAX_LISTED} more", ""]
    lines += ["Show all:     catalyst alerts", "Acknowledge:  catalyst alerts ack NUMBER   (or --all)"]
    return "\n".join(lines) + "\n"


def _time_text(at: datetime) -> str:
    return f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York"
