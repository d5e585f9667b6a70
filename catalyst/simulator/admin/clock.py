"""Clock control: pace, pause, step and jump of the market's time."""

from datetime import datetime, time, timedelta

from catalyst.clock import NEW_YORK, Clock, ScaledClock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    ApiError,
    JsonObject,
    parse_amount,
    parse_instant,
)


def clock_view(exchange: Exchange, clock: Clock) -> JsonObject:
    """Return the market's time, the instant of the next event, market seconds per second, the file of its
    clock, and whether the exchange drives that clock."""
    due = exchange.venue.next_event_at()
    now = clock.now()
    return {
        "now": now.isoformat(),
        "new_york": now.astimezone(NEW_YORK).isoformat(),
        "next_event_at": None if due is None else due.isoformat(),
        "speed": clock.speed if isinstance(clock, ScaledClock) else None,
        "file": str(clock.path.resolve()) if isinstance(clock, ScaledClock) else None,
        "drives": isinstance(clock, ScaledClock) and clock.is_driver,
    }


def set_clock(clock: Clock, body: JsonObject) -> None:
    """Apply the body: `speed` (0 stands still), `seconds` to advance, or `to`, a time to advance to.

    Raises ApiError (422) for a past time, and for a clock that the exchange does not control.
    """
    if not isinstance(clock, ScaledClock) or not clock.is_driver:
        raise ApiError(
            422,
            BAD_PARAMETER,
            "another process drives this clock: set it there",
        )
    if not body or body.keys() - {"speed", "seconds", "to"}:
        raise ApiError(422, BAD_PARAMETER, "send `speed`, `seconds` or `to`")
    speed, ahead = _parse_non_negative(body, "speed"), _parse_non_negative(body, "seconds")
    to = None if body.get("to") is None else _parse_time(str(body["to"]), clock.now())
    try:
        if to is not None:
            clock.jump_to(to)
        if ahead is not None:
            clock.jump_to(clock.now() + timedelta(seconds=ahead))
    except ValueError as error:
        raise ApiError(422, BAD_PARAMETER, str(error)) from None
    if speed is not None:
        clock.set_speed(speed)


def _parse_non_negative(body: JsonObject, name: str) -> float | None:
    number = parse_amount(body.get(name), name)
    if number is not None and number < 0:
        raise ApiError(422, BAD_PARAMETER, f"{name} must be >= 0")
    return None if number is None else float(number)


def _parse_time(text: str, now: datetime) -> datetime:
    """Return a New York time of today, or a full instant."""
    try:
        return datetime.combine(now.astimezone(NEW_YORK).date(), time.fromisoformat(text), NEW_YORK)
    except ValueError:
        return parse_instant(text, "to")
