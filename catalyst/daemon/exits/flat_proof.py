"""Flat proof: what broker and database show at the end, compared share by share and cent by cent.

The account activities are the judge. Every fill of the day must be in the database, and every fill of the database
in the activities; a fill that could not be booked, a position that was written off and a row that could not be read
make it no proof. Orphan shares that Catalyst must end count as ours. Other shares that our orders did not buy are
listed, they and orders that are not ours do not count.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import BrokerError
from catalyst.domain.ids import is_ours
from catalyst.domain.invariants import Invariant
from catalyst.domain.report import Fill, Listing, OrderReport, PositionReport
from catalyst.domain.session import start_of_day, trading_date
from catalyst.store import day_result, orphans, ownership, positions
from catalyst.store.day_result import DayResult
from catalyst.store.pool import Connection, Store

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=1)
MAX_RESULT_ATTEMPTS: Final = 4  # reads of the broker's fills, which may appear shortly after its positions
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol that we traded within this time is ours


@dataclass(frozen=True, slots=True)
class FlatProof:
    """Orders and positions of ours that broker and database showed at the end; None where the broker could not be
    read."""

    broker_orders: int | None
    broker_positions: int | None
    stored_orders: int
    stored_positions: int
    result: DayResult | None
    external_shares: dict[str, Decimal] = field(default_factory=dict)  # by symbol: shares we did not buy
    unreadable_rows: int = 0  # of the broker's lists

    @property
    def flat(self) -> bool:
        """True when no order and no position remains on either side, and every row was read."""
        nothing_at_broker = (
            self.broker_orders == 0 and self.broker_positions == 0 and not self.unreadable_rows
        )
        return nothing_at_broker and not self.stored_orders and not self.stored_positions

    @property
    def proven(self) -> bool:
        """True when it is flat, and database and account activities agree completely."""
        return self.flat and self.result is not None and not self.result.contradictions

    @property
    def incomplete(self) -> bool:
        """True when the broker's orders, positions or fills could not be read."""
        return self.broker_orders is None or self.result is None

    @property
    def unproven_reason(self) -> str | None:
        """The reason why this is no proof; None when it is one."""
        if self.broker_orders is None:
            return "the broker could not be read"
        if self.unreadable_rows:
            return f"{self.unreadable_rows} rows of the broker's lists cannot be read"
        if not self.flat:
            return (
                f"{self.broker_positions} positions and {self.broker_orders} orders remain at the broker, "
                f"{self.stored_positions} positions and {self.stored_orders} orders in the database"
            )
        if self.result is None:
            return "the broker's fills could not be read"
        return "; ".join(self.result.contradictions) or None

    @property
    def facts(self) -> dict[str, object]:
        """The facts that the row and the file store; shares and dollars as text."""
        return {
            "proven": self.proven,
            "unproven_reason": self.unproven_reason,
            "realized_database": None if self.result is None else str(self.result.database),
            "realized_broker": None if self.result is None else str(self.result.broker),
            "external_shares": {symbol: str(shares) for symbol, shares in self.external_shares.items()},
            "unreadable_rows": self.unreadable_rows,
        }


