"""Files of a market day for the loader of recorded markets: the recorded ones beside the repository, and small
generated ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np

from catalyst.clock import NEW_YORK
from catalyst.simulator.market import calendar
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.recorded import market as recorded_market
from tests.simulator.data_feed import BAR, write_parquet

DATA = Path(__file__).parents[3] / "shared" / "data"
GENERATED, RECORDED = "generated", "recorded"
SOURCES = [GENERATED, RECORDED] if DATA.is_dir() else [GENERATED]
FIVE_MINUTES = timedelta(minutes=5)
SYMBOLS = ("AAPL", "ACHR", "BRK.A", "MSFT", "NVDA", "SNDL", *(f"GEN{letter}" for letter in "ABCDEFGHIJKLMN"))
SILENT = "GENZ"  # has daily bars only

Row = tuple[str, datetime, float, float, float, float, float]


@dataclass(frozen=True)
class Recording:
    """Files of one market day."""

    bars: Path
    daily: Path
    headlines: Path
    listings: Path
    official: Path

    def load(self) -> BarMarket:
        return recorded_market.load_market(
            self.bars, self.daily, self.headlines, self.listings, official=self.official
        )


def recorded_files(day: date) -> Recording:
    return Recording(
        DATA / f"bars_5min_market_{day}.parquet",
        DATA / "bars_daily_market_2026-01-26_04-17.parquet",
        DATA / "news_headlines_2026-02-24_04-17.parquet",
        DATA / "listings_2026-04-07.csv.gz",
        DATA / "universe_daily_nasdaq_2025-12-22_2026-04-17.parquet",
    )


def generated_files(folder: Path, day: date) -> Recording:
    """Write the files of a generated day: five-minute bars of 20 symbols, 40 daily bars, three headlines."""
    session = calendar.session_of(day)
    listings = folder / "listings.csv"
    listings.write_text(
        "symbol,name,exchange,sector\n" + "".join(f"{each},{each} Inc,NYSE,\n" for each in (*SYMBOLS, SILENT))
    )
    days = [(symbol, day, *prices) for symbol, day, prices in daily_rows(day)]
    early, late = session.open - timedelta(hours=1), session.open + timedelta(hours=1)
    headlines = [
        ("AAPL", early, "Apple and Microsoft agree", "Wire", ""),
        ("MSFT", early, "Apple and Microsoft agree", "Wire", ""),
        ("NVDA", late, "Nvidia reports", "Wire", ""),
    ]
    return Recording(
        write_parquet(folder / "bars.parquet", ("symbol", "timestamp", *BAR), list(five_minute_rows([day]))),
        write_parquet(folder / "daily.parquet", ("symbol", "date", *BAR), days),
        write_parquet(
            folder / "news.parquet", ("symbol", "published_at", "headline", "source", "url"), headlines
        ),
        listings,
        write_parquet(
            folder / "official.parquet",
            ("symbol", "date", "close"),
            [(row[0], row[1], row[5]) for row in days],
        ),
    )


def daily_rows(day: date) -> Iterator[tuple[str, date, tuple[float, float, float, float, float]]]:
    """Yield the daily bars of the 40 sessions before `day`."""
    draw = np.random.default_rng(41)
    for number, symbol in enumerate((*SYMBOLS, SILENT)):
        for session in calendar.sessions_before(day, 40):
            yield symbol, session.day, (*random_bar(draw, 20.0 + 7 * number), 1e6 + number)


def five_minute_rows(
    days: Sequence[date], symbols: Sequence[str] = SYMBOLS, *, extended: bool = False
) -> Iterator[Row]:
    """Yield five-minute bars of these days: of the session, or from 4:00 to 20:00 New York time.

    Volumes are fractional, as in files with split-adjusted volumes. Every tenth symbol has gaps and bars without
    volume.
    """
    draw = np.random.default_rng(43)
    for number, symbol in enumerate(symbols):
        price = 20.0 + 7 * number
        for session in map(calendar.session_of, days):
            at, end = session.open, session.close
            if extended:
                at, end = (datetime.combine(session.day, time(hour), NEW_YORK) for hour in (4, 20))
            while at < end:
                bar = random_bar(draw, price)
                price = bar[3]
                volume = round(float(draw.uniform(500, 50_000)), 2)
                if number % 10 == 9 and draw.random() < 0.3:
                    volume = 0.0
                if number % 10 != 9 or draw.random() < 0.8:
                    yield symbol, at.astimezone(UTC), *bar, volume
                at += FIVE_MINUTES


def random_bar(draw: np.random.Generator, price: float) -> tuple[float, float, float, float]:
    """Return open, high, low and close in cents, near `price`."""
    cents = np.sort(np.maximum(np.rint(price * 100 * (1 + draw.normal(0, 0.002, 4))), 100)) / 100
    low, inner, outer, high = cents.tolist()
    return (inner, high, low, outer) if draw.random() < 0.5 else (outer, high, low, inner)
