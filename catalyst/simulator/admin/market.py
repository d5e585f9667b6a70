"""Market overrides: the actions of `/admin/market` and `/admin/luld`."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.simulator.data_api.json_format import MAX_TRADES_PER_SECOND, trade_id
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.market.announcements import (
    Announcements,
    HaltReason,
    LateTrade,
    LuldBands,
    TradeCancel,
    TradeCorrection,
)
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.override_bars import FIRST_LATE_NUMBER
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    NOT_FOUND,
    UNPROCESSABLE,
    ApiError,
    JsonObject,
    check_names,
    format_decimal,
    parse_amount,
    parse_bool,
    parse_count,
    require_number,
)

CENT: Final = Decimal("0.01")
# The actions of /admin/market, and the names that each takes.
MARKET_ACTIONS: Final[dict[str, tuple[str, ...]]] = {
    "gap": ("factor",),
    "trade": ("price", "size"),
    "quote": ("bid", "ask"),
    "stop_feed": (),
    "resume_feed": (),
    "late_trade": ("price", "size", "ago"),
    "cancel_trade": ("id", "error"),
    "correct_trade": ("id", "price", "size"),
}
LATEST_TRADE_LOOKBACK: Final = timedelta(minutes=5)  # to find the latest valid trade
_OPENING_PERIOD: Final = timedelta(minutes=15)
_CLOSING_PERIOD: Final = timedelta(minutes=25)


def apply_market_action(market: OverriddenMarket, exchange: Exchange, body: JsonObject) -> object:
    """Apply the action `act` to the feed of `symbol`, now. Raises ApiError (404, 422)."""
    act_name = body.get("act")
    if act_name not in MARKET_ACTIONS:
        raise ApiError(422, BAD_PARAMETER, f"unknown act: {act_name}; there are {', '.join(MARKET_ACTIONS)}")
    check_names(body, "act", "symbol", *MARKET_ACTIONS[str(act_name)])
    symbol, now = parse_symbol(body, exchange), exchange.state.now
    acts: dict[str, Callable[[], object]] = {
        "gap": lambda: market.add_gap(symbol, require_number(body.get("factor"), "factor"), now),
        "trade": lambda: market.add_trade(symbol, _parse_print(body, now + timedelta(milliseconds=1))),
        "quote": lambda: market.override_quote(
            symbol, require_number(body.get("bid"), "bid"), require_number(body.get("ask"), "ask")
        ),
        "stop_feed": lambda: market.stop_feed(symbol, now),
        "resume_feed": lambda: market.resume_feed(symbol),
        "late_trade": lambda: _report_late_trade(exchange.state.announcements, symbol, body, now),
        "cancel_trade": lambda: _cancel_trade(market, exchange.state.announcements, symbol, body, now),
        "correct_trade": lambda: _correct_trade(market, exchange.state.announcements, symbol, body, now),
    }
    result = acts[str(act_name)]()
    exchange.state.announcements.notify_listeners()
    return {"symbol": symbol, "at": now.isoformat(), **({"id": result} if isinstance(result, int) else {})}


def announce_luld_bands(exchange: Exchange, body: JsonObject) -> object:
    """Announce limit up-limit down prices of `symbol`, and with `pause` halt it for them.

    Without `up` and `down` they follow the plan for a stock in no large index (tier 2: 10 % of the latest
    trade's price from $3, 20 % from $0.75, else the lesser of 75 % and 15 cents; twice that in the first 15
    and last 25 minutes). `indicator` is B, a band during the day, on either tape.
    """
    check_names(body, "symbol", "up", "down", "indicator", "pause")
    symbol = parse_symbol(body, exchange)
    up, down = parse_amount(body.get("up"), "up"), parse_amount(body.get("down"), "down")
    if up is None or down is None:
        price = exchange.state.mark_price(symbol)
        if price is None:
            raise ApiError(404, NOT_FOUND, f"{symbol} has no recent trade: send `up` and `down`")
        width = _band_width(exchange, price)
        up = price + width if up is None else up
        down = max(price - width, CENT) if down is None else down
    bands = LuldBands(
        exchange.state.now, symbol, up.quantize(CENT), down.quantize(CENT), str(body.get("indicator", "B"))
    )
    exchange.state.announcements.publish(bands)
    if parse_bool(body.get("pause")):
        exchange.state.halt(symbol, HaltReason.PRICE_BANDS)
    return {"symbol": symbol, "up": format_decimal(bands.up), "down": format_decimal(bands.down)}


def parse_halt_reason(body: JsonObject) -> HaltReason:
    """Return the reason of a halt; news by default. Raises ApiError (422)."""
    try:
        return HaltReason(str(body.get("reason", HaltReason.NEWS)))
    except ValueError:
        reasons = ", ".join(HaltReason)
        raise ApiError(422, BAD_PARAMETER, f"reason must be one of {reasons}") from None


def parse_symbol(body: JsonObject, exchange: Exchange) -> str:
    """Return the listed symbol of a body. Raises ApiError (422)."""
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise ApiError(422, BAD_PARAMETER, "symbol is required")
    if symbol.upper() not in exchange.state.market.assets():
        raise ApiError(422, UNPROCESSABLE, f'asset "{symbol}" not found')
    return symbol.upper()


def _band_width(exchange: Exchange, price: Decimal) -> Decimal:
    if price >= 3:
        width = price / 10
    elif price >= Decimal("0.75"):
        width = price / 5
    else:
        width = min(price * 3 / 4, Decimal("0.15"))
    session = exchange.state.hours.session_at(exchange.state.now)
    if session is None:
        return width
    edge = (
        exchange.state.now < session.open + _OPENING_PERIOD
        or exchange.state.now >= session.close - _CLOSING_PERIOD
    )
    return width * 2 if edge else width


def _parse_print(body: JsonObject, at: datetime, number: int = 0) -> Print:
    size = int(parse_amount(body.get("size"), "size") or 100)
    return Print(at, require_number(body.get("price"), "price"), size, number)


def _report_late_trade(announcements: Announcements, symbol: str, body: JsonObject, now: datetime) -> int:
    """Report a trade that happened `ago` seconds ago; return its id."""
    ago = parse_amount(body.get("ago"), "ago")
    if ago is None or ago <= 0:
        raise ApiError(422, BAD_PARAMETER, "ago must be a number of seconds above 0")
    trade = _parse_print(
        body, now - timedelta(seconds=float(ago)), FIRST_LATE_NUMBER + len(announcements.published) % 1000
    )
    announcements.publish(LateTrade(now, symbol, trade))
    return trade_id(trade)


def _cancel_trade(
    market: OverriddenMarket, announcements: Announcements, symbol: str, body: JsonObject, now: datetime
) -> int:
    trade = _reported_trade(market, symbol, body, now)
    announcements.publish(TradeCancel(now, symbol, trade, is_error=parse_bool(body.get("error"))))
    return trade_id(trade)


def _correct_trade(
    market: OverriddenMarket, announcements: Announcements, symbol: str, body: JsonObject, now: datetime
) -> int:
    trade = _reported_trade(market, symbol, body, now)
    corrected = _parse_print(body, trade.at, FIRST_LATE_NUMBER + len(announcements.published) % 1000)
    announcements.publish(TradeCorrection(now, symbol, trade, corrected))
    return trade_id(corrected)


def _reported_trade(market: OverriddenMarket, symbol: str, body: JsonObject, now: datetime) -> Print:
    """Return the trade with the given `id`, else the latest valid one. Raises ApiError (404, 422)."""
    asked = str(body.get("id", ""))
    if asked and parse_count(asked) is None:
        raise ApiError(422, BAD_PARAMETER, "id must be a number")
    second = timedelta(seconds=1)
    if asked:
        since = datetime.fromtimestamp(int(asked) // MAX_TRADES_PER_SECOND, now.tzinfo)
        found = market.trades(symbol, since - second, since + second, now)
    else:
        newest = market.last_print(symbol, now)
        found = [] if newest is None else market.trades(symbol, newest.at - LATEST_TRADE_LOOKBACK, now, now)
    wanted = [each for each in found if each.is_valid and asked in ("", str(trade_id(each)))]
    if not wanted:
        raise ApiError(404, NOT_FOUND, f"no such trade of {symbol}")
    return wanted[-1]
