"""The exchange on disk: a journal of what changed, one line at a time, so that a restart forgets nothing."""

from dataclasses import asdict, fields
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.event_queue import Due
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.venue import Fee, Transfer
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.rules.orders import Execution, Order
from catalyst.simulator.rules.wire_format import type_json

FILE: Final = "exchange.jsonl"
LABEL: Final = "market.txt"
ORDER: Final = TypeAdapter(Order)
GROWING: Final[dict[str, TypeAdapter[Any]]] = {  # lists of the exchange that are only ever added to
    "executions": TypeAdapter(Execution),
    "fees": TypeAdapter(Fee),
    "transfers": TypeAdapter(Transfer),
}
WATCHLIST: Final = TypeAdapter(Watchlist)
DUE: Final = TypeAdapter(Due)


class Journal:
    """Appends a line for each settled change, with what is new or different since the line before.

    The last line may be torn by a crash; then it did not happen.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE
        self._drawn = -1
        self._told = dict.fromkeys(GROWING, 0)  # rows of each list that are in the journal
        self._whole: type_json = {}  # the rest, as the journal has it
        self._promised: set[int] = set()

    def save(self, exchange: Exchange) -> None:
        """Append what changed since the last time; nothing when nothing did."""
        if exchange.draws.drawn == self._drawn and not exchange.book.changed and not exchange.touched:
            return
        self._append(self._line(exchange, list(exchange.book.changed)))

    def restore(self, exchange: Exchange) -> None:
        """Make a new exchange what the journal says it was, then begin the journal again as one line.

        It stands at the instant of its last change: the next `advance` lives through what was missed.
        """
        lines = _lines(self._path)
        if lines:
            exchange.agenda.restore([])
            exchange.transfers.clear()  # its opening deposit is in the journal
        for line in lines:
            _apply(exchange, line)
        if lines:
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(orjson.dumps(self._line(exchange, list(exchange.book.orders))) + b"\n")
            draft.replace(self._path)
        else:
            self._path.unlink(
                missing_ok=True
            )  # the beginning of a first line: nothing may be written after it

    def _line(self, exchange: Exchange, order_ids: list[str]) -> type_json:
        promises = {due.sequence: due for due in exchange.agenda.promises}
        line: type_json = {
            "now": exchange.now,
            "drawn": exchange.draws.drawn,
            "sequence": exchange.sequence,
            "orders": [asdict(exchange.book.orders[order_id]) for order_id in order_ids],
            "promised": [asdict(due) for number, due in promises.items() if number not in self._promised],
            "kept": sorted(self._promised - promises.keys()),
        }
        for name in GROWING:
            rows = getattr(exchange, name)
            if len(rows) > self._told[name]:
                line[name] = [asdict(row) for row in rows[self._told[name] :]]
                self._told[name] = len(rows)
        whole: type_json = {
            "account": asdict(exchange.account),
            "halted": sorted(exchange.halted),
            "watchlists": [asdict(row) for row in exchange.watchlists.values()],
            "equity": [[at, value] for at, value in exchange.equity_history],
        }
        line |= {name: value for name, value in whole.items() if self._whole.get(name) != value}
        self._whole, self._promised = whole, set(promises)
        self._drawn = exchange.draws.drawn
        exchange.book.changed.clear()
        exchange.touched = False
        loose: type_json = orjson.loads(orjson.dumps(line, default=_plain))
        return loose

    def _append(self, line: type_json) -> None:
        with self._path.open("ab") as file:
            file.write(orjson.dumps(line) + b"\n")


def last_instant(directory: Path) -> datetime | None:
    """The instant of the last change in a state directory; None when there is none yet."""
    lines = _lines(directory / FILE)
    return datetime.fromisoformat(str(lines[-1]["now"])) if lines else None


def claim(directory: Path, market: str, day: date) -> tuple[str, date]:
    """The market this state belongs to, and its day: what is asked for, and written down so, when it belonged to none
    until now or to an earlier day of the same market, which it goes on from."""
    directory.mkdir(parents=True, exist_ok=True)
    label = directory / LABEL
    owner, before = market, day
    if label.exists():
        owner, _, last = label.read_text().strip().rpartition(", ")
        before = date.fromisoformat(last)
    if owner == market and before <= day:
        draft = label.with_suffix(".draft")
        draft.write_text(f"{market}, {day}\n")
        draft.replace(label)  # never half of it, whatever ends us
        before = day
    return owner, before


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in the journal")


def _lines(path: Path) -> list[type_json]:
    """Every whole line; a torn last one is left out."""
    if not path.exists():
        return []
    lines = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            lines.append(orjson.loads(raw))
        except orjson.JSONDecodeError:
            break
    return lines


def _apply(exchange: Exchange, line: type_json) -> None:
    exchange.now = datetime.fromisoformat(str(line["now"]))
    exchange.draws.drawn = int(str(line["drawn"]))
    exchange.sequence = int(str(line["sequence"]))
    for row in _rows(line, "orders"):
        exchange.book.file(ORDER.validate_python(row))
    for name, adapter in GROWING.items():
        getattr(exchange, name).extend(adapter.validate_python(row) for row in _rows(line, name))
    kept = _rows(line, "kept")
    left = [due for due in exchange.agenda.promises if due.sequence not in kept]
    exchange.agenda.restore(left + [DUE.validate_python(row) for row in _rows(line, "promised")])
    if "account" in line:
        _apply_account(exchange, line["account"])
    if "halted" in line:
        exchange.halted.clear()
        exchange.halted.update(str(symbol) for symbol in _rows(line, "halted"))
    if "watchlists" in line:
        lists = [WATCHLIST.validate_python(row) for row in _rows(line, "watchlists")]
        exchange.watchlists = {each.id: each for each in lists}
    if "equity" in line:
        equity = [row for row in _rows(line, "equity") if isinstance(row, list)]
        exchange.equity_history[:] = [(datetime.fromisoformat(at), Decimal(value)) for at, value in equity]


def _apply_account(exchange: Exchange, saved: object) -> None:
    account = TypeAdapter(Account).validate_python(saved)
    for item in fields(Account):
        setattr(exchange.account, item.name, getattr(account, item.name))


def _rows(line: type_json, name: str) -> list[object]:
    rows = line.get(name, [])
    assert isinstance(rows, list)
    return rows
