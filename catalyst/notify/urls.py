"""Messengers: sends messages to Apprise URLs (Telegram, Slack, Matrix, a webhook, ...).

Source: Apprise documents one URL scheme per service. Its calls block, so each runs in a thread that may be left
behind; a URL holds tokens and is never logged.
"""

import asyncio
import threading
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final
from urllib.parse import urlsplit

from catalyst.domain.alert_message import AlertMessage, Severity
from catalyst.domain.errors import ConfigInvalid
from catalyst.notify.channel import DeliveryFailed, Recipients, name_of

SEND_TIMEOUT_S: Final = 15  # real seconds


@dataclass(frozen=True, slots=True)
class UrlChannel:
    """Sends alerts of some severities to some URLs."""

    recipients: Recipients = field(repr=False)

    @property
    def name(self) -> str:
        return name_of("url", self.recipients.severities)

    @property
    def severities(self) -> frozenset[Severity]:
        return self.recipients.severities

    async def send(self, message: AlertMessage, message_id: str) -> None:  # noqa: ARG002 -- a messenger has no ids
        """Send one message to every URL. Raises DeliveryFailed when a URL did not take it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[str]] = loop.create_future()

        def finish(failed: list[str]) -> None:
            if not done.done():
                done.set_result(failed)

        def work() -> None:
            failed = [urlsplit(url).scheme for url in self.recipients.addresses if not _notify(url, message)]
            try:
                loop.call_soon_threadsafe(finish, failed)
            except RuntimeError:
                return  # the event loop has ended meanwhile

        # Not the executor: its threads would delay the end of the process as long as a service hangs.
        threading.Thread(target=work, name=self.name, daemon=True).start()
        try:
            failed = await asyncio.wait_for(done, SEND_TIMEOUT_S)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {SEND_TIMEOUT_S} s") from None
        if failed:
            raise DeliveryFailed(f"not taken by {', '.join(sorted(failed))}: check its URL and its service")


def check_urls(recipients: Recipients) -> None:
    """Raise ConfigInvalid when Apprise is not installed or does not know a URL."""
    try:
        apprise = import_module("apprise")
    except ImportError:
        raise ConfigInvalid(
            "ALERT_URL_… is set and Apprise is not installed: run `pip install 'catalyst-trading[notify]'`"
        ) from None
    for url in recipients.addresses:
        if not apprise.Apprise().add(url):
            raise ConfigInvalid(
                f"ALERT_URL_…: a URL that begins with {urlsplit(url).scheme or 'no scheme'}:// is not one of Apprise's"
            )


def _notify(url: str, message: AlertMessage) -> bool:
    service = import_module("apprise").Apprise()
    return bool(service.add(url) and service.notify(title=message.subject, body=message.body))
