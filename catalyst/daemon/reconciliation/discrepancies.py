"""What differs: the broker's orders and shares against our rows, and our rows against their own journal and fills.

Each difference is one line of text that stays the same from look to look. Pure: nothing here asks or changes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import TERMINAL, WORKING, Purpose, Status, status_of
from catalyst.domain.position import Holding
from catalyst.domain.report import OrderReport, PositionReport
from catalyst.store.orders import OrderRow
from catalyst.store.reconciliation import Flaw, Held

NOTHING: Final = Decimal(0)
DOUBT_FOR: Final = timedelta(seconds=12)  # the broker's positions may lag behind its own fills


class Kind(StrEnum):
    """What a difference is about; the first word of its text, and the event of its alert."""

    PHANTOM = "PHANTOM_POSITION"  # we hold a row, the broker no share
    ORPHAN = "ORPHAN_POSITION"  # the broker holds shares that no row explains
    QUANTITY = "QTY_MISMATCH"
    ORDER = "ORDER_MISMATCH"  # an order's status, or that it exists
    GROUP = "LEG_MISMATCH"  # parent and legs: who belongs to whom, as what, for how many
    BOOKS = "BOOKS_CONTRADICT"  # rows, journal and fills against each other
    RESULT = "PNL_MISMATCH"


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. `symbol` is None when it is about the account; `surplus` the broker's unexplained shares."""

    kind: Kind
    symbol: str | None
    said: str
    surplus: Decimal = NOTHING

    @property
    def text(self) -> str:
        return f"{self.kind} {self.said}"


@dataclass
class Doubts:
    """Differences by their text, since when: believed once two looks in a row, and enough time, agree."""

    _since: dict[str, datetime]
    _found: dict[str, Difference]

    @classmethod
    def none(cls) -> "Doubts":
        return cls({}, {})

    def look(self, found: Iterable[Difference], now: datetime, *, kinds: frozenset[Kind]) -> None:
        """Keep what this look found; what was there of these kinds and is no more is gone."""
        fresh = {one.text: one for one in found}
        kept = {text: one for text, one in self._found.items() if one.kind not in kinds}
        self._found = kept | fresh
        self._since = {text: self._since.get(text, now) for text in self._found}

    def forget(self, one: Difference) -> None:
        """It is on record now, and no difference any more."""
        self._found.pop(one.text, None)
        self._since.pop(one.text, None)

    def confirmed(self, now: datetime) -> list[Difference]:
        return [self._found[text] for text, since in self._since.items() if now - since >= DOUBT_FOR]

    def open_questions(self, now: datetime) -> list[Difference]:
        """What is doubted and not believed yet."""
        return [self._found[text] for text, since in self._since.items() if now - since < DOUBT_FOR]

    def pending(self, now: datetime) -> bool:
        """True while something is doubted and not believed yet."""
        return bool(self.open_questions(now))

    @property
    def symbols(self) -> set[str]:
        return {one.symbol for one in self._found.values() if one.symbol is not None}


SHARES: Final = frozenset({Kind.PHANTOM, Kind.ORPHAN, Kind.QUANTITY, Kind.RESULT})
ORDERS: Final = frozenset({Kind.ORDER, Kind.GROUP, Kind.BOOKS})


def differing_shares(held: Sequence[Held], shown: Mapping[str, PositionReport]) -> Iterator[Difference]:
    """Shares: ours, orphans included, against the broker's."""
    known: dict[str, Decimal] = {}
    positions: dict[str, Decimal] = {}
    for one in held:
        known[one.symbol] = known.get(one.symbol, NOTHING) + one.signed
        if not one.orphan:
            positions[one.symbol] = positions.get(one.symbol, NOTHING) + one.signed
    for symbol in sorted(known.keys() | shown.keys()):
        ours, mine = known.get(symbol, NOTHING), positions.get(symbol, NOTHING)
        theirs = shown[symbol].quantity if symbol in shown else NOTHING
        orphaned, extra = ours - mine, theirs - mine
        if ours == theirs or (orphaned and orphaned * extra >= 0):
            continue  # an orphan's size is followed by whoever tends it
        surplus = theirs - ours
        said = f"{symbol} ours {ours.normalize():f} broker {theirs.normalize():f}"
        if mine and not theirs:
            yield Difference(Kind.PHANTOM, symbol, said)
        elif theirs * surplus > 0 and theirs * mine >= 0:  # more than we know of, on the side it is on
            yield Difference(Kind.ORPHAN, symbol, said, surplus)
        elif mine:
            yield Difference(Kind.QUANTITY, symbol, said)


