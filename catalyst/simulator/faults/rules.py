"""Fault rules: each matches a request, an order or a stream message, and counts its firings."""

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, Protocol

from catalyst.simulator.faults.probability import FaultProbability
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, ApiError


class FaultKind(StrEnum):
    """Every failure that can be injected."""

    # Requests.
    HANG = "hang"  # processed, no response
    HANG_BEFORE = "hang_before"  # not processed, no response
    DROP = "drop"  # processed, then the connection is cut
    DROP_BEFORE = "drop_before"  # the connection is cut before processing
    STATUS = "status"  # processed, then another status
    STATUS_BEFORE = "status_before"  # not processed, responds with a status
    HTML = "html"  # processed, then the proxy's HTML
    HTML_BEFORE = "html_before"
    GARBLE = "garble"  # processed, then half a JSON document
    SLOW = "slow"  # processed, response after some market seconds
    SLOW_BEFORE = "slow_before"  # processed after some market seconds
    RATE_LIMIT = "rate_limit"
    UNAUTHORIZED = "unauthorized"
    REMOVE_FIELDS = "remove_fields"  # processed, response without these fields, at any depth
    ADD_FIELDS = "add_fields"  # processed, response with an unknown field
    STALE = "stale"  # a GET gets its last response again
    EMPTY = "empty"  # a GET of a list gets an empty one
    LEG_OMIT = "leg_omit"  # response without legs
    CLOCK_SKEW = "clock_skew"  # /v2/clock is off by some seconds

    # Orders.
    REJECT = "reject"  # accepted with 200, then rejected
    NEVER_ACK = "never_ack"  # stuck in pending_new
    PARTIAL = "partial"  # fills no more than `qty` shares, or than this `share` of the order's
    LEG_REJECT = "leg_reject"  # the leg of this role is rejected when it should become active
    LEG_CANCEL = "leg_cancel"  # the venue cancels the leg of this role when it should become active
    CANCEL_DELAY = "cancel_delay"  # this cancel takes `seconds`
    CANCEL_LOSES = "cancel_loses"  # the rest fills before the cancel arrives
    CANCEL_REJECT = "cancel_reject"  # the venue rejects the cancel; the order works on
    REPLACE_REJECT = "replace_reject"
    LIQUIDATE_FAIL = "liquidate_fail"  # closing everything returns 500 for this symbol
    DOUBLE_EXIT = "double_exit"  # both exits of the group fill
    STOP_REPLACED = "stop_replaced"  # the triggered stop fills through another order id
    NO_TRIGGER = "no_trigger"  # the stop does not trigger although its price traded
    VISIBILITY = "visibility"  # not found by client id for `seconds`
    POSITION_LAG = "position_lag"  # positions show this fill only after `seconds`
    HALT = "halt"  # the symbol halts after a partial fill of `qty` shares, for `seconds` if given
    GAP = "gap"  # the print that triggers a stop, and all after it, are at `factor` of their price

    # The trade_updates stream.
    STREAM_DROP = "stream_drop"
    STREAM_DUPLICATE = "stream_duplicate"
    STREAM_LATE = "stream_late"
    STREAM_REORDER = "stream_reorder"  # sent after the next message
    STREAM_REPLAY = "stream_replay"  # `new` and the fills of an order again, after the message that ends it
    STREAM_STATUS = "stream_status"  # an unknown order status
    STREAM_EVENT = "stream_event"  # an unknown event
    STREAM_FIELDS = "stream_fields"  # fields removed from the message
    STREAM_NULL = "stream_null"  # `data: null` instead
    STREAM_ERROR = "stream_error"  # an error frame before it
    STREAM_RAW = "stream_raw"  # these bytes instead
    STREAM_DISCONNECT = "stream_disconnect"  # the socket closes instead of sending it
    STREAM_MUTE = "stream_mute"  # from here on the socket stays open and sends nothing
    STREAM_REFUSE = "stream_refuse"  # authentication is refused
    STREAM_BUSY = "stream_busy"  # the handshake gets 429
    STREAM_SECOND = "stream_second"  # it gets 429 while another connection is open
    STREAM_HALF_OPEN = "stream_half_open"  # the server reads nothing more, pings included


REQUEST_FAULTS: Final = frozenset(list(FaultKind)[: list(FaultKind).index(FaultKind.REJECT)])
# These apply to an order until they are removed, whatever their count.
ACTIVE_UNTIL_REMOVED: Final = frozenset({FaultKind.PARTIAL, FaultKind.NO_TRIGGER, FaultKind.VISIBILITY})
HANDSHAKE_FAULTS: Final = frozenset({FaultKind.STREAM_REFUSE, FaultKind.STREAM_BUSY, FaultKind.STREAM_SECOND})
CONDITIONS: Final = frozenset({"method", "route", "symbol", "client_order_id", "event", "role", "side"})


def possible_conditions(kind: FaultKind) -> frozenset[str]:
    """Return the conditions that a rule of this kind may have: a rule with another one could never fire."""
    if kind in HANDSHAKE_FAULTS or kind is FaultKind.CLOCK_SKEW:
        return frozenset()
    if kind is FaultKind.LIQUIDATE_FAIL:
        return frozenset({"symbol"})
    if kind in REQUEST_FAULTS:
        return CONDITIONS - {"event", "role"}
    return CONDITIONS - {"method", "route"} - (set() if kind.startswith("stream_") else {"event"})


