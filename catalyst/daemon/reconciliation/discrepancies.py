"""Discrepancies between the broker's orders and shares and our rows, and between our rows, journal and fills.

The text of a discrepancy is one line and does not change from read to read. The functions are pure: no network,
no database, no clock.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.order import TERMINAL, WORKING, Purpose, Status, status_of
from catalyst.domain.position import PositionState, whole_shares
from catalyst.domain.report import OrderReport, PositionReport
from catalyst.domain.rows import OrderRow
from catalyst.store.reconciliation import Contradiction, StoredHolding

ZERO: Final = Decimal(0)
CONFIRM_AFTER: Final = timedelta(seconds=12)  # the broker's positions can be older than its fills


class DiscrepancyKind(StrEnum):
    """Kind of a discrepancy: the first word of its text, and the event of its alert."""

    PHANTOM = "PHANTOM_POSITION"  # our position has no shares at the broker
    ORPHAN = "ORPHAN_POSITION"  # the broker has shares that no row explains
    QUANTITY = "QTY_MISMATCH"
    ORDER = "ORDER_MISMATCH"  # an order's status differs, or the broker does not list the order
    LEGS = "LEG_MISMATCH"  # a leg's parent, kind or quantity differs
    LEDGER = "LEDGER_CONTRADICTION"  # rows, journal and fills contradict each other
    RESULT = "PNL_MISMATCH"  # a position's quantity or result differs from its fills


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One discrepancy. `symbol` is None for the whole account.

    `surplus` is the signed number of shares at the broker that no row explains.
    """

    kind: DiscrepancyKind
    symbol: str | None
    description: str
    surplus: Decimal = ZERO

    @property
    def text(self) -> str:
        return f"{self.kind} {self.description}"


@dataclass
class SuspectedDiscrepancies:
    """Current discrepancies by text, each with the time of the first read that found it.

    A discrepancy is confirmed when consecutive reads have found it for CONFIRM_AFTER; until then it is suspected.
    """

    _suspected_since: dict[str, datetime]
    _by_text: dict[str, Discrepancy]

    @classmethod
    def empty(cls) -> "SuspectedDiscrepancies":
        return cls({}, {})

    def update(
        self, discrepancies: Iterable[Discrepancy], now: datetime, *, kinds: frozenset[DiscrepancyKind]
    ) -> None:
        """Replace the stored discrepancies of `kinds` with those of this read; a text found before keeps its time."""
        current = {discrepancy.text: discrepancy for discrepancy in discrepancies}
        of_other_kinds = {
            text: discrepancy for text, discrepancy in self._by_text.items() if discrepancy.kind not in kinds
        }
        self._by_text = of_other_kinds | current
        self._suspected_since = {text: self._suspected_since.get(text, now) for text in self._by_text}

    def discard(self, discrepancy: Discrepancy) -> None:
        """Drop a discrepancy after it was recorded in a row."""
        self._by_text.pop(discrepancy.text, None)
        self._suspected_since.pop(discrepancy.text, None)

    def confirmed(self, now: datetime) -> list[Discrepancy]:
        """Return the confirmed discrepancies."""
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
        """Return true if any discrepancy is not confirmed yet."""
        return bool(self.suspected(now))

    @property
    def symbols(self) -> set[str]:
        """Return the symbols of all suspected and confirmed discrepancies."""
        return {
            discrepancy.symbol for discrepancy in self._by_text.values() if discrepancy.symbol is not None
        }


SHARE_KINDS: Final = frozenset(
    {DiscrepancyKind.PHANTOM, DiscrepancyKind.ORPHAN, DiscrepancyKind.QUANTITY, DiscrepancyKind.RESULT}
)
ORDER_KINDS: Final = frozenset({DiscrepancyKind.ORDER, DiscrepancyKind.LEGS, DiscrepancyKind.LEDGER})


def share_discrepancies(
    holdings: Sequence[StoredHolding], broker_positions: Mapping[str, PositionReport]
) -> Iterator[Discrepancy]:
    """Compare our shares, orphan shares included, with the broker's; yield one discrepancy per symbol at most.

    A fraction of a share at the broker, such as a reinvested dividend, is external: our orders are of whole shares.
    """
    stored_qty: dict[str, Decimal] = {}
    position_qty: dict[str, Decimal] = {}
    for holding in holdings:
        stored_qty[holding.symbol] = stored_qty.get(holding.symbol, ZERO) + holding.signed_qty
        if not holding.is_orphan:
            position_qty[holding.symbol] = position_qty.get(holding.symbol, ZERO) + holding.signed_qty
    for symbol in sorted(stored_qty.keys() | broker_positions.keys()):
        ours, in_positions = stored_qty.get(symbol, ZERO), position_qty.get(symbol, ZERO)
        at_broker = whole_shares(broker_positions[symbol].quantity) if symbol in broker_positions else ZERO
        orphan_qty, unexplained = ours - in_positions, at_broker - in_positions
        if ours == at_broker or (orphan_qty and orphan_qty * unexplained >= 0):
            continue  # the orphan loop adjusts the quantity of an orphan row
        surplus = at_broker - ours
        quantities = (
            f"{symbol}: {ours.normalize():f} shares in the database, {at_broker.normalize():f} at the broker"
        )
        if in_positions and not at_broker:
            yield Discrepancy(DiscrepancyKind.PHANTOM, symbol, quantities)
        # More shares than our rows explain, and our position, if any, is on the broker's side.
        elif at_broker * surplus > 0 and at_broker * in_positions >= 0:
            yield Discrepancy(DiscrepancyKind.ORPHAN, symbol, quantities, surplus)
        elif in_positions:
            yield Discrepancy(DiscrepancyKind.QUANTITY, symbol, quantities)


