"""The exchange on disk: a journal of what changed, one line at a time, so that a restart forgets nothing."""

from dataclasses import asdict, fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter

from catalyst.simulator.account import Account
from catalyst.simulator.agenda import Due
from catalyst.simulator.exchange import Exchange
from catalyst.simulator.orders import Execution, Order
from catalyst.simulator.venue import Fee, Transfer
from catalyst.simulator.watchlists import Watchlist
from catalyst.simulator.wire import type_json

FILE: Final = "exchange.jsonl"
LABEL: Final = "market.txt"
ORDER: Final = TypeAdapter(Order)
EXECUTION: Final = TypeAdapter(Execution)
FEE: Final = TypeAdapter(Fee)
TRANSFER: Final = TypeAdapter(Transfer)
WATCHLIST: Final = TypeAdapter(Watchlist)
DUE: Final = TypeAdapter(Due)


class Journal:
    """Appends a line for each settled change. The last line may be torn by a crash; then it did not happen."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE
        self._executions = 0
        self._fees = 0
        self._drawn = -1

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
        for line in lines:
            _apply(exchange, line)
        if lines:
            draft = self._path.with_suffix(".draft")
            draft.write_bytes(orjson.dumps(self._line(exchange, list(exchange.book.orders))) + b"\n")
            draft.replace(self._path)

    def _line(self, exchange: Exchange, order_ids: list[str]) -> type_json:
        account = asdict(exchange.account)
        line: type_json = {
            "now": exchange.now,
            "drawn": exchange.draws.drawn,
            "sequence": exchange.sequence,
            "account": account,
            "halted": sorted(exchange.halted),
            "orders": [asdict(exchange.book.orders[order_id]) for order_id in order_ids],
            "executions": [asdict(row) for row in exchange.executions[self._executions :]],
            "fees": [asdict(row) for row in exchange.fees[self._fees :]],
            "transfers": [asdict(row) for row in exchange.transfers],
            "watchlists": [asdict(row) for row in exchange.watchlists.values()],
            "agenda": [asdict(row) for row in exchange.agenda.promises],
            "equity": [[at, value] for at, value in exchange.equity_history],
        }
        self._executions, self._fees = len(exchange.executions), len(exchange.fees)
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


def claim(directory: Path, market: str) -> str:
    """The market this state belongs to: `market`, and written down so, when it belonged to none until now."""
    directory.mkdir(parents=True, exist_ok=True)
    label = directory / LABEL
    if not label.exists():
        label.write_text(f"{market}\n")
    return label.read_text().strip()


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
    exchange.halted.clear()
    exchange.halted.update(str(symbol) for symbol in _rows(line, "halted"))
    for row in _rows(line, "orders"):
        exchange.book.file(ORDER.validate_python(row))
    exchange.executions += [EXECUTION.validate_python(row) for row in _rows(line, "executions")]
    exchange.fees += [FEE.validate_python(row) for row in _rows(line, "fees")]
    exchange.transfers[:] = [TRANSFER.validate_python(row) for row in _rows(line, "transfers")]
    lists = [WATCHLIST.validate_python(row) for row in _rows(line, "watchlists")]
    exchange.watchlists = {each.id: each for each in lists}
    exchange.agenda.restore([DUE.validate_python(row) for row in _rows(line, "agenda")])
    equity = [row for row in _rows(line, "equity") if isinstance(row, list)]
    exchange.equity_history[:] = [(datetime.fromisoformat(at), Decimal(value)) for at, value in equity]
    _apply_account(exchange, line["account"])


def _apply_account(exchange: Exchange, saved: object) -> None:
    account = TypeAdapter(Account).validate_python(saved)
    for item in fields(Account):
        setattr(exchange.account, item.name, getattr(account, item.name))


def _rows(line: type_json, name: str) -> list[object]:
    rows = line[name]
    assert isinstance(rows, list)
    return rows
