"""Refusals: why the broker refuses an order, a replacement or a cancel, what Catalyst does then, and at which pace.

Pure data. docs/refusals.md shows the tables; tests/test_refusals_page.py compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final


class RejectionReason(StrEnum):
    """Our reason for a rejection by the broker."""

    INSUFFICIENT_BUYING_POWER = "INSUFFICIENT_BUYING_POWER"
    DAY_TRADING = "DAY_TRADING"  # a rule about day trades, or their buying power
    INSUFFICIENT_QTY = "INSUFFICIENT_QTY"  # other orders reserve the shares, or they do not exist
    WASH_TRADE = "WASH_TRADE"
    OPPOSITE_ORDER = "OPPOSITE_ORDER"  # an opening order of the other side is working
    NOT_SHORTABLE = "NOT_SHORTABLE"  # for a protective sell: the account may be flat already
    HARD_TO_BORROW = "HARD_TO_BORROW"  # accepts only day orders
    HALTED = "HALTED"
    MARKET_CLOSED = "MARKET_CLOSED"
    NOT_ENTRY = "NOT_ENTRY"  # a bracket where a position or order exists
    NOT_EXIT = "NOT_EXIT"  # an OCO without a booked position: not yet, or no longer
    NOT_TRADABLE = "NOT_TRADABLE"
    PRICE_RULE = "PRICE_RULE"
    SUSPENDED_BY_USER = "SUSPENDED_BY_USER"
    ACCOUNT_RESTRICTED = "ACCOUNT_RESTRICTED"
    INVALID_REQUEST = "INVALID_REQUEST"  # a request that the broker never accepts in this form
    NOT_CANCELABLE = "NOT_CANCELABLE"
    NOT_REPLACEABLE = "NOT_REPLACEABLE"
    SUBMIT_FAILED = "SUBMIT_FAILED"  # an unknown message, or the broker was not reached


class RefusalClass(StrEnum):
    """Whether the same order may be accepted later."""

    PASSING = "passing"  # usually within seconds
    LASTING = "lasting"  # a rule or a state that ends by itself after minutes or days, or by a person
    NEVER = "never"  # the broker does not accept this order at all


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses before an exit is tried again: the first one, doubled with each refusal up to the longest."""

    first: timedelta
    longest: timedelta

    def pause_after(self, refusals: int) -> timedelta:
        """Return the pause after this many refusals in a row, at least one."""
        pause: timedelta = min(self.first * 2 ** min(refusals - 1, 20), self.longest)
        return pause


# Shares without a stop wait this long for an exit that is refused for a passing reason; then the stop comes back.
MAX_UNPROTECTED_RETRIES: Final = timedelta(seconds=6)

# After the exit is postponed. The stop protects the shares meanwhile.
PACES: Final[Mapping[RefusalClass, Pace]] = {
    RefusalClass.PASSING: Pace(timedelta(seconds=5), timedelta(seconds=60)),
    RefusalClass.LASTING: Pace(timedelta(seconds=15), timedelta(minutes=5)),
    RefusalClass.NEVER: Pace(timedelta(seconds=60), timedelta(minutes=15)),
}

_LASTING: Final = frozenset(
    {
        RejectionReason.INSUFFICIENT_BUYING_POWER,
        RejectionReason.DAY_TRADING,
        RejectionReason.HALTED,
        RejectionReason.SUSPENDED_BY_USER,
        RejectionReason.ACCOUNT_RESTRICTED,
    }
)
# The broker refuses any sale of the shares, also a stop: a stop that works must not be cancelled. A halt is none of
# them: limit and stop orders are accepted.
REFUSES_EVERY_SALE: Final = _LASTING - {RejectionReason.HALTED}
_NEVER: Final = frozenset({RejectionReason.NOT_TRADABLE, RejectionReason.INVALID_REQUEST})

EXIT_CLASSES: Final[Mapping[RejectionReason, RefusalClass]] = {
    reason: RefusalClass.LASTING
    if reason in _LASTING
    else RefusalClass.NEVER
    if reason in _NEVER
    else RefusalClass.PASSING
    for reason in RejectionReason
}


