"""Alpaca trading API: sends each request at most once, reads raw responses, and names every uncertain
outcome.

Source: Alpaca API documentation, trading; deviations seen in practice are noted where they matter.
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
from catalyst.broker.order_payload import build_payload, check_order_request, check_replace_request
from catalyst.broker.outcome import require_list, require_object, success_body
from catalyst.broker.pagination import next_page_start
from catalyst.broker.port import Broker, Priority, RateLimitStatus
from catalyst.broker.rate_limit import RateLimiter
from catalyst.broker.request import DEFAULT_TIMEOUTS, Endpoint, HttpResponse, OnMalformed, Permit, Timeouts
from catalyst.broker.rest_client import RestClient
from catalyst.broker.symbol_batches import batch_symbols
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerUnavailable, NotFound, OrderRejected, OutcomeUnknown
from catalyst.domain.fault_points import FaultPoint
from catalyst.domain.latency import Latency
from catalyst.domain.refusals import RejectionReason
from catalyst.domain.report import (
    AccountReport,
    AssetReport,
    CashActivity,
    ClockReport,
    Fill,
    Listing,
    OrderReport,
    OrderRequest,
    PositionReport,
)
from catalyst.domain.session import Session

T = TypeVar("T")
log = structlog.get_logger(__name__)

ASSETS_TIMEOUTS: Final = Timeouts(read=20.0, total=60.0)  # the list of assets: many megabytes, once a day
MAX_PAGES: Final = 200
# `after` is exclusive, and the broker's times are finer than ours.
PAGE_OVERLAP: Final = timedelta(milliseconds=1)


def log_malformed_row(reason: str, raw: object) -> None:
    """Log a row that could not be parsed; the default of `on_malformed`."""
    log.warning("broker_row_malformed", reason=reason, raw=f"{raw!r:.300}")


class AlpacaBroker(Broker):
    """One account at one Alpaca host (live, paper or simulator), through alpaca-py's transport.

    `on_malformed(reason, row)` receives every row that could not be parsed; its list is returned without it, and counts
    it as unreadable.
    `permit` is checked before each change; without one, every change may be sent.
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
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        threads: int = 4,
        on_malformed: Callable[[str, object], None] = log_malformed_row,
        fault_point: FaultPoint | None = None,
        permit: Permit | None = None,
    ) -> None:
        self._permit = permit
        self._order_page_parsers = {
            status: responses.UnchangedBodyCache(responses.parse_order_page)
            for status in ("open", "closed", "all")
        }
        rate_limiter = RateLimiter(clock, limit=rate_limit, reserve=rate_reserve)
        self._rest_client = RestClient(
            clock,
            Endpoint(base_url.rstrip("/"), key, secret, epoch),
            rate_limiter,
            on_malformed=on_malformed,
            timeouts=timeouts,
            threads=threads,
            fault_point=fault_point,
        )

    @property
    def rate_limit_status(self) -> RateLimitStatus:
        """Return the state of the rate limit."""
        return self._rest_client.rate_limiter.status

    @property
    def latencies(self) -> Mapping[tuple[str, str], Latency]:
        """Return the real seconds of the requests, by verb and resource."""
        return self._rest_client.latencies

    def with_permit(self, permit: Permit) -> "AlpacaBroker":
        """Return a client with the same rate limit and threads under another permit."""
        other = copy(self)
        other._permit = permit  # noqa: SLF001 - it is ours
        return other

    async def submit(self, request: OrderRequest, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        """Send `request` once. Raises OrderRejected with http_status 0 when the request is invalid and was
        not sent."""
        check_order_request(request)
        return await self._rest_client.change(
            "POST",
            "/orders",
            build_payload(request),
            partial(responses.parse_submit, request),
            priority=priority,
            permit=self._permit,
        )

    async def cancel(self, broker_id: str) -> None:
        try:
            await self._rest_client.change(
                "DELETE",
                f"/orders/{quote(broker_id, safe='')}",
                None,
                responses.parse_cancel,
                priority=Priority.EXIT,
                permit=self._permit,
            )
        except OrderRejected as refused:
            if refused.code != RejectionReason.SUBMIT_FAILED:
                raise
            raise OrderRejected(
                RejectionReason.NOT_CANCELABLE,
                refused.text,
                http_status=refused.http_status,
                related=refused.related,
            ) from refused

    async def replace(self, broker_id: str, *, client_order_id: str, limit_price: Decimal) -> OrderReport:
        check_replace_request(client_order_id, limit_price)
        return await self._rest_client.change(
            "PATCH",
            f"/orders/{quote(broker_id, safe='')}",
            {"limit_price": f"{limit_price:f}", "client_order_id": client_order_id},
            partial(responses.parse_replace, broker_id, client_order_id),
            priority=Priority.EXIT,
            permit=self._permit,
        )

    async def order(self, broker_id: str, *, priority: Priority = Priority.ROUTINE) -> OrderReport:
        report = await self._rest_client.read(
            f"/orders/{quote(broker_id, safe='')}",
            {"nested": "true"},
            responses.parse_order,
            priority=priority,
        )
        if report.broker_id != broker_id:
            raise BrokerUnavailable(f"requested order {broker_id}, received {report.broker_id}")
        return report

    async def order_by_client_id(
        self, client_order_id: str, *, priority: Priority = Priority.ROUTINE
    ) -> OrderReport:
        """Return the order with our id. The lookup does not nest legs, so an order that must have legs is
        read again by its id."""
        report = await self._rest_client.read(
            "/orders:by_client_order_id",
            {"client_order_id": client_order_id},
            responses.parse_order,
            priority=priority,
        )
        if report.client_order_id != client_order_id:
            raise BrokerUnavailable(f"requested order {client_order_id}, received {report.client_order_id}")
        if report.order_class == "simple" or report.legs:
            return report
        try:
            return await self.order(report.broker_id, priority=priority)
        except NotFound as error:
            raise BrokerUnavailable(
                f"order {report.broker_id} is found by its client order id and not by its own id"
            ) from error

    async def orders(
        self,
        *,
        status: str,
        after: datetime | None = None,
        symbols: Sequence[str] = (),
        priority: Priority = Priority.ROUTINE,
    ) -> Listing[OrderReport]:
        found: dict[str, OrderReport] = {}
        unreadable_rows = 0
        for batch in batch_symbols(symbols) or [()]:
            orders = await self._fetch_orders(status, after, batch, priority)
            found |= {order.broker_id: order for order in orders}
            unreadable_rows += orders.unreadable_rows
        return Listing(sorted(found.values(), key=responses.by_submission_time), unreadable_rows)

    async def positions(self, *, priority: Priority = Priority.ROUTINE) -> Listing[PositionReport]:
        return await self._read_list("/positions", None, parse.position_report, priority=priority)

    async def position(self, symbol: str, *, priority: Priority = Priority.ROUTINE) -> PositionReport | None:
        try:
            report = await self._read_object(
                f"/positions/{quote(symbol, safe='')}", parse.position_report, priority=priority
            )
        except NotFound:
            return None
        if report.symbol != symbol:
            raise BrokerUnavailable(f"requested the position in {symbol}, received {report.symbol}")
        return report

    async def fills(
        self,
        *,
        after: datetime | None = None,
        order_id: str | None = None,
        priority: Priority = Priority.ROUTINE,
    ) -> Listing[Fill]:
        params: dict[str, str | int] = {"direction": "asc", "page_size": responses.FILLS_PER_PAGE}
        if after is not None:
            params["after"] = (after - PAGE_OVERLAP).isoformat()
        if order_id is not None:
            params["order_id"] = order_id  # newer than some servers, so it is filtered again below
        found: dict[str, Fill] = {}
        unreadable_rows = 0
        for _ in range(MAX_PAGES):
            page, next_token = await self._rest_client.read(
                "/account/activities/FILL", params, responses.parse_fill_page, priority=priority
            )
            unreadable_rows += page.unreadable_rows
            fresh = {
                fill.activity_id: fill for fill in page if fill.activity_id and fill.activity_id not in found
            }
            found |= fresh
            if next_token is None:
                fills = [fill for fill in found.values() if order_id in (None, fill.broker_id)]
                return Listing(sorted(fills, key=lambda fill: (fill.at, fill.cum_qty)), unreadable_rows)
            if params.get("page_token") == next_token:
                break
            params["page_token"] = next_token
        raise BrokerUnavailable(
            f"the list of fills cannot be read completely: a page repeats, or it has more than {MAX_PAGES}"
        )

    async def cash_activities(self, day: date) -> Listing[CashActivity]:
        params: dict[str, str | int] = {
            "category": "non_trade_activity",
            "date": day.isoformat(),
            "page_size": responses.FILLS_PER_PAGE,
        }
        return await self._rest_client.read("/account/activities", params, responses.parse_cash_page)

    async def account(self) -> AccountReport:
        return await self._read_object("/account", parse.account_report)

    async def forbid_shorting(self, forbidden: bool) -> bool:
        path = "/account/configurations"
        if (await self._rest_client.read(path, None, responses.parse_configuration)).get(
            "no_shorting"
        ) is forbidden:
            return False
        configuration = await self._rest_client.change(
            "PATCH",
            path,
            {"no_shorting": forbidden},
            responses.parse_configuration_change,
            priority=Priority.ROUTINE,
            permit=self._permit,
        )
        if configuration.get("no_shorting") is not forbidden:
            raise OutcomeUnknown(
                f"no_shorting was set to {forbidden}, the response shows {configuration.get('no_shorting')!r}"
            )
        return True

    async def clock(self) -> ClockReport:
        return await self._read_object("/clock", parse.clock_report)

    async def calendar(self, start: date, end: date) -> list[Session]:
        sessions = await self._read_list(
            "/calendar", {"start": start.isoformat(), "end": end.isoformat()}, parse.session
        )
        if sessions.unreadable_rows:
            raise BrokerUnavailable(f"{sessions.unreadable_rows} days of the calendar cannot be read")
        return sessions

    async def assets(self) -> list[AssetReport]:
        """Return every active US equity, with longer timeouts than other reads."""
        params = {"status": "active", "asset_class": "us_equity"}
        return await self._rest_client.read(
            "/assets", params, responses.parse_assets, timeouts=ASSETS_TIMEOUTS
        )

    async def close(self) -> None:
        self._rest_client.close()

    async def _fetch_orders(
        self, status: str, after: datetime | None, symbols: Sequence[str], priority: Priority
    ) -> Listing[OrderReport]:
        """Read pages by submission time; each begins a little before the end of the last one."""
        params: dict[str, str | int] = {
            "status": status,
            "limit": responses.ORDERS_PER_PAGE,
            "direction": "asc",
            "nested": "true",
        }
        if symbols:
            params["symbols"] = ",".join(symbols)
        cursor = None if after is None else after - PAGE_OVERLAP
        found: dict[str, OrderReport] = {}
        unreadable_rows = 0
        for _ in range(MAX_PAGES):
            if cursor is not None:
                params["after"] = cursor.isoformat()
            page, full = await self._rest_client.read(
                "/orders", params, self._order_page_parsers[status], priority=priority
            )
            unreadable_rows += page.unreadable_rows
            count_before = len(found)
            found |= {order.broker_id: order for order in page}
            if not full:
                return Listing(found.values(), unreadable_rows)
            cursor = next_page_start(page, cursor, PAGE_OVERLAP, progressed=len(found) > count_before)
        raise BrokerUnavailable(
            f"the list of orders cannot be read completely: it has more than {MAX_PAGES} pages"
        )

    async def _read_object(
        self, path: str, parse_row: Callable[[object], T], *, priority: Priority = Priority.ROUTINE
    ) -> T:
        def parse_response(response: HttpResponse, on_malformed: OnMalformed) -> T:
            return responses.parse_or_raise(
                require_object(success_body(response, mutating=False)),
                parse_row,
                on_malformed,
                mutating=False,
            )

        return await self._rest_client.read(path, None, parse_response, priority=priority)

    async def _read_list(
        self,
        path: str,
        params: Mapping[str, str | int] | None,
        parse_row: Callable[[object], T],
        *,
        priority: Priority = Priority.ROUTINE,
    ) -> Listing[T]:
        def parse_response(response: HttpResponse, on_malformed: OnMalformed) -> Listing[T]:
            return parse.parse_rows(
                require_list(success_body(response, mutating=False)), parse_row, on_malformed
            )

        return await self._rest_client.read(path, params, parse_response, priority=priority)
