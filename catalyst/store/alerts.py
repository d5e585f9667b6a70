"""Alert outbox: an alert is written in the transaction of its fact and delivered later."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.domain.alert_message import SEVERITIES, Severity, WaitingAlert
from catalyst.store.pool import Connection, storable_text

if TYPE_CHECKING:
    from asyncpg import Record

DEDUPE_WINDOW: Final = timedelta(minutes=15)
CRITICAL: Final = "CRITICAL"
WARNING: Final = "WARNING"
INFO: Final = "INFO"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `repeats` counts the same alert within its window, `sent_by` names the channels that have sent it.

    An alert that was never to be sent has a time of delivery and no channel.
    """

    alert_id: int
    severity: str
    event: str
    message: str
    facts: dict[str, object]
    dedupe_key: str
    created_at: datetime
    repeats: int
    attempts: int
    next_attempt_at: datetime
    last_error: str | None
    delivered_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    sent_by: list[str]


_RECENT: Final = """
    SELECT alert_id, severity, event, message, facts, dedupe_key, created_at, repeats, attempts,
           next_attempt_at, last_error, delivered_at, acknowledged_at, acknowledged_by,
           coalesce((SELECT array_agg(d.channel ORDER BY d.channel) FROM alert_deliveries d
                      WHERE d.alert_id = alerts.alert_id), '{}') AS sent_by
      FROM alerts
     WHERE ($2::boolean IS FALSE OR (acknowledged_at IS NULL AND severity = 'CRITICAL'))
     ORDER BY alert_id DESC LIMIT $1
"""
_SELECT_WAITING: Final = """
    SELECT a.alert_id, a.severity, a.event, a.message, a.created_at, a.repeats,
           coalesce((SELECT array_agg(d.channel) FROM alert_deliveries d WHERE d.alert_id = a.alert_id), '{}')
           AS sent_by
      FROM alerts a
"""
_WAITING: Final = (
    _SELECT_WAITING
    + """
     WHERE a.delivered_at IS NULL AND a.created_at > $3 AND a.severity = ANY($2)
       AND NOT EXISTS (SELECT FROM alert_deliveries d WHERE d.alert_id = a.alert_id AND d.channel = $1)
     ORDER BY a.severity <> 'CRITICAL', a.alert_id LIMIT $4
"""
)
_TO_REMIND: Final = f"""{_SELECT_WAITING}
     WHERE a.severity = 'CRITICAL' AND a.acknowledged_at IS NULL AND a.created_at > $2
       AND a.reminders < cardinality($3::interval[])
       AND coalesce(a.reminded_at, (SELECT min(d.delivered_at) FROM alert_deliveries d
                                     WHERE d.alert_id = a.alert_id))
           + ($3::interval[])[a.reminders + 1] <= $1
     ORDER BY a.alert_id LIMIT 200
"""  # noqa: S608 -- literals alone


async def raise_alert(
    conn: Connection,
    event: str,
    message: str,
    *,
    facts: Mapping[str, object],
    at: datetime,
    severity: str = CRITICAL,
    subject: object = "",
    window: timedelta = DEDUPE_WINDOW,
    deliver: bool = True,
) -> bool:
    """Write one alert about `subject`; false when it only counts as a repeat within `window`.

    The first line of `message` is the summary: a mail has it as its subject. A repeat has the same event and subject.
    With `deliver` false it is stored and shown, and not sent. Concurrent callers with one event and subject wait for
    one another.
    """
    dedupe_key = f"{event}:{subject}" if str(subject) else event
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"alert {dedupe_key}")
    repeated = await conn.fetchval(
        """
        UPDATE alerts SET repeats = repeats + 1, repeated_at = $2
         WHERE alert_id = (SELECT alert_id FROM alerts WHERE dedupe_key = $1 AND created_at > $3
                            ORDER BY created_at DESC LIMIT 1)
        RETURNING alert_id
        """,
        dedupe_key,
        at,
        at - window,
    )
    if repeated is not None:
        return False
    await conn.execute(
        """
        INSERT INTO alerts (severity, event, message, facts, dedupe_key, created_at, next_attempt_at, delivered_at)
        VALUES ($1, $2, $3, $4, $5, $6::timestamptz, $6, CASE WHEN $7 THEN NULL ELSE $6 END)
        """,
        severity,
        event,
        storable_text(message, 16_000),
        facts,
        dedupe_key,
        at,
        deliver,
    )
    return True


async def raise_for_symbols(
    conn: Connection,
    event: str,
    message: str,
    symbols: Sequence[str],
    *,
    at: datetime,
    severity: str = CRITICAL,
    window: timedelta = DEDUPE_WINDOW,
) -> list[str]:
    """Write one alert about those `symbols` that no alert of the event names within `window`; return them.

    `message` follows their list. An alert that names one of the others counts a repeat; a CRITICAL alert is no repeat
    of a lesser one.
    """
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"alert {event}")
    repeated = await conn.fetch(
        """
        UPDATE alerts SET repeats = repeats + 1, repeated_at = $3
         WHERE event = $1 AND created_at > $4 AND facts -> 'symbols' ?| $2::text[] AND severity IN ($5, 'CRITICAL')
        RETURNING facts -> 'symbols' AS symbols
        """,
        event,
        list(symbols),
        at,
        at - window,
        severity,
    )
    known = {symbol for record in repeated for symbol in record["symbols"]}
    new = [symbol for symbol in symbols if symbol not in known]
    if new:
        names = ", ".join(new)
        await raise_alert(
            conn,
            event,
            f"{names}: {message}",
            facts={"symbols": new},
            at=at,
            severity=severity,
            subject=f"{severity} {names}",
            window=timedelta(0),
        )
    return new