class ExitAnswer(StrEnum):
    """The answer to a refused sale. The values are the text of the page."""

    RETRY = "retry every 0.5 to 4 s for 6 s, then put the stop back and postpone the exit"
    POSTPONE = "put the stop back at once, alert, postpone the exit"


class ReplaceAnswer(StrEnum):
    """The answer to a refused replacement of the target by an exit."""

    CANCEL = "cancel the legs and send the sale"
    POSTPONE = "keep the legs, alert, postpone the exit"


class OcoAnswer(StrEnum):
    """The answer to a refused OCO or stop."""

    RETRY = "retry every second; exit after 4 refusals"
    RETRY_UNBOOKED = "retry every second; exit after 15 refusals"
    DAY_ORDER = "send a day order"
    EXIT = "exit at once: the price is beyond a level"


class CancelAnswer(StrEnum):
    """The answer to a refused cancel."""

    READ = "read the order; it may have ended"
    REPEAT = "read the order, repeat the cancel every 3 s"


EXIT_ANSWERS: Final[Mapping[RejectionReason, ExitAnswer]] = {
    reason: ExitAnswer.RETRY if of_class is RefusalClass.PASSING else ExitAnswer.POSTPONE
    for reason, of_class in EXIT_CLASSES.items()
}
# A refusal of every sale keeps the legs; any other may be a rule of replacements only.
REPLACE_ANSWERS: Final[Mapping[RejectionReason, ReplaceAnswer]] = {
    reason: ReplaceAnswer.POSTPONE if of_class is RefusalClass.LASTING else ReplaceAnswer.CANCEL
    for reason, of_class in EXIT_CLASSES.items()
}
# The broker has not booked the new shares yet: it accepts the same order some seconds later.
UNBOOKED_REASONS: Final = (
    RejectionReason.NOT_EXIT,
    RejectionReason.INSUFFICIENT_QTY,
    RejectionReason.NOT_SHORTABLE,
)
# The broker may refuse the second request of an order for these reasons because the first one arrived and reserves the
# shares, or has sold them.
FOLLOW_FROM_OWN_ORDER: Final = frozenset(
    {*UNBOOKED_REASONS, RejectionReason.OPPOSITE_ORDER, RejectionReason.SUBMIT_FAILED}
)
OCO_ANSWERS: Final[Mapping[RejectionReason, OcoAnswer]] = (
    dict.fromkeys(RejectionReason, OcoAnswer.RETRY)
    | dict.fromkeys(UNBOOKED_REASONS, OcoAnswer.RETRY_UNBOOKED)
    | {
        RejectionReason.HARD_TO_BORROW: OcoAnswer.DAY_ORDER,
        RejectionReason.PRICE_RULE: OcoAnswer.EXIT,
    }
)
CANCEL_ANSWERS: Final[Mapping[RejectionReason, CancelAnswer]] = dict.fromkeys(
    RejectionReason, CancelAnswer.REPEAT
) | {RejectionReason.NOT_CANCELABLE: CancelAnswer.READ}


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """One refusal that the broker documents or that clients recorded: status, code and message; and our reason."""

    http_status: int
    code: int
    message: str
    reason: RejectionReason