def differing_results(held: Sequence[Held]) -> Iterator[Difference]:
    """Positions: their quantity and their result against what their fills say, to the share and the cent."""
    for one in held:
        if one.orphan or one.legacy:
            continue
        oversold = one.fills_out > one.fills_in
        entered = (one.entered_qty, one.cost) == (one.fills_in, one.fills_cost)
        exited = (
            one.exited_qty == one.fills_in
            if oversold
            else (one.exited_qty, one.proceeds) == (one.fills_out, one.fills_proceeds)
        )
        left = one.written_off or one.quantity == one.entered_qty - one.exited_qty
        if not (entered and exited and left):
            yield Difference(
                Kind.RESULT,
                one.symbol,
                f"position {one.held_id} {one.symbol}: {one.entered_qty} in, {one.exited_qty} out, {one.quantity} held;"
                f" its fills are {one.fills_in} in, {one.fills_out} out",
            )
            continue
        result = Holding(one.side, one.entered_qty, one.cost, one.exited_qty, one.proceeds).realized_pnl
        if one.realized_pnl != result:
            yield Difference(
                Kind.RESULT,
                one.symbol,
                f"position {one.held_id} {one.symbol}: its row says {one.realized_pnl}, its fills {result}",
            )


def differing_orders(
    rows: Sequence[OrderRow], reports: Sequence[OrderReport], *, listed_since: datetime
) -> Iterator[Difference]:
    """Orders: alive here and there, and groups, as the rows stood before this look's news was heard.

    News is no difference: it is gone by the next look. What stays is what hearing cannot mend.
    """
    by_broker = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
    by_id = {row.order_id: row for row in rows}
    shown: set[str] = set()
    for report in reports:
        for one in (report, *report.legs):
            shown.add(one.broker_id)
            row = by_broker.get(one.broker_id)
            if row is None or row.origin == "external":
                continue
            theirs = status_of(one.broker_status, one.filled_qty, one.quantity)
            if theirs is not None and (theirs in TERMINAL) is not (row.status in TERMINAL):
                yield Difference(
                    Kind.ORDER,
                    row.symbol,
                    f"order {row.order_id} is {row.status}, the broker's {one.broker_status}",
                )
        parent = by_broker.get(report.broker_id)
        if parent is not None:
            yield from _differing_legs(parent, report, by_broker, by_id)
    for row in rows:
        listed = row.created_at >= listed_since and row.alpaca_order_id is not None
        if listed and row.status in WORKING and row.alpaca_order_id not in shown:
            yield Difference(
                Kind.ORDER,
                row.symbol,
                f"order {row.order_id} is {row.status}, the broker does not list it",
            )


def _differing_legs(
    parent: OrderRow, report: OrderReport, by_broker: Mapping[str, OrderRow], by_id: Mapping[int, OrderRow]
) -> Iterator[Difference]:
    """A group: each leg's parent, type and quantity; both exits alive, or neither."""
    alive: set[Purpose] = set()
    family = [*report.legs]
    for leg in family:
        row = by_broker.get(leg.broker_id)
        if row is None:
            continue  # it is adopted as this report is heard
        was = None if row.parent_order_id is None else by_id.get(row.parent_order_id)
        moved = was is not None and was.status is Status.REPLACED
        if row.parent_order_id != parent.order_id and not moved:
            yield Difference(
                Kind.GROUP,
                parent.symbol,
                f"order {row.order_id} is a leg of {parent.order_id} at the broker, of {row.parent_order_id} here",
            )
        if (row.order_purpose is Purpose.TAKE_PROFIT) is not (leg.order_type == "limit"):
            yield Difference(
                Kind.GROUP,
                parent.symbol,
                f"order {row.order_id} is a {row.order_purpose} of type {leg.order_type}",
            )
        if row.quantity != leg.quantity:
            yield Difference(
                Kind.GROUP,
                parent.symbol,
                f"order {row.order_id} is for {row.quantity}, at the broker {leg.quantity}",
            )
        if (
            row.status in WORKING
            and status_of(leg.broker_status, leg.filled_qty, leg.quantity) not in TERMINAL
        ):
            alive.add(row.order_purpose)
    if parent.order_purpose is Purpose.TAKE_PROFIT and parent.status in WORKING:
        alive.add(Purpose.TAKE_PROFIT)
    if len(alive) == 1 and parent.order_class in ("bracket", "oco"):
        yield Difference(
            Kind.GROUP,
            parent.symbol,
            f"of the exits of order {parent.order_id} only the {alive.pop()} is alive",
        )


def contradictions(flaws: Sequence[Flaw]) -> Iterator[Difference]:
    """What the tables say against themselves."""
    for flaw in flaws:
        yield Difference(Kind.BOOKS, flaw.symbol, flaw.text)
