"""Recorded market: loads bars, trades, quotes, headlines and listings from Parquet or CSV files.

Columns of intraday files: symbol, timestamp (UTC, start of the bar), open, high, low, close, volume; the bars
are one second, one minute or five minutes long. `recorded.fine` describes files of single trades and quotes.
Daily: symbol, date, open, high, low, close, volume. Headlines: symbol, published_at, headline, source, url.
Listings: symbol, name, optionally exchange and sector. Official closes: symbol, date, close.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from catalyst.clock import NEW_YORK
from catalyst.simulator.market import assets, calendar, intrabar_path, quote_model
from catalyst.simulator.market import news as market_news
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import KEY_STRIDE, PRICES, BarTable, concatenate_tables
from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.market.ticks import Ticks
from catalyst.simulator.recorded import fine as fine_market
from catalyst.simulator.recorded.table_checks import check_table

BAR_LENGTHS_S: Final = (1, 60, 300)  # bar lengths that can be played, seconds
AVERAGE_DAYS: Final = 20
UNKNOWN_DOLLAR_VOLUME: Final = 1e7  # for a symbol without an earlier day
NEWS_LATENCY: Final = timedelta(seconds=60)  # from publication to the news feed; an assumption
MAX_CLOSE_DIFFERENCE: Final = 0.02  # a larger relative difference means another split adjustment


def load_market(
    intraday: Path | Sequence[Path],
    daily: Path | None = None,
    headlines: Path | None = None,
    listings: Path | None = None,
    day: date | None = None,
    official: Path | None = None,
    quotes: Path | Sequence[Path] | None = None,
    *,
    news_latency: timedelta = NEWS_LATENCY,
) -> BarMarket:
    """Return the market of `day` (by default the last one in the files), with everything older as its history.

    Rows after `day` are dropped. A symbol recorded in several lengths is played from the finest: single trades,
    then seconds, then the shorter bars. Trades before and after regular hours are played too where they are
    recorded. Recorded days without a daily bar get one from their regular hours. An official close replaces a
    daily bar's close when both have the same split adjustment.

    Raises ValueError for invalid bars, bar lengths other than 1 second, 1 or 5 minutes, or a day without a
    session.
    """
    tables, quote_tables = _read_tables(intraday), _read_tables(quotes or ())
    day = day or max(_last_day(intraday_bars) for intraday_bars in tables)
    calendar.session_of(day)
    daily_table = _read_table(daily, [pa.field("date", pa.date32())]) if daily else None
    listing_rows = _read_listings(listings)
    symbols = sorted(
        set(listing_rows).union(
            *(
                pc.unique(table["symbol"]).to_pylist()
                for table in [*tables, *([daily_table] if daily_table else [])]
            )
        )
    )
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    ticks = _ticks_by_number(tables, numbers, day)
    intraday_bars = _intraday_bars(tables, numbers, day, ticks)
    recorded_days = _daily_bars(daily_table, numbers, day) if daily_table else None
    daily_bars = _with_derived_days(recorded_days, intraday_bars, day)
    if official:
        daily_bars = _with_official_closes(
            daily_bars, _read_table(official, [pa.field("date", pa.date32())]), numbers
        )
    price, shares, dollars = usual_activity(daily_bars, len(symbols), day)
    assets_by_symbol = {
        symbol: assets.make_asset(
            symbol, *listing_rows.get(symbol, ("", ""))[:2], float(price[n]), float(dollars[n])
        )
        for n, symbol in enumerate(symbols)
    }
    return BarMarket(
        day=day,
        listings=assets_by_symbol,
        intraday=intraday_bars,
        daily=daily_bars,
        spread=quote_model.spread_of(dollars),
        depth=quote_model.depth_of(shares),
        news=market_news.collect_news(_read_headlines(headlines, day, news_latency)),
        sectors={symbol: sector for symbol, (_, _, sector) in listing_rows.items()},
        ticks=ticks,
        recorded_quotes=fine_market.quotes_by_number(
            [
                (table, _symbol_numbers(table["symbol"], numbers), _start_seconds(table))
                for table in quote_tables
            ],
            _end_of_day(day),
            ticks,
        ),
    )


def usual_activity(daily: BarTable, count: int, day: date) -> tuple[Floats, Floats, Floats]:
    """Return each symbol's last close, shares a day and dollars a day, over its last 20 sessions before `day`.

    A symbol without an earlier day has a close and shares of 0 and UNKNOWN_DOLLAR_VOLUME.
    """
    numbers = np.arange(count)
    end = daily.first_rows(numbers, int(calendar.midnight(day).timestamp()))
    begin = np.maximum(end - AVERAGE_DAYS, daily.first_rows(numbers, 0))
    day_count = np.maximum(end - begin, 1)
    has_days = end > begin
    dollars = (daily.cumulative_value[end] - daily.cumulative_value[begin]) / day_count / intrabar_path.UNITS
    shares = (daily.cumulative_shares[end] - daily.cumulative_shares[begin]) / day_count
    last = daily.close[np.maximum(end - 1, 0)] / intrabar_path.UNITS if len(daily.key) else np.zeros(count)
    return (
        np.where(has_days, last, 0.0),
        np.where(has_days, shares, 0.0),
        np.where(has_days, dollars, UNKNOWN_DOLLAR_VOLUME),
    )


def _read_table(file: Path, times: Sequence[pa.Field]) -> pa.Table:
    """Return a checked table with `symbol` as text and the given time columns cast to their types.

    Raises ValueError with file and row for what cannot be played.
    """
    try:
        table = _read_file(file, times)
        for field in times:
            if field.name in table.column_names:
                index = table.column_names.index(field.name)
                table = table.set_column(index, field.name, table[field.name].cast(field.type, safe=False))
    except pa.ArrowException as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    return check_table(table, file, tuple(field.name for field in times))


def _read_file(file: Path, times: Sequence[pa.Field]) -> pa.Table:
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file)
    # symbols stay text: NA, NULL and TRUE are symbols
    types = {"symbol": pa.string(), "name": pa.string(), **{field.name: field.type for field in times}}
    options = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    return pyarrow.csv.read_csv(file, convert_options=options)


def _last_day(table: pa.Table) -> date:
    last: datetime = pc.max(table["timestamp"]).as_py()
    return calendar.trading_day(last)


def _read_tables(files: Path | Sequence[Path]) -> list[pa.Table]:
    """Return tables with a `timestamp` column."""
    paths = [files] if isinstance(files, Path) else files
    return [_read_table(file, [pa.field("timestamp", pa.timestamp("us", "UTC"))]) for file in paths]


def _end_of_day(day: date) -> int:
    """Return the New York midnight that ends `day`, in epoch seconds."""
    return int(calendar.midnight(day + timedelta(days=1)).timestamp())


def _ticks_by_number(tables: Sequence[pa.Table], numbers: Mapping[str, int], day: date) -> dict[int, Ticks]:
    """Return the ticks up to the end of `day` of each symbol recorded finer than minutes.

    Single trades replace the seconds of a symbol.
    """
    ticks: dict[int, Ticks] = {}
    for table in sorted(tables, key=_bar_length, reverse=True):
        start, number = _start_seconds(table), _symbol_numbers(table["symbol"], numbers)
        if fine_market.is_trade_table(table):
            ticks |= fine_market.ticks_of_trades(table, number, start, _end_of_day(day))
        elif _bar_length(table) == 1:
            selected = np.flatnonzero(start < _end_of_day(day))
            seconds = _bar_table(
                table, list(numbers), number, start, selected, np.ones(len(numbers), dtype=np.int64)
            )
            ticks |= fine_market.ticks_of_seconds(seconds)
    return ticks


def _intraday_bars(
    tables: Sequence[pa.Table], numbers: Mapping[str, int], day: date, ticks: Mapping[int, Ticks]
) -> BarTable:
    """Return the intraday bars up to the end of `day`, in one length for each symbol.

    Symbols with ticks have minute bars made from these.
    """
    steps = np.full(len(numbers), max(BAR_LENGTHS_S))
    for table in sorted(tables, key=_bar_length, reverse=True):
        steps[_symbol_numbers(pc.unique(table["symbol"]), numbers)] = max(
            _bar_length(table), min(BAR_LENGTHS_S[1:])
        )
    parts = [fine_market.minute_bars_of_ticks(ticks, steps)] if ticks else []
    for table in tables:
        if _bar_length(table) not in BAR_LENGTHS_S[1:]:
            continue
        start, number = _start_seconds(table), _symbol_numbers(table["symbol"], numbers)
        selected_length = (start < _end_of_day(day)) & (steps[number] == _bar_length(table))
        selected = np.flatnonzero(selected_length & fine_market.mask_without_ticks(number, start, ticks))
        parts.append(_bar_table(table, list(numbers), number, start, selected, steps))
    return concatenate_tables(parts)


def _bar_length(table: pa.Table) -> int:
    """Return the bar length of a table in seconds: the longest that divides all starts; 0 for single trades.

    Raises ValueError when no supported length fits.
    """
    if fine_market.is_trade_table(table):
        return 0
    step = int(np.gcd.reduce(np.unique(_start_seconds(table) % 86_400)))
    bar_length = next((length for length in reversed(BAR_LENGTHS_S) if step and step % length == 0), None)
    if bar_length is None or (bar_length == 1 and step != 1):
        raise ValueError(f"bars start on multiples of {step} s; use bars of 1 second, 1 or 5 minutes")
    return bar_length


def _start_seconds(table: pa.Table) -> Ints:
    seconds: Ints = table["timestamp"].cast(pa.int64()).to_numpy() // 1_000_000
    return seconds


def _symbol_numbers(symbols: pa.ChunkedArray | pa.Array, numbers: Mapping[str, int]) -> Ints:
    """Return the number of each symbol; -1 for an unknown one."""
    encoded = pc.dictionary_encode(symbols)
    combined = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    lookup = np.array([numbers.get(symbol, -1) for symbol in combined.dictionary.to_pylist()], dtype=np.int64)
    symbol_numbers: Ints = lookup[combined.indices.to_numpy(zero_copy_only=False)]
    return symbol_numbers


def _bar_table(
    table: pa.Table, symbols: Sequence[str], number: Ints, start: Ints, rows: Ints, steps: Ints
) -> BarTable:
    prices = [table[name].to_numpy()[rows] for name in PRICES]
    volume = table["volume"].to_numpy()[rows].astype(np.float64)
    return BarTable.build(symbols, number[rows], start[rows], prices, volume, steps)


def _midnights(dates: pa.ChunkedArray) -> Ints:
    """Return the New York midnight of each date, in epoch seconds."""
    days: Ints = dates.cast(pa.int32()).to_numpy().astype(np.int64)
    unique_days, inverse = np.unique(days, return_inverse=True)
    epoch = date(1970, 1, 1)
    midnights = [int(calendar.midnight(epoch + timedelta(days=int(d))).timestamp()) for d in unique_days]
    return np.array(midnights, dtype=np.int64)[inverse]


def _daily_bars(table: pa.Table, numbers: Mapping[str, int], day: date) -> BarTable:
    start = _midnights(table["date"])
    selected = np.flatnonzero(start <= int(calendar.midnight(day).timestamp()))
    return _bar_table(
        table,
        list(numbers),
        _symbol_numbers(table["symbol"], numbers),
        start,
        selected,
        _day_steps(len(numbers)),
    )


def _day_steps(count: int) -> Ints:
    return np.full(count, 86_400)


def _with_derived_days(recorded: BarTable | None, intraday: BarTable, day: date) -> BarTable:
    """Return the daily bars; a symbol's earlier day without one gets it from the regular hours of `intraday`."""
    parts = [recorded] if recorded is not None else []
    start, number = intraday.starts, intraday.symbol_numbers
    first = calendar.trading_day(datetime.fromtimestamp(int(start.min()), UTC)) if len(start) else day
    for session in calendar.sessions(first, day - timedelta(days=1)):
        midnight = int(calendar.midnight(session.day).timestamp())
        rows = np.flatnonzero((start >= session.open.timestamp()) & (start < session.close.timestamp()))
        if recorded is not None:
            key = number[rows] * KEY_STRIDE + midnight
            index = np.minimum(np.searchsorted(recorded.key, key), max(len(recorded.key) - 1, 0))
            rows = rows[recorded.key[index] != key] if len(recorded.key) else rows
        if len(rows):
            parts.append(_aggregate_day(intraday, rows, midnight))
    return concatenate_tables(parts) if parts else _empty_daily_bars(len(intraday.step))


