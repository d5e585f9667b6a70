"""Types of a request to the broker."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Final, Literal, Protocol

from catalyst.domain.errors import BrokerUnavailable

if TYPE_CHECKING:
    pass

Verb = Literal["GET", "POST", "PATCH", "DELETE"]
Params = Mapping[str, str | int]
OnMalformed = Callable[[str, object], None]  # why, and the row that could not be understood


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a request may take, in real seconds: they bound real sockets, whatever the market clock says.

    `read` is the longest silence of the peer, `total` the whole, waiting for a thread included.
    """

    connect: float = 2.0
    read: float = 5.0
    total: float = 8.0


DEFAULT_TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back. Header names are lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Permit(Protocol):
    """Whether this process may change anything at the broker at this moment."""

    async def check(self) -> None:
        """Return when it may; raises BrokerUnavailable when not: nothing has left."""
        ...

    def is_valid(self) -> bool:
        """True while what was asked still holds. From any thread, in the last moment before the first byte."""
        ...


class RequestAttempt:
    """One request on its way. Exactly one of `leave` and a true `abandon` ever happens."""

    def __init__(self, timeouts: Timeouts = DEFAULT_TIMEOUTS, permit: Permit | None = None) -> None:
        self.timeouts = timeouts
        self._permit = permit
        self._lock = threading.Lock()
        self._sent = False
        self._abandoned = False

    @property
    def sent(self) -> bool:
        """True once the first byte may be on the wire."""
        return self._sent

    def mark_sent(self) -> None:
        """Note that the next byte goes out; raises BrokerUnavailable when nobody waits for it any more."""
        with self._lock:
            if self._abandoned:
                raise BrokerUnavailable("given up before it was sent")
            if self._permit is not None and not self._permit.is_valid():
                raise BrokerUnavailable("not sent: who may send is not known any more")
            self._sent = True

    def abandon(self) -> bool:
        """Stop waiting; true when nothing had left, and now never will."""
        with self._lock:
            self._abandoned = True
            return not self._sent


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to knock, and with which keys. The keys show in no representation."""

    base_url: str
    key: str = field(repr=False)
    secret: str = field(repr=False)
    epoch: int = 0

    @property
    def user_agent(self) -> str:
        return f"catalyst/{installed('catalyst')} epoch/{self.epoch}"
