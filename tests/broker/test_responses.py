"""What an answer comes to when it is the very one that came before."""

import orjson

from catalyst.broker.request import HttpResponse
from catalyst.broker.responses import UnchangedBodyCache, parse_order_page
from tests.broker.scripted_server import order_json


def page_response(*rows: object, status: int = 200) -> HttpResponse:
    return HttpResponse(status, orjson.dumps(rows), {})


def test_unchanged_body_cache_parses_only_a_changed_page() -> None:
    """An equal page is not parsed again; a page with one different digit is."""
    digest = UnchangedBodyCache(parse_order_page)
    reports: list[str] = []
    first = digest(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    again = digest(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    assert again is first
    (page, _) = digest(
        page_response(order_json(id="one", status="filled")), lambda why, _: reports.append(why)
    )
    assert [one.broker_status for one in page] == ["filled"]
    (page, _) = digest(page_response(order_json(id="one", status="new")), lambda why, _: reports.append(why))
    assert [one.broker_status for one in page] == ["new"]
    assert reports == []


def test_unchanged_body_cache_reports_a_malformed_row_on_every_read() -> None:
    """It is in none of the results, so nobody would hear of it if its page were remembered."""
    digest = UnchangedBodyCache(parse_order_page)
    reports: list[str] = []
    for _ in range(2):
        (page, _more) = digest(
            page_response(order_json(id="one"), {"id": "no order"}), lambda why, _: reports.append(why)
        )
        assert [one.broker_id for one in page] == ["one"]
    assert len(reports) == 2
