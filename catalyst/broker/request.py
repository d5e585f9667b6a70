"""Request types of the broker client: timeouts, endpoint, response, permit and the attempt to send."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from catalyst.domain.errors import BrokerUnavailable
from catalyst.installation import VERSION

Verb = Literal["GET", "POST", "PATCH", "DELETE"]
Params = Mapping[str, str | int]
OnMalformed = Callable[[str, object], None]  # reason, and the row that could not be parsed


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Time limits of a request in real seconds: they bound real sockets, whatever the market clock says.

    `read` is the longest silence of the peer, `total` the whole time, waiting for a thread included.
    """

    connect: float = 2.0
    read: float = 5.0
    total: float = 8.0


DEFAULT_TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response. Header names are lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Permit(Protocol):
    """Checks that this process may change something at the broker now."""

    async def check(self) -> None:
        """Return when it may. Raises BrokerUnavailable when not; nothing was sent."""
        ...

    def is_valid(self) -> bool:
        """Return true while the last check still holds. Thread-safe; called just before the first byte."""
        ...


class RequestAttempt:
    """One request in progress. Exactly one of `mark_sent` and a true `abandon` ever happens."""

    def __init__(self, timeouts: Timeouts = DEFAULT_TIMEOUTS, permit: Permit | None = None) -> None:
        self.timeouts = timeouts
        self._permit = permit
        self._lock = threading.Lock()
        self._sent = False
        self._abandoned = False

    @property
    def sent(self) -> bool:
        """Return true once the first byte may be on the wire."""
        return self._sent

    def mark_sent(self) -> None:
        """Mark the request as sent. Raises BrokerUnavailable when its caller has abandoned it."""
        with self._lock:
            if self._abandoned:
                raise BrokerUnavailable("not sent: the caller has abandoned the request")
            if self._permit is not None and not self._permit.is_valid():
                raise BrokerUnavailable("not sent: the account lease is no longer confirmed")
            self._sent = True

    def abandon(self) -> bool:
        """Stop waiting; true when nothing was sent, and nothing will be."""
        with self._lock:
            self._abandoned = True
            return not self._sent


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base URL and keys. No representation shows the keys."""

    base_url: str
    key: str = field(repr=False)
    secret: str = field(repr=False)
    epoch: int = 0

    @property
    def user_agent(self) -> str:
        return f"catalyst/{VERSION} epoch/{self.epoch}"
