"""Broker comparison: compares shares, results and orders with the broker's, and acts on confirmed discrepancies."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from catalyst.clock import Clock
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.reconciliation.broker_snapshot import LOOK_BACK, OVERLAP
from catalyst.daemon.reconciliation.discrepancies import (
    ORDER_KINDS,
    SHARE_KINDS,
    Discrepancy,
    DiscrepancyKind,
    SuspectedDiscrepancies,
    ledger_discrepancies,
    order_discrepancies,
    result_discrepancies,
    share_discrepancies,
)
from catalyst.daemon.reconciliation.discrepancy_actions import DiscrepancyActions
from catalyst.daemon.trading_state.entry_gate import DISCREPANCIES, EntryGate
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.report import Listing, OrderReport, PositionReport
from catalyst.domain.rows import OrderRow
from catalyst.store import reconciliation
from catalyst.store.pool import Store

# A fill can be on the stream this long before it is in the account activities.
ACTIVITIES_LAG: Final = timedelta(minutes=5)


@dataclass
class BrokerComparison:
    """Compares the database with the broker; a symbol with a discrepancy gets no entry.

    `suspected` holds all current discrepancies, also those that consecutive reads have confirmed.
    """

    store: Store
    ledger: OrderLedger
    gate: EntryGate
    actions: DiscrepancyActions
    clock: Clock
    suspected: SuspectedDiscrepancies = field(default_factory=SuspectedDiscrepancies.empty)
    shares_compared_at: datetime | None = None

    @property
    def has_suspected(self) -> bool:
        """True while a discrepancy is not confirmed yet."""
        return self.suspected.has_suspected(self.clock.now())

    @property
    def confirmed_texts(self) -> tuple[str, ...]:
        """Texts of the confirmed discrepancies."""
        return tuple(discrepancy.text for discrepancy in self.suspected.confirmed(self.clock.now()))

    def update_entry_gate(self) -> None:
        """Reopen the entry gate when no discrepancy of our symbols is suspected and none of the account is confirmed.

        A confirmed discrepancy of the whole account closes the gate; one of a symbol blocks only that symbol. A
        suspected discrepancy blocks its symbol and keeps a closed gate closed. It does not close an open gate, because
        a fill that is not yet reported looks equal. Symbols with an order of unknown outcome are left out: that order
        blocks its symbol until it is resolved.
        """
        suspected = [
            discrepancy.text
            for discrepancy in self.suspected.suspected(self.clock.now())
            if discrepancy.symbol is None
            or (
                discrepancy.symbol in self.ledger.last_known.symbols
                and not self.gate.symbols.has(SymbolReason.UNRESOLVED, discrepancy.symbol or "")
            )
        ]
        of_account = [
            discrepancy.text
            for discrepancy in self.suspected.confirmed(self.clock.now())
            if discrepancy.symbol is None
        ]
        if of_account or (suspected and not self.gate.is_open):
            self.gate.close(DISCREPANCIES, "; ".join(sorted({*of_account, *suspected})))
        elif not suspected:
            self.gate.reopen(DISCREPANCIES)

    async def compare_shares(self, reports: Listing[PositionReport] | None, source: str) -> bool:
        """Compare shares with the broker's and results with the fills; record what is confirmed.

        Return false, without a conclusion, when the broker's positions could not be read, or not every row of them.
        """
        if reports is None or reports.unreadable_rows:
            return False
        broker_positions = {report.symbol: report for report in reports}
        now = self.shares_compared_at = self.clock.now()
        async with self.store.read() as conn:
            holdings = await reconciliation.holdings(conn, since=now - LOOK_BACK)
        self.ledger.last_known.add_symbols(holding.symbol for holding in holdings if not holding.is_orphan)
        discrepancies = [*share_discrepancies(holdings, broker_positions), *result_discrepancies(holdings)]
        self.suspected.update(discrepancies, now, kinds=SHARE_KINDS)
        self.gate.symbols.set_symbols(
            SymbolReason.MISMATCHED,
            self.suspected.symbols | {holding.symbol for holding in holdings if holding.is_orphan},
        )
        for discrepancy in self.suspected.confirmed(now):
            if discrepancy.kind in SHARE_KINDS:
                await self._record(discrepancy, source)
        for holding in holdings:
            if any(
                discrepancy.kind is DiscrepancyKind.PHANTOM and discrepancy.symbol == holding.symbol
                for discrepancy in self.suspected.confirmed(now)
            ):
                await self.actions.write_off_missing(holding, source)
        return True

    async def compare_orders(
        self,
        rows: list[OrderRow],
        reports: list[OrderReport],
        source: str,
        *,
        began: datetime,
        activities_read_to: datetime | None,
    ) -> None:
        """Compare orders and legs with the broker's, and rows with journal and fills; record what is confirmed.

        `rows` were read before `reports` were applied; `began` is when the pass read the broker. A fill booked before
        `activities_read_to` should be in the account activities.
        """
        now = self.clock.now()
        if activities_read_to is not None:
            activities_read_to -= ACTIVITIES_LAG
        async with self.store.read() as conn:
            contradictions = await reconciliation.contradictions(
                conn, since=began - LOOK_BACK, activities_read_to=activities_read_to
            )
        listed_since = began - LOOK_BACK + OVERLAP
        discrepancies = [
            *order_discrepancies(rows, reports, listed_since=listed_since),
            *ledger_discrepancies(contradictions),
        ]
        self.suspected.update(discrepancies, now, kinds=ORDER_KINDS)
        self.gate.symbols.add(SymbolReason.MISMATCHED, *self.suspected.symbols)
        for discrepancy in self.suspected.confirmed(now):
            if discrepancy.kind in ORDER_KINDS:
                await self._record(discrepancy, source)

    async def _record(self, discrepancy: Discrepancy, source: str) -> None:
        """Record a confirmed discrepancy; drop it when the orphan loop takes over."""
        if await self.actions.record(discrepancy, source):
            self.suspected.discard(discrepancy)
