"""Alert delivery: sends the alerts of the outbox through the configured channels. Trading never waits for it.

An alert is sent at least once per channel: a process that dies between the send and its row sends it again, with the
same message id. Each channel runs by itself, so a mail server that hangs does not delay a messenger.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.domain.alert_message import (
    REMIND_AFTER,
    AlertMessage,
    WaitingAlert,
    alert_message,
    next_batch,
    reminder_message,
)
from catalyst.notify.channel import Channel, DeliveryFailed
from catalyst.notify.configured import configured_channels
from catalyst.store import alert_channels, alerts
from catalyst.store.alert_channels import SEND_WITHIN
from catalyst.store.pool import Connection

log = structlog.get_logger()

INTERVAL: Final = timedelta(seconds=5)
RETRY_PAUSES: Final = tuple(
    timedelta(seconds=seconds) for seconds in (15, 30, 60, 120, 300)
)  # the last one repeats


def usable_channels(settings: Settings, clock: Clock) -> list[Channel]:
    """Return the configured channels; a wrong setting is logged and costs only its own channel.

    Wrong settings of alerts do not keep the daemon from starting: it may hold positions.
    """
    configured = configured_channels(settings, clock)
    for problem in configured.problems:
        log.error("alert_settings_invalid", error=problem)
    return configured.channels


@dataclass
class _ChannelState:
    """When a channel sent or tried to send, and when it may try again."""

    channel: Channel
    tried_at: deque[datetime] = field(default_factory=lambda: deque(maxlen=100))
    failures: int = 0  # in a row
    retry_at: datetime | None = None


class AlertStore(Protocol):
    """What the delivery needs of the store: connections to read and to write."""

    def read(self) -> AbstractAsyncContextManager[Connection]: ...

    def tx(self, label: str, /) -> AbstractAsyncContextManager[Connection]: ...


class AlertDelivery:
    """Sends waiting alerts, and repeats critical ones that nobody acknowledges."""

    def __init__(self, store: AlertStore, channels: Sequence[Channel], clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._states = [_ChannelState(channel) for channel in channels]
        self._channels_of = {
            severity: frozenset(channel.name for channel in channels if severity in channel.severities)
            for channel in channels
            for severity in channel.severities
        }

    @property
    def severities(self) -> list[str]:
        """Return the severities that some channel sends."""
        return sorted(self._channels_of)

    async def run(self) -> None:
        """Store the channels, then send what waits, every few seconds. Without a channel it logs that once, and waits
        until it is cancelled."""
        async with self._store.tx("alert_channels") as conn:
            await alert_channels.set_in_use(
                conn, {state.channel.name: state.channel.severities for state in self._states}
            )
        if not self._states:
            log.warning("alerts_not_delivered", reason="no recipient is configured")
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as group:
            for state in self._states:
                group.create_task(self._run_channel(state))
            group.create_task(self._run_reminders())

    async def send_due(self) -> None:
        """Send what is due on every channel once."""
        await asyncio.gather(*(self._send_batch(state) for state in self._states))

    async def send_waiting(self) -> None:
        """Send what waits on every channel once, at the end of the process; the pauses of failures do not count."""
        for state in self._states:
            state.retry_at = None
        await asyncio.gather(*(self._send_batch(state, at_end=True) for state in self._states))

    # -- one channel

    async def _run_channel(self, state: _ChannelState) -> None:
        while True:
            await self._send_batch(state)
            await self._clock.sleep(INTERVAL)

    async def _send_batch(self, state: _ChannelState, *, at_end: bool = False) -> None:
        now, channel = self._clock.now(), state.channel
        if state.retry_at is not None and now < state.retry_at:
            return
        async with self._store.read() as conn:
            found = await alerts.waiting(conn, channel.name, channel.severities, since=now - SEND_WITHIN)
        batch = tuple(found) if at_end else next_batch(found, now=now, sent_at=state.tried_at)
        if not batch or not await self._send(state, batch, alert_message(batch), "alerts"):
            return
        async with self._store.tx("alerts_sent") as conn:
            sent_at = self._clock.now()
            await alerts.record_sent(conn, batch, channel.name, at=sent_at, channels_of=self._channels_of)
            await alert_channels.record_delivery(conn, channel.name, at=sent_at)

    async def _send(
        self, state: _ChannelState, batch: Sequence[WaitingAlert], message: AlertMessage, kind: str
    ) -> bool:
        """Send one message; return false, and set the next try, when the channel did not take it."""
        channel, ids = state.channel, [alert.alert_id for alert in batch]
        state.tried_at.append(self._clock.now())
        try:
            await channel.send(message, _message_id(kind, channel.name, batch))
        except Exception as error:  # a defect of one channel must not stop the others  # noqa: BLE001
            pause = RETRY_PAUSES[min(state.failures, len(RETRY_PAUSES) - 1)]
            state.failures += 1
            reason = str(error) if isinstance(error, DeliveryFailed) else f"{type(error).__name__}: {error}"
            state.retry_at = self._clock.now() + pause
            if state.failures == 1:
                log.error(  # noqa: TRY400 -- the message says what to do
                    "alert_delivery_failed", channel=channel.name, alerts=len(ids), error=reason
                )
            async with self._store.tx("alerts_not_sent") as conn:
                await alerts.record_failure(
                    conn, ids, error=f"{channel.name}: {reason}", next_attempt_at=state.retry_at
                )
                await alert_channels.record_failure(conn, channel.name, error=reason, at=self._clock.now())
            return False
        if state.failures:
            log.info("alert_delivery_recovered", channel=channel.name, failures=state.failures)
        state.failures, state.retry_at = 0, None
        log.info("alerts_delivered", channel=channel.name, alerts=ids)
        return True

    # -- reminders

    async def _run_reminders(self) -> None:
        while True:
            await self._remind()
            await self._clock.sleep(INTERVAL)

    async def _remind(self) -> None:
        """Send critical alerts again that nobody acknowledged, on every channel, whatever its severities."""
        now = self._clock.now()
        async with self._store.read() as conn:
            due = await alerts.to_remind(conn, at=now, since=now - SEND_WITHIN, after=REMIND_AFTER)
        if not due:
            return
        ready = [state for state in self._states if state.retry_at is None or state.retry_at <= now]
        message = reminder_message(due)
        sent = await asyncio.gather(*(self._send(state, due, message, "reminder") for state in ready))
        if any(sent):
            sent_at = self._clock.now()
            async with self._store.tx("alerts_reminded") as conn:
                await alerts.record_reminder(conn, [alert.alert_id for alert in due], at=sent_at)
                for state, taken in zip(ready, sent, strict=True):
                    if taken:
                        await alert_channels.record_delivery(conn, state.channel.name, at=sent_at)


def _message_id(kind: str, channel: str, batch: Sequence[WaitingAlert]) -> str:
    """Return the id of a message: the same for the same alerts on the same channel."""
    parts = [kind, channel, *(f"{alert.alert_id} {alert.created_at.isoformat()}" for alert in batch)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
