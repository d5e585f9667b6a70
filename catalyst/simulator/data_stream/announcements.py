"""Announcements as the market data stream writes them.

Codes are those of the two tapes: A and B (CTA) and C (UTP), as listed in the broker's "Real-time Stock Data",
"TradingStatus Codes" and "Reason Codes". What the documents leave open is assumed: a pause for the price bands is a
plain halt on CTA and a volatility trading pause on UTP; a resumption gives no reason.
"""

from typing import Final

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.market.announcements import (
    Bands,
    Corrected,
    LateTrade,
    Notice,
    Reason,
    TradingStatus,
    Withdrawn,
)

Code = tuple[str, str]
_HALT: Final[dict[str, Code]] = {"CTA": ("2", "Trading Halt"), "UTP": ("H", "Trading Halt")}
_PAUSE: Final[dict[str, Code]] = {"CTA": ("2", "Trading Halt"), "UTP": ("P", "Volatility Trading Pause")}
_RESUME: Final[dict[str, Code]] = {"CTA": ("3", "Resume"), "UTP": ("T", "Trading Resumption")}
_REASONS: Final[dict[Reason, dict[str, Code]]] = {
    Reason.NEWS: {"CTA": ("P", "News Pending"), "UTP": ("T1", "Halt News Pending")},
    Reason.PRICE_BANDS: {
        "CTA": ("M", "Limit Up-Limit Down (LULD) Trading Pause"),
        "UTP": ("LUDP", "Volatility Trading Pause"),
    },
    Reason.REGULATORY: {
        "CTA": ("D", "News Released (formerly News Dissemination)"),
        "UTP": ("T12", "Trading Halted; For information requested by NASDAQ"),
    },
    Reason.OPERATIONAL: {
        "CTA": ("X", "Operational"),
        "UTP": ("01", "Operations Halt, Contact Market Operations"),
    },
    Reason.MARKET_WIDE: {
        "CTA": ("1", "Market-Wide Circuit Breaker Level 1 \N{EN DASH} Breached"),
        "UTP": ("MWC1", "Market Wide Circuit Breaker Halt \N{EN DASH} Level 1"),
    },
}


def channel_of(notice: Notice) -> str:
    """The channel a notice is told on; corrections and cancels come with the trades."""
    match notice:
        case TradingStatus():
            return "statuses"
        case Bands():
            return "lulds"
        case _:
            return "trades"


def message(notice: Notice, tape: str) -> wire.Json:
    """The notice on the wire, its time a datetime."""
    head: wire.Json = {"S": notice.symbol, "t": notice.at, "z": tape}
    match notice:
        case TradingStatus():
            return {"T": "s", **head, **_status(notice, "UTP" if tape == "C" else "CTA")}
        case Bands(up=up, down=down, indicator=indicator):
            return {"T": "l", **head, "u": float(up), "d": float(down), "i": indicator}
        case LateTrade(trade=trade):
            return {"T": "t", "S": notice.symbol, **wire.trade(trade, tape), "t": trade.at}
        case Withdrawn(trade=trade, error=error):
            told = wire.trade(trade, tape)
            return {"T": "x", **head, **{key: told[key] for key in "ixps"}, "a": "E" if error else "C"}
        case Corrected(trade=trade, now=now):
            old, new = wire.trade(trade, tape), wire.trade(now, tape)
            before = {f"o{key}": old[key] for key in "ipsc"}
            return {"T": "c", **head, "x": old["x"], **before, **{f"c{key}": new[key] for key in "ipsc"}}


def _status(notice: TradingStatus, plan: str) -> wire.Json:
    if notice.halted:
        pause = notice.reason is Reason.PRICE_BANDS
        code, reason = (_PAUSE if pause else _HALT)[plan], _REASONS[notice.reason][plan]
    else:
        code, reason = _RESUME[plan], ("", "")
    return {"sc": code[0], "sm": code[1], "rc": reason[0], "rm": reason[1]}
