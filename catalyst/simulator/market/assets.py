"""Asset records of listings: the broker's flags, estimated from symbol, exchange, price and dollar volume."""

import re
from hashlib import blake2b
from typing import Final
from uuid import UUID

from catalyst.simulator.market.interface import Asset

EXCHANGE_ALIASES: Final = {"NYSEMKT": "AMEX", "NYSEAMERICAN": "AMEX", "NYSE ARCA": "ARCA", "NYSEARCA": "ARCA"}
KNOWN_EXCHANGES: Final = frozenset({"AMEX", "ARCA", "BATS", "NYSE", "NASDAQ", "OTC"})
_DERIVATIVE_SUFFIX: Final = re.compile(r"\.(WS?|U|R|PR[A-Z]?)([A-Z])?$")  # warrants, units, rights, preferred


def make_asset(symbol: str, name: str, exchange: str, price: float, dollar_volume: float) -> Asset:
    """Return a tradable asset; its short, margin and fraction flags follow from price and liquidity.

    `dollar_volume` is the usual one of a day. The thresholds are assumptions: a broker can borrow shares of
    liquid symbols, gives margin from a price of $3, and offers fractional shares of symbols in demand.
    """
    exchange = EXCHANGE_ALIASES.get(exchange.upper(), exchange.upper())
    common = not _DERIVATIVE_SUFFIX.search(symbol)
    easy = common and price >= 3 and dollar_volume >= 2e6
    return Asset(
        id=str(asset_id(symbol)),
        symbol=symbol,
        name=name or symbol,
        exchange=exchange if exchange in KNOWN_EXCHANGES else "NASDAQ",
        tradable=True,
        shortable=easy,
        easy_to_borrow=easy,
        fractionable=common and price >= 1 and dollar_volume >= 1e6,
        marginable=common and price >= 3,
        status="active",
    )


def asset_id(symbol: str) -> UUID:
    """Return a UUID in the shape of version 4; a symbol has an equal one on every machine."""
    return UUID(bytes=blake2b(symbol.encode(), digest_size=16).digest(), version=4)
