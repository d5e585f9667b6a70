"""Names of symbols, exchanges and sectors: each in the form of the broker or of the listings file."""

import re
from typing import Final

# The broker's names of exchanges, by those that people write.
_EXCHANGES: Final = {
    **{name: name for name in ("AMEX", "ARCA", "BATS", "NASDAQ", "NYSE", "OTC")},
    "NYSE ARCA": "ARCA", "NYSEARCA": "ARCA", "NYSE AMERICAN": "AMEX", "NYSEAMERICAN": "AMEX", "CBOE": "BATS",
}  # fmt: skip
_SECTORS: Final = (
    "Basic Materials", "Consumer Discretionary", "Consumer Staples", "Energy", "Finance", "Health Care",
    "Industrials", "Miscellaneous", "Real Estate", "Technology", "Telecommunications", "Utilities",
)  # fmt: skip
_SECTOR_ALIASES: Final = {
    "financial": "Finance", "financials": "Finance", "financial services": "Finance", "healthcare": "Health Care",
    "information technology": "Technology",
} | {name.casefold(): name for name in _SECTORS}  # fmt: skip


def broker_symbol(symbol: str) -> str:
    """Return a symbol as the broker writes it: upper case, a class share with a dot (brk-b and BRK/B are BRK.B)."""
    return re.sub(r"[-/ ]", ".", symbol.strip().upper())


def exchange_name(name: str) -> str:
    """Return the broker's name of an exchange, written in any case. Raises ValueError for an unknown one."""
    known = _EXCHANGES.get(name.strip().upper())
    if known is None:
        raise ValueError(f"{name} is no exchange: use {', '.join(sorted(set(_EXCHANGES.values())))}")
    return known


def sector_name(name: str) -> str:
    """Return a sector as listings files write it; the earlier Catalyst's Financial and Healthcare are aliases."""
    stripped = name.strip()
    return _SECTOR_ALIASES.get(stripped.casefold(), stripped)
