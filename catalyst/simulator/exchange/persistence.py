"""Persistence: a journal of changes on disk, so that a restart loses nothing."""

from dataclasses import asdict, fields
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.event_queue import ScheduledEvent
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.lifecycle import Fee, Transfer
from catalyst.simulator.exchange.unprotected_time import UnprotectedGap
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.rules.orders import Execution, Order
from catalyst.simulator.rules.wire_format import JsonObject

JOURNAL_FILE: Final = "exchange.jsonl"
MARKET_FILE: Final = "market.txt"
ORDER_ADAPTER: Final = TypeAdapter(Order)
APPEND_ONLY: Final[dict[str, TypeAdapter[Any]]] = {  # append-only lists of the state
    "executions": TypeAdapter(Execution),
    "fees": TypeAdapter(Fee),
    "transfers": TypeAdapter(Transfer),
}
WATCHLIST_ADAPTER: Final = TypeAdapter(Watchlist)
EVENT_ADAPTER: Final = TypeAdapter(ScheduledEvent)
GAP_ADAPTER: Final = TypeAdapter(UnprotectedGap)


class Journal:
    """Appends one line for each change, with what is new since the line before.

    A crash may truncate the last line; then that change did not happen.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / JOURNAL_FILE
        self._saved_draw_count = -1
        self._saved_row_counts = dict.fromkeys(APPEND_ONLY, 0)  # rows of each list that the journal has
        self._saved_gap_count = 0  # ended times without protection that the journal has
        self._saved_state: JsonObject = {}  # the rest, as the journal has it
        self._saved_events: set[int] = set()

    def save(self, exchange: Exchange) -> None:
        """Append what changed since the last time; nothing when nothing changed."""
        state = exchange.state
        if (
            state.random_source.draw_count == self._saved_draw_count
            and not state.order_store.changed_ids
            and not state.unsaved_changes
            and not exchange.watchlists.unsaved_changes
        ):
            return
        self._append(self._build_line(exchange, list(state.order_store.changed_ids)))

    def restore(self, exchange: Exchange) -> None:
        """Restore an exchange from the journal, then write the journal anew as one line.

        The exchange stands at the instant of its last change; the next `advance` processes what was missed.
        """
        state = exchange.state
        lines = _read_lines(self._path)
        if lines:
            state.event_queue.restore([])
            state.transfers.clear()  # the journal has its opening deposit
        for line in lines:
            _apply_line(exchange, line)
        if lines:
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(
                orjson.dumps(self._build_line(exchange, list(state.order_store.orders))) + b"\n"
            )
            draft.replace(self._path)
        else:
            self._path.unlink(
                missing_ok=True
            )  # the start of an incomplete first line; nothing may be written after it

    def _build_line(self, exchange: Exchange, order_ids: list[str]) -> JsonObject:
        state = exchange.state
        events = {event.sequence: event for event in state.event_queue.events}
        line: JsonObject = {
            "now": state.now,
            "draw_count": state.random_source.draw_count,
            "sequence": state.sequence,
            "orders": [asdict(state.order_store.orders[order_id]) for order_id in order_ids],
            "scheduled": [
                asdict(event) for number, event in events.items() if number not in self._saved_events
            ],
            "completed": sorted(self._saved_events - events.keys()),
        }
        for name in APPEND_ONLY:
            rows = getattr(state, name)
            if len(rows) > self._saved_row_counts[name]:
                line[name] = [asdict(row) for row in rows[self._saved_row_counts[name] :]]
                self._saved_row_counts[name] = len(rows)
        gaps = state.unprotected_time
        if len(gaps.ended) > self._saved_gap_count:
            line["gaps"] = [asdict(gap) for gap in gaps.ended[self._saved_gap_count :]]
            self._saved_gap_count = len(gaps.ended)
        whole: JsonObject = {
            "account": asdict(state.account),
            "halted": sorted(state.halted),
            "watchlists": [asdict(row) for row in exchange.watchlists.by_id.values()],
            "equity": [[at, value] for at, value in state.equity_history],
            "lasting_gaps": [asdict(gap) for gap in gaps.lasting.values()],
        }
        line |= {name: value for name, value in whole.items() if self._saved_state.get(name) != value}
        self._saved_state, self._saved_events = whole, set(events)
        self._saved_draw_count = state.random_source.draw_count
        state.order_store.changed_ids.clear()
        state.unsaved_changes = False
        exchange.watchlists.unsaved_changes = False
        loose: JsonObject = orjson.loads(orjson.dumps(line, default=_decimal_to_json))
        return loose

    def _append(self, line: JsonObject) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")


def last_instant(directory: Path) -> datetime | None:
    """Return the instant of the last change in a state directory; None when there is none."""
    lines = _read_lines(directory / JOURNAL_FILE)
    return datetime.fromisoformat(str(lines[-1]["now"])) if lines else None


def saved_market(directory: Path) -> tuple[str, date] | None:
    """Return the market of a state directory and the day that it has reached; None when there is none."""
    label = directory / MARKET_FILE
    if not label.exists():
        return None
    owner, _, last = label.read_text().strip().rpartition(", ")
    return owner, date.fromisoformat(last)


def claim_directory(directory: Path, market: str, day: date) -> tuple[str, date]:
    """Return the market of this state directory and its day.

    A directory without a market, or of an earlier day of this market, is written for the requested one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    label = directory / MARKET_FILE
    owner, before = saved_market(directory) or (market, day)
    if owner == market and before <= day:
        draft = label.with_suffix(".draft")
        draft.write_text(f"{market}, {day}\n")
        draft.replace(label)  # written completely or not at all
        before = day
    return owner, before


