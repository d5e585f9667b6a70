"""Listings of a synthetic market: real companies and funds, and thousands of invented ones.

Real listings have roughly their price and turnover, and no invented news event is about them. The invented ones
have prices, turnover and sectors in the proportions measured on the whole US market in 2026.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from catalyst.simulator.market.interface import Floats

# symbol, name, sector, exchange, price, millions of dollars a day
_REAL_LISTINGS: Final = """
SPY|SPDR S&P 500 ETF Trust||ARCA|655|38000
QQQ|Invesco QQQ Trust||NASDAQ|590|27000
IWM|iShares Russell 2000 ETF||ARCA|240|8500
DIA|SPDR Dow Jones Industrial Average ETF Trust||ARCA|465|1700
VOO|Vanguard S&P 500 ETF||ARCA|602|4600
TLT|iShares 20+ Year Treasury Bond ETF||NASDAQ|89|3300
HYG|iShares iBoxx High Yield Corporate Bond ETF||ARCA|80|2900
GLD|SPDR Gold Shares||ARCA|375|5200
SLV|iShares Silver Trust||ARCA|48|1800
EEM|iShares MSCI Emerging Markets ETF||ARCA|54|1500
EFA|iShares MSCI EAFE ETF||ARCA|95|1400
XLF|Financial Select Sector SPDR Fund||ARCA|53|2100
XLK|Technology Select Sector SPDR Fund||ARCA|280|1900
XLE|Energy Select Sector SPDR Fund||ARCA|90|1500
XLV|Health Care Select Sector SPDR Fund||ARCA|145|1300
XLI|Industrial Select Sector SPDR Fund||ARCA|154|1200
XLY|Consumer Discretionary Select Sector SPDR Fund||ARCA|236|1000
XLP|Consumer Staples Select Sector SPDR Fund||ARCA|79|1000
XLU|Utilities Select Sector SPDR Fund||ARCA|87|900
XLB|Materials Select Sector SPDR Fund||ARCA|89|500
XLRE|Real Estate Select Sector SPDR Fund||ARCA|42|300
SMH|VanEck Semiconductor ETF||NASDAQ|340|2300
TQQQ|ProShares UltraPro QQQ||NASDAQ|105|6500
SQQQ|ProShares UltraPro Short QQQ||NASDAQ|15|2400
SOXL|Direxion Daily Semiconductor Bull 3X Shares||ARCA|42|3200
SOXS|Direxion Daily Semiconductor Bear 3X Shares||ARCA|4.6|900
AAPL|Apple Inc. Common Stock|Technology|NASDAQ|262|12500
MSFT|Microsoft Corporation Common Stock|Technology|NASDAQ|510|10800
NVDA|NVIDIA Corporation Common Stock|Technology|NASDAQ|184|33000
AMZN|Amazon.com Inc. Common Stock|Consumer Discretionary|NASDAQ|222|9800
GOOGL|Alphabet Inc. Class A Common Stock|Technology|NASDAQ|268|9000
GOOG|Alphabet Inc. Class C Capital Stock|Technology|NASDAQ|269|5600
META|Meta Platforms Inc. Class A Common Stock|Technology|NASDAQ|715|9200
TSLA|Tesla Inc. Common Stock|Consumer Discretionary|NASDAQ|432|34000
AVGO|Broadcom Inc. Common Stock|Technology|NASDAQ|352|7600
BRK.B|Berkshire Hathaway Inc. Class B Common Stock|Finance|NYSE|492|2300
JPM|JPMorgan Chase & Co. Common Stock|Finance|NYSE|302|2700
LLY|Eli Lilly and Company Common Stock|Health Care|NYSE|815|2800
V|Visa Inc. Class A Common Stock|Finance|NYSE|344|2100
MA|Mastercard Incorporated Class A Common Stock|Finance|NYSE|562|1500
UNH|UnitedHealth Group Incorporated Common Stock|Health Care|NYSE|355|3100
XOM|Exxon Mobil Corporation Common Stock|Energy|NYSE|115|1700
WMT|Walmart Inc. Common Stock|Consumer Discretionary|NYSE|103|1600
JNJ|Johnson & Johnson Common Stock|Health Care|NYSE|190|1400
PG|Procter & Gamble Company Common Stock|Consumer Staples|NYSE|151|1100
HD|Home Depot Inc. Common Stock|Consumer Discretionary|NYSE|388|1300
ORCL|Oracle Corporation Common Stock|Technology|NYSE|275|4200
COST|Costco Wholesale Corporation Common Stock|Consumer Discretionary|NASDAQ|934|1800
NFLX|Netflix Inc. Common Stock|Consumer Discretionary|NASDAQ|109|3900
BAC|Bank of America Corporation Common Stock|Finance|NYSE|52|1900
KO|Coca-Cola Company Common Stock|Consumer Staples|NYSE|70|1100
PEP|PepsiCo Inc. Common Stock|Consumer Staples|NASDAQ|152|1000
MRK|Merck & Company Inc. Common Stock|Health Care|NYSE|87|1200
ABBV|AbbVie Inc. Common Stock|Health Care|NYSE|228|1200
CVX|Chevron Corporation Common Stock|Energy|NYSE|156|1200
CRM|Salesforce Inc. Common Stock|Technology|NYSE|255|1900
AMD|Advanced Micro Devices Inc. Common Stock|Technology|NASDAQ|236|11000
ADBE|Adobe Inc. Common Stock|Technology|NASDAQ|354|1500
INTC|Intel Corporation Common Stock|Technology|NASDAQ|38|3700
QCOM|QUALCOMM Incorporated Common Stock|Technology|NASDAQ|169|1500
TXN|Texas Instruments Incorporated Common Stock|Technology|NASDAQ|178|1200
MU|Micron Technology Inc. Common Stock|Technology|NASDAQ|206|5200
AMAT|Applied Materials Inc. Common Stock|Technology|NASDAQ|224|1600
IBM|International Business Machines Corporation Common Stock|Technology|NYSE|282|1500
GE|GE Aerospace Common Stock|Industrials|NYSE|301|1400
CAT|Caterpillar Inc. Common Stock|Industrials|NYSE|524|1700
BA|Boeing Company Common Stock|Industrials|NYSE|215|1600
HON|Honeywell International Inc. Common Stock|Industrials|NASDAQ|206|800
UPS|United Parcel Service Inc. Common Stock|Industrials|NYSE|87|700
GS|Goldman Sachs Group Inc. Common Stock|Finance|NYSE|765|1600
MS|Morgan Stanley Common Stock|Finance|NYSE|161|1000
WFC|Wells Fargo & Company Common Stock|Finance|NYSE|85|1300
C|Citigroup Inc. Common Stock|Finance|NYSE|99|1400
SCHW|Charles Schwab Corporation Common Stock|Finance|NYSE|94|900
AXP|American Express Company Common Stock|Finance|NYSE|345|900
PYPL|PayPal Holdings Inc. Common Stock|Finance|NASDAQ|67|1000
SOFI|SoFi Technologies Inc. Common Stock|Finance|NASDAQ|28|2000
HOOD|Robinhood Markets Inc. Class A Common Stock|Finance|NASDAQ|134|4300
COIN|Coinbase Global Inc. Class A Common Stock|Finance|NASDAQ|334|3500
MSTR|MicroStrategy Incorporated Class A Common Stock|Technology|NASDAQ|272|3700
PLTR|Palantir Technologies Inc. Class A Common Stock|Technology|NASDAQ|184|10500
SNOW|Snowflake Inc. Common Stock|Technology|NYSE|262|1300
SHOP|Shopify Inc. Class A Subordinate Voting Shares|Technology|NASDAQ|158|1500
UBER|Uber Technologies Inc. Common Stock|Consumer Discretionary|NYSE|95|1700
ABNB|Airbnb Inc. Class A Common Stock|Consumer Discretionary|NASDAQ|124|700
DIS|Walt Disney Company Common Stock|Consumer Discretionary|NYSE|112|1000
NKE|NIKE Inc. Class B Common Stock|Consumer Discretionary|NYSE|66|1000
SBUX|Starbucks Corporation Common Stock|Consumer Discretionary|NASDAQ|85|800
MCD|McDonald's Corporation Common Stock|Consumer Discretionary|NYSE|302|1000
LOW|Lowe's Companies Inc. Common Stock|Consumer Discretionary|NYSE|238|700
TGT|Target Corporation Common Stock|Consumer Discretionary|NYSE|92|600
F|Ford Motor Company Common Stock|Consumer Discretionary|NYSE|13.1|900
GM|General Motors Company Common Stock|Consumer Discretionary|NYSE|68|800
RIVN|Rivian Automotive Inc. Class A Common Stock|Consumer Discretionary|NASDAQ|13.4|500
LCID|Lucid Group Inc. Common Stock|Consumer Discretionary|NASDAQ|18|250
NIO|NIO Inc. American Depositary Shares|Consumer Discretionary|NYSE|7.1|350
BABA|Alibaba Group Holding Limited American Depositary Shares|Consumer Discretionary|NYSE|170|3000
T|AT&T Inc. Common Stock|Telecommunications|NYSE|25.6|1000
VZ|Verizon Communications Inc. Common Stock|Telecommunications|NYSE|40|800
TMUS|T-Mobile US Inc. Common Stock|Telecommunications|NASDAQ|214|1000
CMCSA|Comcast Corporation Class A Common Stock|Telecommunications|NASDAQ|28|800
PFE|Pfizer Inc. Common Stock|Health Care|NYSE|24.8|1300
MRNA|Moderna Inc. Common Stock|Health Care|NASDAQ|26.2|300
GILD|Gilead Sciences Inc. Common Stock|Health Care|NASDAQ|122|800
AMGN|Amgen Inc. Common Stock|Health Care|NASDAQ|298|800
ISRG|Intuitive Surgical Inc. Common Stock|Health Care|NASDAQ|545|1000
TMO|Thermo Fisher Scientific Inc. Common Stock|Health Care|NYSE|570|1000
NEE|NextEra Energy Inc. Common Stock|Utilities|NYSE|84|800
DUK|Duke Energy Corporation Common Stock|Utilities|NYSE|126|450
SO|Southern Company Common Stock|Utilities|NYSE|96|500
LIN|Linde plc Ordinary Shares|Basic Materials|NASDAQ|448|900
FCX|Freeport-McMoRan Inc. Common Stock|Basic Materials|NYSE|42|700
NEM|Newmont Corporation Common Stock|Basic Materials|NYSE|85|900
AMT|American Tower Corporation Common Stock|Real Estate|NYSE|190|500
PLD|Prologis Inc. Common Stock|Real Estate|NYSE|124|500
O|Realty Income Corporation Common Stock|Real Estate|NYSE|60|350
SLB|SLB Limited Common Stock|Energy|NYSE|36|500
OXY|Occidental Petroleum Corporation Common Stock|Energy|NYSE|42|450
CCL|Carnival Corporation Common Stock|Consumer Discretionary|NYSE|29|600
AAL|American Airlines Group Inc. Common Stock|Consumer Discretionary|NASDAQ|13.2|600
DAL|Delta Air Lines Inc. Common Stock|Consumer Discretionary|NYSE|58|600
"""

SECTORS: Final = {
    "Finance": 1584,
    "Health Care": 1098,
    "Consumer Discretionary": 1034,
    "Technology": 773,
    "": 740,  # funds and similar: unknown
    "Industrials": 614,
    "Real Estate": 395,
    "Energy": 196,
    "Utilities": 174,
    "Consumer Staples": 150,
    "Basic Materials": 140,
    "Telecommunications": 106,
}
QUANTILES: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
PRICES: Final = (0.012, 0.03, 0.34, 0.90, 3.86, 13.78, 35.04, 99.3, 187.0, 491.0, 2600.0)
DOLLAR_VOLUMES: Final = (5.0, 20.0, 1.2e3, 11.7e3, 155e3, 2.1e6, 28e6, 156e6, 327e6, 1.34e9, 4e9)
_PRICE_VOLUME_CORRELATION: Final = 0.62  # correlation of the ranks; an assumption

_STEM_TEXT: Final = """
Alder Amber Anchor Arbor Argent Ashford Aurora Basalt Beacon Birch Blackwater Bluff Boreal Bramble Bridger
Brightwell Calder Canyon Carrow Cascade Cedar Cinder Clearwater Cobalt Compass Copper Corvane Crestline
Dalton Delmont Dunmore Eastgate Elmwood Ember Everly Fairlane Falcon Farrow Fenwick Fjord Flint Foxglove
Garnet Glacier Glenmore Granite Greyfield Halden Harbor Hawthorn Hearth Helix Highmark Hollis Horizon
Indigo Ironwood Juniper Kestrel Keystone Kinsley Lakeshore Lantern Larkspur Lattice Ledger Linden Lodestar
Lumen Maple Marlow Meridian Mesa Midland Mistral Monarch Nimbus Northgate Novara Oakmont Obsidian Onyx
Orchard Osprey Palisade Paragon Pinnacle Polaris Prairie Quarry Quill Ravenna Redwood Ridgeway Rowan Sable
Saffron Sequoia Sierra Silverton Solace Sparrow Sterling Stonebridge Summit Talon Tamarack Teton Thornbury
Tidewater Trellis Umber Valor Verdant Vesper Vireo Wakefield Westbrook Willow Windrose Yarrow Zenith
"""
_STEMS: Final = _STEM_TEXT.split()
_BUSINESS_WORDS: Final = {
    "Finance": ("Bancorp", "Financial", "Capital Partners", "Insurance Group", "Holdings", "Savings Bank"),
    "Health Care": ("Therapeutics", "Biosciences", "Medical", "Pharma", "Diagnostics", "Health"),
    "Consumer Discretionary": ("Brands", "Stores", "Leisure", "Outfitters", "Restaurants", "Motors"),
    "Technology": ("Software", "Systems", "Semiconductor", "Networks", "Data", "Robotics"),
    "": ("Income Fund", "Strategic Fund", "Growth ETF", "Acquisition Corp", "Municipal Fund", "Dividend ETF"),
    "Industrials": ("Industries", "Logistics", "Aerospace", "Machinery", "Controls", "Freight"),
    "Real Estate": ("Realty Trust", "Properties", "REIT", "Residential", "Land", "Storage Trust"),
    "Energy": ("Energy", "Petroleum", "Resources", "Drilling", "Midstream", "Solar"),
    "Utilities": ("Power", "Water", "Gas & Electric", "Utilities", "Grid", "Renewables"),
    "Consumer Staples": ("Foods", "Beverage", "Farms", "Household", "Provisions", "Nutrition"),
    "Basic Materials": ("Minerals", "Chemicals", "Metals", "Lithium", "Paper", "Mining"),
    "Telecommunications": ("Communications", "Wireless", "Broadband", "Fiber", "Satellite", "Telecom"),
}
_EXCHANGES: Final = ("NASDAQ", "NYSE", "AMEX", "ARCA")
_EXCHANGE_SHARES: Final = (0.57, 0.33, 0.05, 0.05)
_LETTERS: Final = "ABCDEFGHIJKLMNOPRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Listings:
    """Every tradable listing, sorted by symbol; `is_real` marks the real companies and funds."""

    symbols: list[str]
    names: list[str]
    sectors: list[str]
    exchanges: list[str]
    price: Floats
    dollar_volume: Floats  # usual turnover of a day
    is_real: NDArray[np.bool_]


def make_listings(rng: Generator, count: int) -> Listings:
    """Return `count` listings: the real ones (as many as fit) and invented ones; equal for equal generators."""
    real_rows = [line.split("|") for line in _REAL_LISTINGS.strip().splitlines()][:count]
    invented_count = count - len(real_rows)
    price, dollars = _prices_and_dollar_volumes(rng, invented_count)
    sectors = rng.choice(
        list(SECTORS), size=invented_count, p=np.array(list(SECTORS.values())) / sum(SECTORS.values())
    )
    exchanges = rng.choice(_EXCHANGES, size=invented_count, p=_EXCHANGE_SHARES)
    symbols = _symbols(rng, invented_count, {row[0] for row in real_rows})
    rows = [
        (symbol, name, sector, exchange, float(p), float(d), False)
        for symbol, name, sector, exchange, p, d in zip(
            symbols,
            _names(rng, sectors.tolist()),
            sectors.tolist(),
            exchanges.tolist(),
            price,
            dollars,
            strict=True,
        )
    ]
    rows += [(row[0], row[1], row[2], row[3], float(row[4]), float(row[5]) * 1e6, True) for row in real_rows]
    rows.sort()
    return Listings(
        symbols=[row[0] for row in rows],
        names=[row[1] for row in rows],
        sectors=[row[2] for row in rows],
        exchanges=[row[3] for row in rows],
        price=np.array([row[4] for row in rows]),
        dollar_volume=np.array([row[5] for row in rows]),
        is_real=np.array([row[6] for row in rows]),
    )


def quantile_by_rank(values: Floats, table: tuple[float, ...]) -> Floats:
    """Return for each value the table's value at its rank: the distribution of `table`, the order of `values`."""
    rank = np.empty(len(values))
    rank[np.argsort(values, kind="stable")] = (np.arange(len(values)) + 0.5) / max(len(values), 1)
    return np.interp(rank, QUANTILES, table)


