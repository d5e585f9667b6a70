"""Rendering of an explanation: what each stage saw of the symbol, one fact a line, with its limit where it has one."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from catalyst.report.explain import Explanation, SymbolScan
from catalyst.report.fitted_table import Column, FittedTable
from catalyst.report.formatting import duration, new_york_time, price
from catalyst.report.tables import render_orders
from catalyst.report.terminal import describe_decision, render_trades
from catalyst.store.candidates import HeadlineRecord, PatternRecord

# The stage that computes each stored fact; the others belong to the scan.
STAGE_OF: Final[Mapping[str, str]] = {
    **dict.fromkeys(("sentiment", "news_count", "news_score", "catalyst"), "news"),
    **dict.fromkeys(("pattern", "pattern_confidence", "side"), "pattern"),
    "agreement": "technical",
    "composite": "score",
    **dict.fromkeys(("entry", "stop", "target", "stop_basis", "reward_risk"), "plan"),
    **dict.fromkeys(
        ("sector", "correlation", "correlated_with", "quantity", "risk_amount", "risk_score"), "risk"
    ),
}
STAGES: Final = ("scan", "news", "pattern", "technical", "score", "plan", "risk")
PRICES: Final = ("price", "entry", "stop", "target")
RISK_CHECKS: Final = "verdict"  # the fact that holds every risk check: "ok name: text; NO name: text"


def render_explanation(explanation: Explanation, *, every_scan: bool = False) -> Iterator[RenderableType]:
    """Render a symbol's day, with the facts of its best scan, or of every scan with `every_scan`."""
    about = ", ".join(
        filter(None, (explanation.name, explanation.sector or "sector unknown", explanation.exchange))
    )
    yield Text(f"{explanation.symbol}  {about}", style="bold")
    yield f"{explanation.day}, cycle {explanation.cycle_id}, {len(explanation.scans)} scans, times of New York"
    for symbol_scan in explanation.scans:
        yield Text(
            f"{new_york_time(symbol_scan.at)}  {symbol_scan.verdict}",
            style="" if symbol_scan.stage else "green" if symbol_scan.listed else "dim",
        )
    with_facts = [
        symbol_scan for symbol_scan in explanation.scans if symbol_scan.numbers or symbol_scan.candidate
    ]
    for symbol_scan in with_facts if every_scan else sorted(with_facts, key=_detail_rank)[-1:]:
        yield Text(f"\nscan of {new_york_time(symbol_scan.at)} New York", style="bold")
        yield facts_table(symbol_scan)
    yield from (describe_decision(decision) for decision in explanation.decisions)
    if explanation.orders:
        yield from render_orders(explanation.orders)
    if explanation.trades:
        yield render_trades(explanation.trades)


def _detail_rank(symbol_scan: SymbolScan) -> tuple[bool, bool, int, int]:
    """Return a sort key by how far the symbol went in a scan; the scan with the most facts sorts last."""
    detail_count = len(symbol_scan.numbers) + (
        0 if symbol_scan.candidate is None else len(symbol_scan.candidate.detail)
    )
    return symbol_scan.stage is None, symbol_scan.order_id is not None, detail_count, symbol_scan.scan_id


def facts_table(symbol_scan: SymbolScan) -> FittedTable:
    """Return the facts of a scan in the order of the stages; the stage that refused the symbol says why."""
    candidate = symbol_scan.candidate
    facts: dict[str, object] = {**symbol_scan.numbers, **({} if candidate is None else candidate.detail)}
    table = FittedTable([Column("stage"), Column("fact"), Column("value", prose=True), Column("verdict")])
    for stage in STAGES:
        rows = [
            (name, _fact_text(name, value), "") for name, value in facts.items() if _stage_of(name) == stage
        ]
        rows += _stored_rows(symbol_scan, stage)
        if stage == "risk":
            rows += _risk_checks(str(facts.get(RISK_CHECKS) or ""))
        if symbol_scan.stage == stage:
            rows.append(("refused", symbol_scan.reason or "", "NO"))
        for number, (name, text, verdict) in enumerate(rows):
            style = "bold red" if verdict == "NO" else "green"
            table.add_row("" if number else stage, name, text, Text(verdict, style=style))
    return table


def _stage_of(name: str) -> str | None:
    return None if name == RISK_CHECKS else STAGE_OF.get(name, STAGES[0])


def _fact_text(name: str, value: object) -> str:
    if name in PRICES and isinstance(value, float):
        return price(Decimal(str(value)))
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _stored_rows(symbol_scan: SymbolScan, stage: str) -> list[tuple[str, str, str]]:
    """Return the rows of the headlines, patterns and indicators that the scan stored for this stage."""
    if stage == "news":
        return [("headline", _headline_text(symbol_scan, headline), "") for headline in symbol_scan.headlines]
    if stage == "pattern":
        return [(pattern.pattern, _pattern_text(pattern), "") for pattern in symbol_scan.patterns]
    if stage == "technical" and symbol_scan.indicators is not None:
        values = ", ".join(
            f"{name} {value:,.4g}"
            for name, value in symbol_scan.indicators.values.items()
            if value is not None
        )
        return [("indicators", values, "")]
    return []


def _headline_text(symbol_scan: SymbolScan, headline: HeadlineRecord) -> str:
    age = duration((symbol_scan.at - headline.published_at).total_seconds())
    return f"{headline.sentiment:+.2f} “{headline.headline}” ({headline.source}, {age} before)"


def _pattern_text(pattern: PatternRecord) -> str:
    return (
        f"{pattern.side}, confidence {pattern.confidence:.2f}: trigger {price(pattern.trigger)}, invalid at "
        f"{price(pattern.invalidation)}, target {price(pattern.target)}"
    )


def _risk_checks(verdict: str) -> list[tuple[str, str, str]]:
    """Return a row for each risk check, with its value, its limit and whether it passed."""
    rows = []
    for check in filter(None, verdict.split("; ")):
        word, _, rest = check.partition(" ")
        name, _, text = rest.partition(": ")
        if word in ("ok", "NO"):
            rows.append((name, text, word))
        elif rows:  # a text that contains the separator itself
            name, text, word = rows[-1]
            rows[-1] = (name, f"{text}; {check}", word)
    return rows
