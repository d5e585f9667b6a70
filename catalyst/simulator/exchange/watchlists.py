"""Watchlists: named, ordered lists of listings that an account keeps."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

from catalyst.simulator.rules.wire_format import BAD_PARAMETER, NOT_FOUND, UNPROCESSABLE, ApiError

if TYPE_CHECKING:
    from catalyst.simulator.exchange.venue import Venue

MAX_NAME_LENGTH: Final = 64


@dataclass(slots=True)
class Watchlist:
    """One list; the symbols in the customer's order, each once."""

    id: str
    name: str
    created_at: datetime
    updated_at: datetime
    symbols: list[str] = field(default_factory=list)


def create(venue: "Venue", name: object, symbols: object) -> Watchlist:
    """A new list. Raises Refusal (422) for a name that is missing, too long or taken, or an unknown symbol."""
    title, rows = _checked_name(venue, name, None), _checked_symbols(venue, symbols)
    made = Watchlist(venue.random_source.uuid(), title, venue.now, venue.now, rows)
    venue.watchlists[made.id] = made
    return made


def update(venue: "Venue", watchlist: Watchlist, name: object, symbols: object) -> Watchlist:
    """Another name, another content, or both; None leaves as it is. Raises Refusal (422)."""
    title = watchlist.name if name is None else _checked_name(venue, name, watchlist)
    rows = watchlist.symbols if symbols is None else _checked_symbols(venue, symbols)
    watchlist.name, watchlist.symbols = title, rows
    return _mark_updated(venue, watchlist)


def add_symbol(venue: "Venue", watchlist: Watchlist, symbol: object) -> Watchlist:
    """Append a listing. Raises Refusal (422) when it is unknown, or there already."""
    watchlist.symbols = _checked_symbols(venue, [*watchlist.symbols, symbol])
    return _mark_updated(venue, watchlist)


def remove_symbol(venue: "Venue", watchlist: Watchlist, symbol: str) -> Watchlist:
    """Take a listing off the list. Raises Refusal (404) when it is not on it."""
    wanted = symbol.upper()
    if wanted not in watchlist.symbols:
        raise ApiError(404, NOT_FOUND, f"symbol not found in watchlist: {symbol}")
    watchlist.symbols = [each for each in watchlist.symbols if each != wanted]
    return _mark_updated(venue, watchlist)


def delete(venue: "Venue", watchlist: Watchlist) -> None:
    del venue.watchlists[watchlist.id]
    venue.unsaved_changes = True


def find(venue: "Venue", watchlist_id: str) -> Watchlist:
    """The list of this id. Raises Refusal (404)."""
    found = venue.watchlists.get(watchlist_id)
    if found is None:
        raise ApiError(404, NOT_FOUND, f"watchlist not found: {watchlist_id}")
    return found


def find_by_name(venue: "Venue", name: str) -> Watchlist:
    """The list of this name. Raises Refusal (404)."""
    found = next((each for each in venue.watchlists.values() if each.name == name), None)
    if found is None:
        raise ApiError(404, NOT_FOUND, f"watchlist not found: {name}")
    return found


def _mark_updated(venue: "Venue", watchlist: Watchlist) -> Watchlist:
    watchlist.updated_at = venue.now
    venue.unsaved_changes = True
    return watchlist


def _checked_name(venue: "Venue", name: object, own: Watchlist | None) -> str:
    if not isinstance(name, str) or not name:
        raise ApiError(422, BAD_PARAMETER, "watchlist name is required")
    if len(name) > MAX_NAME_LENGTH:
        raise ApiError(
            422, BAD_PARAMETER, f"watchlist name must be no more than {MAX_NAME_LENGTH} characters"
        )
    if any(each.name == name for each in venue.watchlists.values() if each is not own):
        raise ApiError(422, BAD_PARAMETER, "watchlist name must be unique")
    return name


def _checked_symbols(venue: "Venue", symbols: object) -> list[str]:
    if symbols is None:
        return []
    if not isinstance(symbols, list):
        raise ApiError(422, BAD_PARAMETER, "symbols must be a list")
    rows: list[str] = []
    for symbol in symbols:
        if not isinstance(symbol, str) or not symbol:
            raise ApiError(422, BAD_PARAMETER, "symbol is required")
        wanted = symbol.upper()
        if wanted not in venue.market.assets():
            raise ApiError(422, UNPROCESSABLE, f'asset "{symbol}" not found')
        if wanted in rows:
            raise ApiError(422, BAD_PARAMETER, f"duplicate symbol: {wanted}")
        rows.append(wanted)
    return rows
