"""Scanner: runs the eight stages of the pipeline in order and reads market data and news for them.

The stages are pure functions. This module reads the input of the next stage, times each stage and returns the frame.
"""

import asyncio
import csv
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from time import perf_counter
from typing import Final, ParamSpec, TypeVar

import pandas as pd
import structlog

from catalyst.broker.port import Broker, MarketData, NewsSource
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.listing_names import broker_symbol, sector_name
from catalyst.config.schema import Config, UniverseConfig
from catalyst.domain.errors import BrokerError, ConfigInvalid
from catalyst.domain.report import AssetReport
from catalyst.domain.session import NEW_YORK, Session
from catalyst.pipeline.frame import funnel, remaining_symbols
from catalyst.pipeline.news import news, symbols_to_read
from catalyst.pipeline.pattern import pattern
from catalyst.pipeline.plan import Plan, plan, plans
from catalyst.pipeline.reference import reference
from catalyst.pipeline.risk import risk
from catalyst.pipeline.risk_inputs import AccountState, Portfolio, limits_of
from catalyst.pipeline.scan import scan
from catalyst.pipeline.score import score
from catalyst.pipeline.technical import technical
from catalyst.pipeline.universe import renamed_names, universe, unlisted_symbols, with_present_symbols

log = structlog.get_logger()

DAILY_HISTORY: Final = timedelta(days=130)  # about 90 sessions
INTRADAY_HISTORY: Final = timedelta(days=4)  # includes the session before a long weekend
MIN_HISTORY_SHARE: Final = 0.1  # of the universe; with fewer the market data is wrong, not the symbols
MAX_HISTORY_AGE: Final = timedelta(days=7)  # the scan refuses older daily bars
MAX_PRICE_SAMPLES: Final = 8  # snapshots of the day that are retained for momentum

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """One finished scan: the frame with every symbol, the count after each stage, real milliseconds by stage."""

    started_at: datetime
    finished_at: datetime
    decided_at: datetime  # time of the data behind the plans
    frame: pd.DataFrame
    counts: dict[str, int]
    milliseconds: dict[str, float]
    degraded: str | None  # why the scan had no news, or no daily bars; None when it had both
    plans: tuple[Plan, ...]
    headlines: pd.DataFrame


