"""Exchange settings: behaviours that Alpaca's documents leave open, latencies, and account terms."""

from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum

from catalyst.simulator.rules.wire_format import ApiError, parse_amount, parse_bool


class PartialEntryLegs(StrEnum):
    """Fate of the legs when a partly filled entry ends without its rest."""

    CANCELED = "canceled"
    HELD = "held"


@dataclass(frozen=True, slots=True)
class LatencyRange:
    """A latency in seconds of market time, drawn evenly between two ends."""

    low: float
    high: float


@dataclass(slots=True)
class ExchangeSettings:
    """Settings of the exchange; all can be changed while it runs."""

    # Latencies, market seconds.
    acknowledge: LatencyRange = LatencyRange(0.03, 0.07)
    arrive: LatencyRange = LatencyRange(0.02, 0.10)
    cancel: LatencyRange = LatencyRange(0.05, 0.50)
    replace: LatencyRange = LatencyRange(0.02, 0.10)
    activate: LatencyRange = LatencyRange(0.03, 0.05)
    leg_cancel: LatencyRange = LatencyRange(0.06, 0.15)
    entry_legs_cancel: LatencyRange = LatencyRange(0.80, 1.20)

    # Matching of orders with the market.
    participation: Decimal = Decimal("0.25")  # share of each print that one order may take
    partial_probability: Decimal = Decimal(0)  # probability that a fill is halved, as the paper engine does

    # Behaviours the documents leave open.
    partial_entry: PartialEntryLegs = PartialEntryLegs.CANCELED
    stop_by_replacement: bool = False  # a triggered stop leg fills through a new order id
    expire_as_canceled: bool = False  # day orders end `canceled` instead of `expired`
    hide_open_legs: bool = False  # a group whose parent is closed vanishes from the open, nested list
    hide_sibling_cancel: bool = False  # a filled target cancels its stop without a stream message
    # Any working order in the symbol rejects a bracket, not only an opposite one.
    bracket_blocked_by_any_order: bool = False
    second_cancel_rejected: bool = False  # a second cancel of a cancelled order gets 422
    held_replaceable: bool = True
    shown_stop_status: str = ""  # REST and stream show live stops in this status, such as suspended
    base_price_includes_market: bool = True
    emit_pending_new: bool = True  # send `pending_new`, without an execution id, before `new`
    emit_pending: bool = False  # send `pending_cancel` and `pending_replace` events
    emit_accepted: bool = False  # send the 2026 `accepted` event
    duplicate_code: int = 40010001
    simple_class: str = "simple"  # older responses say ""
    liquidation_races: bool = True  # closing everything does not wait for its cancels
    position_lag: float = 0.0  # seconds until positions show a fill
    visibility_delay: float = 0.0  # seconds until an order is found by its client id
    order_lag: float = 0.0  # seconds until REST shows a change of an order; the stream sends it at once
    half_day_post_close: str = "2000"  # `session_close` in the calendar when the session ends early
    hard_to_borrow: set[str] = field(default_factory=set)

    # Account.
    charge_fees: bool = False
    sec_fee: Decimal = Decimal("0.0000206")  # of the proceeds of a sale
    taf_fee: Decimal = Decimal("0.000195")  # per share sold
    taf_cap: Decimal = Decimal("9.79")  # per execution

    # Transport.
    rate_limit: int = 200  # requests per minute; 0 is no limit
    data_rate_limit: int = 10_000  # of the data API, with the plan for the consolidated feed; Basic has 200
    rate_headers_on_429: bool = True
    html_without_keys: bool = True  # a request without keys gets the proxy's HTML
    binary_frames: bool = True
    one_stream: bool = True  # a second trade_updates connection gets 429
    close_unauthorized: bool = False  # a refused authentication closes the socket
    local_offsets: bool = False  # `created_at` in stream messages has New York's offset
    legacy_fields: bool = False  # the fields removed in 2026

    def update(self, settings: dict[str, object]) -> None:
        """Set each named setting from its JSON value. Raises ApiError (422) for an unknown name or a wrong
        type."""
        names = {item.name for item in fields(self)}
        for name, value in settings.items():
            if name not in names:
                raise ApiError(422, 40010001, f"unknown setting: {name}")
            setattr(self, name, _convert_value(name, getattr(self, name), value))


def _convert_value(name: str, now: object, value: object) -> object:
    if isinstance(now, LatencyRange):
        if isinstance(value, list) and len(value) == 2:
            return LatencyRange(float(value[0]), float(value[1]))
        return LatencyRange(_parse_float(name, value), _parse_float(name, value))
    if isinstance(now, PartialEntryLegs):
        if value not in set(PartialEntryLegs):
            raise ApiError(422, 40010001, f"{name} is one of {', '.join(PartialEntryLegs)}")
        return PartialEntryLegs(str(value))
    if isinstance(now, bool):
        return parse_bool(value)
    if isinstance(now, set):
        return {str(item) for item in value} if isinstance(value, list) else set()
    if isinstance(now, Decimal):
        return parse_amount(value, name) or Decimal(0)
    if isinstance(now, str):
        return str(value)
    return type(now)(_parse_float(name, value))  # type: ignore[call-arg]  # int or float, the type of the default


def _parse_float(name: str, value: object) -> float:
    return float(parse_amount(value, name) or 0)
