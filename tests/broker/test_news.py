"""Headlines: every page is read, each requested symbol has its own row, and a failed source raises an error."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from catalyst.broker.news import COLUMNS, AlpacaNews
from catalyst.clock import ManualClock
from catalyst.domain.errors import BrokerUnavailable
from tests.broker.scripted_server import KEY, SECRET, Reply, ScriptedServer

END = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)
START = END - timedelta(hours=18)


def headline_json(number: int, *symbols: str, **changes: object) -> dict[str, object]:
    return {
        "id": number,
        "headline": f"Headline {number}",
        "author": "A. Author",
        "created_at": f"2026-11-20T13:{number:02d}:00Z",
        "updated_at": "2026-11-20T14:00:00Z",
        "summary": "",
        "content": "",
        "url": f"https://example.org/{number}",
        "images": [],
        "symbols": list(symbols),
        "source": "benzinga",
        **changes,
    }


@pytest.fixture
async def news(
    clock: ManualClock, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> AsyncIterator[AlpacaNews]:
    client = AlpacaNews(
        clock,
        base_url=server.url,
        key=KEY,
        secret=SECRET,
        on_malformed=lambda reason, raw: malformed.append((reason, raw)),
    )
    yield client
    await client.close()


async def test_headlines_have_one_row_per_requested_symbol(
    news: AlpacaNews, server: ScriptedServer, clock: ManualClock
) -> None:
    """Every page is read. A headline about two requested symbols gives two rows; other symbols give none.
    Rows are oldest first."""
    pages: dict[str, tuple[list[dict[str, object]], str | None]] = {
        "": ([headline_json(2, "AAPL", "TSLA", "MSFT"), headline_json(1, "MSFT")], "next"),
        "next": ([headline_json(2, "AAPL", "MSFT"), headline_json(3, "NVDA")], None),
    }

    async def reply(request: web.Request) -> web.StreamResponse:
        rows, token = pages[request.query.get("page_token", "")]
        return web.json_response({"news": rows, "next_page_token": token})

    server.on("GET", "/v1beta1/news", reply)
    frame = await news.headlines(["AAPL", "MSFT"], START, END)
    assert tuple(frame.columns) == COLUMNS
    assert list(zip(frame["id"], frame["symbol"], strict=True)) == [
        ("1", "MSFT"),
        ("2", "AAPL"),
        ("2", "MSFT"),
    ]
    assert str(frame["published_at"].dtype) == "datetime64[us, UTC]"
    assert set(frame["received_at"]) == {clock.now()}
    query = server.requests[0].query
    assert (query["limit"], query["start"], query["symbols"]) == ("50", "2026-11-19T21:00:00Z", "AAPL,MSFT")


async def test_headlines_of_many_symbols_are_requested_in_batches(
    news: AlpacaNews, server: ScriptedServer
) -> None:
    """A headline about symbols of two batches gives one row per symbol."""
    symbols = [f"S{number}" for number in range(150)]
    server.on(
        "GET",
        "/v1beta1/news",
        server.json_reply({"news": [headline_json(1, "S0", "S149")], "next_page_token": None}),
    )
    frame = await news.headlines(symbols, START, END)
    assert sorted(frame["symbol"]) == ["S0", "S149"]
    assert len(server.requests) == 2


async def test_no_headlines_return_an_empty_frame_with_columns(
    news: AlpacaNews, server: ScriptedServer
) -> None:
    """A response without headlines gives an empty frame with its columns and types."""
    server.on("GET", "/v1beta1/news", server.json_reply({"news": [], "next_page_token": None}))
    frame = await news.headlines(["AAPL"], START, END)
    assert frame.empty
    assert tuple(frame.columns) == COLUMNS
    assert str(frame["published_at"].dtype) == "datetime64[us, UTC]"


async def test_malformed_headlines_are_dropped_alone_and_text_is_cleaned(
    news: AlpacaNews, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> None:
    """Nulls and wrong types drop only their own row; a zero byte is replaced and control characters are
    removed before the text is stored."""
    rows = [
        headline_json(1, "AAPL", headline=None),
        headline_json(2, "AAPL", created_at="yesterday"),
        headline_json(3, "AAPL", symbols=None),
        headline_json(4, "AAPL", symbols=[{}, None, "AAPL"], summary=None, url=5, source=[]),
        headline_json(5, "AAPL", headline="a\x00b\x1b[31m\r\nc"),
        None,
    ]
    server.on("GET", "/v1beta1/news", server.json_reply({"news": rows, "next_page_token": None}))
    frame = await news.headlines(["AAPL"], START, END)
    assert list(frame["id"]) == ["4", "5"]
    assert list(frame["headline"]) == ["Headline 4", "a\N{REPLACEMENT CHARACTER}b[31m c"]
    assert len(malformed) == 3


@pytest.mark.parametrize(
    "reply",
    [
        ScriptedServer.json_reply({}),
        ScriptedServer.json_reply({"news": None}),
        ScriptedServer.json_reply([]),
        ScriptedServer.raw_reply(b"<html>", 502),
        ScriptedServer.drop_connection(),
        ScriptedServer.json_reply({"news": [], "next_page_token": "same"}),
    ],
)
async def test_failed_news_source_raises_broker_unavailable(
    news: AlpacaNews, server: ScriptedServer, reply: Reply
) -> None:
    """Every failure raises: an empty answer and a failed source are different results."""
    server.on("GET", "/v1beta1/news", reply)
    with pytest.raises(BrokerUnavailable):
        await news.headlines(["AAPL"], START, END)
