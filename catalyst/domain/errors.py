"""Every exception Catalyst raises, on one page.

The broker errors answer the only question that matters after a failed request: did it happen?
`OrderRefused`: no, finally. `OutcomeUnknown`: perhaps. `BrokerUnavailable`: it never heard.
"""


class CatalystError(Exception):
    """Root of the tree. Caught only at the edge of the process."""


class UserError(CatalystError):
    """The operator can mend this; the message says how. Shown without a traceback."""


class ConfigInvalid(UserError):
    """What we were given cannot be worked with until somebody mends it: config.yaml, the environment, the schema."""


class AnotherDaemonRunning(UserError):
    """Another daemon holds this account's lock."""


class DatabaseReplaced(CatalystError):
    """The database is another than the one this daemon began on: it ends, and the next start recovers from it."""


class WrongAccount(UserError):
    """The broker's account is not the one this database belongs to."""


class InvariantBroken(CatalystError):
    """Our own books contradict themselves: stop opening positions, keep closing them."""


class IllegalTransition(InvariantBroken):
    """A state was asked to change along an edge that is not in its table."""


class StaleOrder(CatalystError):
    """Somebody advanced the order first; read it again and decide again."""


class MissingBars(CatalystError):
    """A stage was handed fewer bars than its longest look-back."""


class BrokerError(CatalystError):
    """A request to the broker did not end in a plain yes."""


class OrderRejected(BrokerError):
    """The broker said no. Final: the same order will not be sent again.

    `code` is our reason (INSUFFICIENT_BUYING_POWER, WASH_TRADE, ...); `text` the broker's own words;
    `related` the ids of orders the broker names as blocking.
    """

    def __init__(self, code: str, text: str, *, http_status: int = 0, related: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.http_status = http_status
        self.related = related


class DuplicateOrder(BrokerError):
    """The broker already holds an order with this client order id: it landed; look it up and adopt it."""


class OutcomeUnknown(BrokerError):
    """The broker may have acted. Ask by client order id before anything else."""


class BrokerUnavailable(BrokerError):
    """The broker never heard, or only a read failed. Safe to send again."""


class NotFound(BrokerError):
    """The broker answered, and has no such thing. Not evidence while a request may be in flight."""


class AuthRefused(BrokerError):
    """The broker does not know these keys, or they do not open this door."""
