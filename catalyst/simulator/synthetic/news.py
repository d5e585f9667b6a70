"""Synthetic headlines: news events of the stocks in play, and background headlines about other companies.

Real companies appear only in passing, in lists and previews; every event happens to an invented company.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from numpy.random import Generator


class CompanyEvent(StrEnum):
    """Types of a company's news events."""

    EARNINGS = "earnings"
    GUIDANCE = "guidance"
    FDA = "fda"
    CONTRACT = "contract"
    RATING = "rating"
    MERGER = "merger"
    OFFERING = "offering"
    LITIGATION = "litigation"
    PRODUCT = "product"
    MANAGEMENT = "management"


GOOD_HEADLINES: Final = {
    CompanyEvent.EARNINGS: (
        "{n} tops quarterly estimates as margins widen",
        "{n} posts record quarterly revenue, profit ahead of Street view",
        "{n} earnings beat expectations; sales climb {pct}% from a year ago",
        "Quarterly profit at {n} surges {pct}% on strong demand",
        "{n} ({s}) swings to a profit, beating the consensus by a wide margin",
        "{n} delivers upside surprise with EPS of ${eps}, well above forecasts",
    ),
    CompanyEvent.GUIDANCE: (
        "{n} raises full-year outlook after robust start to the quarter",
        "{n} lifts its revenue forecast, cites accelerating orders",
        "{n} boosts full-year guidance above analyst estimates",
        "{n} sees quarterly sales well ahead of consensus, shares jump",
        "Upbeat preannouncement: {n} now expects revenue growth of {pct}%",
    ),
    CompanyEvent.FDA: (
        "FDA approves {n}'s {drug} for adults with advanced disease",
        "{n} wins FDA clearance for its {drug} system",
        "{n} says {drug} met primary endpoint in late-stage trial",
        "{n} gets breakthrough therapy designation for {drug}",
        "Positive phase 3 results: {n}'s {drug} significantly improved survival",
    ),
    CompanyEvent.CONTRACT: (
        "{n} awarded ${usd} million multi-year government contract",
        "{n} signs ${usd} million supply agreement with a leading automaker",
        "{n} wins its largest order to date, worth about ${usd} million",
        "{n} lands cloud partnership valued at ${usd} million over five years",
        "Defense agency picks {n} for ${usd} million modernization program",
    ),
    CompanyEvent.RATING: (
        "{n} upgraded to Buy at {bank} with target raised to ${target}",
        "{bank} upgrades {n}, sees {pct}% upside on improving cash flow",
        "{n} initiated at Outperform by {bank}, which calls it a top pick",
        "{bank} turns bullish on {n}, lifts price target to ${target}",
    ),
    CompanyEvent.MERGER: (
        "{n} to be acquired for ${target} a share in cash, a {pct}% premium",
        "{n} agrees to ${usd} million takeover by private equity group",
        "{n} confirms it has received an unsolicited buyout proposal",
        "Rival makes ${target}-a-share bid for {n}, source says",
    ),
    CompanyEvent.PRODUCT: (
        "{n} announces ${usd} million share buyback and raises dividend",
        "{n} unveils next-generation platform, early customer demand strong",
        "{n} secures key patent, expands partnership with major retailer",
        "{n} to join widely followed midcap index before the open on Friday",
    ),
}

BAD_HEADLINES: Final = {
    CompanyEvent.EARNINGS: (
        "{n} misses quarterly estimates as costs rise",
        "{n} reports surprise loss; revenue falls {pct}%",
        "{n} results disappoint, weak demand weighs on margins",
        "Profit at {n} plunges {pct}%, short of expectations",
        "{n} ({s}) posts wider-than-expected loss for the quarter",
    ),
    CompanyEvent.GUIDANCE: (
        "{n} cuts full-year forecast, warns of slowing orders",
        "{n} withdraws its outlook citing uncertainty, shares tumble",
        "{n} lowers revenue guidance well below consensus",
        "{n} warns quarterly sales will miss its previous forecast",
    ),
    CompanyEvent.FDA: (
        "FDA declines to approve {n}'s {drug}, requests another trial",
        "{n} halts study of {drug} after safety concerns",
        "{n} receives complete response letter for {drug}",
        "{n}'s {drug} fails to meet main goal in phase 3 study",
    ),
    CompanyEvent.RATING: (
        "{n} downgraded to Sell at {bank} on valuation concerns",
        "{bank} cuts {n} to Underperform, slashes target to ${target}",
        "{n} loses Buy rating at {bank} as growth slows",
    ),
    CompanyEvent.OFFERING: (
        "{n} prices ${usd} million public offering of common stock at a discount",
        "{n} announces proposed offering of shares and warrants",
        "{n} files to sell ${usd} million of stock, diluting holders",
        "{n} launches ${usd} million convertible notes offering",
    ),
    CompanyEvent.LITIGATION: (
        "Regulator opens investigation into accounting at {n}",
        "{n} hit with ${usd} million verdict in patent case",
        "{n} discloses subpoena, delays annual report",
        "Short seller accuses {n} of overstating sales",
        "{n} recalls flagship product after reports of failures",
    ),
    CompanyEvent.MANAGEMENT: (
        "{n} finance chief resigns abruptly; company reviews controls",
        "{n} says chief executive to step down, suspends dividend",
        "{n} loses its biggest customer, plans job cuts",
    ),
}

