"""Checks of `catalyst check` that need neither database nor broker: disks and mail servers."""

from collections.abc import Iterator
from typing import Final

from catalyst.cli.check_result import CheckResult, CheckVerdict
from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.doctor.disks import LOW_DISK_BYTES, used_disks

MIN_DISK_BYTES: Final = 100 << 20


def check_disks(settings: Settings) -> Iterator[CheckResult]:
    """Yield one result for each disk that holds the embedded database, the spool or the flat proofs."""
    for disk in used_disks(settings):
        verdict = CheckVerdict.WARN if disk.free < LOW_DISK_BYTES else CheckVerdict.OK
        if disk.free < MIN_DISK_BYTES:
            verdict = CheckVerdict.FAIL
        stops = "the database stops" if "database" in disk.purposes else "a database outage cannot be bridged"
        fix = "" if verdict is CheckVerdict.OK else f"free some space: {stops} when the disk is full"
        detail = f"{disk.free / (1 << 30):.1f} GiB free at {disk.folder} ({', '.join(disk.purposes)})"
        yield CheckResult("disk", verdict, detail, fix)


async def check_mail_servers(settings: Settings, clock: Clock) -> list[CheckResult]:
    """Return one result for the mail server when mail is configured: whether its port answers, with TLS as set."""
    from catalyst.notify.channel import DeliveryFailed
    from catalyst.notify.configured import configured_channels
    from catalyst.notify.mail import MailChannel, probe_server

    channels = configured_channels(settings, clock).channels
    results = []
    for server in dict.fromkeys(channel.server for channel in channels if isinstance(channel, MailChannel)):
        address = f"{server.host}:{server.port}"
        try:
            await probe_server(server)
        except DeliveryFailed as error:
            results.append(
                CheckResult(
                    "mail", CheckVerdict.WARN, str(error), "correct SMTP_HOST, SMTP_PORT and SMTP_TLS"
                )
            )
        else:
            results.append(CheckResult("mail", CheckVerdict.OK, f"{address} answers"))
    return results