def _decimal_to_json(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to the journal")


def _read_lines(path: Path) -> list[JsonObject]:
    """Return every complete line; an incomplete last one is left out."""
    if not path.exists():
        return []
    lines = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            lines.append(orjson.loads(raw))
        except orjson.JSONDecodeError:
            break
    return lines


def _apply_line(exchange: Exchange, line: JsonObject) -> None:
    state = exchange.state
    state.now = datetime.fromisoformat(str(line["now"]))
    state.random_source.draw_count = int(str(line["draw_count"]))
    state.sequence = int(str(line["sequence"]))
    for row in _rows(line, "orders"):
        state.order_store.store(ORDER_ADAPTER.validate_python(row))
    for name, adapter in APPEND_ONLY.items():
        getattr(state, name).extend(adapter.validate_python(row) for row in _rows(line, name))
    completed = _rows(line, "completed")
    pending = [event for event in state.event_queue.events if event.sequence not in completed]
    state.event_queue.restore(
        pending + [EVENT_ADAPTER.validate_python(row) for row in _rows(line, "scheduled")]
    )
    if "account" in line:
        _apply_account(state.account, line["account"])
    if "halted" in line:
        state.halted.clear()
        state.halted.update(str(symbol) for symbol in _rows(line, "halted"))
    if "watchlists" in line:
        lists = [WATCHLIST_ADAPTER.validate_python(row) for row in _rows(line, "watchlists")]
        exchange.watchlists.by_id = {each.id: each for each in lists}
    gaps = state.unprotected_time
    gaps.ended += [GAP_ADAPTER.validate_python(row) for row in _rows(line, "gaps")]
    if "lasting_gaps" in line:
        lasting = [GAP_ADAPTER.validate_python(row) for row in _rows(line, "lasting_gaps")]
        gaps.lasting = {gap.symbol: gap for gap in lasting}
    if "equity" in line:
        equity = [row for row in _rows(line, "equity") if isinstance(row, list)]
        state.equity_history[:] = [(datetime.fromisoformat(at), Decimal(value)) for at, value in equity]


def _apply_account(account: Account, saved: object) -> None:
    restored = TypeAdapter(Account).validate_python(saved)
    for item in fields(Account):
        setattr(account, item.name, getattr(restored, item.name))


def _rows(line: JsonObject, name: str) -> list[object]:
    rows = line.get(name, [])
    assert isinstance(rows, list)
    return rows
