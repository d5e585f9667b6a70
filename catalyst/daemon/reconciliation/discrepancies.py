"""Discrepancies: the broker's orders and shares against our rows, and our rows against journal and fills.

Each discrepancy is one line of text that stays equal from read to read. Pure: this module reads and changes
nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import TERMINAL, WORKING, Purpose, Status, status_of
from catalyst.domain.position import PositionState
from catalyst.domain.report import OrderReport, PositionReport
from catalyst.store.orders import OrderRow
from catalyst.store.reconciliation import Contradiction, StoredHolding

ZERO: Final = Decimal(0)
CONFIRM_AFTER: Final = timedelta(seconds=12)  # the broker's positions may lag behind its fills


class DiscrepancyKind(StrEnum):
    """Subject of a discrepancy; the first word of its text and the event of its alert."""

    PHANTOM = "PHANTOM_POSITION"  # a row of ours without shares at the broker
    ORPHAN = "ORPHAN_POSITION"  # shares at the broker that no row explains
    QUANTITY = "QTY_MISMATCH"
    ORDER = "ORDER_MISMATCH"  # the status of an order, or its existence
    LEGS = "LEG_MISMATCH"  # parent and legs: links, kinds and quantities
    LEDGER = "LEDGER_CONTRADICTION"  # rows, journal and fills against each other
    RESULT = "PNL_MISMATCH"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One discrepancy. `symbol` is None for the whole account; `surplus` holds the broker's unexplained
    shares."""

    kind: DiscrepancyKind
    symbol: str | None
    description: str
    surplus: Decimal = ZERO

    @property
    def text(self) -> str:
        return f"{self.kind} {self.description}"


@dataclass
class SuspectedDiscrepancies:
    """Discrepancies by text with the time of the first read. Two reads in a row and CONFIRM_AFTER confirm
    one."""

    _suspected_since: dict[str, datetime]
    _by_text: dict[str, Discrepancy]

    @classmethod
    def empty(cls) -> "SuspectedDiscrepancies":
        return cls({}, {})

    def update(
        self, discrepancies: Iterable[Discrepancy], now: datetime, *, kinds: frozenset[DiscrepancyKind]
    ) -> None:
        """Store what this read found and drop those of these kinds that are gone. Return the confirmed ones."""
        fresh = {one.text: one for one in discrepancies}
        kept = {text: one for text, one in self._by_text.items() if one.kind not in kinds}
        self._by_text = kept | fresh
        self._suspected_since = {text: self._suspected_since.get(text, now) for text in self._by_text}

    def discard(self, discrepancy: Discrepancy) -> None:
        """Drop a discrepancy that is on record now."""
        self._by_text.pop(discrepancy.text, None)
        self._suspected_since.pop(discrepancy.text, None)

    def confirmed(self, now: datetime) -> list[Discrepancy]:
        return [
            self._by_text[text]
            for text, since in self._suspected_since.items()
            if now - since >= CONFIRM_AFTER
        ]

    def suspected(self, now: datetime) -> list[Discrepancy]:
        """Return the discrepancies that are not confirmed yet."""
        return [
            self._by_text[text]
            for text, since in self._suspected_since.items()
            if now - since < CONFIRM_AFTER
        ]

    def has_suspected(self, now: datetime) -> bool:
        """Return true while a discrepancy is not confirmed yet."""
        return bool(self.suspected(now))

    @property
    def symbols(self) -> set[str]:
        return {one.symbol for one in self._by_text.values() if one.symbol is not None}


SHARE_KINDS: Final = frozenset(
    {DiscrepancyKind.PHANTOM, DiscrepancyKind.ORPHAN, DiscrepancyKind.QUANTITY, DiscrepancyKind.RESULT}
)
ORDER_KINDS: Final = frozenset({DiscrepancyKind.ORDER, DiscrepancyKind.LEGS, DiscrepancyKind.LEDGER})


