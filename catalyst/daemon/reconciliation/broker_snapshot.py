"""Broker snapshot: the broker's orders, positions and fills as read in one pass, and how far each was read."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.concurrency import gather_both
from catalyst.daemon.trading_state.account_status import FULL_PASS_INTERVAL, MAX_READ_INTERVAL, AccountStatus
from catalyst.domain.errors import BrokerError
from catalyst.domain.report import Fill, Listing, OrderReport, PositionReport

log = structlog.get_logger()

OVERLAP: Final = timedelta(minutes=10)  # the broker's bounds are exclusive and its clock differs from ours
LOOK_BACK: Final = timedelta(days=1)
# Between two reads of the account activities when no order shows a new fill.
ACTIVITIES_REFRESH: Final = timedelta(minutes=5)
# Between two reads of the working orders of earlier days, when none is known.
EARLIER_ORDERS_REFRESH: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """The broker's orders, positions and fills as read in one pass; None where a read failed.

    `fills` are from the account activities; with `fills_skipped` the pass has not read them.
    """

    orders: Listing[OrderReport] | None
    positions: Listing[PositionReport] | None
    fills: Listing[Fill] | None
    fills_skipped: bool
    account_read: bool
    read_at: datetime
    ledger_version: int  # version of the order ledger before the first read

    @property
    def unreadable_rows(self) -> dict[str, int]:
        """Return the number of unreadable rows of each list that has one."""
        lists = {"orders": self.orders, "positions": self.positions, "account activities": self.fills}
        return {
            name: rows.unreadable_rows
            for name, rows in lists.items()
            if rows is not None and rows.unreadable_rows
        }

    @property
    def filled_by_order(self) -> dict[str, Decimal]:
        """Return the filled quantity of each order and leg with fills, by broker id."""
        return {
            order.broker_id: order.filled_qty
            for report in self.orders or ()
            for order in (report, *report.legs)
            if order.filled_qty
        }


@dataclass(frozen=True, slots=True)
class ReadCursor:
    """How far the account activities and the orders of earlier days were read."""

    activities_read_to: datetime | None = None  # None: the next pass reads them from LOOK_BACK on
    applied_activities: frozenset[str] = frozenset()  # ids of the last read that were applied
    # Filled quantities of the orders when the account activities were read.
    filled_at_activities_read: dict[str, Decimal] = field(default_factory=dict)
    has_earlier_orders: bool = False  # an order of an earlier day is working
    earlier_orders_read_at: datetime | None = None


@dataclass
class BrokerReader:
    """Reads the broker for a reconciliation; it writes nothing."""

    broker: Broker
    account_status: AccountStatus
    clock: Clock
    cursor: ReadCursor = field(default_factory=ReadCursor)

    def expect_earlier_orders(self) -> None:
        """Let the next pass read orders of earlier days: one of them is probably working."""
        self.cursor = replace(self.cursor, has_earlier_orders=True)

    async def read(self, *, full: bool, ledger_version: int) -> BrokerSnapshot:
        """Read the broker, all requests at once.

        Every pass reads the day's orders and the positions. A full pass also reads account activities, orders of
        earlier days and the account; other passes do so only when the last read is too old.
        """
        now, cursor = self.clock.now(), self.cursor
        earlier = (
            full
            or cursor.has_earlier_orders
            or _is_due(cursor.earlier_orders_read_at, EARLIER_ORDERS_REFRESH, now)
        )
        with_fills = full or _is_due(cursor.activities_read_to, ACTIVITIES_REFRESH, now)
        (reports, positions), (fills, account_read) = await gather_both(
            gather_both(self.read_orders(now, earlier=earlier), self.read_positions()),
            gather_both(
                self._read_fills(now, read=with_fills),
                self.account_status.refresh(every=FULL_PASS_INTERVAL if full else MAX_READ_INTERVAL),
            ),
        )
        return BrokerSnapshot(reports, positions, fills, not with_fills, account_read, now, ledger_version)

    async def read_orders(self, now: datetime, *, earlier: bool) -> Listing[OrderReport] | None:
        """Return the orders of the last day; None when the read failed.

        With `earlier` also older orders that are still working, such as an external GTC order.
        """
        horizon = now - LOOK_BACK
        try:
            if not earlier:
                return await self.broker.orders(status="all", after=horizon)
            reports, open_orders = await gather_both(
                self.broker.orders(status="all", after=horizon), self.broker.orders(status="open")
            )
        except BrokerError as error:
            log.warning("orders_read_failed", error=str(error))
            return None
        earlier_orders = [
            report for report in open_orders if report.submitted_at and report.submitted_at < horizon
        ]
        self.cursor = replace(
            self.cursor, has_earlier_orders=bool(earlier_orders), earlier_orders_read_at=now
        )
        return Listing([*reports, *earlier_orders], reports.unreadable_rows + open_orders.unreadable_rows)

    async def read_positions(self) -> Listing[PositionReport] | None:
        """Return the broker's positions; None when the read failed."""
        try:
            return await self.broker.positions()
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return None

    async def with_changed_fills(self, snapshot: BrokerSnapshot) -> BrokerSnapshot:
        """Return the snapshot, with the fills read now if it skipped them and an order shows another filled quantity
        than at the last read."""
        if not snapshot.fills_skipped or snapshot.filled_by_order == self.cursor.filled_at_activities_read:
            return snapshot
        return replace(
            snapshot, fills=await self._read_fills(snapshot.read_at, read=True), fills_skipped=False
        )

    def mark_fills_applied(self, snapshot: BrokerSnapshot, unknown_broker_ids: set[str]) -> None:
        """Advance the cursor after the fills of the snapshot were applied; those of unknown orders were not."""
        self.cursor = replace(
            self.cursor,
            activities_read_to=snapshot.read_at,
            filled_at_activities_read=snapshot.filled_by_order,
            applied_activities=frozenset(
                fill.activity_id
                for fill in snapshot.fills or ()
                if fill.activity_id is not None and fill.broker_id not in unknown_broker_ids
            ),
        )

    async def _read_fills(self, now: datetime, *, read: bool) -> Listing[Fill] | None:
        """Return the fills of the account activities since OVERLAP before the last read.

        None when `read` is false, or when the read failed.
        """
        if not read:
            return None
        after = (self.cursor.activities_read_to or now - LOOK_BACK) - OVERLAP
        try:
            return await self.broker.fills(after=after)
        except BrokerError as error:
            log.warning("activities_read_failed", error=str(error))
            self.cursor = replace(self.cursor, activities_read_to=None)
            return None


def _is_due(last: datetime | None, every: timedelta, now: datetime) -> bool:
    """Return true when `last` is None or at least `every` ago."""
    return last is None or now - last >= every