_GOOD_FOLLOW_UPS: Final = (
    "{n} shares jump premarket: what traders are watching",
    "{n} stock climbs on heavy volume after announcement",
    "Analysts applaud {n} as stock extends rally",
    "{n} among biggest gainers after upbeat news",
)
_BAD_FOLLOW_UPS: Final = (
    "{n} shares sink premarket after setback",
    "{n} stock slides on heavy volume following announcement",
    "Why {n} shares are falling today",
    "{n} among biggest decliners as investors digest bad news",
)
_MENTION_HEADLINES: Final = (
    "5 {sector} stocks to watch this week",
    "Is {n} stock a hold at this valuation?",
    "What the options market says about {n}",
    "{n} and its peers: how the {sector} group compares",
    "Stock market today: futures little changed ahead of data",
    "A look at the ownership of {n}",
)
_BACKGROUND_HEADLINES: Final = (
    *_MENTION_HEADLINES,
    "{n} to present at investor conference next month",
    "{n} declares regular quarterly dividend",
    "Insider at {n} reports routine share sale under trading plan",
    "{bank} reiterates Neutral on {n}",
    "{n} schedules quarterly results for later this month",
    "Fund managers adjust {sector} holdings, filings show",
)
_SUMMARIES: Final = (
    "{title}. The company made the announcement in a statement.",
    "{title}. Trading in the shares was more active than usual.",
    "{title}, according to a filing.",
    "",
)
_BANKS: Final = (
    "Marlin & Vale",
    "Northfield Securities",
    "Corbett Partners",
    "Halstead",
    "Ridley Capital Markets",
)
_DRUGS: Final = (
    "velotrexin",
    "nuravimab",
    "sorbetinib",
    "calendrine",
    "oxaltera",
    "miravantide",
    "TR-204",
    "KLB-117",
)
_SOURCES: Final = ("Marketline", "Street Wire", "The Open Desk", "Daily Tape")
_HEALTH_CARE_EVENTS: Final = frozenset({CompanyEvent.FDA})


@dataclass(frozen=True, slots=True)
class Company:
    """The company of a headline."""

    symbol: str
    name: str
    sector: str
    price: float
    is_real: bool  # false for an invented company


NewsRow = tuple[datetime, str, str, str, str, str]  # a row of market.news.collect_news


def draw_event(rng: Generator, sector: str, side: int) -> CompanyEvent:
    """Return a random good (side 1) or bad (-1) event that can happen to a company of this sector."""
    events = list(GOOD_HEADLINES if side > 0 else BAD_HEADLINES)
    if sector == "Health Care" and rng.random() < 0.5:
        return CompanyEvent.FDA
    events = [event for event in events if event not in _HEALTH_CARE_EVENTS]
    return events[int(rng.integers(len(events)))]


def write_event_headlines(
    rng: Generator, company: Company, event: CompanyEvent, side: int, at: datetime, until: datetime
) -> list[NewsRow]:
    """Return the headline of an event at `at`, and for most events a later follow-up before `until`."""
    titles = (GOOD_HEADLINES if side > 0 else BAD_HEADLINES)[event]
    rows = [_news_row(rng, at, company, titles[int(rng.integers(len(titles)))])]
    later = at + timedelta(minutes=int(rng.integers(20, 150)), seconds=int(rng.integers(60)))
    if later < until and rng.random() < 0.7:
        follow_ups = _GOOD_FOLLOW_UPS if side > 0 else _BAD_FOLLOW_UPS
        rows.append(_news_row(rng, later, company, follow_ups[int(rng.integers(len(follow_ups)))]))
    return rows


def write_mentions(
    rng: Generator, companies: Sequence[Company], start: datetime, end: datetime
) -> list[NewsRow]:
    """Return a headline without effect on prices about each company, between `start` and `end`."""
    duration_s = int((end - start).total_seconds())
    rows = []
    for company in companies:
        title = _MENTION_HEADLINES[int(rng.integers(len(_MENTION_HEADLINES)))]
        rows.append(_news_row(rng, start + timedelta(seconds=int(rng.integers(duration_s))), company, title))
    return rows


def write_background_headlines(
    rng: Generator, companies: Sequence[Company], count: int, start: datetime, end: datetime
) -> list[NewsRow]:
    """Return `count` headlines without effect on prices, about `companies`, between `start` and `end`.

    A headline about several companies gives one row for each.
    """
    rows = []
    for _ in range(count if companies else 0):
        company = companies[int(rng.integers(len(companies)))]
        at = start + timedelta(seconds=int(rng.integers(int((end - start).total_seconds()))))
        titles = _MENTION_HEADLINES if company.is_real else _BACKGROUND_HEADLINES
        title = titles[int(rng.integers(len(titles)))]
        mentioned = [company]
        if "{n}" not in title or "peers" in title:
            mentioned += [companies[int(n)] for n in rng.integers(len(companies), size=3)]
        row = _news_row(rng, at, company, title)
        rows += [(row[0], each.symbol, *row[2:]) for each in mentioned]
    return rows


def _news_row(rng: Generator, at: datetime, company: Company, title: str) -> NewsRow:
    text = title.format(
        n=company.name,
        s=company.symbol,
        sector=company.sector.lower() or "fund",
        pct=int(rng.integers(8, 46)),
        usd=int(rng.integers(12, 480)),
        eps=f"{rng.uniform(0.12, 3.4):.2f}",
        target=f"{company.price * rng.uniform(1.15, 1.6):.0f}"
        if company.price >= 5
        else f"{company.price * 1.4:.2f}",
        bank=_BANKS[int(rng.integers(len(_BANKS)))],
        drug=_DRUGS[int(rng.integers(len(_DRUGS)))],
    )
    summary = _SUMMARIES[int(rng.integers(len(_SUMMARIES)))].format(title=text)
    source = _SOURCES[int(rng.integers(len(_SOURCES)))]
    number = int(rng.integers(1 << 40))
    return at, company.symbol, text, summary, source, f"https://news.example/{number:010x}"
