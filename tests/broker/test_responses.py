"""Cache of parsed responses whose bodies did not change."""

import orjson

from catalyst.broker.request import HttpResponse
from catalyst.broker.responses import UnchangedBodyCache, parse_order_page
from tests.broker.scripted_server import order_json


def page_response(*rows: object, status: int = 200) -> HttpResponse:
    return HttpResponse(status, orjson.dumps(rows), {})


def test_unchanged_body_cache_parses_only_a_changed_page() -> None:
    """An equal page is not parsed again; a page with another status is."""
    cache = UnchangedBodyCache(parse_order_page)
    reports: list[str] = []
    first = cache(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    again = cache(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    assert again is first
    (page, _) = cache(
        page_response(order_json(id="one", status="filled")), lambda why, _: reports.append(why)
    )
    assert [order.broker_status for order in page] == ["filled"]
    (page, _) = cache(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    assert [order.broker_status for order in page] == ["new"]
    assert reports == []


def test_unchanged_body_cache_reports_a_malformed_row_on_every_read() -> None:
    """A page with a malformed row is not cached: the row is in no result, so only a new report shows it."""
    cache = UnchangedBodyCache(parse_order_page)
    reports: list[str] = []
    for _ in range(2):
        (page, _more) = cache(
            page_response(order_json(id="one"), {"id": "no order"}), lambda why, _: reports.append(why)
        )
        assert [order.broker_id for order in page] == ["one"]
    assert len(reports) == 2
