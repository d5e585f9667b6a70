"""Watchlists: named, ordered lists of symbols that an account keeps."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from catalyst.simulator.exchange.randomness import RandomSource
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, NOT_FOUND, UNPROCESSABLE, ApiError

MAX_NAME_LENGTH: Final = 64


@dataclass(slots=True)
class Watchlist:
    """One list; the symbols in the customer's order, each once."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    symbols: list[str] = field(default_factory=list)


class Watchlists:
    """Watchlists of one account by id. `unsaved_changes` is true after every change until the caller resets it."""

    def __init__(self, market: TradingFeed, random_source: RandomSource) -> None:
        self.by_id: dict[str, Watchlist] = {}
        self.unsaved_changes = False
        self._market = market
        self._random_source = random_source

    def create(self, name: object, symbols: object, now: datetime) -> Watchlist:
        """Create a list. Raises ApiError (422): name missing, too long or taken, or an unknown symbol."""
        checked_name, checked_symbols = self._check_name(name, None), self._check_symbols(symbols)
        watchlist = Watchlist(self._random_source.uuid(), checked_name, now, now, checked_symbols)
        self.by_id[watchlist.id] = watchlist
        self.unsaved_changes = True
        return watchlist

    def update(self, watchlist: Watchlist, name: object, symbols: object, now: datetime) -> Watchlist:
        """Replace the name, the symbols, or both; None leaves the value. Raises ApiError (422)."""
        checked_name = watchlist.name if name is None else self._check_name(name, watchlist)
        watchlist.symbols = watchlist.symbols if symbols is None else self._check_symbols(symbols)
        watchlist.name = checked_name
        return self._mark_updated(watchlist, now)

    def add_symbol(self, watchlist: Watchlist, symbol: object, now: datetime) -> Watchlist:
        """Append a symbol. Raises ApiError (422) when it is unknown or already on the list."""
        watchlist.symbols = self._check_symbols([*watchlist.symbols, symbol])
        return self._mark_updated(watchlist, now)

    def remove_symbol(self, watchlist: Watchlist, symbol: str, now: datetime) -> Watchlist:
        """Remove a symbol. Raises ApiError (404) when it is not on the list."""
        wanted = symbol.upper()
        if wanted not in watchlist.symbols:
            raise ApiError(404, NOT_FOUND, f"symbol not found in watchlist: {symbol}")
        watchlist.symbols = [each for each in watchlist.symbols if each != wanted]
        return self._mark_updated(watchlist, now)

    def delete(self, watchlist: Watchlist) -> None:
        """Delete a list."""
        del self.by_id[watchlist.id]
        self.unsaved_changes = True

    def find(self, watchlist_id: str) -> Watchlist:
        """Return the list with this id. Raises ApiError (404)."""
        found = self.by_id.get(watchlist_id)
        if found is None:
            raise ApiError(404, NOT_FOUND, f"watchlist not found: {watchlist_id}")
        return found

    def find_by_name(self, name: str) -> Watchlist:
        """Return the list with this name. Raises ApiError (404)."""
        found = next((each for each in self.by_id.values() if each.name == name), None)
        if found is None:
            raise ApiError(404, NOT_FOUND, f"watchlist not found: {name}")
        return found

    def _mark_updated(self, watchlist: Watchlist, now: datetime) -> Watchlist:
        watchlist.updated_at = now
        self.unsaved_changes = True
        return watchlist

    def _check_name(self, name: object, own: Watchlist | None) -> str:
        if not isinstance(name, str) or not name:
            raise ApiError(422, BAD_PARAMETER, "watchlist name is required")
        if len(name) > MAX_NAME_LENGTH:
            raise ApiError(
                422, BAD_PARAMETER, f"watchlist name must be no more than {MAX_NAME_LENGTH} characters"
            )
        if any(each.name == name for each in self.by_id.values() if each is not own):
            raise ApiError(422, BAD_PARAMETER, "watchlist name must be unique")
        return name

    def _check_symbols(self, symbols: object) -> list[str]:
        if symbols is None:
            return []
        if not isinstance(symbols, list):
            raise ApiError(422, BAD_PARAMETER, "symbols must be a list")
        rows: list[str] = []
        for symbol in symbols:
            if not isinstance(symbol, str) or not symbol:
                raise ApiError(422, BAD_PARAMETER, "symbol is required")
            wanted = symbol.upper()
            if wanted not in self._market.assets():
                raise ApiError(422, UNPROCESSABLE, f'asset "{symbol}" not found')
            if wanted in rows:
                raise ApiError(422, BAD_PARAMETER, f"duplicate symbol: {wanted}")
            rows.append(wanted)
        return rows
