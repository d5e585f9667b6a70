"""A recorded day as input of the stages, read from the market data beside the repository."""

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from catalyst.config.schema import Config
from catalyst.domain.session import NEW_YORK, Session
from catalyst.pipeline.frame import remaining_symbols
from catalyst.pipeline.news import news, symbols_to_read
from catalyst.pipeline.pattern import pattern
from catalyst.pipeline.plan import plan
from catalyst.pipeline.reference import reference
from catalyst.pipeline.risk import risk
from catalyst.pipeline.risk_inputs import AccountState, Portfolio, limits_of
from catalyst.pipeline.scan import scan
from catalyst.pipeline.score import score
from catalyst.pipeline.technical import technical
from catalyst.pipeline.universe import universe

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BAR = pd.Timedelta(minutes=5)


@dataclass(frozen=True)
class RecordedDay:
    session: Session
    bars: pd.DataFrame
    daily: pd.DataFrame
    headlines: pd.DataFrame

    def at(self, clock: str) -> datetime:
        """Return a New York wall-clock time of the day, half a minute past."""
        hour, minute = map(int, clock.split(":"))
        return self.session.open + timedelta(hours=hour - 9, minutes=minute - 30, seconds=30)

    def cut(self, now: datetime) -> "RecordedDay":
        """Return the day without everything after `now`: unfinished bars, later headlines, today's daily bar."""
        midnight = pd.Timestamp(self.session.day, tz=NEW_YORK)
        return replace(
            self, bars=self.bars[self.bars["timestamp"] + BAR <= now],
            daily=self.daily[self.daily["timestamp"] < midnight],
            headlines=self.headlines[self.headlines["received_at"] <= now],
        )  # fmt: skip


@cache
def all_daily_bars() -> pd.DataFrame:
    daily = pd.read_parquet(DATA / "bars_daily_market_2026-01-26_04-17.parquet")
    stamps = pd.to_datetime(daily["date"].astype("str")).dt.tz_localize(NEW_YORK).dt.tz_convert("UTC")
    return daily.assign(timestamp=stamps)


@cache
def listings() -> pd.DataFrame:
    table = pd.read_csv(DATA / "listings_2026-04-07.csv.gz", keep_default_na=False, na_values=[""])
    table = table.drop_duplicates("symbol").set_index("symbol")[["name", "exchange", "sector"]]
    return table.assign(tradable=True, shortable=True, easy_to_borrow=True, status="active")


@cache
def recorded_day(day: str) -> RecordedDay:
    """Return one whole-market day; headlines are received half a minute after publication."""
    d = date.fromisoformat(day)
    opened = datetime(d.year, d.month, d.day, 9, 30, tzinfo=NEW_YORK).astimezone(UTC)
    received_headlines = pd.read_parquet(DATA / "news_headlines_2026-02-24_04-17.parquet")
    received_headlines = received_headlines.assign(
        id=np.arange(len(received_headlines)).astype(str),
        summary="",
        received_at=received_headlines["published_at"] + pd.Timedelta(seconds=30),
    )
    bars = pd.read_parquet(DATA / f"bars_5min_market_{day}.parquet")
    return RecordedDay(
        Session(d, opened, opened + timedelta(hours=6, minutes=30)),
        bars,
        all_daily_bars(),
        received_headlines,
    )


def snapshots(day: RecordedDay, now: datetime) -> pd.DataFrame:
    """Return the snapshots at `now`: finished bars aggregated, and an assumed quote of 8 bp or a cent."""
    seen = day.bars[(day.bars["timestamp"] + BAR <= now) & (day.bars["timestamp"] >= day.session.open)]
    seen = seen.assign(dollars=seen["close"] * seen["volume"])
    by = seen.groupby("symbol")
    table = pd.DataFrame(
        {
            "trade_price": by["close"].last(), "trade_at": by["timestamp"].last() + BAR,
            "day_open": by["open"].first(), "day_high": by["high"].max(), "day_low": by["low"].min(),
            "day_close": by["close"].last(), "day_volume": by["volume"].sum(),
        }
    )  # fmt: skip
    half = np.maximum(0.005, table["trade_price"] * 0.0004)
    midnight = pd.Timestamp(day.session.day, tz=NEW_YORK).tz_convert("UTC")
    before = day.daily[day.daily["timestamp"] < midnight].groupby("symbol")["close"].last()
    return table.assign(
        day_vwap=by["dollars"].sum() / table["day_volume"], day_at=midnight, quote_at=table["trade_at"],
        bid=(table["trade_price"] - half).round(2), ask=(table["trade_price"] + half).round(2),
        prev_close=before.reindex(table.index),
    )  # fmt: skip


def run_stages(
    day: RecordedDay, now: datetime, *, shorts: bool = False, cfg: Config | None = None
) -> pd.DataFrame:
    """Run all eight stages at `now`, without positions and with $100,000."""
    cfg = cfg or Config()
    session = day.session
    earlier_snapshots = [
        (now - timedelta(minutes=m), snapshots(day, now - timedelta(minutes=m))) for m in (15, 5)
    ]
    earlier = [(when, shot["trade_price"]) for when, shot in earlier_snapshots if len(shot)]
    frame = universe(listings(), cfg.universe)
    frame = scan(
        frame, snapshots(day, now), reference(day.daily, session.day), session, now, cfg.scan,
        allow_short=shorts, earlier=earlier,
    )  # fmt: skip
    received_headlines = day.headlines[day.headlines["symbol"].isin(symbols_to_read(frame, cfg.news))]
    frame = news(frame, received_headlines, now, cfg.news, allow_short=shorts)
    wanted = remaining_symbols(frame)
    bars = day.bars[day.bars["symbol"].isin(wanted)]
    daily = day.daily[day.daily["symbol"].isin(wanted)]
    frame = pattern(frame, bars, session, now, cfg.pattern, bar_minutes=5, allow_short=shorts)
    frame = technical(frame, bars, daily, session, now, cfg.technical, bar_minutes=5)
    frame = score(frame, cfg.scoring)
    account = AccountState(Decimal(100_000), Decimal(100_000), Decimal(200_000))
    limits = replace(limits_of(cfg), allow_short=shorts)
    frame = risk(frame, Portfolio(), account, limits, session, now, daily=daily, bars=bars, bar_minutes=5)
    return plan(frame, session, now, cfg.plan, top_n=cfg.workflow.execute_top_n)
