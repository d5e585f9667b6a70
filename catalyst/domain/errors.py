"""The exceptions that Catalyst raises.

A broker error says whether a failed request took effect. `OrderRejected`: no, and this is final. `OutcomeUnknown`:
perhaps. `BrokerUnavailable`: the request was never sent or did not arrive.
"""

from catalyst.domain.secret_mask import mask_text


class CatalystError(Exception):
    """Base of all exceptions of Catalyst. Caught only at the edge of the process.

    Secrets in its text are masked: the text goes to rows, alerts and files, and may quote a library's error.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(mask_text(arg) if isinstance(arg, str) else arg for arg in args))


class UserError(CatalystError):
    """The operator can correct this; the message says how. Shown without a traceback."""


class ConfigInvalid(UserError):
    """config.yaml, the environment or the database schema must be corrected before the daemon can run."""


class AnotherDaemonRunning(UserError):
    """Another daemon holds this account's lease."""


class BrokerSilent(UserError):
    """The broker does not answer, or refuses the keys; the message names its address."""


class DatabaseUnavailable(CatalystError):
    """The database cannot be reached or cannot write; trading goes on without it as far as it may.

    `__cause__` is the driver's error. A change whose commit got no response may have been committed.
    """


class DatabasePooled(DatabaseUnavailable):
    """A pooler stands before the database: settings, locks or prepared statements of a session do not hold."""

    def __init__(self, fault: str) -> None:
        super().__init__(
            f"DATABASE_URL leads to a connection pooler ({fault}): connect directly, not through a pooler "
            "(DigitalOcean: port 25060, not 25061)"
        )


class DatabaseContention(CatalystError):
    """Another transaction conflicted (deadlock, lock timeout, serialization): nothing was written, repeat it whole.

    `__cause__` is the driver's error.
    """


class DatabaseReplaced(CatalystError):
    """The database is not the one on which this daemon started: the daemon ends, and the next start recovers."""


class WrongAccount(UserError):
    """The database belongs to another account than the broker's."""


class InvariantBroken(CatalystError):
    """The order ledger contradicts itself: no more entries, but exits continue."""


class IllegalTransition(InvariantBroken):
    """The edge table of a state machine has no such transition."""


class StaleOrder(CatalystError):
    """Another task changed the order row first: read it and decide again."""


class MissingBars(CatalystError):
    """A stage received fewer bars than its longest look-back."""


class BrokerError(CatalystError):
    """A request to the broker did not succeed."""


class OrderRejected(BrokerError):
    """The broker rejected the request, or our own check refused it. Final: this order is not sent again.

    `code` is our reason (INSUFFICIENT_BUYING_POWER, WASH_TRADE, ...); `text` the broker's message; `related` the ids of
    the orders that the broker names as blocking.
    """

    def __init__(self, code: str, text: str, *, http_status: int = 0, related: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = mask_text(text)
        self.http_status = http_status
        self.related = related


class DuplicateOrder(BrokerError):
    """The broker already has an order with this client order id: an earlier attempt arrived; look it up, adopt it."""


class OutcomeUnknown(BrokerError):
    """The request may have taken effect. Look up the order by its client order id before any other step."""


class BrokerUnavailable(BrokerError):
    """The request did not arrive, or a read failed. Safe to send again."""


class NotFound(BrokerError):
    """The broker answered that the object does not exist. Not reliable while a request for it may be in flight."""


class AuthRefused(BrokerError):
    """The broker does not accept these keys, or they lack the permission."""