def result_discrepancies(holdings: Sequence[StoredHolding]) -> Iterator[Discrepancy]:
    """Compare quantity and realized result of each position with its fills, exactly.

    Skips orphan rows and legacy positions.
    """
    for holding in holdings:
        if holding.is_orphan or holding.legacy:
            continue
        oversold = holding.fills_out > holding.fills_in
        entry_matches = (holding.entered_qty, holding.cost) == (holding.fills_in, holding.fills_cost)
        exit_matches = (
            holding.exited_qty == holding.fills_in
            if oversold
            else (holding.exited_qty, holding.proceeds) == (holding.fills_out, holding.fills_proceeds)
        )
        quantity_matches = holding.written_off or holding.quantity == holding.entered_qty - holding.exited_qty
        if not (entry_matches and exit_matches and quantity_matches):
            yield Discrepancy(
                DiscrepancyKind.RESULT,
                holding.symbol,
                f"position {holding.holding_id} {holding.symbol}: {holding.entered_qty} in, {holding.exited_qty} out,"
                f" {holding.quantity} held;"
                f" its fills are {holding.fills_in} in, {holding.fills_out} out",
            )
            continue
        realized_pnl = PositionState(
            holding.side, holding.entered_qty, holding.cost, holding.exited_qty, holding.proceeds
        ).realized_pnl
        if holding.realized_pnl != realized_pnl:
            yield Discrepancy(
                DiscrepancyKind.RESULT,
                holding.symbol,
                f"position {holding.holding_id} {holding.symbol}: realised P&L {holding.realized_pnl} in the database,"
                f" {realized_pnl} from its fills",
            )


def order_discrepancies(
    rows: Sequence[OrderRow], reports: Sequence[OrderReport], *, listed_since: datetime
) -> Iterator[Discrepancy]:
    """Compare the broker's orders and their legs with `rows`, which were read before the reports were applied.

    A change that this read brings is applied and gone at the next read, so it is never confirmed. A discrepancy that
    remains cannot be corrected by applying reports. External orders are skipped. Rows created before `listed_since`
    may be missing from the broker's list.
    """
    rows_by_broker_id = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
    rows_by_id = {row.order_id: row for row in rows}
    listed_ids: set[str] = set()
    for report in reports:
        for order_report in (report, *report.legs):
            listed_ids.add(order_report.broker_id)
            row = rows_by_broker_id.get(order_report.broker_id)
            if row is None or row.origin == "external":
                continue
            broker_state = status_of(
                order_report.broker_status, order_report.filled_qty, order_report.quantity
            )
            if broker_state is not None and (broker_state in TERMINAL) is not (row.status in TERMINAL):
                yield Discrepancy(
                    DiscrepancyKind.ORDER,
                    row.symbol,
                    f"order {row.order_id} is {row.status}, at the broker {order_report.broker_status}",
                )
        parent = rows_by_broker_id.get(report.broker_id)
        if parent is not None:
            yield from _leg_discrepancies(parent, report, rows_by_broker_id, rows_by_id)
    for row in rows:
        should_be_listed = row.created_at >= listed_since and row.alpaca_order_id is not None
        if should_be_listed and row.status in WORKING and row.alpaca_order_id not in listed_ids:
            yield Discrepancy(
                DiscrepancyKind.ORDER,
                row.symbol,
                f"order {row.order_id} is {row.status}, the broker does not list it",
            )


def _leg_discrepancies(
    parent: OrderRow,
    report: OrderReport,
    rows_by_broker_id: Mapping[str, OrderRow],
    rows_by_id: Mapping[int, OrderRow],
) -> Iterator[Discrepancy]:
    """Compare parent, kind and quantity of each leg; both exits of a group must be working, or neither."""
    working_exits: set[Purpose] = set()
    legs = [*report.legs]
    for leg in legs:
        row = rows_by_broker_id.get(leg.broker_id)
        if row is None:
            continue  # the leg is adopted when this report is applied
        stored_parent = None if row.parent_order_id is None else rows_by_id.get(row.parent_order_id)
        parent_was_replaced = stored_parent is not None and stored_parent.status is Status.REPLACED
        if row.parent_order_id != parent.order_id and not parent_was_replaced:
            yield Discrepancy(
                DiscrepancyKind.LEGS,
                parent.symbol,
                f"order {row.order_id} is a leg of order {parent.order_id} at the broker and of order "
                f"{row.parent_order_id} in the database",
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
            working_exits.add(row.order_purpose)
    if parent.order_purpose is Purpose.TAKE_PROFIT and parent.status in WORKING:
        working_exits.add(Purpose.TAKE_PROFIT)
    if len(working_exits) == 1 and parent.order_class in ("bracket", "oco"):
        yield Discrepancy(
            DiscrepancyKind.LEGS,
            parent.symbol,
            f"order {parent.order_id}: only its {working_exits.pop()} is working, its other exit is not",
        )


def ledger_discrepancies(contradictions: Sequence[Contradiction]) -> Iterator[Discrepancy]:
    """Return a discrepancy for each contradiction inside the database."""
    for contradiction in contradictions:
        yield Discrepancy(DiscrepancyKind.LEDGER, contradiction.symbol, contradiction.text)