@dataclass
class Scanner:
    """Prepares the data of a day and scans the market. `prepare` must run before the first `scan` of a day."""

    broker: Broker
    market: MarketData
    news: NewsSource
    clock: Clock
    config: CurrentConfig
    installation: str
    base: pd.DataFrame = field(default_factory=pd.DataFrame)  # the universe stage's result, before any scan
    reference: pd.DataFrame = field(default_factory=pd.DataFrame)
    daily: pd.DataFrame = field(default_factory=pd.DataFrame)
    assets: list[AssetReport] = field(default_factory=list)
    sectors: dict[str, str] = field(default_factory=dict)
    # By symbol of the configuration that the broker lists no more: its present symbol.
    present_symbols: Mapping[str, str] = field(default_factory=dict)
    prepared_day: date | None = None  # the session day of the universe and reference data
    history_shortage: str | None = (
        None  # why too few symbols of the day have daily bars; None when enough have
    )
    _price_samples: deque[tuple[datetime, pd.Series]] = field(
        default_factory=lambda: deque(maxlen=MAX_PRICE_SAMPLES)
    )

    async def prepare(self, session: Session) -> None:
        """Read assets, listings and daily bars, and compute universe and reference data of the day.

        Everything is replaced at the end or nothing, so that data of two days is never mixed. Raises BrokerError when
        a read failed, ConfigInvalid for an unreadable listings file.
        """
        config = self.config.in_force.universe
        assets = await self.broker.assets()
        present = await read_present_symbols(self.market, {asset.symbol for asset in assets}, config)
        sectors = read_sectors(config.listings_file)
        asset_rows = await self._compute(asset_frame, assets, sectors)
        base = await self._compute(universe, asset_rows, with_present_symbols(config, present))
        symbols = remaining_symbols(base)
        midnight = datetime.combine(session.day, time(), NEW_YORK).astimezone(session.open.tzinfo)
        daily = await self.market.bars(symbols, "1Day", midnight - DAILY_HISTORY, midnight)
        self.reference = await self._compute(reference, daily, session.day)
        self.assets, self.sectors, self.base, self.daily = assets, sectors, base, daily
        self.present_symbols = present
        for sentence in renamed_names(present, config):
            log.warning("symbols_renamed", reason=sentence)
        self.prepared_day = session.day
        self.history_shortage = _history_shortage(
            symbols, self.reference, session, self.config.in_force.scan.min_history_days
        )
        self._price_samples.clear()
        log.info(
            "day_prepared",
            assets=len(self.assets),
            universe=len(symbols),
            daily_bars=len(self.daily),
            sectors=len(set(self.sectors.values())),
        )

    async def record_prices(self) -> None:
        """Store the current price of every symbol of the universe.

        When the read fails, the next scan has no momentum over that window.
        """
        if self.base.empty:
            return
        try:
            snapshots = await self.market.snapshots(remaining_symbols(self.base))
        except BrokerError as error:
            log.warning("price_sample_failed", error=str(error))
            return
        self._price_samples.append((self.clock.now(), snapshots["trade_price"]))

    async def scan(
        self, session: Session, portfolio: Portfolio, account: AccountState, *, slots: int
    ) -> ScanResult:
        """Run every symbol through the stages; make at most `slots` plans.

        Raises BrokerError when market data could not be read. A failed news source, or daily bars that too many symbols
        lack, only degrades the scan.
        """
        config = self.config.in_force  # a reload during the scan changes only the next one
        started_at = self.clock.now()
        stopwatch = Stopwatch()
        snapshots = await self.market.snapshots(remaining_symbols(self.base))
        stopwatch.lap("snapshots")
        now = self.clock.now()
        frame = await self._compute(self._scan, snapshots, session, now, config)
        self._price_samples.append((now, snapshots["trade_price"]))
        stopwatch.lap("scan")
        headlines, degraded = await self._headlines(frame, now, config)
        stopwatch.lap("headlines")
        frame = await self._compute(
            self._news, frame, headlines, self.clock.now(), config, failed=degraded is not None
        )
        stopwatch.lap("news")
        symbols = sorted({*remaining_symbols(frame), *portfolio.side_by_symbol()})
        bars = await self.market.bars(
            symbols,
            f"{config.pipeline.bar_minutes}Min",
            session.open - INTRADAY_HISTORY,
            self.clock.now(),
        )
        stopwatch.lap("bars")
        decided_at = self.clock.now()
        frame = await self._compute(self._evaluate, frame, bars, session, decided_at, config, stopwatch)
        frame = await self._compute(
            self._risk, frame, bars, portfolio, account, session, decided_at, config, slots
        )
        stopwatch.lap("risk")
        return ScanResult(
            started_at,
            self.clock.now(),
            decided_at,
            frame,
            funnel(frame),
            stopwatch.laps,
            degraded or self.history_shortage,
            tuple(plans(frame)),
            headlines,
        )

    async def _compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a pure function in a thread, so that the event loop and the stop monitor do not wait for it."""
        with self.clock.hold():
            return await asyncio.to_thread(function, *args, **kwargs)

    def _scan(self, snapshots: pd.DataFrame, session: Session, now: datetime, config: Config) -> pd.DataFrame:
        return scan(
            self.base, snapshots, self.reference, session, now, config.scan,
            allow_short=config.trading.allow_short, earlier=tuple(self._price_samples),
        )  # fmt: skip

    async def _headlines(
        self, frame: pd.DataFrame, now: datetime, config: Config
    ) -> tuple[pd.DataFrame, str | None]:
        """Return the headlines of the best symbols by scan score, and the error when the source failed."""
        symbols = symbols_to_read(frame, config.news)
        if not symbols or not config.features.news_sentiment:
            return pd.DataFrame(), None
        since = now - timedelta(hours=config.news.lookback_hours)
        try:
            return await self.news.headlines(symbols, since, now), None
        except BrokerError as error:
            log.warning("scan_degraded", reason=f"news: {error}")
            return pd.DataFrame(), f"news: {error}"

    def _news(
        self, frame: pd.DataFrame, headlines: pd.DataFrame, now: datetime, config: Config, *, failed: bool
    ) -> pd.DataFrame:
        return news(
            frame, headlines, now, config.news,
            allow_short=config.trading.allow_short, enabled=config.features.news_sentiment, failed=failed,
        )  # fmt: skip

    def _evaluate(
        self,
        frame: pd.DataFrame,
        bars: pd.DataFrame,
        session: Session,
        now: datetime,
        config: Config,
        stopwatch: "Stopwatch",
    ) -> pd.DataFrame:
        """Run the stages pattern, technical and score, and time each."""
        minutes = config.pipeline.bar_minutes
        frame = pattern(
            frame, bars, session, now, config.pattern,
            bar_minutes=minutes, allow_short=config.trading.allow_short,
            enabled=config.features.pattern_detection, required=config.pipeline.require_pattern,
        )  # fmt: skip
        stopwatch.lap("pattern")
        frame = technical(
            frame, bars, self._daily_of(frame), session, now, config.technical, bar_minutes=minutes
        )
        stopwatch.lap("technical")
        frame = score(frame, config.scoring)
        stopwatch.lap("score")
        return frame

    def _risk(
        self,
        frame: pd.DataFrame,
        bars: pd.DataFrame,
        portfolio: Portfolio,
        account: AccountState,
        session: Session,
        now: datetime,
        config: Config,
        slots: int,
    ) -> pd.DataFrame:
        """Run the stages risk and plan."""
        symbols = {*remaining_symbols(frame), *portfolio.side_by_symbol()}
        daily = self.daily[self.daily["symbol"].isin(symbols)]
        frame = risk(
            frame, portfolio, account, limits_of(config, size_factor=account.size_factor), session,
            now,
            daily=daily, bars=bars, bar_minutes=config.pipeline.bar_minutes,
        )  # fmt: skip
        return plan(
            frame, session, now, config.plan,
            installation=self.installation, top_n=config.workflow.execute_top_n, slots=slots,
        )  # fmt: skip

    def _daily_of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the daily bars of the symbols that no stage has refused."""
        return self.daily[self.daily["symbol"].isin(remaining_symbols(frame))]