@dataclass
class ProofReader:
    """Reads broker and database for a flat proof; a contradiction of the results enters SAFE mode."""

    store: Store
    broker: Broker
    ledger: OrderLedger
    gate: EntryGate
    clock: Clock
    config: CurrentConfig
    installation: str

    async def read(self, *, since: datetime | None, stored_orders: int, stored_positions: int) -> FlatProof:
        """Return what broker and database show now, with the result since `since` (None: since midnight in New York).

        Only symbols that we traded within OWN_SYMBOL_WINDOW count, and those of orphan shares that no person manages.
        """
        since = since or start_of_day(trading_date(self.clock.now()))
        async with self.store.read() as conn:
            symbols = await positions.traded_symbols(conn, since=self.clock.now() - OWN_SYMBOL_WINDOW)
            orphan_symbols = await self._orphan_symbols(conn)
        symbols |= orphan_symbols
        try:
            open_orders = await self.broker.orders(status="open", priority=Priority.EXIT)
            held = await self.broker.positions(priority=Priority.EXIT)
            broker_orders = await self._count_own(
                [
                    order
                    for order in open_orders
                    if order.symbol in symbols or is_ours(order.client_order_id, self.installation)
                ]
            )
            own_shares, external_shares = await self._split(
                [position for position in held if position.symbol in symbols and position.quantity != 0],
                orphan_symbols,
            )
        except BrokerError as error:
            log.warning("flat_not_proven", error=str(error))
            return FlatProof(None, None, stored_orders, stored_positions + len(orphan_symbols), None)
        unreadable_rows = open_orders.unreadable_rows + held.unreadable_rows
        result, unreadable_fills = await self._compare_results(since, symbols)
        return FlatProof(
            broker_orders,
            own_shares,
            stored_orders,
            stored_positions + len(orphan_symbols),
            result,
            external_shares,
            unreadable_rows + unreadable_fills,
        )

    async def _count_own(self, open_orders: list[OrderReport]) -> int:
        """Return how many of these orders are ours or have no row; not external ones."""
        async with self.store.read() as conn:
            others = await ownership.external_ids(
                conn, self.installation, [order.broker_id for order in open_orders]
            )
        return sum(order.broker_id not in others for order in open_orders)

    async def _orphan_symbols(self, conn: Connection) -> set[str]:
        """Return the symbols with orphan shares that Catalyst must end: oversold, protected or exited by it, or bought
        by another Catalyst. A person manages the others."""
        since = self.clock.now() - OWN_SYMBOL_WINDOW
        anothers = await ownership.symbols_of_another_catalyst(conn, self.installation, since=since)
        is_left_to_person = self.config.reconcile.orphans == "alert"
        return {
            orphan.symbol
            for orphan in await orphans.open_orphans(conn)
            if orphan.cause == orphans.OVERSOLD or not is_left_to_person or orphan.symbol in anothers
        }

    async def _split(
        self, held: list[PositionReport], orphan_symbols: set[str]
    ) -> tuple[int, dict[str, Decimal]]:
        """Return the number of positions with shares of ours, and the shares of the others by symbol.

        Shares are ours when they are orphan shares to end, or when the fills of our orders, by the broker's own list,
        do not cancel out. Raises BrokerError.
        """
        if not held:
            return 0, {}
        since = self.clock.now() - OWN_SYMBOL_WINDOW
        async with self.store.read() as conn:
            sides = await ownership.own_sides(
                conn, self.installation, [position.symbol for position in held], since=since
            )
        fills = await self.broker.fills(after=since, priority=Priority.EXIT)
        net = dict.fromkeys((position.symbol for position in held), Decimal(0))
        for fill in fills:
            if fill.broker_id in sides:
                symbol, sign = sides[fill.broker_id]
                net[symbol] += sign * fill.quantity
        external = {
            position.symbol: position.quantity
            for position in held
            if net[position.symbol] == 0
            and position.symbol not in orphan_symbols
            and not fills.unreadable_rows
        }
        return len(held) - len(external), external

    async def _compare_results(self, since: datetime, symbols: set[str]) -> tuple[DayResult | None, int]:
        """Compare the day in the database with the account activities; return None when these could not be read, and
        the number of its unreadable rows.

        Where they differ, book missing fills and compare again, up to MAX_RESULT_ATTEMPTS; then enter SAFE mode (I9).
        """
        result: DayResult | None = None
        unreadable_rows = 0
        for attempt in range(MAX_RESULT_ATTEMPTS):
            if attempt:
                await self.clock.sleep(POLL_INTERVAL)
            try:
                result, unreadable_rows = await self._compare_once(since, symbols)
            except BrokerError as error:
                log.warning("activities_read_failed", error=str(error))
                continue
            if not result.discrepancies:
                return result, unreadable_rows
            for broker_id in sorted(result.broker_ids):
                await self.ledger.fetch_missing_fills(broker_id, "reconcile")
            if self.ledger.unknown_broker_ids:
                self.ledger.reconcile_requested.notify()
        if result is not None and not unreadable_rows:
            self.gate.enter_safe_mode(Invariant.I9, "; ".join(result.discrepancies))
        return result, unreadable_rows

    async def _compare_once(self, since: datetime, symbols: set[str]) -> tuple[DayResult, int]:
        async with self.store.read() as conn:
            rows = await day_result.position_results(conn, since)
        fills: Listing[Fill] = await self.broker.fills(
            after=day_result.fills_needed_from(rows, since), priority=Priority.EXIT
        )
        today = [fill for fill in fills if fill.at >= since]
        async with self.store.read() as conn:  # after the fills: what they show may be booked by now
            rows = await day_result.position_results(conn, since)
            booked = await day_result.booked_fills(conn, since, [fill.broker_id for fill in today])
            unbooked = await day_result.unbooked_fills(conn, since)
        result = day_result.compare(rows, fills)
        missing, broker_ids = day_result.compare_executions(booked, today, symbols)
        return result.with_executions(missing, broker_ids, unbooked), fills.unreadable_rows
