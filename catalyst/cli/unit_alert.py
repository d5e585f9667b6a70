"""`catalyst alert`: tells people that a service failed, without the daemon and without the database.

systemd calls it (catalyst-alert@.service). It also works when the configuration is wrong, which is a reason to fail.
"""

import platform
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, read_settings_for_alerts, run_async
from catalyst.clock import SystemClock
from catalyst.domain.alert_message import AlertMessage
from catalyst.domain.errors import UserError
from catalyst.domain.secret_mask import mask_text
from catalyst.domain.session import NEW_YORK

if TYPE_CHECKING:
    from catalyst.notify.channel import Channel

TRIES: Final = 3  # of 15 s at most, within the service's TimeoutStartSec of 60 s
RETRY_PAUSE: Final = timedelta(seconds=5)
# The doctor's timer fails every five minutes while a critical issue lasts: one message an hour says it.
REPEAT_AFTER: Final = timedelta(hours=1)
DAEMON: Final = "catalyst.service"
DAEMON_DOWN: Final = (
    "Stops at the broker keep working. Entries and exits of Catalyst wait until it runs again."
)
MEANINGS: Final = {
    (DAEMON, "75"): "another daemon trades this account",
    (DAEMON, "78"): "the configuration is wrong",
    ("catalyst-doctor.service", "2"): "there are critical issues, see `catalyst doctor --pretty`",
    ("catalyst-doctor.service", "3"): "the doctor could not run",
}


def alert(
    unit: Annotated[str, typer.Option("--unit", help="The service that failed.")],
    result: Annotated[str, typer.Option("--result", help="systemd's result, for example exit-code.")] = "",
    status: Annotated[str, typer.Option("--status", help="The exit code or the signal.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a critical alert about a failed service; needs no daemon and no database. Exit 1 unless it was sent."""
    settings, config_error = read_settings_for_alerts(config)
    from catalyst.notify.configured import configured_channels

    clock = SystemClock()
    configured = configured_channels(settings, clock)
    channels = [each for each in configured.channels if "CRITICAL" in each.severities] or configured.channels
    if not channels:
        raise UserError(
            "; ".join(["nobody receives alerts: docs/alerts.md says how to set it up", *configured.problems])
        )
    at = clock.now()
    sent_file = settings.data_dir.parent / "service-alerts" / re.sub(r"[^\w@.-]", "_", unit)
    if (since := _last_sent_at(sent_file, f"{result} {status}")) is not None and at - since < REPEAT_AFTER:
        line = f"not sent again: an alert about {unit} was sent at {since:%H:%M} UTC"
        print_result({"sent": [], "last_sent_at": since}, as_json, lambda: [line])
        return
    message = _compose(unit, result, status, config_error, at)
    errors = run_async(lambda: _send_to_all(channels, message, f"service-{unit}-{at.timestamp():.0f}", clock))
    sent = [
        {"channel": channel.name, "error": error} for channel, error in zip(channels, errors, strict=True)
    ]
    print_result(
        {"sent": sent}, as_json, lambda: [f"{each['channel']}: {each['error'] or 'sent'}" for each in sent]
    )
    if all(errors):
        raise typer.Exit(1)
    try:
        sent_file.parent.mkdir(parents=True, exist_ok=True)
        sent_file.write_text(f"{at.isoformat()}\n{result} {status}\n")
    except OSError as error:
        typer.echo(f"{sent_file} cannot be written ({error.strerror}): the alert may be sent again", err=True)


def _compose(unit: str, result: str, status: str, config_error: str | None, at: datetime) -> AlertMessage:
    cause = " ".join(filter(None, (result, status)))
    meaning = MEANINGS.get((unit, status), "")
    reason = f" ({cause}{': ' if cause and meaning else ''}{meaning})" if cause or meaning else ""
    summary = f"{unit} failed on {platform.node()}{reason}"
    body = (
        f"{summary}, {at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York.\n"
        + (f"\n{config_error}\n" if config_error else "")
        + (f"\n{DAEMON_DOWN}\n" if unit == DAEMON else "")
        + f"\n  systemctl status {unit}\n  journalctl --unit={unit} --lines=50\n  catalyst check\n"
    )
    return AlertMessage(mask_text(f"[Catalyst CRITICAL] SERVICE_FAILED: {summary}"), mask_text(body))


def _last_sent_at(file: Path, cause: str) -> datetime | None:
    """Return when an alert of this cause was last sent; None when the last one had another cause, or none was sent."""
    try:
        sent_at, last_cause, *_ = file.read_text().split("\n")
        return datetime.fromisoformat(sent_at) if last_cause == cause else None
    except (OSError, ValueError):
        return None


async def _send_to_all(
    channels: "list[Channel]", message: AlertMessage, message_id: str, clock: SystemClock
) -> list[str | None]:
    """Send the message by every channel; return the last error of each, None where it was taken."""
    import asyncio

    return list(await asyncio.gather(*(_send(channel, message, message_id, clock) for channel in channels)))


async def _send(channel: "Channel", message: AlertMessage, message_id: str, clock: SystemClock) -> str | None:
    from catalyst.notify.channel import DeliveryFailed

    error: str | None = None
    for attempt in range(TRIES):
        if attempt:
            await clock.sleep(RETRY_PAUSE)
        try:
            await channel.send(message, message_id)
        except DeliveryFailed as failure:
            error = str(failure)
        else:
            return None
    return error
