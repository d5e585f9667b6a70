"""Recorded bars for the README's demo of a real market day: a generated day, written as the files of a recorder."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from catalyst.clock import NEW_YORK
from catalyst.simulator.market.bar_table import KEY_STRIDE, PRICES, BarTable
from catalyst.simulator.market.listings_file import write_listings
from catalyst.simulator.synthetic.market import make_market

DAY: Final = date(2026, 6, 17)
SEED: Final = 7
SYMBOLS: Final = 400
UNITS: Final = 10_000.0  # of a dollar, in a bar table


def write_recording(folder: Path) -> None:
    """Write bars.parquet (minutes), daily.parquet, news.parquet and listings.csv."""
    market = make_market(SEED, DAY, SYMBOLS)
    symbols = list(market.listings)
    starts = [datetime.fromtimestamp(int(key % KEY_STRIDE), UTC) for key in market.intraday.key]
    _write(folder / "bars.parquet", {"timestamp": starts} | _bars(market.intraday, symbols))
    days = [datetime.fromtimestamp(int(key % KEY_STRIDE), NEW_YORK).date() for key in market.daily.key]
    _write(folder / "daily.parquet", {"date": days} | _bars(market.daily, symbols))
    news = [(symbol, article) for article in market.news.articles for symbol in article.symbols]
    _write(
        folder / "news.parquet",
        {
            "symbol": [symbol for symbol, _ in news],
            "published_at": [article.published for _, article in news],
            "headline": [article.title for _, article in news],
            "source": [article.source for _, article in news],
            "url": [article.url for _, article in news],
        },
    )
    write_listings(market, folder / "listings.csv")


def _bars(table: BarTable, symbols: list[str]) -> dict[str, Any]:
    prices = {name: getattr(table, name) / UNITS for name in PRICES}
    return {
        "symbol": [symbols[key // KEY_STRIDE] for key in table.key],
        **prices,
        "volume": table.volume / 1.0,
    }


def _write(path: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), path)
