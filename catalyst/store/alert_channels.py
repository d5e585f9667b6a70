"""Alert channels: which ones the daemon has, when each last sent an alert, and since when it fails."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from catalyst.store.pool import Connection, storable_text

SEND_WITHIN: Final = timedelta(hours=24)  # older alerts are not sent: they would be no news


@dataclass(frozen=True, slots=True)
class AlertChannel:
    """One channel that the daemon has; `failing_since` is None when it took its last message, or had none."""

    channel: str
    severities: list[str]
    last_delivered_at: datetime | None
    failing_since: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """Whether alerts arrive. `waiting` counts those that a channel still has to send, `oldest_waiting_at` is the first
    one's time."""

    channels: tuple[AlertChannel, ...]
    waiting: int
    oldest_waiting_at: datetime | None

    @property
    def last_delivered_at(self) -> datetime | None:
        """Return when a channel last sent an alert; None when none ever did."""
        return max((each.last_delivered_at for each in self.channels if each.last_delivered_at), default=None)


async def set_in_use(conn: Connection, severities_of: Mapping[str, Iterable[str]]) -> None:
    """Store the channels of the daemon, each with its severities; others are not in use any more."""
    await conn.execute(
        "UPDATE alert_channels SET in_use = false WHERE in_use AND channel <> ALL($1::text[])",
        list(severities_of),
    )
    for channel, severities in severities_of.items():
        await conn.execute(
            """
            INSERT INTO alert_channels (channel, severities, in_use) VALUES ($1, $2, true)
                ON CONFLICT (channel) DO UPDATE SET severities = excluded.severities, in_use = true
            """,
            channel,
            sorted(severities),
        )


async def record_delivery(conn: Connection, channel: str, *, at: datetime) -> None:
    """Record that a channel took a message."""
    await conn.execute(
        """
        UPDATE alert_channels SET last_delivered_at = $2, failing_since = NULL, last_error = NULL
         WHERE channel = $1
        """,
        channel,
        at,
    )


async def record_failure(conn: Connection, channel: str, *, error: str, at: datetime) -> None:
    """Record that a channel did not take a message; its failure lasts since the first one."""
    await conn.execute(
        """
        UPDATE alert_channels SET failing_since = coalesce(failing_since, $3), last_error = $2 WHERE channel = $1
        """,
        channel,
        storable_text(error, 1000),
        at,
    )


async def read_delivery(conn: Connection, at: datetime) -> DeliveryState:
    """Return the state of the delivery."""
    channels = await conn.fetch(
        """
        SELECT channel, severities, last_delivered_at, failing_since, last_error
          FROM alert_channels WHERE in_use ORDER BY channel
        """
    )
    waiting = await conn.fetchrow(
        """
        SELECT count(*) AS alerts, min(a.created_at) AS oldest_at
          FROM alerts a
         WHERE a.delivered_at IS NULL AND a.created_at > $1
           AND EXISTS (SELECT FROM alert_channels c WHERE c.in_use AND a.severity = ANY(c.severities)
                          AND NOT EXISTS (SELECT FROM alert_deliveries d
                                           WHERE d.alert_id = a.alert_id AND d.channel = c.channel))
        """,
        at - SEND_WITHIN,
    )
    assert waiting is not None  # an aggregate
    return DeliveryState(
        tuple(AlertChannel(**record) for record in channels), waiting["alerts"], waiting["oldest_at"]
    )
