"""The hand on the tape: what `/admin/market` and `/admin/luld` do."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.simulator.data_api.json_format import TRADES_A_SECOND, trade_id
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.market.announcements import Bands, Corrected, LateTrade, Notices, Reason, Withdrawn
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.override_bars import LATE_NUMBERS
from catalyst.simulator.market.overrides import HandledMarket
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    NOT_FOUND,
    Refusal,
    amount,
    text_of,
    truth,
    type_json,
)
from catalyst.simulator.trading_api.routes import number_of

CENT: Final = Decimal("0.01")
LOOKED_BACK: Final = timedelta(minutes=5)  # for the newest trade that still stands
_FIRST_QUARTER: Final = timedelta(minutes=15)
_LAST: Final = timedelta(minutes=25)


def act_on_market(market: HandledMarket, exchange: Exchange, body: type_json) -> object:
    """Do what `act` says to the tape of `symbol`, now. Raises Refusal (404, 422)."""
    symbol, now = symbol_of(body), exchange.now
    acts: dict[object, Callable[[], object]] = {
        "gap": lambda: market.gap(symbol, number_of(body.get("factor"), "factor"), now),
        "trade": lambda: market.trade(symbol, _trade(body, now + timedelta(milliseconds=1))),
        "quote": lambda: market.show(
            symbol, number_of(body.get("bid"), "bid"), number_of(body.get("ask"), "ask")
        ),
        "stop": lambda: market.stop(symbol, now),
        "go_on": lambda: market.go_on(symbol),
        "late_trade": lambda: _late(exchange.notices, symbol, body, now),
        "cancel_trade": lambda: _withdraw(market, exchange.notices, symbol, body, now),
        "correct_trade": lambda: _correct(market, exchange.notices, symbol, body, now),
    }
    act = acts.get(body.get("act"))
    if act is None:
        raise Refusal(422, BAD_PARAMETER, f"unknown act: {body.get('act')}")
    told = act()
    exchange.notices.stir()
    return {"symbol": symbol, "at": now.isoformat(), **({"id": told} if isinstance(told, int) else {})}


def announce_bands(exchange: Exchange, body: type_json) -> object:
    """Announce the limit up-limit down prices of `symbol`, and with `pause` stop its trading for them.

    Without `up` and `down` they are the plan's for a stock that is in no large index (tier 2: 10 % of the newest
    trade's price from $3, 20 % from $0.75, else the lesser of 75 % and 15 cents; twice that in the first 15 and
    last 25 minutes); `indicator` is B, a band during the day, on either tape.
    """
    symbol = symbol_of(body)
    up, down = amount(body.get("up"), "up"), amount(body.get("down"), "down")
    if up is None or down is None:
        price = exchange.mark(symbol)
        if price is None:
            raise Refusal(404, NOT_FOUND, f"no trade of {symbol} to lay bands around")
        width = _width(exchange, price)
        up = price + width if up is None else up
        down = max(price - width, CENT) if down is None else down
    bands = Bands(
        exchange.now, symbol, up.quantize(CENT), down.quantize(CENT), str(body.get("indicator", "B"))
    )
    exchange.notices.say(bands)
    if truth(body.get("pause")):
        exchange.halt(symbol, Reason.PRICE_BANDS)
    return {"symbol": symbol, "up": text_of(bands.up), "down": text_of(bands.down)}


def reason_of(body: type_json) -> Reason:
    """Why a symbol is halted; news unless said otherwise. Raises Refusal (422)."""
    try:
        return Reason(str(body.get("reason", Reason.NEWS)))
    except ValueError:
        known = ", ".join(Reason)
        raise Refusal(422, BAD_PARAMETER, f"reason must be one of {known}") from None


def symbol_of(body: type_json) -> str:
    """The symbol in a body. Raises Refusal (422)."""
    symbol = body.get("symbol")
    if not isinstance(symbol, str) or not symbol:
        raise Refusal(422, BAD_PARAMETER, "symbol is required")
    return symbol.upper()


def _width(exchange: Exchange, price: Decimal) -> Decimal:
    if price >= 3:
        width = price / 10
    elif price >= Decimal("0.75"):
        width = price / 5
    else:
        width = min(price * 3 / 4, Decimal("0.15"))
    session = exchange.hours.session_at(exchange.now)
    if session is None:
        return width
    edge = exchange.now < session.open + _FIRST_QUARTER or exchange.now >= session.close - _LAST
    return width * 2 if edge else width


def _trade(body: type_json, at: datetime, number: int = 0) -> Print:
    size = int(amount(body.get("size"), "size") or 100)
    return Print(at, number_of(body.get("price"), "price"), size, number)


def _late(notices: Notices, symbol: str, body: type_json, now: datetime) -> int:
    """A trade that happened `ago` seconds ago is reported now; its id."""
    ago = amount(body.get("ago"), "ago")
    if ago is None or ago <= 0:
        raise Refusal(422, BAD_PARAMETER, "ago must be a number of seconds above 0")
    trade = _trade(body, now - timedelta(seconds=float(ago)), LATE_NUMBERS + len(notices.said) % 1000)
    notices.say(LateTrade(now, symbol, trade))
    return trade_id(trade)


def _withdraw(market: HandledMarket, notices: Notices, symbol: str, body: type_json, now: datetime) -> int:
    trade = _told_trade(market, symbol, body, now)
    notices.say(Withdrawn(now, symbol, trade, error=truth(body.get("error"))))
    return trade_id(trade)


def _correct(market: HandledMarket, notices: Notices, symbol: str, body: type_json, now: datetime) -> int:
    trade = _told_trade(market, symbol, body, now)
    corrected = _trade(body, trade.at, LATE_NUMBERS + len(notices.said) % 1000)
    notices.say(Corrected(now, symbol, trade, corrected))
    return trade_id(corrected)


def _told_trade(market: HandledMarket, symbol: str, body: type_json, now: datetime) -> Print:
    """The trade of the given `id`, else the newest one that stands. Raises Refusal (404, 422)."""
    asked = str(body.get("id", ""))
    if asked and not asked.isdecimal():
        raise Refusal(422, BAD_PARAMETER, "id must be a number")
    second = timedelta(seconds=1)
    if asked:
        since = datetime.fromtimestamp(int(asked) // TRADES_A_SECOND, now.tzinfo)
        found = market.trades(symbol, since - second, since + second, now)
    else:
        newest = market.last_print(symbol, now)
        found = [] if newest is None else market.trades(symbol, newest.at - LOOKED_BACK, now, now)
    wanted = [each for each in found if each.valid and asked in ("", str(trade_id(each)))]
    if not wanted:
        raise Refusal(404, NOT_FOUND, f"no such trade of {symbol}")
    return wanted[-1]
