"""Channels: ways to send a message to people."""

from collections.abc import Mapping, Sequence
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
    """Mail addresses that receive alerts of these severities."""

    severities: frozenset[Severity]
    addresses: tuple[str, ...]


def severities_of(addresses: Mapping[Severity, Sequence[str]]) -> dict[str, frozenset[Severity]]:
    """Return the severities that each address receives, from the addresses of each severity."""
    found: dict[str, frozenset[Severity]] = {}
    for severity, of_severity in addresses.items():
        for address in of_severity:
            found[address] = found.get(address, frozenset()) | {severity}
    return found


def name_of(kind: str, severities: frozenset[Severity]) -> str:
    """Return a channel's name: `mail:critical+warning`."""
    return f"{kind}:{'+'.join(sorted(severity.lower() for severity in severities))}"