KNOWN_REFUSALS: Final = (
    KnownRefusal(403, 40310000, "insufficient buying power", RejectionReason.INSUFFICIENT_BUYING_POWER),
    KnownRefusal(403, 40310000, "insufficient day trading buying power", RejectionReason.DAY_TRADING),
    KnownRefusal(
        403, 40310100, "trade denied due to pattern day trading protection", RejectionReason.DAY_TRADING
    ),
    KnownRefusal(
        403,
        40310000,
        "insufficient qty available for order (requested: 20, available: 0)",
        RejectionReason.INSUFFICIENT_QTY,
    ),
    KnownRefusal(
        403, 40310000, "potential wash trade detected. use complex orders", RejectionReason.WASH_TRADE
    ),
    KnownRefusal(
        403,
        40310000,
        "cannot open a short sell while a long buy order is open",
        RejectionReason.OPPOSITE_ORDER,
    ),
    KnownRefusal(422, 42210000, 'asset "X" cannot be sold short', RejectionReason.NOT_SHORTABLE),
    KnownRefusal(403, 40310000, "account is not allowed to short", RejectionReason.NOT_SHORTABLE),
    KnownRefusal(422, 42210000, "fractional orders cannot be sold short", RejectionReason.NOT_SHORTABLE),
    KnownRefusal(
        422,
        42210000,
        'only day orders are allowed for hard-to-borrow asset "X"',
        RejectionReason.HARD_TO_BORROW,
    ),
    KnownRefusal(422, 42210000, 'asset "X" not found', RejectionReason.NOT_TRADABLE),
    KnownRefusal(422, 42210000, "asset X is not active", RejectionReason.NOT_TRADABLE),
    KnownRefusal(422, 42210000, 'asset "X" is not fractionable', RejectionReason.INVALID_REQUEST),
    KnownRefusal(422, 40010001, "notional must be >= 1.00", RejectionReason.INVALID_REQUEST),
    KnownRefusal(
        422,
        40010001,
        "client_order_id must be no more than 128 characters",
        RejectionReason.INVALID_REQUEST,
    ),
    KnownRefusal(422, 40010001, "qty must be > 0", RejectionReason.INVALID_REQUEST),
    KnownRefusal(
        422, 40010001, "market orders require no stop or limit price", RejectionReason.INVALID_REQUEST
    ),
    KnownRefusal(
        422,
        40010001,
        "position intent mismatch, inferred: sell_to_open, specified: sell_to_close",
        RejectionReason.INVALID_REQUEST,
    ),
    KnownRefusal(
        422,
        42210000,
        "invalid limit_price 290.123. sub-penny increment does not fulfill minimum pricing criteria",
        RejectionReason.PRICE_RULE,
    ),
    KnownRefusal(
        422, 42210000, "stop_loss.stop_price must be <= base_price - 0.01", RejectionReason.PRICE_RULE
    ),
    KnownRefusal(422, 42210000, "stop price must be less than current price", RejectionReason.PRICE_RULE),
    KnownRefusal(422, 42210000, "bracket orders must be entry orders", RejectionReason.NOT_ENTRY),
    KnownRefusal(422, 42210000, "oco orders must be exit orders", RejectionReason.NOT_EXIT),
    KnownRefusal(
        422,
        42210000,
        'market order rejected due to trading halt on symbol: "X", please place a limit order instead',
        RejectionReason.HALTED,
    ),
    KnownRefusal(
        422,
        40010001,
        "opg orders must be submitted after 7:00pm and before 9:28am",
        RejectionReason.MARKET_CLOSED,
    ),
    KnownRefusal(
        422,
        40010001,
        "extended hours order must be DAY or GTC limit orders",
        RejectionReason.MARKET_CLOSED,
    ),
    KnownRefusal(403, 40310000, "new orders are rejected by user request", RejectionReason.SUSPENDED_BY_USER),
    KnownRefusal(403, 40310000, "account is restricted", RejectionReason.ACCOUNT_RESTRICTED),
    KnownRefusal(
        422,
        40010001,
        "unable to replace order, order isn't sent to exchange yet",
        RejectionReason.NOT_REPLACEABLE,
    ),
    KnownRefusal(
        422, 42210000, "unable to replace order, order is not open", RejectionReason.NOT_REPLACEABLE
    ),
    KnownRefusal(422, 42210000, "order parameters are not changed", RejectionReason.NOT_REPLACEABLE),
    KnownRefusal(422, 42210000, 'order is already in "filled" state', RejectionReason.NOT_CANCELABLE),
    KnownRefusal(403, 40310000, "a rule that nobody documents", RejectionReason.SUBMIT_FAILED),
)


_BY_CODE: Final = {str(reason): reason for reason in RejectionReason}


def reason_of(refusal: str) -> RejectionReason:
    """Return the reason of a stored refusal ("CODE: text"); SUBMIT_FAILED for any other text."""
    code = refusal.partition(":")[0]
    return _BY_CODE.get(code, RejectionReason.SUBMIT_FAILED)


def class_of_exit(refusal: str) -> RefusalClass:
    """Return the class of a refused sale, by its stored refusal."""
    return EXIT_CLASSES[reason_of(refusal)]


def pause_after(refusal: str, refusals: int) -> timedelta:
    """Return how long an exit is postponed after its last refusal, which is the `refusals`-th in a row."""
    return PACES[class_of_exit(refusal)].pause_after(refusals)
