"""Parser of the broker's JSON: pure, and tolerant of everything but a missing required field.

A new enum value, a new field, a null or a removed field costs nothing. Required is what money depends on: an
id, a symbol, a side, a quantity. Without it the row raises ValueError; its list goes on without it, counts it as
unreadable, and `on_malformed` receives it. Numbers arrive as text or JSON numbers; both become the Decimal of
their digits.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Final, TypeVar

from catalyst.broker.outcome import is_object
from catalyst.broker.request import OnMalformed
from catalyst.domain.order import Side
from catalyst.domain.report import (
    AccountReport,
    AssetReport,
    CashActivity,
    ClockReport,
    Fill,
    Listing,
    OrderReport,
    PositionReport,
    TradeUpdate,
)
from catalyst.domain.session import Session, session_of

T = TypeVar("T")
FILL_EVENTS: Final = frozenset({"fill", "partial_fill"})


def parse_rows(rows: Sequence[object], parse: Callable[[object], T], on_malformed: OnMalformed) -> Listing[T]:
    """Return every row that can be parsed, in order, and the number of the others; these go to `on_malformed` with
    the reason."""
    parsed = Listing[T]()
    for row in rows:
        try:
            parsed.append(parse(row))
        except ValueError as error:
            on_malformed(str(error), row)
            parsed.unreadable_rows += 1
    return parsed


def order_report(raw: object, on_malformed: OnMalformed) -> OrderReport:
    """Return one order with its legs. Required: id, symbol, side, status, filled_qty, and qty unless it is
    notional."""
    row = _require_object(raw, "an order")
    quantity = amount(row, "qty")
    if quantity is None:
        if row.get("notional") is None:
            raise ValueError("qty is missing")
        quantity = Decimal(0)  # a notional order (in dollars): never one of Catalyst's
    raw_legs = row.get("legs")
    legs = Listing[OrderReport]()
    if isinstance(raw_legs, list):
        legs = parse_rows(raw_legs, lambda leg: order_report(leg, on_malformed), on_malformed)
    return OrderReport(
        broker_id=_required_text(row, "id"),
        client_order_id=_text(row, "client_order_id"),
        symbol=_required_text(row, "symbol"),
        side=Side(_required_text(row, "side")),
        quantity=quantity,
        filled_qty=_required_amount(row, "filled_qty"),
        filled_avg_price=amount(row, "filled_avg_price"),
        broker_status=_required_text(row, "status"),
        order_type=_text(row, "type") or _text(row, "order_type"),
        order_class=_text(row, "order_class") or "simple",
        time_in_force=_text(row, "time_in_force"),
        limit_price=amount(row, "limit_price"),
        stop_price=amount(row, "stop_price"),
        replaced_by=_text(row, "replaced_by") or None,
        replaces=_text(row, "replaces") or None,
        submitted_at=instant(row.get("submitted_at")),
        filled_at=instant(row.get("filled_at")),
        canceled_at=instant(row.get("canceled_at")),
        expired_at=instant(row.get("expired_at")),
        updated_at=instant(row.get("updated_at")),
        legs=tuple(legs),
        unreadable_legs=legs.unreadable_rows,
        raw=row,
    )


def fill(raw: object) -> Fill:
    """Return one FILL of the account activities."""
    row = _require_object(raw, "an activity")
    at = instant(row.get("transaction_time"))
    if at is None:
        raise ValueError("transaction_time is missing")
    return Fill(
        broker_id=_required_text(row, "order_id"),
        cum_qty=_required_amount(row, "cum_qty"),
        quantity=_required_amount(row, "qty"),
        price=_required_amount(row, "price"),
        at=at,
        activity_id=_required_text(row, "id"),
        symbol=_text(row, "symbol"),
    )


def cash_activity(raw: object) -> CashActivity:
    """Return one non-trade activity; one that moves no cash, such as a transfer of shares, has the amount zero."""
    row = _require_object(raw, "an activity")
    return CashActivity(
        activity_id=_required_text(row, "id"),
        kind=_required_text(row, "activity_type"),
        amount=amount(row, "net_amount") or Decimal(0),
    )


def trade_update(raw: object, on_malformed: OnMalformed) -> TradeUpdate:
    """Return the envelope of one trade_updates message.

    A fill event without price or quantity keeps its order and has no fill; the order's filled quantity still
    shows that one exists.
    """
    data = _require_object(_require_object(raw, "a message").get("data"), "the message's data")
    event = _required_text(data, "event")
    order = order_report(data.get("order"), on_malformed)
    at = instant(data.get("timestamp")) or instant(data.get("at"))
    return TradeUpdate(
        event=event,
        order=order,
        fill=_streamed_fill(data, order, at) if event in FILL_EVENTS else None,
        position_qty=amount(data, "position_qty"),
        at=at,
    )


def _streamed_fill(data: Mapping[str, object], order: OrderReport, at: datetime | None) -> Fill | None:
    quantity, price = amount(data, "qty"), amount(data, "price")
    at = at or order.filled_at or order.updated_at
    if quantity is None or price is None or at is None or not order.filled_qty >= quantity > 0:
        return None
    return Fill(
        broker_id=order.broker_id,
        cum_qty=order.filled_qty,
        quantity=quantity,
        price=price,
        at=at,
        execution_id=_text(data, "execution_id") or None,
    )


def position_report(raw: object) -> PositionReport:
    """Return one position. Required: symbol and qty. A short is negative, whether `qty` or `side` shows it."""
    row = _require_object(raw, "a position")
    quantity = _required_amount(row, "qty")
    if _text(row, "side") == "short":
        quantity = -abs(quantity)
    free_qty = _amount_or_none(row, "qty_available")
    available = quantity if free_qty is None else abs(free_qty).copy_sign(quantity)
    return PositionReport(
        symbol=_required_text(row, "symbol"),
        quantity=quantity,
        available=available,
        entry_price=_amount_or_none(row, "avg_entry_price"),
        current_price=_amount_or_none(row, "current_price"),
        unrealized_pl=_amount_or_none(row, "unrealized_pl"),
        intraday_pl=_amount_or_none(row, "unrealized_intraday_pl"),
        raw=row,
    )


def account_report(raw: object) -> AccountReport:
    """Return the account. Its amounts are required; an absent restriction counts as not set."""
    row = _require_object(raw, "the account")
    return AccountReport(
        account_id=_required_text(row, "id"),
        account_number=_text(row, "account_number"),
        status=_required_text(row, "status"),
        equity=_required_amount(row, "equity"),
        last_equity=_required_amount(row, "last_equity"),
        cash=_required_amount(row, "cash"),
        buying_power=_required_amount(row, "buying_power"),
        trading_blocked=row.get("trading_blocked") is True,
        account_blocked=row.get("account_blocked") is True,
        suspended_by_user=row.get("trade_suspended_by_user") is True,
        shorting_enabled=row.get("shorting_enabled") is True,
        raw=row,
    )


def asset_report(raw: object) -> AssetReport:
    """Return one instrument. `borrow_status` decides; `easy_to_borrow` where it is absent."""
    row = _require_object(raw, "an asset")
    borrow_status = _text(row, "borrow_status")
    return AssetReport(
        asset_id=_required_text(row, "id"),
        symbol=_required_text(row, "symbol"),
        name=_text(row, "name"),
        exchange=_text(row, "exchange"),
        status=_required_text(row, "status"),
        tradable=row.get("tradable") is True,
        shortable=row.get("shortable") is True,
        easy_to_borrow=borrow_status == "easy_to_borrow"
        if borrow_status
        else row.get("easy_to_borrow") is True,
        fractionable=row.get("fractionable") is True,
        marginable=row.get("marginable") is True,
    )


def clock_report(raw: object) -> ClockReport:
    """Return the broker's clock; nanoseconds and New York offsets become aware UTC."""
    row = _require_object(raw, "the clock")
    times = [instant(row.get(name)) for name in ("timestamp", "next_open", "next_close")]
    at, opens, closes = times
    is_open = row.get("is_open")
    if at is None or opens is None or closes is None or not isinstance(is_open, bool):
        raise ValueError("the clock has a missing time")
    return ClockReport(at=at, is_open=is_open, next_open=opens, next_close=closes)


