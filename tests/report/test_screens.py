"""Screens for people at the widths of terminals: symbol, side, shares, prices and results are never cut."""

from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from report.traded_day import DAY, OPEN, write_day, write_trade
from rich.console import Console, RenderableType

from catalyst.cli.output import print_parts
from catalyst.domain.order import PositionSide
from catalyst.report import status as status_report
from catalyst.report.day import read_day_report, trade_of
from catalyst.report.explain import explain
from catalyst.report.explain_screen import _risk_checks, render_explanation
from catalyst.report.fitted_table import Column, FittedTable
from catalyst.report.formatting import dollars, price
from catalyst.report.tables import (
    render_candidates,
    render_cycles,
    render_orders,
    render_positions,
    render_status,
)
from catalyst.report.terminal import render_day
from catalyst.store import candidates, cycles, reporting_queries
from catalyst.store.pool import Store

WIDTHS = (80, 100, 140)
NARROW = 80


def page(width: int, parts: "list[RenderableType]") -> str:
    """Return what a terminal of this width shows."""
    out = StringIO()
    print_parts(Console(width=width, no_color=True, file=out, force_terminal=False), parts)
    return out.getvalue()


@pytest.fixture
async def screens(store: Store) -> "dict[str, list[RenderableType]]":
    """Return every screen of the traded day, which has a large short and an open position in four-digit prices."""
    await write_day(store)
    async with store.tx("large") as conn:
        await write_trade(
            conn, "BRK.B", 4, [(1250, "1750.1234")], [(1250, "1699.4321")], "STOP_LOSS_HIT: BRK.B", minutes=25,
            side=PositionSide.SHORT,
        )  # fmt: skip
        await write_trade(conn, "GOOGL", 5, [(1250, "1750.1234")], [], None, minutes=26)
    async with store.read() as conn:
        status = await status_report.read_status(conn, OPEN + timedelta(minutes=45))
        report = await read_day_report(conn, DAY)
        explanation = await explain(conn, "AAPL", DAY)
        assert report is not None
        assert explanation is not None
        day_orders = await reporting_queries.orders_of_day(conn, report.cycle.cycle_id)
        closed = await reporting_queries.recent_positions(conn, "closed")
        scan = (await candidates.scans_of(conn, report.cycle.cycle_id))[-1]
        found = await candidates.of_scan(conn, scan.scan_id)
        days = await cycles.recent(conn)
    return {
        "status": list(render_status(status)),
        "report": list(render_day(report)),
        "explain": list(render_explanation(explanation)),
        "orders": list(render_orders(day_orders)),
        "positions": list(render_positions(status.positions, [trade_of(row) for row in closed])),
        "candidates": list(render_candidates(found)),
        "cycles": list(render_cycles(days)),
    }


async def test_screens_cut_no_figure_at_the_widths_of_terminals(
    screens: "dict[str, list[RenderableType]]",
) -> None:
    """At 80, 100 and 140 columns no screen has an ellipsis, and symbol, side, shares, prices and results are whole."""
    large = dollars((Decimal("1750.1234") - Decimal("1699.4321")) * 1250, signed=True)
    whole = {
        "status": ["GOOGL", "long", "1250", "1750.1234", "1748.1234", "1756.1234"],
        "report": ["BRK.B", "short", "1250", "1750.1234", "1699.4321", large, "+$250.00"],
        "explain": ["AAPL", "190.00", "192.50", "+$250.00"],
        "orders": ["BRK.B", "buy", "sell", "1250/1250", "1750.1234", "1699.4321"],
        "positions": ["GOOGL", "1250", "1750.1234", "BRK.B", "short", "1699.4321", large],
        "candidates": ["AAPL", "MSFT", "NVDA", "190.00", "no pattern in 5 bars"],
        "cycles": ["20260408-080000", "scanning"],
    }
    for width in WIDTHS:
        for name, parts in screens.items():
            text = page(width, parts)
            assert "…" not in text, (width, name)
            missing = [figure for figure in whole[name] if figure not in text]
            assert not missing, (width, name, text)


async def test_tables_leave_out_columns_by_importance(screens: "dict[str, list[RenderableType]]") -> None:
    """No line of a table is wider than the terminal; a wide one has every column."""
    for parts in screens.values():
        tables = [part for part in parts if isinstance(part, FittedTable)]
        lines = page(NARROW, list(tables)).splitlines()
        assert max((len(line.rstrip()) for line in lines), default=0) <= NARROW
    narrow, wide = page(NARROW, screens["orders"]), page(200, screens["orders"])
    assert ("type" in narrow.splitlines()[0], "type" in wide.splitlines()[0]) == (False, True)


def test_fitted_table_drops_the_highest_rank_first_and_wraps_sentences() -> None:
    """The column with the highest rank goes first; a sentence wraps and loses no word."""
    table = FittedTable([Column("symbol"), Column("note", 1, prose=True), Column("held", 2)])
    table.add_row("AAPL", "one two three four five six seven eight", "5 min")
    assert table.columns_that_fit(60) == [0, 1, 2]
    assert table.columns_that_fit(35) == [0, 1]
    assert table.columns_that_fit(20) == [0]
    words = "one two three four five six seven eight"
    assert [word for word in page(36, [table]).split() if word in words] == words.split()


async def test_long_lists_open_at_the_best(screens: "dict[str, list[RenderableType]]", store: Store) -> None:
    """`--top` shows the best rows first and says how many more there are; a candidate that passed is better than a
    refused one with a better rank."""
    async with store.read() as conn:
        report = await read_day_report(conn, DAY)
        assert report is not None
        scan = (await candidates.scans_of(conn, report.cycle.cycle_id))[-1]
        found = await candidates.of_scan(conn, scan.scan_id)
    text = page(NARROW, list(render_candidates(list(reversed(found)), top=2)))
    assert ["AAPL" in text.splitlines()[2], "MSFT" in text.splitlines()[3]] == [True, True]
    assert "and 1 more: --top 3 shows all" in text
    assert "NVDA" not in text


def test_explanation_shows_each_risk_check_with_its_verdict() -> None:
    """Each check is a row; a text that contains the separator stays whole."""
    verdict = "ok hours: open; NO loss: day's loss $20.00; max_daily_loss $10.00; ok price: 190.00"
    assert _risk_checks(verdict) == [
        ("hours", "open", "ok"),
        ("loss", "day's loss $20.00; max_daily_loss $10.00", "NO"),
        ("price", "190.00", "ok"),
    ]
    assert price(Decimal("1750.1234")) == "1750.1234"