def _aggregate_day(intraday: BarTable, rows: Ints, midnight: int) -> BarTable:
    """Return one daily bar for each symbol in `rows`, which are in table order."""
    number = intraday.symbol_numbers[rows]
    first_rows = np.flatnonzero(np.concatenate(([True], number[1:] != number[:-1])))
    last_rows = np.append(first_rows[1:], len(rows)) - 1
    return BarTable(
        number[first_rows] * KEY_STRIDE + midnight,
        intraday.open[rows[first_rows]],
        np.maximum.reduceat(intraday.high[rows], first_rows),
        np.minimum.reduceat(intraday.low[rows], first_rows),
        intraday.close[rows[last_rows]],
        np.add.reduceat(intraday.volume[rows], first_rows),
        _day_steps(len(intraday.step)),
    )


def _empty_daily_bars(count: int) -> BarTable:
    empty = np.zeros(0, dtype=np.int64)
    return BarTable(empty, empty, empty, empty, empty, empty, _day_steps(count))


def _with_official_closes(daily: BarTable, official: pa.Table, numbers: Mapping[str, int]) -> BarTable:
    """Return `daily` with the official closes; high and low are widened to include them."""
    number = _symbol_numbers(official["symbol"], numbers)
    key = number * KEY_STRIDE + _midnights(official["date"])
    price = np.rint(np.nan_to_num(official["close"].to_numpy()) * intrabar_path.UNITS).astype(np.int64)
    daily_rows = np.minimum(np.searchsorted(daily.key, key), max(len(daily.key) - 1, 0))
    has_bar = (number >= 0) & (daily.key[daily_rows] == key)
    daily_rows, price = daily_rows[has_bar], price[has_bar]
    same_adjustment = (
        np.abs(price - daily.close[daily_rows]) <= MAX_CLOSE_DIFFERENCE * daily.close[daily_rows]
    )
    daily_rows, price = daily_rows[same_adjustment], price[same_adjustment]
    high, low, close = daily.high.copy(), daily.low.copy(), daily.close.copy()
    close[daily_rows] = price
    high[daily_rows], low[daily_rows] = (
        np.maximum(high[daily_rows], price),
        np.minimum(low[daily_rows], price),
    )
    return BarTable(daily.key, daily.open, high, low, close, daily.volume, daily.step)


def _read_listings(file: Path | None) -> dict[str, tuple[str, str, str]]:
    """Return name, exchange and sector of each listed symbol, "" where unknown."""
    if file is None:
        return {}
    table = _read_table(file, [])
    unknown = [""] * len(table)
    columns = [
        table[name].to_pylist() if name in table.column_names else unknown
        for name in ("name", "exchange", "sector")
    ]
    return {
        symbol: (name or "", exchange or "", sector or "")
        for symbol, name, exchange, sector in zip(table["symbol"].to_pylist(), *columns, strict=True)
    }


def _read_headlines(
    file: Path | None, day: date, latency: timedelta
) -> list[tuple[datetime, str, str, str, str, str]]:
    """Return rows for `collect_news`; none is published after `day`."""
    if file is None:
        return []
    table = _read_table(file, [pa.field("published_at", pa.timestamp("us", "UTC"))])
    until = datetime.combine(day + timedelta(days=1), datetime.min.time(), NEW_YORK)
    columns = [table[name].to_pylist() for name in ("published_at", "symbol", "headline", "source", "url")]
    return [
        (at.astimezone(UTC) + latency, symbol, title, "", source or "", url or "")
        for at, symbol, title, source, url in zip(*columns, strict=True)
        if at + latency < until
    ]