def share_discrepancies(
    holdings: Sequence[StoredHolding], broker_positions: Mapping[str, PositionReport]
) -> Iterator[Discrepancy]:
    """Compare our shares, orphans included, with the broker's."""
    known: dict[str, Decimal] = {}
    positions: dict[str, Decimal] = {}
    for one in holdings:
        known[one.symbol] = known.get(one.symbol, ZERO) + one.signed_qty
        if not one.is_orphan:
            positions[one.symbol] = positions.get(one.symbol, ZERO) + one.signed_qty
    for symbol in sorted(known.keys() | broker_positions.keys()):
        ours, mine = known.get(symbol, ZERO), positions.get(symbol, ZERO)
        theirs = broker_positions[symbol].quantity if symbol in broker_positions else ZERO
        orphaned, extra = ours - mine, theirs - mine
        if ours == theirs or (orphaned and orphaned * extra >= 0):
            continue  # the orphan loop follows the size of an orphan
        surplus = theirs - ours
        said = f"{symbol} ours {ours.normalize():f} broker {theirs.normalize():f}"
        if mine and not theirs:
            yield Discrepancy(DiscrepancyKind.PHANTOM, symbol, said)
        elif (
            theirs * surplus > 0 and theirs * mine >= 0
        ):  # more shares than our rows explain, on the broker's side
            yield Discrepancy(DiscrepancyKind.ORPHAN, symbol, said, surplus)
        elif mine:
            yield Discrepancy(DiscrepancyKind.QUANTITY, symbol, said)


def result_discrepancies(holdings: Sequence[StoredHolding]) -> Iterator[Discrepancy]:
    """Compare quantity and result of positions with their fills, to the share and the cent."""
    for one in holdings:
        if one.is_orphan or one.legacy:
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
            yield Discrepancy(
                DiscrepancyKind.RESULT,
                one.symbol,
                f"position {one.holding_id} {one.symbol}: {one.entered_qty} in, {one.exited_qty} out,"
                f" {one.quantity} held;"
                f" its fills are {one.fills_in} in, {one.fills_out} out",
            )
            continue
        result = PositionState(one.side, one.entered_qty, one.cost, one.exited_qty, one.proceeds).realized_pnl
        if one.realized_pnl != result:
            yield Discrepancy(
                DiscrepancyKind.RESULT,
                one.symbol,
                f"position {one.holding_id} {one.symbol}: its row says {one.realized_pnl}, its fills {result}",
            )


def order_discrepancies(
    rows: Sequence[OrderRow], reports: Sequence[OrderReport], *, listed_since: datetime
) -> Iterator[Discrepancy]:
    """Compare working orders and their groups with the rows as they were before this read was applied.

    News is gone by the next read, so it is no discrepancy. What stays cannot be repaired by applying reports.
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
                yield Discrepancy(
                    DiscrepancyKind.ORDER,
                    row.symbol,
                    f"order {row.order_id} is {row.status}, the broker's {one.broker_status}",
                )
        parent = by_broker.get(report.broker_id)
        if parent is not None:
            yield from _leg_discrepancies(parent, report, by_broker, by_id)
    for row in rows:
        listed = row.created_at >= listed_since and row.alpaca_order_id is not None
        if listed and row.status in WORKING and row.alpaca_order_id not in shown:
            yield Discrepancy(
                DiscrepancyKind.ORDER,
                row.symbol,
                f"order {row.order_id} is {row.status}, the broker does not list it",
            )


def _leg_discrepancies(
    parent: OrderRow, report: OrderReport, by_broker: Mapping[str, OrderRow], by_id: Mapping[int, OrderRow]
) -> Iterator[Discrepancy]:
    """Compare parent, kind and quantity of each leg; both exits must work, or neither."""
    alive: set[Purpose] = set()
    family = [*report.legs]
    for leg in family:
        row = by_broker.get(leg.broker_id)
        if row is None:
            continue  # it is adopted when this report is applied
        was = None if row.parent_order_id is None else by_id.get(row.parent_order_id)
        moved = was is not None and was.status is Status.REPLACED
        if row.parent_order_id != parent.order_id and not moved:
            yield Discrepancy(
                DiscrepancyKind.LEGS,
                parent.symbol,
                f"order {row.order_id} is a leg of {parent.order_id} at the broker, of {row.parent_order_id} here",
            )
        if (row.order_purpose is Purpose.TAKE_PROFIT) is not (leg.order_type == "limit"):
            yield Discrepancy(
                DiscrepancyKind.LEGS,
                parent.symbol,
                f"order {row.order_id} is a {row.order_purpose} of type {leg.order_type}",
            )
        if row.quantity != leg.quantity:
            yield Discrepancy(
                DiscrepancyKind.LEGS,
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
        yield Discrepancy(
            DiscrepancyKind.LEGS,
            parent.symbol,
            f"of the exits of order {parent.order_id} only the {alive.pop()} is alive",
        )


def ledger_discrepancies(contradictions: Sequence[Contradiction]) -> Iterator[Discrepancy]:
    """Return the contradictions inside the database."""
    for flaw in contradictions:
        yield Discrepancy(DiscrepancyKind.LEDGER, flaw.symbol, flaw.text)
