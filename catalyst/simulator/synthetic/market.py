"""A market that never was, in the proportions of the real one; the same for the same seed and day."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market import assets, calendar, quote_model
from catalyst.simulator.market import news as stories
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.bar_table import SECONDS, BarTable
from catalyst.simulator.market.interface import Asset, Floats, Ints, Session
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic import minutes as synthetic_minutes
from catalyst.simulator.synthetic.history import DAYS, daily_bars, minute_maker
from catalyst.simulator.synthetic.intraday_profile import Mood
from catalyst.simulator.synthetic.listings import Listings, by_rank, make_listings
from catalyst.simulator.synthetic.minutes import Minutes, World
from catalyst.simulator.synthetic.news import Company, Row, tell_chatter, tell_event
from catalyst.simulator.synthetic.stocks_in_play import Play, draw_charts, draw_plays

SYMBOLS: Final = 4129
CHATTER: Final = 320  # headlines that mean nothing
_LEVERAGED: Final = frozenset({"TQQQ", "SQQQ", "SOXL", "SOXS"})
_UNTRADED: Final = 30  # listings of each kind that a careful universe leaves out
_KINDS: Final = {".WS": "Warrant", ".U": "Unit", ".PRA": "Preferred Stock Series A", ".R": "Right"}


def make(seed: int, day: date, symbols: int = SYMBOLS, mood: Mood | None = None) -> BarMarket:
    """The market of `day`: `symbols` tradable listings (beside some warrants, units and the like).

    The listings follow from the seed, the rest from seed and day. `mood` is drawn when not given. There are
    daily bars of 85 sessions before, minutes of three (made for who asks), and pre-market trades from 04:00.
    Raises ValueError for a day without a session.
    """
    session = calendar.session_of(day)
    before = calendar.sessions_before(day, DAYS)
    listings = make_listings(np.random.default_rng((seed, 1)), symbols)
    rng = np.random.default_rng((seed, 2, day.toordinal()))
    mood = mood or Mood(rng.choice(list(profile.CHANCES), p=list(profile.CHANCES.values())))
    sigma = _sigmas(np.random.default_rng((seed, 4)), listings)
    plays = draw_plays(rng, listings, sigma, session, before[-1].close)
    minutes = int((session.close - session.open).total_seconds()) // 60
    charts = draw_charts(rng, listings, sigma, minutes, plays)
    world = _world(rng, listings, sigma, plays, mood)
    daily = daily_bars(rng, world, before)
    extra = _left_out(np.random.default_rng((seed, 5)), listings)
    steps = np.full(symbols + len(extra), 60)
    opens = int(session.open.timestamp())
    early = synthetic_minutes.early_minutes(rng, world, plays, _answers(plays, session))
    regular = synthetic_minutes.session_minutes(rng, world, plays, charts, minutes)
    tape = _table(
        ((early, opens - 60 * synthetic_minutes.EARLY_MINUTES), (regular, opens)),
        steps,
    )
    nothing = np.zeros(len(extra))
    dollars = np.concatenate((listings.dollars, nothing))
    return BarMarket(
        day=day,
        listings={**_assets(listings), **extra},
        tape=tape,
        daily=daily,
        spread=quote_model.spread_of(dollars),
        depth=quote_model.depth_of(np.concatenate((listings.dollars / listings.price, nothing))),
        news=stories.collect(_tell(rng, listings, plays, session, before[-1])),
        sectors=dict(zip(listings.symbols, listings.sectors, strict=True)),
        history=minute_maker(seed, world, daily, before),
    )


def _sigmas(rng: Generator, listings: Listings) -> Floats:
    """Each symbol's daily standard deviation: wider for cheap stocks, narrow for funds."""
    cheap = 1 + 0.3 * np.clip(np.log10(15 / listings.price), 0, 3)
    sigma = 0.0215 * cheap * np.exp(0.46 * rng.standard_normal(len(listings.price)))
    fund = np.array(listings.sectors) == ""
    sigma = np.where(fund, sigma * 0.4, sigma)
    sigma = np.where(listings.known & ~fund, np.clip(sigma, 0.009, 0.03), sigma)
    sigma = np.where(listings.known & fund, 0.009, sigma)
    leveraged = np.isin(listings.symbols, list(_LEVERAGED))
    return np.clip(np.where(leveraged, 0.035, sigma), 0.002, 0.12)


