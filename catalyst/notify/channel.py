"""Channels: ways to send a message to people."""

from dataclasses import dataclass
from typing import Protocol

from catalyst.domain.alert_message import AlertMessage, Severity
from catalyst.domain.errors import CatalystError


class DeliveryFailed(CatalystError):
    """The message was not taken; the text says why and, where it is known, what to do. It holds no secret."""


class Channel(Protocol):
    """A way to send messages; `name` is stored with what it sent, and holds no address and no secret."""

    @property
    def name(self) -> str: ...

    @property
    def severities(self) -> frozenset[Severity]: ...

    async def send(self, message: AlertMessage, message_id: str) -> None:
        """Send one message. `message_id` is the same when a message is sent again. Raises DeliveryFailed."""


@dataclass(frozen=True, slots=True)
class Recipients:
    """Addresses, or URLs, that receive alerts of these severities."""

    severities: frozenset[Severity]
    addresses: tuple[str, ...]


def group_recipients(by_severity: dict[Severity, str | None]) -> list[Recipients]:
    """Return the recipients that share their severities, from the comma-separated addresses of each severity."""
    severities: dict[str, set[Severity]] = {}
    for severity, text in by_severity.items():
        for address in (text or "").split(","):
            if address.strip():
                severities.setdefault(address.strip(), set()).add(severity)
    groups: dict[frozenset[Severity], list[str]] = {}
    for address, found in severities.items():
        groups.setdefault(frozenset(found), []).append(address)
    return [Recipients(found, tuple(addresses)) for found, addresses in groups.items()]


def name_of(kind: str, severities: frozenset[Severity]) -> str:
    """Return a channel's name: `mail:critical+warning`."""
    return f"{kind}:{'+'.join(sorted(severity.lower() for severity in severities))}"
