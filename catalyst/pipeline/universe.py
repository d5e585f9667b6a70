"""Stage 1 of 8: selects the listings that may be traded: active common stocks, ADRs and funds."""

import re
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import pandas as pd

from catalyst.config.schema import Config, UniverseConfig
from catalyst.pipeline.frame import Bools, StageFilter, text_values

# Warrants, rights and units, by name. "Unit" and "right" also occur in company names (Unit Corp), so they count only
# in the position of a listing's class: at the end, or before its components. An ADR may represent units.
_CLAIM_NAME: Final = re.compile(
    r"""\bwarrants?\b
      | \brights?(?:\s*$|\s*,|\s+(?:each|expiring)\b)
      | \bunits?(?:\s*$|\s*,|\s+(?:each|consisting|comprised)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# Preferred stock and debt, by name or by a coupon. Ordinary shares and funds may use these words too.
_SENIOR_NAME: Final = re.compile(
    r"""\bpreferred\b | \bpreference\b | \bpfd\b | \bdebentures?\b | \bnotes?\s+due\b | \bmortgage\s+bonds?\b
      | \b(?:subordinated|senior)\b.*\bnotes?\b | \bcorts\b | \bfixed-income\s+securities\b
      | \b(?:depositary|depository|dep)\s+sh(?:are)?s?\b | \d\s?%""",
    re.IGNORECASE | re.VERBOSE,
)
_ORDINARY_NAME: Final = re.compile(
    r"\b(?:common\s+stock|ordinary\s+shares?|common\s+shares?|american\s+deposit[ao]ry|adrs?|ads|etf|fund|trust\s+shares)\b",
    re.IGNORECASE,
)
# All of these by the symbol's suffix: BAC.PRB, ACHR.WS, ABC.U, ABC.RT; BRK.B and BF.A are shares.
_DERIVATIVE_SUFFIX: Final = re.compile(r"\.(?:PR[A-Z]?|WS[A-Z]?|WT|U|UN|R|RT|RTW|RW|CVR|WI|WD)$")
# NASDAQ uses a fifth letter instead (W warrant, R right, U unit, Z other, V when issued). Common stocks may have it
# too, so the name must match as well.
_FIFTH_LETTER: Final = re.compile(r"^[A-Z]{4}[WRUZ]$")
_SHELL_NAME: Final = re.compile(r"\b(?:acquisition|blank\s+check|merger|spac)\b", re.IGNORECASE)
_WHEN_ISSUED: Final = re.compile(r"^[A-Z]{4}V$")

# Symbols go into URLs and queries, so only this form is accepted.
SYMBOL_PATTERN: Final = r"[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,4})?"


def universe(assets: pd.DataFrame, cfg: UniverseConfig) -> pd.DataFrame:
    """Create the frame with one row per listing, and refuse listings that may not be traded.

    Reads   assets by symbol: name, exchange, tradable, status, sector; shortable and easy_to_borrow pass through.
    Writes  name, exchange, sector ("unknown" where missing), shortable, easy_to_borrow,
            refused_by, reason; index symbol, sorted, unique.
    Raises  ValueError when a symbol is listed twice.
    Source  listing classes as the exchanges name them (NASDAQ fifth character, CQS suffixes).
    """
    if assets.index.has_duplicates:
        duplicates = assets.index[assets.index.duplicated()].unique()[:5]
        raise ValueError(f"listed twice: {', '.join(map(str, duplicates))}")
    assets = assets.sort_index()
    frame = _initial_frame(assets)
    stage_filter = StageFilter(frame, "universe")
    symbols = assets.index.to_series().astype("str")
    exchange = text_values(assets, "exchange")
    stage_filter.refuse(_differs(assets, "status", "active"), "not an active listing")
    stage_filter.refuse(~_bool_values(assets, "tradable"), "not tradable at the broker")
    stage_filter.refuse(
        ~np.isin(exchange.astype(str), cfg.exchanges),
        "listed on %s, not on " + ", ".join(cfg.exchanges),
        exchange,
    )
    stage_filter.refuse(
        ~symbols.str.fullmatch(SYMBOL_PATTERN).to_numpy(dtype=bool),
        "the symbol has characters that Catalyst does not accept",
    )
    stage_filter.refuse(_is_derivative(symbols, assets), "a warrant, unit, right, preferred share or note")
    if cfg.allow:
        stage_filter.refuse(~symbols.isin(cfg.allow).to_numpy(), "not on universe.allow")
    stage_filter.refuse(symbols.isin(cfg.deny).to_numpy(), "on universe.deny")
    return stage_filter.to_frame()


def unlisted_symbols(symbols: Collection[str], cfg: UniverseConfig) -> list[str]:
    """Return the symbols of the configuration that are not among the broker's `symbols`."""
    return sorted({*cfg.allow, *cfg.deny}.difference(symbols))


def with_present_symbols(cfg: UniverseConfig, present: Mapping[str, str]) -> UniverseConfig:
    """Return the configuration with the present symbol beside each one that was renamed."""
    return cfg.model_copy(
        update={
            name: (*symbols, *(present[symbol] for symbol in symbols if symbol in present))
            for name, symbols in (("allow", cfg.allow), ("deny", cfg.deny))
        }
    )


def renamed_names(present: Mapping[str, str], cfg: UniverseConfig) -> list[str]:
    """Return a sentence for each key with symbols that were renamed; they count as their present ones."""
    sentences = []
    for key, symbols in (("allow", cfg.allow), ("deny", cfg.deny)):
        renamed = [f"{symbol} is {present[symbol]} now" for symbol in symbols if symbol in present]
        if renamed:
            sentences.append(
                f"universe.{key}: {', '.join(renamed)} and counts as it; write the present symbol"
            )
    return sentences


def unmatched_names(
    symbols: Collection[str], sectors: Collection[str], config: Config, present: Mapping[str, str]
) -> list[str]:
    """Return a sentence for each key whose names match nothing: they would deny, allow or limit nothing.

    `symbols` are those that the broker lists, `sectors` those of the listings file, `present` the symbols of renamed
    ones.
    """
    sentences = []
    for key, names in (("allow", config.universe.allow), ("deny", config.universe.deny)):
        missing = [name for name in names if present.get(name, name) not in symbols]
        if missing:
            sentences.append(
                f"universe.{key}: the broker lists no {', '.join(missing)}; correct it, or use the new symbol"
            )
    unknown = [name for name in config.sector_limits.sectors_to_limit if name not in sectors]
    if unknown and config.universe.listings_file is None:
        sentences.append(
            "sector_limits.sectors_to_limit limits nothing without universe.listings_file: brokers send no sectors"
        )
    elif unknown:
        known = ", ".join(sorted(set(sectors))) or "no sector"
        sentences.append(
            f"sector_limits.sectors_to_limit: universe.listings_file has no {', '.join(unknown)}; it has {known}"
        )
    return sentences


def _initial_frame(assets: pd.DataFrame) -> pd.DataFrame:
    sector = text_values(assets, "sector")
    blank = np.full(len(assets), None, dtype=object)
    return pd.DataFrame(
        {
            "name": pd.array(text_values(assets, "name"), dtype="str"),
            "exchange": pd.array(text_values(assets, "exchange"), dtype="str"),
            "sector": pd.array(np.where(sector == None, "unknown", sector), dtype="str"),  # noqa: E711  elementwise
            "shortable": _bool_values(assets, "shortable"),
            "easy_to_borrow": _bool_values(assets, "easy_to_borrow"),
            "refused_by": pd.array(blank, dtype="str"),
            "reason": pd.array(blank, dtype="str"),
        },
        index=assets.index.rename("symbol"),
    )


def _bool_values(assets: pd.DataFrame, name: str) -> Bools:
    """Return a flag column; a missing value counts as false."""
    if name not in assets.columns:
        return np.zeros(len(assets), dtype=np.bool_)
    return assets[name].fillna(False).to_numpy(dtype=np.bool_)


def _differs(assets: pd.DataFrame, name: str, value: str) -> Bools:
    return np.asarray(text_values(assets, name) != value, dtype=np.bool_)


def _is_derivative(symbols: "pd.Series[str]", assets: pd.DataFrame) -> Bools:
    names = pd.Series([name or "" for name in text_values(assets, "name")], index=assets.index, dtype="str")
    ordinary = names.str.contains(_ORDINARY_NAME)
    depositary = names.str.contains(r"\b(?:American Deposit[ao]ry|ADRs?|ADS)\b", case=False)
    claim = names.str.contains(_CLAIM_NAME) & ~depositary
    senior = names.str.contains(_SENIOR_NAME) & ~ordinary
    shell = symbols.str.contains(_FIFTH_LETTER) & names.str.contains(_SHELL_NAME) & ~ordinary
    unissued = symbols.str.contains(_WHEN_ISSUED) & names.str.contains(r"\bwhen.issued\b", case=False)
    return (symbols.str.contains(_DERIVATIVE_SUFFIX) | claim | senior | shell | unissued).to_numpy(
        dtype=np.bool_
    )
