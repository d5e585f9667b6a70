"""Securities and sectors: one row for each symbol ever seen, refreshed from the broker's list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from catalyst.domain.report import AssetReport
from catalyst.store.pool import Connection


@dataclass(frozen=True, slots=True)
class Security:
    """One symbol as the broker last listed it; `sector` is None where no listing names one."""

    security_id: int
    symbol: str
    name: str
    exchange: str
    sector: str | None
    tradable: bool
    shortable: bool
    borrow_status: str
    fractionable: bool
    marginable: bool
    is_active: bool
    refreshed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefreshCounts:
    """Result of a refresh: symbols listed now, new ones among them, and symbols no longer listed."""

    listed: int
    added: int
    retired: int


_SELECT: Final = """
    SELECT s.security_id, s.symbol, s.name, s.exchange, sec.name AS sector, s.tradable, s.shortable,
           s.borrow_status, s.fractionable, s.marginable, s.is_active, s.refreshed_at
      FROM securities s LEFT JOIN sectors sec USING (sector_id)
"""
_OF_SYMBOLS: Final = _SELECT + " WHERE s.symbol = ANY($1::text[])"
_ACTIVE: Final = _SELECT + " WHERE s.is_active AND s.tradable ORDER BY s.symbol"


async def refresh(conn: Connection, assets: Sequence[AssetReport], *, at: datetime) -> RefreshCounts:
    """Set every symbol to the values of the broker's list; a symbol that the list no longer has becomes inactive.

    An empty list changes nothing: only a failed read gives one.
    """
    if not assets:
        return RefreshCounts(0, 0, 0)
    rows = list({asset.symbol.upper(): asset for asset in assets}.items())
    added = await conn.fetchval(
        """
        WITH written AS (
            INSERT INTO securities (symbol, name, exchange, tradable, shortable, borrow_status, fractionable,
                                    marginable, is_active, refreshed_at)
            SELECT *, true, $9
              FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::bool[], $6::text[], $7::bool[],
                          $8::bool[])
            ON CONFLICT (symbol) DO UPDATE
               SET name = excluded.name, exchange = excluded.exchange, tradable = excluded.tradable,
                   shortable = excluded.shortable, borrow_status = excluded.borrow_status,
                   fractionable = excluded.fractionable, marginable = excluded.marginable, is_active = true,
                   refreshed_at = excluded.refreshed_at
            RETURNING (xmax = 0) AS is_new
        )
        SELECT count(*) FILTER (WHERE is_new) FROM written
        """,
        [symbol for symbol, _ in rows],
        [asset.name for _, asset in rows],
        [asset.exchange for _, asset in rows],
        [asset.tradable for _, asset in rows],
        [asset.shortable for _, asset in rows],
        [_borrow_status(asset) for _, asset in rows],
        [asset.fractionable for _, asset in rows],
        [asset.marginable for _, asset in rows],
        at,
    )
    retired = await conn.fetch(
        """
        UPDATE securities SET is_active = false, tradable = false
         WHERE is_active AND refreshed_at < $1 RETURNING security_id
        """,
        at,
    )
    return RefreshCounts(len(rows), added, len(retired))


def _borrow_status(asset: AssetReport) -> str:
    if not asset.shortable:
        return "not_shortable"
    return "easy_to_borrow" if asset.easy_to_borrow else "hard_to_borrow"


async def put_sectors(conn: Connection, sectors: Mapping[str, str]) -> int:
    """Set the sector of each symbol of `sectors` (symbol → sector name) that has a row; return how many
    changed."""
    named = {symbol.upper(): name for symbol, name in sectors.items() if name}
    await conn.execute(
        "INSERT INTO sectors (name) SELECT unnest($1::text[]) ON CONFLICT (name) DO NOTHING",
        sorted(set(named.values())),
    )
    changed = await conn.fetch(
        """
        UPDATE securities s SET sector_id = sec.sector_id
          FROM unnest($1::text[], $2::text[]) AS listed (symbol, sector) JOIN sectors sec ON sec.name = listed.sector
         WHERE s.symbol = listed.symbol AND s.sector_id IS DISTINCT FROM sec.sector_id
        RETURNING s.security_id
        """,
        list(named),
        list(named.values()),
    )
    return len(changed)


async def get_or_create_ids(conn: Connection, symbols: Sequence[str]) -> dict[str, int]:
    """Return the id of every symbol, created where new; concurrent callers get the same ids."""
    distinct = sorted({symbol.upper() for symbol in symbols})
    await conn.execute(
        """
        INSERT INTO securities (symbol)
        SELECT symbol FROM unnest($1::text[]) AS wanted (symbol)
         WHERE NOT EXISTS (SELECT 1 FROM securities s WHERE s.symbol = wanted.symbol)
         ORDER BY symbol
        ON CONFLICT (symbol) DO NOTHING
        """,
        distinct,
    )
    found = await conn.fetch(
        "SELECT symbol, security_id FROM securities WHERE symbol = ANY($1::text[])", distinct
    )
    return {record["symbol"]: record["security_id"] for record in found}


async def get(conn: Connection, symbol: str) -> Security | None:
    """Return the row of a symbol; None when it was never seen."""
    return (await of_symbols(conn, [symbol])).get(symbol.upper())


async def of_symbols(conn: Connection, symbols: Sequence[str]) -> dict[str, Security]:
    """Return the rows of these symbols; unknown ones are absent."""
    found = await conn.fetch(_OF_SYMBOLS, [symbol.upper() for symbol in symbols])
    return {record["symbol"]: Security(**record) for record in found}


async def active(conn: Connection) -> list[Security]:
    """Return every symbol that the broker lists as tradable, by symbol."""
    return [Security(**record) for record in await conn.fetch(_ACTIVE)]