def _world(rng: Generator, listings: Listings, sigma: Floats, plays: Sequence[Play], mood: Mood) -> World:
    """Gaps, volumes and correlations of the day."""
    count = len(sigma)
    close = synthetic_minutes.to_tick(listings.price) / 1e4
    fund = (np.array(listings.sectors) == "") & listings.known
    surprise = rng.standard_normal(count)
    gap = by_rank(surprise * sigma, profile.GAPS[mood]) / 100
    quiet = np.clip(np.median(gap) + surprise * sigma * 0.3, -0.03, 0.03)
    gap = np.log1p(np.where(listings.known, quiet, gap))
    interest = 0.5 * np.abs(surprise) + rng.standard_normal(count)
    ratio = np.exp(by_rank(interest, tuple(np.log(profile.RATIOS))))
    ratio = np.where(listings.known, np.clip(ratio, 0.6, 2.0), ratio)
    together = np.clip(profile.TOGETHER[mood] * np.exp(0.35 * rng.standard_normal(count)), 0.05, 0.9)
    together = np.where(fund, 0.93, together)
    wide = sigma.copy()
    for play in plays:
        if play.minute < 0:
            gap[play.number] = play.move
        ratio[play.number] = play.volume
        wide[play.number] = np.clip(sigma[play.number] * 1.6, 0.02, 0.09)
    return World(
        close=close,
        gap=gap,
        sigma=wide,
        together=together,
        dollars=listings.dollars,
        volume=listings.dollars / close * ratio,
        mood=mood,
    )


def _answers(plays: Sequence[Play], session: Session) -> Ints:
    """The pre-market minute in which the price of each play knows its news."""
    begin = session.open - timedelta(minutes=synthetic_minutes.EARLY_MINUTES)
    return np.array(
        [max(int((play.published - begin).total_seconds()) // 60, 0) for play in plays], dtype=np.int64
    )


def _table(parts: Sequence[tuple[Minutes, int]], steps: Ints) -> BarTable:
    """The tape of several stretches, each with the second its minute 0 begins."""
    key = np.concatenate([part.number * SECONDS + begin + part.minute * 60 for part, begin in parts])
    order = np.argsort(key, kind="stable")
    open_, high, low, close, volume = (
        np.concatenate([getattr(part, name) for part, _ in parts])[order]
        for name in ("open", "high", "low", "close", "volume")
    )
    return BarTable(key[order], open_, high, low, close, volume, steps)


def _assets(listings: Listings) -> dict[str, Asset]:
    rows = zip(
        listings.symbols,
        listings.names,
        listings.exchanges,
        listings.price.tolist(),
        listings.dollars.tolist(),
        strict=True,
    )
    return {row[0]: assets.asset(*row) for row in rows}


def _left_out(rng: Generator, listings: Listings) -> Mapping[str, Asset]:
    """Warrants, units, rights, preferred, foreign over-the-counter and delisted names, none with a trade."""
    taken = set(listings.symbols)
    bases = np.flatnonzero(~listings.known & (np.array([len(symbol) for symbol in listings.symbols]) <= 4))
    found: dict[str, Asset] = {}
    for ending, kind in _KINDS.items():
        for number in rng.choice(bases, size=min(_UNTRADED, len(bases)), replace=False).tolist():
            name = f"{listings.names[number].removesuffix(' Common Stock')} {kind}"
            symbol = listings.symbols[number] + ending
            found[symbol] = assets.asset(symbol, name, listings.exchanges[number], 0.0, 0.0)
    for ending, exchange in (("F", "OTC"), ("Q", "NYSE")):
        for number in rng.choice(bases, size=min(_UNTRADED, len(bases)), replace=False).tolist():
            symbol = f"{listings.symbols[number]:Z<4.4}{ending}"
            if symbol not in taken:
                status = "active" if exchange == "OTC" else "inactive"
                found[symbol] = _unlisted(symbol, listings.names[number], exchange, status)
    return found


def _unlisted(symbol: str, name: str, exchange: str, status: str) -> Asset:
    return Asset(
        id=str(assets.identity(symbol)),
        symbol=symbol,
        name=name,
        exchange=exchange,
        tradable=False,
        shortable=False,
        easy_to_borrow=False,
        fractionable=False,
        marginable=False,
        status=status,
    )


def _tell(
    rng: Generator, listings: Listings, plays: Sequence[Play], session: Session, before: Session
) -> list[Row]:
    """Every headline from the close before to the close."""

    def company(number: int) -> Company:
        name = listings.names[number].removesuffix(" Common Stock")
        return Company(
            listings.symbols[number],
            name,
            listings.sectors[number],
            float(listings.price[number]),
            bool(listings.known[number]),
        )

    rows: list[Row] = []
    for play in plays:
        rows += tell_event(rng, company(play.number), play.event, play.side, play.published, session.close)
    spoken = [company(int(number)) for number in np.argsort(-listings.dollars, kind="stable")[:400]]
    start = datetime.fromtimestamp(before.close.timestamp(), UTC)
    return rows + tell_chatter(rng, spoken, CHATTER, start, session.close)