async def waiting(
    conn: Connection, channel: str, severities: Iterable[str], *, since: datetime, limit: int = 200
) -> list[WaitingAlert]:
    """Return the alerts of these severities, raised after `since`, that the channel has not sent; critical ones first,
    then the oldest."""
    return [
        _waiting_alert(record)
        for record in await conn.fetch(_WAITING, channel, list(severities), since, limit)
    ]


async def to_remind(
    conn: Connection, *, at: datetime, since: datetime, after: Sequence[timedelta]
) -> list[WaitingAlert]:
    """Return critical alerts that a channel has sent, nobody acknowledged, and whose next reminder is due.

    The first reminder is due `after[0]` after the first channel's delivery, the next `after[1]` after the first, and
    so on.
    """
    return [_waiting_alert(record) for record in await conn.fetch(_TO_REMIND, at, since, list(after))]


async def recent(conn: Connection, limit: int = 20, *, unacknowledged: bool = False) -> list[Alert]:
    """Return the latest alerts, newest first; with `unacknowledged` only critical ones that nobody acknowledged."""
    return [Alert(**record) for record in await conn.fetch(_RECENT, limit, unacknowledged)]


async def exists(conn: Connection, event: str, subject: object) -> bool:
    """Return true when an alert of this event about this subject was ever raised."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM alerts WHERE dedupe_key = $1)", f"{event}:{subject}"
    )
    return found


async def counts_between(conn: Connection, start: datetime, end: datetime) -> tuple[dict[str, int], int]:
    """Return the number of alerts by severity, gravest first, and of the critical ones that nobody acknowledged."""
    records = await conn.fetch(
        """
        SELECT severity, count(*) AS alerts, count(*) FILTER (WHERE acknowledged_at IS NULL) AS unacknowledged
          FROM alerts WHERE created_at >= $1 AND created_at < $2 GROUP BY severity ORDER BY severity
        """,
        start,
        end,
    )
    by_severity = {record["severity"]: record for record in records}
    counts = {str(each): int(by_severity[each]["alerts"]) for each in SEVERITIES if each in by_severity}
    critical = by_severity.get(CRITICAL)
    return counts, 0 if critical is None else critical["unacknowledged"]


async def record_sent(
    conn: Connection,
    sent: Sequence[WaitingAlert],
    channel: str,
    *,
    at: datetime,
    channels_of: Mapping[Severity, frozenset[str]],
) -> None:
    """Record that a channel sent these alerts. `channels_of` names the channels of each severity: an alert that all of
    them have sent is delivered."""
    ids = sorted(alert.alert_id for alert in sent)
    # The lock makes channels that send the same alert at once see each other's rows.
    await conn.execute("SELECT FROM alerts WHERE alert_id = ANY($1) ORDER BY alert_id FOR UPDATE", ids)
    await conn.execute(
        """
        INSERT INTO alert_deliveries (alert_id, channel, delivered_at)
        SELECT alert_id, $2, $3 FROM unnest($1::bigint[]) AS alert_id
            ON CONFLICT DO NOTHING
        """,
        ids,
        channel,
        at,
    )
    for severity in {alert.severity for alert in sent}:
        await conn.execute(
            """
            UPDATE alerts a
               SET attempts = attempts + 1, last_error = NULL,
                   delivered_at = CASE WHEN $3::text[] <@ (SELECT array_agg(channel) FROM alert_deliveries d
                                                            WHERE d.alert_id = a.alert_id) THEN $4::timestamptz END
             WHERE alert_id = ANY($1) AND severity = $2
            """,
            ids,
            severity,
            list(channels_of[severity]),
            at,
        )


async def record_failure(
    conn: Connection, alert_ids: Sequence[int], *, error: str, next_attempt_at: datetime
) -> None:
    """Record that a channel could not send these alerts, and when it tries again."""
    await conn.execute(
        """
        UPDATE alerts SET attempts = attempts + 1, last_error = $2, next_attempt_at = $3
         WHERE alert_id = ANY($1) AND delivered_at IS NULL
        """,
        list(alert_ids),
        storable_text(error, 1000),
        next_attempt_at,
    )


async def record_reminder(conn: Connection, alert_ids: Sequence[int], *, at: datetime) -> None:
    """Count a reminder of these alerts."""
    await conn.execute(
        "UPDATE alerts SET reminders = reminders + 1, reminded_at = $2 WHERE alert_id = ANY($1)",
        list(alert_ids),
        at,
    )


async def acknowledge(
    conn: Connection, alert_ids: Sequence[int] | None, *, by: str, at: datetime
) -> list[int]:
    """Acknowledge these alerts, or all with None; return the ids that were not acknowledged before."""
    records = await conn.fetch(
        """
        UPDATE alerts SET acknowledged_at = $2, acknowledged_by = $3
         WHERE acknowledged_at IS NULL AND ($1::bigint[] IS NULL OR alert_id = ANY($1))
        RETURNING alert_id
        """,
        None if alert_ids is None else list(alert_ids),
        at,
        by,
    )
    return sorted(record["alert_id"] for record in records)


def _waiting_alert(record: "Record") -> WaitingAlert:
    return WaitingAlert(**{**record, "sent_by": frozenset(record["sent_by"])})