@dataclass(slots=True)
class Fault:
    """One rule. All given conditions must match; it fires from the nth match on, `count` times."""

    kind: FaultKind
    id: str = ""
    method: str | None = None
    route: str | None = None  # a pattern over the path, such as "/v2/orders" or "/v2/positions/*"
    symbol: str | None = None
    client_order_id: str | None = None  # a pattern
    event: str | None = None  # a stream event
    role: str | None = None
    side: str | None = None
    nth: int = 1
    count: int = 1  # 0: no limit
    seconds: float = 0.0
    status: int = 504
    code: int | None = None
    message: str | None = None
    qty: str | None = None
    share: str | None = None
    text: str | None = None
    fields: list[str] = field(default_factory=list)
    factor: str = "0.9"
    probability: FaultProbability | None = None  # fires by probability instead of by number
    matched: int = 0
    fired: int = 0
    # Orders on which a rule without a count had an effect.
    hit_orders: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raise ValueError for a condition that this kind never meets."""
        given = {name for name in CONDITIONS if getattr(self, name) is not None}
        if impossible := sorted(given - possible_conditions(self.kind)):
            raise ValueError(f"a {self.kind} rule has no condition {', '.join(impossible)}")

    def matches(self, facts: dict[str, str | None]) -> bool:
        """Return true when every condition of the rule matches the facts."""
        for name in ("method", "symbol", "event", "role", "side"):
            wanted = getattr(self, name)
            if wanted is not None and facts.get(name) != wanted:
                return False
        for name in ("route", "client_order_id"):
            wanted = getattr(self, name)
            if wanted is not None and not fnmatchcase(facts.get(name) or "", wanted):
                return False
        if self.probability is not None and self.kind in ACTIVE_UNTIL_REMOVED:
            return self.probability.affects(facts.get("client_order_id") or "")
        return True

    def max_fill_qty(self, qty: Decimal) -> Decimal | None:
        """Return how many of an order's `qty` shares may fill; None without a bound."""
        if self.qty is not None:
            return Decimal(self.qty)
        return None if self.share is None else (qty * Decimal(self.share)).to_integral_value(ROUND_FLOOR)

    def fire(self) -> "Fault":
        """Count a firing; return the rule as it fires, with drawn values when it fires by probability."""
        self.fired += 1
        if self.probability is None:
            return self
        drawn = self.probability.draw_values(self.fired)
        if self.kind not in ACTIVE_UNTIL_REMOVED:
            self.nth = self.matched + self.probability.occasions_to_next(self.fired)
        return replace(self, **drawn)  # type: ignore[arg-type]  # the particulars are fields of a fault

    def record_hit(self, subject: str) -> None:
        """Count the effect of a rule on an order, once per order."""
        if subject not in self.hit_orders:
            self.hit_orders.append(subject)
            self.fired += 1

    @property
    def exhausted(self) -> bool:
        return self.count > 0 and self.fired >= self.count

    @property
    def fires_at_next_match(self) -> bool:
        """Return true when the next match makes the rule fire."""
        return not self.exhausted and self.matched + 1 >= self.nth


class RuleSource(Protocol):
    """A source of rules: a random schedule."""

    def rules(self) -> list[Fault]: ...


class FaultRules:
    """The rules in force, and the number of firings of each."""

    def __init__(self) -> None:
        self.rules: dict[str, Fault] = {}
        self._added: list[Fault] = []  # every rule so far, removed ones included

    def add(self, fault: Fault) -> Fault:
        """Put a rule in force; it keeps its id, or gets one."""
        self._added.append(fault)
        fault.id = fault.id or f"fault-{len(self._added)}"
        self.rules[fault.id] = fault
        return fault

    def add_schedule(self, schedule: "RuleSource") -> list[Fault]:
        """Put every rule of a random schedule in force."""
        return [self.add(rule) for rule in schedule.rules()]

    def remove(self, fault_id: str | None = None) -> None:
        """Remove one rule, or all."""
        for gone in list(self.rules) if fault_id is None else [fault_id]:
            self.rules.pop(gone, None)

    @property
    def fired(self) -> dict[str, int]:
        """Return how often each kind has fired, removed rules included."""
        total: Counter[str] = Counter()
        for fault in self._added:
            total[fault.kind.value] += fault.fired
        return {kind: number for kind, number in sorted(total.items()) if number}

    @property
    def never_fired(self) -> list[Fault]:
        """Return the rules by number that never fired, removed ones included. A rule by probability need not
        fire."""
        return [fault for fault in self._added if not fault.fired and fault.probability is None]

    def fire_matching(self, *kinds: FaultKind, **facts: str | None) -> Fault | None:
        """Return the first rule of these kinds that fires on these facts, counted; None when none does."""
        for fault in self.rules.values():
            if fault.kind not in kinds or fault.exhausted or not fault.matches(facts):
                continue
            fault.matched += 1
            if fault.matched >= fault.nth:
                return fault.fire()
        return None

    def fires_next(self, kind: FaultKind, **facts: str | None) -> bool:
        """Return true when a rule of this kind fires on the next match of these facts; nothing is counted."""
        return any(f.kind is kind and f.fires_at_next_match and f.matches(facts) for f in self.rules.values())

    def active(self, kind: FaultKind, **facts: str | None) -> Fault | None:
        """Return the first rule of this kind for these facts; reading it does not count as a firing."""
        return next((f for f in self.rules.values() if f.kind is kind and f.matches(facts)), None)


def parse_fault(body: dict[str, object]) -> Fault:
    """Return a rule from its JSON. Raises ApiError (422) for an unknown kind or condition."""
    rest = {name: value for name, value in body.items() if name != "kind"}
    if rest.keys() & {"probability", "hit_orders"}:
        raise ApiError(422, BAD_PARAMETER, "unknown fault: send a random schedule for faults by probability")
    try:
        kind = FaultKind(str(body.get("kind")))
        return Fault(kind=kind, **rest)  # type: ignore[arg-type]  # an admin's JSON; a wrong name raises
    except (ValueError, TypeError) as error:
        raise ApiError(422, BAD_PARAMETER, f"unknown fault: {error}") from None
