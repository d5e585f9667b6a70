"""Announcements as messages of the market data stream.

Status and reason codes are those of the two tape plans, CTA (tapes A and B) and UTP (tape C), as listed in the
broker's "Real-time Stock Data", "TradingStatus Codes" and "Reason Codes". The documents leave two points open,
which are assumed: a pause for the price bands is a plain halt on CTA and a volatility trading pause on UTP; a
resumption has no reason.
"""

from typing import Final

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.market.announcements import (
    Announcement,
    HaltReason,
    LateTrade,
    LuldBands,
    TradeCancel,
    TradeCorrection,
    TradingStatus,
)

CodeAndText = tuple[str, str]
_HALT: Final[dict[str, CodeAndText]] = {"CTA": ("2", "Trading Halt"), "UTP": ("H", "Trading Halt")}
_PAUSE: Final[dict[str, CodeAndText]] = {
    "CTA": ("2", "Trading Halt"),
    "UTP": ("P", "Volatility Trading Pause"),
}
_RESUME: Final[dict[str, CodeAndText]] = {"CTA": ("3", "Resume"), "UTP": ("T", "Trading Resumption")}
_REASONS: Final[dict[HaltReason, dict[str, CodeAndText]]] = {
    HaltReason.NEWS: {"CTA": ("P", "News Pending"), "UTP": ("T1", "Halt News Pending")},
    HaltReason.PRICE_BANDS: {
        "CTA": ("M", "Limit Up-Limit Down (LULD) Trading Pause"),
        "UTP": ("LUDP", "Volatility Trading Pause"),
    },
    HaltReason.REGULATORY: {
        "CTA": ("D", "News Released (formerly News Dissemination)"),
        "UTP": ("T12", "Trading Halted; For information requested by NASDAQ"),
    },
    HaltReason.OPERATIONAL: {
        "CTA": ("X", "Operational"),
        "UTP": ("01", "Operations Halt, Contact Market Operations"),
    },
    HaltReason.MARKET_WIDE: {
        "CTA": ("1", "Market-Wide Circuit Breaker Level 1 \N{EN DASH} Breached"),
        "UTP": ("MWC1", "Market Wide Circuit Breaker Halt \N{EN DASH} Level 1"),
    },
}


def channel_of(announcement: Announcement) -> str:
    """Return the channel of an announcement; corrections and cancels are sent with the trades."""
    match announcement:
        case TradingStatus():
            return "statuses"
        case LuldBands():
            return "lulds"
        case _:
            return "trades"


def announcement_message(announcement: Announcement, tape: str) -> wire.Json:
    """Return the announcement as a stream message; its time is a datetime."""
    head: wire.Json = {"S": announcement.symbol, "t": announcement.at, "z": tape}
    match announcement:
        case TradingStatus():
            return {"T": "s", **head, **_status_fields(announcement, "UTP" if tape == "C" else "CTA")}
        case LuldBands(up=up, down=down, indicator=indicator):
            return {"T": "l", **head, "u": float(up), "d": float(down), "i": indicator}
        case LateTrade(trade=trade):
            return {"T": "t", "S": announcement.symbol, **wire.trade(trade, tape), "t": trade.at}
        case TradeCancel(trade=trade, is_error=error):
            trade_json = wire.trade(trade, tape)
            return {"T": "x", **head, **{key: trade_json[key] for key in "ixps"}, "a": "E" if error else "C"}
        case TradeCorrection(trade=trade, replacement=now):
            old, new = wire.trade(trade, tape), wire.trade(now, tape)
            before = {f"o{key}": old[key] for key in "ipsc"}
            return {"T": "c", **head, "x": old["x"], **before, **{f"c{key}": new[key] for key in "ipsc"}}


def _status_fields(announcement: TradingStatus, plan: str) -> wire.Json:
    if announcement.halted:
        pause = announcement.reason is HaltReason.PRICE_BANDS
        code, reason = (_PAUSE if pause else _HALT)[plan], _REASONS[announcement.reason][plan]
    else:
        code, reason = _RESUME[plan], ("", "")
    return {"sc": code[0], "sm": code[1], "rc": reason[0], "rm": reason[1]}
