"""Listings file: sectors for the trading daemon, because the broker's API has none."""

import csv
from pathlib import Path

from catalyst.simulator.market.bar_market import BarMarket


def write_listings(market: BarMarket, path: Path) -> None:
    """Write symbol, name and sector of every listing as CSV; an unknown sector is empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("symbol", "name", "sector"))
        for symbol, asset in market.assets().items():
            writer.writerow((symbol, asset.name, market.sectors.get(symbol, "")))