def _prices_and_dollar_volumes(rng: Generator, count: int) -> tuple[Floats, Floats]:
    """Return `count` random prices and dollar volumes with correlated ranks."""
    price_scores, volume_scores = rng.standard_normal((2, count))
    volume_scores = (
        _PRICE_VOLUME_CORRELATION * price_scores + np.sqrt(1 - _PRICE_VOLUME_CORRELATION**2) * volume_scores
    )
    price = np.exp(quantile_by_rank(price_scores, tuple(np.log(PRICES))))
    dollars = np.exp(quantile_by_rank(volume_scores, tuple(np.log(DOLLAR_VOLUMES))))
    return np.asarray(price, dtype=np.float64), np.asarray(dollars, dtype=np.float64)


def _symbols(rng: Generator, count: int, taken: set[str]) -> list[str]:
    """Return `count` different symbols of three or four letters, none of `taken`."""
    symbols: dict[str, None] = {}
    while len(symbols) < count:
        letters = rng.integers(0, len(_LETTERS), size=(count, 4)).tolist()
        lengths = rng.choice((3, 4), size=count, p=(0.3, 0.7)).tolist()
        for row, length in zip(letters, lengths, strict=True):
            symbol = "".join(_LETTERS[n] for n in row[:length])
            if symbol not in taken:
                symbols[symbol] = None
    return list(symbols)[:count]


def _names(rng: Generator, sectors: Sequence[str]) -> list[str]:
    """Return a name for each sector given, no two equal."""
    names: dict[str, None] = {}
    for sector in sectors:
        name = _name(rng, sector)
        while name in names:
            name = _name(rng, sector)
        names[name] = None
    return list(names)


def _name(rng: Generator, sector: str) -> str:
    first, second, business = rng.integers(0, (len(_STEMS), len(_STEMS), 6)).tolist()
    stem = _STEMS[first] if first % 3 else f"{_STEMS[first]} {_STEMS[second]}"
    if not sector:
        return f"{stem} {_BUSINESS_WORDS[sector][business]}"
    return f"{stem} {_BUSINESS_WORDS[sector][business]} {('Inc.', 'Corp.', 'Group', 'Ltd.')[second % 4]} Common Stock"
