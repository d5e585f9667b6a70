"""Alpaca news API (Benzinga): headlines by symbol.

Source: Alpaca API documentation, market data, /v1beta1/news.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import pandas as pd

from catalyst.broker.alpaca import log_malformed_row
from catalyst.broker.outcome import is_object, require_list, require_object, success_body
from catalyst.broker.parse import instant, parse_rows
from catalyst.broker.port import NewsSource
from catalyst.broker.rate_limit import RateLimiter
from catalyst.broker.request import Endpoint, HttpResponse, OnMalformed, Timeouts
from catalyst.broker.rest_client import RestClient
from catalyst.broker.symbol_batches import batch_symbols, encode_query, rfc3339
from catalyst.clock import Clock
from catalyst.concurrency import gather_all
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.fault_points import FaultPoint

HEADLINES_PER_PAGE: Final = 50
MAX_PAGES: Final = 100
SYMBOLS_PER_REQUEST: Final = 100
NEWS_TIMEOUTS: Final = Timeouts(read=10.0, total=20.0)  # real seconds
COLUMNS: Final = ("id", "symbol", "headline", "summary", "source", "published_at", "received_at", "url")
_TIME_COLUMNS: Final = ("published_at", "received_at")

HeadlineRow = Mapping[str, object]  # one row, keyed by COLUMNS without symbol and received_at


class AlpacaNews(NewsSource):
    """The news of one market data host."""

    def __init__(
        self,
        clock: Clock,
        *,
        base_url: str = "https://data.alpaca.markets",
        key: str,
        secret: str,
        epoch: int = 0,
        rate_limit: int = 200,
        rate_reserve: int = 60,
        threads: int = 2,
        on_malformed: Callable[[str, object], None] = log_malformed_row,
        fault_point: FaultPoint | None = None,
    ) -> None:
        self._clock = clock
        rate_limiter = RateLimiter(clock, limit=rate_limit, reserve=rate_reserve)
        endpoint = Endpoint(base_url.rstrip("/"), key, secret, epoch)
        self._rest_client = RestClient(
            clock,
            endpoint,
            rate_limiter,
            on_malformed=on_malformed,
            timeouts=NEWS_TIMEOUTS,
            threads=threads,
            fault_point=fault_point,
        )

    async def headlines(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        batches = batch_symbols(symbols, SYMBOLS_PER_REQUEST)
        found = await gather_all(self._fetch_batch(batch, start, end) for batch in batches)
        received = self._clock.now()
        rows_by_key = {
            (row["id"], row["symbol"]): {**row, "received_at": received}
            for batch, headlines in zip(batches, found, strict=True)
            for row in _rows_by_symbol(headlines, frozenset(batch))
        }
        frame = pd.DataFrame(list(rows_by_key.values()), columns=pd.Index(COLUMNS))
        frame = frame.astype(
            {name: "datetime64[us, UTC]" if name in _TIME_COLUMNS else "str" for name in COLUMNS}
        )
        return frame.sort_values(["published_at", "id", "symbol"], kind="stable", ignore_index=True)

    async def close(self) -> None:
        """Close threads and sockets."""
        self._rest_client.close()

    async def _fetch_batch(self, symbols: Sequence[str], start: datetime, end: datetime) -> list[HeadlineRow]:
        """Read every page of one batch."""
        params: dict[str, str | int] = {
            "symbols": ",".join(symbols),
            "start": rfc3339(start),
            "end": rfc3339(end),
            "limit": HEADLINES_PER_PAGE,
            "sort": "asc",
            "include_content": "false",
        }
        found: list[HeadlineRow] = []
        for _ in range(MAX_PAGES):
            page, token = await self._rest_client.read(
                "/news", encode_query(**params), _parse_page, version="v1beta1"
            )
            found += page
            if token is None:
                return found
            if token == params.get("page_token"):
                break
            params["page_token"] = token
        raise BrokerUnavailable(
            f"the list of headlines cannot be read completely: a page repeats, or it has more than {MAX_PAGES}"
        )


def _parse_page(response: HttpResponse, on_malformed: OnMalformed) -> tuple[list[HeadlineRow], str | None]:
    body = require_object(success_body(response, mutating=False))
    token = body.get("next_page_token")
    return parse_rows(require_list(body.get("news")), _parse_headline, on_malformed), token if isinstance(
        token, str
    ) and token else None


def _parse_headline(raw: object) -> HeadlineRow:
    """Return one headline with its symbols. Required: an id, the headline, a time."""
    if not is_object(raw):
        raise ValueError(f"a headline is {type(raw).__name__}, not an object")
    headline_id, title, at = raw.get("id"), raw.get("headline"), instant(raw.get("created_at"))
    if not isinstance(headline_id, (int, str)) or not isinstance(title, str) or not title or at is None:
        raise ValueError("a headline has no id, text or time")
    symbols = raw.get("symbols")
    return {
        "id": str(headline_id),
        "headline": _clean_text(title),
        "summary": _clean_text(raw.get("summary")),
        "source": _clean_text(raw.get("source")),
        "published_at": at,
        "url": _clean_text(raw.get("url")),
        "symbols": frozenset(symbol for symbol in symbols if isinstance(symbol, str))
        if isinstance(symbols, list)
        else frozenset(),
    }


def _rows_by_symbol(found: Sequence[HeadlineRow], requested: frozenset[str]) -> Iterator[HeadlineRow]:
    """Return one row for each headline and each requested symbol."""
    for row in found:
        symbols = row["symbols"]
        for symbol in sorted(requested & symbols if isinstance(symbols, frozenset) else ()):
            yield {**{name: row[name] for name in row if name != "symbols"}, "symbol": symbol}


def _clean_text(raw: object) -> str:
    """Return one line of text without control characters; it is shown in tables, logs and terminals."""
    words = raw.split() if isinstance(raw, str) else ()
    return " ".join("".join(char for char in word if char >= " " and char != "\x7f") for word in words)
