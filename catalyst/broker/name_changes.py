"""Name changes: which symbol replaced another. Source: Alpaca API documentation, corporate actions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from catalyst.broker.outcome import is_object, require_list, require_object, success_body
from catalyst.broker.parse import parse_rows
from catalyst.broker.request import HttpResponse, OnMalformed


@dataclass(frozen=True, slots=True)
class NameChange:
    """One change of a symbol; `process_date` is YYYY-MM-DD."""

    old_symbol: str
    new_symbol: str
    process_date: str


def parse_name_changes(
    response: HttpResponse, on_malformed: OnMalformed
) -> tuple[Sequence[NameChange], str | None]:
    """Return the name changes of one page, and the token of the next page."""
    body = require_object(success_body(response, mutating=False))
    token = body.get("next_page_token")
    actions = body.get("corporate_actions")
    rows = actions.get("name_changes") if is_object(actions) else None
    changes = parse_rows(require_list(rows or []), _parse_name_change, on_malformed)
    return changes, token if isinstance(token, str) and token else None


def _parse_name_change(raw: object) -> NameChange:
    fields = raw if is_object(raw) else {}
    old, new, day = fields.get("old_symbol"), fields.get("new_symbol"), fields.get("process_date")
    if not (isinstance(old, str) and old and isinstance(new, str) and new and isinstance(day, str)):
        raise ValueError("a name change has no old symbol, new symbol or date")
    return NameChange(old, new, day)


def present_symbols(symbols: Iterable[str], changes: Iterable[NameChange]) -> Mapping[str, str]:
    """Return the present symbol of each one that was renamed, over several changes.

    A symbol that two companies have left is not in it: nobody knows which one is meant.
    """
    by_old: dict[str, list[NameChange]] = {}
    for change in sorted(set(changes), key=lambda change: change.process_date):
        if change.old_symbol != change.new_symbol:
            by_old.setdefault(change.old_symbol, []).append(change)
    found: dict[str, str] = {}
    for symbol in symbols:
        present, day, seen = symbol, "", {symbol}
        while len(later := [each for each in by_old.get(present, ()) if each.process_date >= day]) == 1:
            present, day = later[0].new_symbol, later[0].process_date
            if present in seen:
                break
            seen.add(present)
        if not later and present != symbol:
            found[symbol] = present
    return found
