"""Alpaca's trading half: each request sent at most once, each answer read raw, each doubt named.

Source: Alpaca API documentation, trading; what differs from it in the field is said where it matters.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar
from urllib.parse import quote

import structlog

from catalyst.broker import parse, responses
from catalyst.broker.order_payload import body_of, refuse_unsendable, refuse_unsendable_change
from catalyst.broker.outcome import Refusal, fields, rows, settle
from catalyst.broker.pagination import next_after
from catalyst.broker.port import Broker, Priority, RateUse
from catalyst.broker.rate_limit import RateBudget
from catalyst.broker.request import DEFAULT, Answer, Bounds, Door, Permit, Spoil
from catalyst.broker.rest_client import Wire
from catalyst.broker.symbol_batches import chunked
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerUnavailable, NotFound, OrderRefused, OutcomeUnknown
from catalyst.domain.fault_points import Witness
from catalyst.domain.report import (
    AccountReport,
    AssetReport,
    ClockReport,
    Fill,
    OrderReport,
    OrderRequest,
    PositionReport,
)
from catalyst.domain.session import Session

T = TypeVar("T")
log = structlog.get_logger(__name__)

LARGE: Final = Bounds(read=20.0, total=60.0)  # the list of assets: many megabytes, once a day
MOST_PAGES: Final = 200
OVERLAP: Final = timedelta(milliseconds=1)  # `after` is exclusive, and the broker's times are finer than ours


def log_garbled(reason: str, raw: object) -> None:
    """The default for rows that could not be understood: a line in the log."""
    log.warning("broker_row_garbled", reason=reason, raw=f"{raw!r:.300}")


class AlpacaBroker(Broker):
    """One account at one Alpaca host (live, paper or a simulator), through alpaca-py's transport.

    `on_garbled(reason, row)` hears of every row that could not be understood; the rest of its list is returned.
    `permit` is asked before each change; without one, every change may leave.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        base_url: str,
        key: str,
        secret: str,
        epoch: int = 0,
        rate_limit: int = 200,
        rate_reserve: int = 60,
        bounds: Bounds = DEFAULT,
        threads: int = 4,
        on_garbled: Callable[[str, object], None] = log_garbled,
        witness: Witness | None = None,
        permit: Permit | None = None,
    ) -> None:
        self._permit = permit
        self._pages = {status: responses.Same(responses.order_page) for status in ("open", "closed", "all")}
        budget = RateBudget(clock, limit=rate_limit, reserve=rate_reserve)
        self._wire = Wire(
            clock,
            Door(base_url.rstrip("/"), key, secret, epoch),
            budget,
            on_garbled=on_garbled,
            bounds=bounds,
            threads=threads,
            witness=witness,
        )

    @property
    def rate(self) -> RateUse:
        """Where the request budget stands."""
        return self._wire.budget.use

    def permitted_by(self, permit: Permit) -> "AlpacaBroker":
        """The same door, budget and threads under another permit."""
        other = copy(self)
        other._permit = permit  # noqa: SLF001 - it is ours
        return other

    async def submit(self, request: OrderRequest, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        """Send `request` once. OrderRefused with http_status 0 when it could not have been sent as it is."""
        refuse_unsendable(request)
        return await self._wire.change(
            "POST",
            "/orders",
            body_of(request),
            partial(responses.acknowledged, request),
            priority=priority,
            permit=self._permit,
        )

    async def cancel(self, broker_id: str) -> None:
        try:
            await self._wire.change(
                "DELETE",
                f"/orders/{quote(broker_id, safe='')}",
                None,
                responses.asked,
                priority=Priority.EXIT,
                permit=self._permit,
            )
        except OrderRefused as refused:
            if refused.code != Refusal.SUBMIT_FAILED:
                raise
            raise OrderRefused(
                Refusal.NOT_CANCELABLE, refused.text, http_status=refused.http_status, related=refused.related
            ) from refused

    async def replace(self, broker_id: str, *, client_order_id: str, limit_price: Decimal) -> OrderReport:
        refuse_unsendable_change(client_order_id, limit_price)
        return await self._wire.change(
            "PATCH",
            f"/orders/{quote(broker_id, safe='')}",
            {"limit_price": f"{limit_price:f}", "client_order_id": client_order_id},
            partial(responses.replacing, broker_id, client_order_id),
            priority=Priority.EXIT,
            permit=self._permit,
        )

    async def order(self, broker_id: str, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        report = await self._wire.read(
            f"/orders/{quote(broker_id, safe='')}", {"nested": "true"}, responses.one_order, priority=priority
        )
        if report.broker_id != broker_id:
            raise BrokerUnavailable(f"asked for order {broker_id}, told of {report.broker_id}")
        return report

    async def order_by_client_id(
        self, client_order_id: str, *, priority: Priority = Priority.ROUTINE
    ) -> OrderReport:
        """The lookup does not nest; where there must be legs the order is read once more, by its id."""
        report = await self._wire.read(
            "/orders:by_client_order_id",
            {"client_order_id": client_order_id},
            responses.one_order,
            priority=priority,
        )
        if report.client_order_id != client_order_id:
            raise BrokerUnavailable(f"asked for order {client_order_id}, told of {report.client_order_id}")
        if report.order_class == "simple" or report.legs:
            return report
        try:
            return await self.order(report.broker_id, priority=priority)
        except NotFound as error:
            raise BrokerUnavailable(
                f"order {report.broker_id} is known by one id and not by the other"
            ) from error

    async def orders(
        self,
        *,
        status: str,
        after: datetime | None = None,
        symbols: Sequence[str] = (),
        priority: Priority = Priority.ROUTINE,
    ) -> list[OrderReport]:
        found: dict[str, OrderReport] = {}
        for some in chunked(symbols) or [()]:
            found |= await self._orders(status, after, some, priority)
        return sorted(found.values(), key=responses.by_submission)

    async def positions(self, *, priority: Priority = Priority.ROUTINE) -> list[PositionReport]:
        return await self._list("/positions", None, parse.position_report, priority=priority)

    async def position(self, symbol: str, *, priority: Priority = Priority.ROUTINE) -> PositionReport | None:
        try:
            report = await self._one(
                f"/positions/{quote(symbol, safe='')}", parse.position_report, priority=priority
            )
        except NotFound:
            return None
        if report.symbol != symbol:
            raise BrokerUnavailable(f"asked for the position in {symbol}, told of {report.symbol}")
        return report

    async def fills(
        self,
        *,
        after: datetime | None = None,
        order_id: str | None = None,
        priority: Priority = Priority.ROUTINE,
    ) -> list[Fill]:
        params: dict[str, str | int] = {"direction": "asc", "page_size": responses.FILLS_A_PAGE}
        if after is not None:
            params["after"] = (after - OVERLAP).isoformat()
        if order_id is not None:
            params["order_id"] = order_id  # newer than some servers: filtered again below
        found: dict[str, Fill] = {}
        for _ in range(MOST_PAGES):
            page, last = await self._wire.read(
                "/account/activities/FILL", params, responses.fill_page, priority=priority
            )
            fresh = {one.activity_id: one for one in page if one.activity_id and one.activity_id not in found}
            found |= fresh
            if last is None:
                return sorted(
                    (one for one in found.values() if order_id in (None, one.broker_id)),
                    key=lambda one: (one.at, one.cum_qty),
                )
            if params.get("page_token") == last:
                break
            params["page_token"] = last
        raise BrokerUnavailable("the list of fills does not end")

    async def account(self) -> AccountReport:
        return await self._one("/account", parse.account_report)

    async def forbid_shorting(self, forbidden: bool) -> bool:
        path = "/account/configurations"
        if (await self._wire.read(path, None, responses.settings)).get("no_shorting") is forbidden:
            return False
        told = await self._wire.change(
            "PATCH",
            path,
            {"no_shorting": forbidden},
            responses.changed,
            priority=Priority.ROUTINE,
            permit=self._permit,
        )
        if told.get("no_shorting") is not forbidden:
            raise OutcomeUnknown(f"no_shorting was set to {forbidden} and reads {told.get('no_shorting')!r}")
        return True

    async def clock(self) -> ClockReport:
        return await self._one("/clock", parse.clock_report)

    async def calendar(self, start: date, end: date) -> list[Session]:
        return await self._list(
            "/calendar", {"start": start.isoformat(), "end": end.isoformat()}, parse.session
        )

    async def assets(self) -> list[AssetReport]:
        """Every active US equity. With a longer bound than the others."""
        params = {"status": "active", "asset_class": "us_equity"}
        return await self._wire.read("/assets", params, responses.assets, bounds=LARGE)

    async def close(self) -> None:
        self._wire.close()

    async def _orders(
        self, status: str, after: datetime | None, symbols: Sequence[str], priority: Priority
    ) -> dict[str, OrderReport]:
        """Page by submission time, each page starting a little before the last one ended."""
        params: dict[str, str | int] = {
            "status": status,
            "limit": responses.ORDERS_A_PAGE,
            "direction": "asc",
            "nested": "true",
        }
        if symbols:
            params["symbols"] = ",".join(symbols)
        cursor = None if after is None else after - OVERLAP
        found: dict[str, OrderReport] = {}
        for _ in range(MOST_PAGES):
            if cursor is not None:
                params["after"] = cursor.isoformat()
            page, full = await self._wire.read("/orders", params, self._pages[status], priority=priority)
            known = len(found)
            found |= {one.broker_id: one for one in page}
            if not full:
                return found
            cursor = next_after(page, cursor, OVERLAP, progressed=len(found) > known)
        raise BrokerUnavailable("the list of orders does not end")

    async def _one(
        self, path: str, read: Callable[[object], T], *, priority: Priority = Priority.ROUTINE
    ) -> T:
        def digest(answer: Answer, spoil: Spoil) -> T:
            return responses.understood(fields(settle(answer, changes=False)), read, spoil, changes=False)

        return await self._wire.read(path, None, digest, priority=priority)

    async def _list(
        self,
        path: str,
        params: Mapping[str, str | int] | None,
        read: Callable[[object], T],
        *,
        priority: Priority = Priority.ROUTINE,
    ) -> list[T]:
        def digest(answer: Answer, spoil: Spoil) -> list[T]:
            return parse.parsed(rows(settle(answer, changes=False)), read, spoil)

        return await self._wire.read(path, params, digest, priority=priority)
