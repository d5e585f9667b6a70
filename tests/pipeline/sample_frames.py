"""Small markets for the pipeline tests: listings, snapshots and hand-drawn charts."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from catalyst.config.schema import Config
from catalyst.domain.session import NEW_YORK, Session
from catalyst.pipeline.universe import universe

DAY = date(2026, 3, 2)
SESSION = Session(DAY, datetime(2026, 3, 2, 14, 30, tzinfo=UTC), datetime(2026, 3, 2, 21, 0, tzinfo=UTC))
CFG = Config()


def new_york(hour: int, minute: int, second: int = 0) -> datetime:
    """Return a New York wall-clock time of the day."""
    return datetime(DAY.year, DAY.month, DAY.day, hour, minute, second, tzinfo=NEW_YORK).astimezone(UTC)


def assets(*symbols: str, **columns: object) -> pd.DataFrame:
    """Return ordinary NASDAQ shares that may be bought and shorted."""
    facts = {
        "name": "Some Company Inc. Common Stock", "exchange": "NASDAQ", "tradable": True, "shortable": True,
        "easy_to_borrow": True, "status": "active", "sector": "Technology",
    }  # fmt: skip
    return pd.DataFrame(facts | columns, index=pd.Index(symbols, name="symbol"))


def listed(*symbols: str, **columns: object) -> pd.DataFrame:
    """Return the frame after the universe stage."""
    return universe(assets(*symbols, **columns), CFG.universe)


def snapshot(now: datetime, **columns: object) -> dict[str, object]:
    """Return a snapshot of a liquid stock at $52, up 4 % from yesterday's $50 on heavy volume."""
    facts: dict[str, object] = {
        "trade_price": 52.0, "trade_at": now - timedelta(seconds=5), "bid": 51.99, "ask": 52.01, "bid_size": 300.0,
        "ask_size": 300.0, "quote_at": now - timedelta(seconds=2), "minute_close": 52.0, "minute_volume": 9e3,
        "minute_at": now - timedelta(seconds=60), "day_open": 51.0, "day_high": 52.5, "day_low": 50.8,
        "day_close": 52.0, "day_volume": 3e6, "day_vwap": 51.6, "day_at": new_york(0, 0), "prev_open": 49.0,
        "prev_high": 50.5, "prev_low": 48.5, "prev_close": 50.0, "prev_volume": 2e6, "prev_at": new_york(0, 0),
    }  # fmt: skip
    return facts | columns


def snapshots(**rows: dict[str, object]) -> pd.DataFrame:
    """Return a frame of snapshots, indexed by symbol."""
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("symbol")
    for name in table.columns:
        if name.endswith("_at"):
            table[name] = pd.to_datetime(table[name], utc=True)
        else:
            table[name] = table[name].astype("float64")
    return table


def daily_references(*symbols: str, **columns: object) -> pd.DataFrame:
    """Return the output of `reference` for an ordinary $50 stock."""
    facts = {
        "prev_close": 50.0, "avg_volume_20d": 4e6, "avg_dollar_volume_20d": 2e8, "atr_14d": 1.5, "days": 50,
        "last_at": pd.Timestamp(new_york(0, 0) - timedelta(days=3)),
    }  # fmt: skip
    return pd.DataFrame(facts | columns, index=pd.Index(symbols, name="symbol"))


def candles(
    symbol: str, path: Sequence[float], minutes: int = 5, volume: Iterable[float] | float = 1e5
) -> pd.DataFrame:
    """Return bars whose closes follow the path from the open of the day; each opens at the previous close,
    with wicks of 2 cents."""
    close = np.asarray(path, dtype=float)
    opened = np.r_[close[0], close[:-1]]
    wick = 0.02
    start = pd.Timestamp(SESSION.open)
    return pd.DataFrame(
        {
            "symbol": symbol,
            "timestamp": [start + pd.Timedelta(minutes=minutes * k) for k in range(close.size)],
            "open": opened,
            "high": np.maximum(opened, close) + wick,
            "low": np.minimum(opened, close) - wick,
            "close": close,
            "volume": np.broadcast_to(np.asarray(volume, dtype=float), close.shape),
        }
    )


def price_path(*points: tuple[int, float]) -> list[float]:
    """Return a path through (bar, price) points, linear between them."""
    bars, prices = zip(*points, strict=True)
    return list(np.interp(np.arange(bars[-1] + 1), bars, prices))


def instant_after(frame: pd.DataFrame, minutes: int = 5) -> datetime:
    """Return the instant two seconds after the end of the last bar."""
    last: pd.Timestamp = frame["timestamp"].max()
    return (last + pd.Timedelta(minutes=minutes, seconds=2)).to_pydatetime()


def candidates(*symbols: str, **columns: object) -> pd.DataFrame:
    """Return a frame as after the news stage, with no row refused."""
    facts: dict[str, object] = {
        "price": 52.0, "bid": 51.99, "ask": 52.01, "prev_close": 50.0, "gap_pct": 2.0, "momentum_pct": 1.0,
        "momentum_open_pct": 1.0, "atr_14d": 1.5, "minute_volume": 1e5, "scan_score": 0.8, "scan_rank": 1.0,
        "news_rank": 1.0, "news_score": 0.5, "momentum_score": 0.8, "volume_score": 0.8,
    }  # fmt: skip
    return listed(*symbols).assign(**(facts | columns))


def no_news() -> pd.DataFrame:
    names = ("id", "symbol", "headline", "summary", "source", "url")
    empty = pd.DataFrame({name: pd.Series([], dtype="str") for name in names})
    stamps = pd.Series([], dtype="datetime64[us, UTC]")
    return empty.assign(published_at=stamps, received_at=stamps)


def headlines(*rows: tuple[str, str, datetime], source: str = "Reuters") -> pd.DataFrame:
    """Return rows of (symbol, text, published at), received a second later."""
    if not rows:
        return no_news()
    frame = pd.DataFrame(rows, columns=["symbol", "headline", "published_at"])
    frame["published_at"] = pd.to_datetime(frame["published_at"], utc=True)
    return frame.assign(
        id=[str(k) for k in range(len(rows))], summary="", source=source, url="",
        received_at=frame["published_at"] + pd.Timedelta(seconds=1),
    )  # fmt: skip