@dataclass
class Stopwatch:
    """Measures real milliseconds between laps, whatever the market's clock shows."""

    laps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=perf_counter)

    def lap(self, name: str) -> None:
        """Store the time since the previous lap, or since the start, under `name`."""
        now = perf_counter()
        self.laps[name] = round((now - self._last) * 1000, 2)
        self._last = now


def _history_shortage(
    symbols: Sequence[str], usual: pd.DataFrame, session: Session, min_days: int
) -> str | None:
    """Return why the scan cannot judge most symbols, None when it can: it refuses those without recent daily bars."""
    known = usual[usual.index.isin(symbols)]
    last_at = pd.to_datetime(known["last_at"], utc=True)
    enough = int(
        ((known["days"] >= min_days) & (last_at >= pd.Timestamp(session.open) - MAX_HISTORY_AGE)).sum()
    )
    if not symbols or enough >= MIN_HISTORY_SHARE * len(symbols):
        return None
    return f"{enough} of {len(symbols)} symbols have the {min_days} recent daily bars that a scan needs"


def asset_frame(assets: Sequence[AssetReport], sectors: dict[str, str]) -> pd.DataFrame:
    """Return a frame of assets, indexed by symbol.

    Columns: name, exchange, tradable, shortable, easy_to_borrow, status, sector (missing where unknown).
    """
    columns: dict[str, Callable[[AssetReport], object]] = {
        "name": lambda asset: asset.name,
        "exchange": lambda asset: asset.exchange,
        "tradable": lambda asset: asset.tradable,
        "shortable": lambda asset: asset.shortable,
        "easy_to_borrow": lambda asset: asset.easy_to_borrow,
        "status": lambda asset: asset.status,
        "sector": lambda asset: sectors.get(asset.symbol),
    }
    index = pd.Index([asset.symbol for asset in assets], name="symbol", dtype="str")
    return pd.DataFrame({name: [read(asset) for asset in assets] for name, read in columns.items()}, index)


async def read_present_symbols(
    market: MarketData, listed: Collection[str], cfg: UniverseConfig
) -> Mapping[str, str]:
    """Return the present symbol of each symbol of the configuration that is not `listed` any more.

    A failed read leaves them out: they match nothing then, which a person is told.
    """
    missing = unlisted_symbols(listed, cfg)
    if not missing:
        return {}
    try:
        found = await market.present_symbols(missing)
    except BrokerError as error:
        log.warning("name_changes_read_failed", symbols=missing, error=str(error))
        return {}
    return {symbol: present for symbol, present in found.items() if present in listed}


def read_sectors(path: Path | None) -> dict[str, str]:
    """Return symbol → sector of a listings file (CSV: symbol, name, sector); rows without a sector are left out.

    Symbols and sectors have the form in which the configuration names them.
    Empty without a path. Raises ConfigInvalid when the file cannot be read or lacks a column.
    """
    if path is None:
        return {}
    try:
        if path.suffix == ".gz":
            rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
        else:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        return {
            broker_symbol(str(row["symbol"])): sector_name(str(row["sector"]))
            for row in rows
            if row["sector"]
        }
    except (OSError, KeyError, ValueError) as error:
        raise ConfigInvalid(
            f"universe.listings_file {path}: {error!r}; use a readable CSV file with the columns symbol, name, sector"
        ) from None
