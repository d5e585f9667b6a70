"""News archive: articles in order of publication."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from catalyst.simulator.market.interface import NewsArticle


@dataclass(slots=True)
class NewsArchive:
    """All articles of a market in time order; article ids rise with time."""

    articles: Sequence[NewsArticle]
    _times: list[datetime] = field(init=False)

    def __post_init__(self) -> None:
        self._times = [article.published for article in self.articles]

    def between(self, start: datetime, end: datetime) -> Sequence[NewsArticle]:
        """Return the articles published in [start, end], in time order."""
        return self.articles[bisect_left(self._times, start) : bisect_right(self._times, end)]


def collect_news(rows: Iterable[tuple[datetime, str, str, str, str, str]]) -> NewsArchive:
    """Return the archive of (published, symbol, title, summary, source, url) rows in any order.

    Rows with equal time, title, source and URL become one article with all their symbols. Ids count up in time
    order.
    """
    articles: dict[tuple[datetime, str, str, str], tuple[str, set[str]]] = {}
    for published, symbol, title, summary, source, url in rows:
        articles.setdefault((published, title, source, url), (summary, set()))[1].add(symbol)
    return NewsArchive(
        [
            NewsArticle(number, published, title, summary, source, url, tuple(sorted(symbols)))
            for number, ((published, title, source, url), (summary, symbols)) in enumerate(
                sorted(articles.items()), start=1
            )
        ]
    )
