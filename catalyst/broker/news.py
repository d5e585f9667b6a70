"""Alpaca's news (Benzinga's wire): headlines by symbol.

Source: Alpaca API documentation, market data, /v1beta1/news.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

import pandas as pd

from catalyst.broker.alpaca import log_garbled
from catalyst.broker.outcome import fields, is_object, rows, settle
from catalyst.broker.parse import instant, parsed
from catalyst.broker.port import News
from catalyst.broker.rate_limit import RateBudget
from catalyst.broker.request import Answer, Bounds, Door, Spoil
from catalyst.broker.rest_client import Wire
from catalyst.broker.symbol_batches import chunked, query_of, rfc3339
from catalyst.clock import Clock
from catalyst.concurrency import together
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.fault_points import Witness

HEADLINES_A_PAGE: Final = 50
MOST_PAGES: Final = 100
SYMBOLS_A_CHUNK: Final = 100
SLOW: Final = Bounds(read=10.0, total=20.0)  # real seconds
COLUMNS: Final = ("id", "symbol", "headline", "summary", "source", "published_at", "received_at", "url")
_TIMES: Final = ("published_at", "received_at")

Headline = Mapping[str, object]  # one row, keyed by COLUMNS but for symbol and received_at


class AlpacaNews(News):
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
        on_garbled: Callable[[str, object], None] = log_garbled,
        witness: Witness | None = None,
    ) -> None:
        self._clock = clock
        budget = RateBudget(clock, limit=rate_limit, reserve=rate_reserve)
        door = Door(base_url.rstrip("/"), key, secret, epoch)
        self._wire = Wire(
            clock, door, budget, on_garbled=on_garbled, bounds=SLOW, threads=threads, witness=witness
        )

    async def headlines(self, symbols: Sequence[str], start: datetime, end: datetime) -> pd.DataFrame:
        chunks = chunked(symbols, SYMBOLS_A_CHUNK)
        found = await together(self._of(chunk, start, end) for chunk in chunks)
        received = self._clock.now()
        told = {
            (row["id"], row["symbol"]): {**row, "received_at": received}
            for chunk, some in zip(chunks, found, strict=True)
            for row in _by_symbol(some, frozenset(chunk))
        }
        frame = pd.DataFrame(list(told.values()), columns=pd.Index(COLUMNS))
        frame = frame.astype({name: "datetime64[us, UTC]" if name in _TIMES else "str" for name in COLUMNS})
        return frame.sort_values(["published_at", "id", "symbol"], kind="stable", ignore_index=True)

    async def close(self) -> None:
        """Let go of threads and sockets."""
        self._wire.close()

    async def _of(self, symbols: Sequence[str], start: datetime, end: datetime) -> list[Headline]:
        """Every page of one chunk."""
        asked: dict[str, str | int] = {
            "symbols": ",".join(symbols),
            "start": rfc3339(start),
            "end": rfc3339(end),
            "limit": HEADLINES_A_PAGE,
            "sort": "asc",
            "include_content": "false",
        }
        found: list[Headline] = []
        for _ in range(MOST_PAGES):
            page, token = await self._wire.read("/news", query_of(**asked), _page, version="v1beta1")
            found += page
            if token is None:
                return found
            if token == asked.get("page_token"):
                break
            asked["page_token"] = token
        raise BrokerUnavailable("the list of headlines does not end")


def _page(answer: Answer, spoil: Spoil) -> tuple[list[Headline], str | None]:
    body = fields(settle(answer, changes=False))
    token = body.get("next_page_token")
    return parsed(rows(body.get("news")), _headline, spoil), token if isinstance(
        token, str
    ) and token else None


def _headline(raw: object) -> Headline:
    """One headline with the symbols it names. Essential: an id, the headline, a time."""
    if not is_object(raw):
        raise ValueError(f"a headline is {type(raw).__name__}, not an object")
    number, said, at = raw.get("id"), raw.get("headline"), instant(raw.get("created_at"))
    if not isinstance(number, (int, str)) or not isinstance(said, str) or not said or at is None:
        raise ValueError("a headline lacks its id, its words or its time")
    named = raw.get("symbols")
    return {
        "id": str(number),
        "headline": _text(said),
        "summary": _text(raw.get("summary")),
        "source": _text(raw.get("source")),
        "published_at": at,
        "url": _text(raw.get("url")),
        "symbols": frozenset(one for one in named if isinstance(one, str))
        if isinstance(named, list)
        else frozenset(),
    }


def _by_symbol(found: Sequence[Headline], asked: frozenset[str]) -> Iterator[Headline]:
    """One row for each headline and each symbol that was asked for."""
    for row in found:
        named = row["symbols"]
        for symbol in sorted(asked & named if isinstance(named, frozenset) else ()):
            yield {**{name: row[name] for name in row if name != "symbols"}, "symbol": symbol}


def _text(raw: object) -> str:
    """One line of text without control characters: it will stand in a table, a log and a terminal."""
    words = raw.split() if isinstance(raw, str) else ()
    return " ".join(
        "".join(letter for letter in word if letter >= " " and letter != "\x7f") for word in words
    )
