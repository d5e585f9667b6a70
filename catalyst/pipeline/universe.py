"""Stage 1 of 8: which listings may be traded at all."""

import re
from typing import Final

import numpy as np
import pandas as pd

from catalyst.config.schema import UniverseConfig
from catalyst.pipeline.frame import Bools, StageFilter, text_values

# A right to something else, by name. "Unit" and "right" are company words too (Unit Corp), so they count only where
# a listing's class stands: at the end, or before what the paper consists of; an ADR may stand for units.
_CLAIM_NAME: Final = re.compile(
    r"""\bwarrants?\b
      | \brights?(?:\s*$|\s*,|\s+(?:each|expiring)\b)
      | \bunits?(?:\s*$|\s*,|\s+(?:each|consisting|comprised)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# Preferred stock and debt, by name; a coupon gives it away. Ordinary shares and funds may use these words.
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
# The same by the suffix of the symbol: BAC.PRB, ACHR.WS, ABC.U, ABC.RT; BRK.B and BF.A are shares.
_DERIVATIVE_SUFFIX: Final = re.compile(r"\.(?:PR[A-Z]?|WS[A-Z]?|WT|U|UN|R|RT|RTW|RW|CVR|WI|WD)$")
# NASDAQ appends a fifth letter instead (W warrant, R right, U unit, Z other, V when issued). Common stocks end so
# too, so the name must agree.
_FIFTH_LETTER: Final = re.compile(r"^[A-Z]{4}[WRUZ]$")
_SHELL_NAME: Final = re.compile(r"\b(?:acquisition|blank\s+check|merger|spac)\b", re.IGNORECASE)
_WHEN_ISSUED: Final = re.compile(r"^[A-Z]{4}V$")

# A symbol goes into URLs and queries: only what a listing can look like may.
SYMBOL_PATTERN: Final = r"[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,4})?"


def universe(assets: pd.DataFrame, cfg: UniverseConfig) -> pd.DataFrame:
    """Begin the frame: every listing, those we may not trade refused.

    Reads   assets by symbol: name, exchange, tradable, status, sector; shortable and easy_to_borrow pass through.
    Writes  name, exchange, sector ("unknown" where the listings do not say), shortable, easy_to_borrow,
            refused_by, reason; index symbol, sorted, unique.
    Raises  ValueError, when a symbol is listed twice.
    Source  listing classes as the exchanges name them (NASDAQ fifth character, CQS suffixes).
    """
    if assets.index.has_duplicates:
        twice = assets.index[assets.index.duplicated()].unique()[:5]
        raise ValueError(f"listed twice: {', '.join(map(str, twice))}")
    assets = assets.sort_index()
    frame = _initial_frame(assets)
    sieve = StageFilter(frame, "universe")
    symbols = assets.index.to_series().astype("str")
    exchange = text_values(assets, "exchange")
    sieve.refuse(_differs(assets, "status", "active"), "not an active listing")
    sieve.refuse(~_bool_values(assets, "tradable"), "the broker does not trade it")
    sieve.refuse(
        ~np.isin(exchange.astype(str), cfg.exchanges),
        "listed on %s, not on " + ", ".join(cfg.exchanges),
        exchange,
    )
    sieve.refuse(
        ~symbols.str.fullmatch(SYMBOL_PATTERN).to_numpy(dtype=bool),
        "not spelled as the broker spells a symbol",
    )
    sieve.refuse(_is_derivative(symbols, assets), "a warrant, unit, right, preferred share or note")
    if cfg.allow:
        sieve.refuse(~symbols.isin(cfg.allow).to_numpy(), "not on universe.allow")
    sieve.refuse(symbols.isin(cfg.deny).to_numpy(), "on universe.deny")
    return sieve.to_frame()


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
    """True only where the column says so: a missing answer is a no."""
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