def session(raw: object) -> Session:
    """Return one calendar row: New York wall-clock times without a zone."""
    row = _require_object(raw, "a calendar day")
    day = date.fromisoformat(_required_text(row, "date"))
    opens, closes = (time.fromisoformat(_required_text(row, name)) for name in ("open", "close"))
    if not opens < closes:
        raise ValueError(f"{day} closes before it opens")
    return session_of(day, opens, closes)


def instant(raw: object) -> datetime | None:
    """Return RFC 3339 text as aware UTC, nanoseconds cut to microseconds; None for anything else."""
    if not isinstance(raw, str):
        return None
    try:
        at = datetime.fromisoformat(raw)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def amount(row: Mapping[str, object], name: str) -> Decimal | None:
    """Return a finite number, from text or a JSON number; None when absent, null or empty. Raises ValueError."""
    raw = row.get(name)
    if raw is None or raw == "":
        return None
    digits = "" if isinstance(raw, bool) else str(raw)
    try:
        number = Decimal(digits)  # str(float) is its shortest text: the digits that were sent
    except InvalidOperation:
        raise ValueError(f"{name} {raw!r:.40} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{name} {raw!r:.40} is not finite")
    return number


def _amount_or_none(row: Mapping[str, object], name: str) -> Decimal | None:
    """Return a finite number; None for anything else."""
    try:
        return amount(row, name)
    except ValueError:
        return None


def _required_amount(row: Mapping[str, object], name: str) -> Decimal:
    number = amount(row, name)
    if number is None:
        raise ValueError(f"{name} is missing")
    return number


def _text(row: Mapping[str, object], name: str) -> str:
    raw = row.get(name)
    return raw if isinstance(raw, str) else ""


def _required_text(row: Mapping[str, object], name: str) -> str:
    text = _text(row, name)
    if not text:
        raise ValueError(f"{name} is missing")
    return text


def _require_object(raw: object, name: str) -> Mapping[str, object]:
    if not is_object(raw):
        raise ValueError(f"{name} is {type(raw).__name__}, not an object")
    return raw
