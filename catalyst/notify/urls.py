"""Messengers: sends messages to Apprise URLs (Telegram, Slack, Matrix, a webhook, ...).

Source: Apprise documents one URL scheme per service. Its calls block, so each runs in a thread that may be left
behind; a URL holds tokens and is never logged.
"""

import asyncio
import hashlib
import re
import threading
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final

from catalyst.domain.alert_message import AlertMessage, Severity
from catalyst.notify.channel import DeliveryFailed, name_of

SEND_TIMEOUT_S: Final = 15  # real seconds


@dataclass(frozen=True, slots=True)
class UrlChannel:
    """Sends alerts of some severities to one URL."""

    url: str = field(repr=False)
    severities: frozenset[Severity]

    @property
    def name(self) -> str:
        """The severities and a part of the URL's hash: several URLs may have the same severities."""
        part = hashlib.sha256(self.url.encode()).hexdigest()[:6]
        return f"{name_of('url', self.severities)}#{part}"

    async def send(self, message: AlertMessage, message_id: str) -> None:  # noqa: ARG002 -- a messenger has no ids
        """Send one message. Raises DeliveryFailed when the service did not take it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()

        def finish(error: str | None) -> None:
            if not done.done():
                done.set_result(error)

        def work() -> None:
            error = _notify(self.url, message)
            try:
                loop.call_soon_threadsafe(finish, error)
            except RuntimeError:
                return  # the event loop has ended meanwhile

        # Not the executor: its threads would delay the end of the process as long as a service hangs.
        threading.Thread(target=work, name=self.name, daemon=True).start()
        try:
            error = await asyncio.wait_for(done, SEND_TIMEOUT_S)
        except TimeoutError:
            raise DeliveryFailed(f"{scheme_of(self.url)}: no answer within {SEND_TIMEOUT_S} s") from None
        if error is not None:
            raise DeliveryFailed(f"{scheme_of(self.url)}: {error}")


def split_urls(text: str) -> list[str]:
    """Return the URLs of a comma-separated list; a comma inside a URL separates nothing."""
    parts = (part.strip(" ,") for part in re.split(r",(?=\s*[a-zA-Z0-9+.-]+://)", text))
    return [part for part in parts if part]


def scheme_of(url: str) -> str:
    """Return what stands before `://`: the service, without any secret."""
    return url.partition("://")[0] if "://" in url else "a URL without a scheme"


def problem_of(url: str) -> str | None:
    """Return why Apprise cannot use the URL; None when it can."""
    try:
        apprise = import_module("apprise")
    except ImportError:
        return "Apprise is not installed: run `pip install 'catalyst-trading[notify]'`"
    try:
        known = apprise.Apprise().add(url)
    except Exception:  # a plugin may raise anything for a malformed URL  # noqa: BLE001
        known = False
    return (
        None if known else f"a URL that begins with {scheme_of(url)}:// is not one that Apprise understands"
    )


def _notify(url: str, message: AlertMessage) -> str | None:
    """Return why the service did not take the message; None when it did."""
    try:
        service = import_module("apprise").Apprise()
        taken = service.add(url) and service.notify(title=message.subject, body=message.body)
    except Exception as error:  # a thread must not end in silence  # noqa: BLE001
        return f"failed with {type(error).__name__}"
    return None if taken else "the service did not take the message; check its URL"
