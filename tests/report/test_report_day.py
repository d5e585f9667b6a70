"""A day's figures, its story and its agreement with the exchange, from the tables of a small traded day."""

from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from report.traded_day import ACCOUNT, CYCLE, DAY, OPEN, write_day
from rich.console import Console

from catalyst.report import status as status_report
from catalyst.report.day import read_day_report
from catalyst.report.events import DayEventFeed, DayEventKind
from catalyst.report.exchange_audit import compare_with_exchange
from catalyst.report.explain import explain
from catalyst.report.formatting import dollars, duration, price
from catalyst.report.live_screen import render_screen
from catalyst.report.tables import render_explanation, render_status
from catalyst.report.terminal import render_day
from catalyst.store import reporting_queries
from catalyst.store.account_lock import acquire_account_lock
from catalyst.store.pool import Store


@pytest.fixture
async def day(store: Store) -> Store:
    """A store whose tables hold the traded day."""
    await write_day(store)
    return store


def rendered(*parts: object) -> str:
    """What a person reads."""
    page = StringIO()
    console = Console(width=220, no_color=True, file=page)
    for part in parts:
        console.print(part, markup=False)
    return page.getvalue()


async def test_report_figures_follow_from_the_fills(day: Store) -> None:
    """+250.00 and −235.00 make +15.00: one winner, one loser, half won, the average to the cent."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    figures = result.figures
    assert (figures.trades, figures.winners, figures.losers, figures.flat) == (2, 1, 1, 0)
    assert figures.total_pnl == Decimal("15.00")
    assert figures.average_pnl == Decimal("7.50")
    assert figures.win_rate == Decimal("50.00")
    assert (figures.best, figures.worst) == (Decimal("250.00"), Decimal("-235.00"))
    assert figures.profit_factor == Decimal("1.06")
    assert [(one.reason, one.count, one.pnl) for one in result.exits] == [
        ("STOP_LOSS_HIT", 1, Decimal("-235.00")),
        ("TAKE_PROFIT_HIT", 1, Decimal("250.00")),
    ]
    assert (result.orders, result.entries, result.entries_filled, result.fills) == (6, 4, 3, 7)


async def test_report_drawdown_is_the_deepest_fall_from_the_peak(day: Store) -> None:
    """+250 first, then −105 and −130 by two exit fills: 235 below the top."""
    async with day.read() as conn:
        result = await read_day_report(conn, DAY)
    assert result is not None
    assert result.figures.max_drawdown == Decimal("235.00")


async def test_report_trade_has_hold_time_unprotected_time_and_r_multiple(day: Store) -> None:
    """100 shares with the stop $2 away risk $200; $250 is 1.25 R after one minute."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    won = result.trades[0]
    assert (won.symbol, won.held_seconds, won.unprotected_seconds) == ("AAPL", 60.0, Decimal("1.5"))
    assert (won.risk, won.r_multiple, won.pnl_pct) == (Decimal("200.00"), Decimal("1.25"), Decimal("1.32"))
    assert result.trades[2].closed is False


async def test_report_is_none_without_a_cycle(store: Store) -> None:
    """An empty database, and a day nobody traded, are answered with none, not with zeros."""
    async with store.read() as conn:
        assert await read_day_report(conn) is None
        assert await read_day_report(conn, DAY) is None


async def test_report_lists_scan_stages_in_pipeline_order(day: Store) -> None:
    """The database orders the keys of an object by their length; the funnel must not."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    assert list(result.scans[0].counts) == ["listed", "universe", "scan", "news", "pattern", "plan"]
    assert result.scans[0].total_milliseconds == 112.5


async def test_rendered_report_shows_trades_results_and_reasons(day: Store) -> None:
    """Symbols, results, reasons and the funnel are on the page."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    page = rendered(*render_day(result))
    for expected in (
        "Wednesday 08 April 2026",
        "AAPL",
        "+$250.00",
        "−$235.00",
        "STOP_LOSS_HIT 1",
        "win rate 50 %",
    ):
        assert expected in page


async def test_event_feed_returns_each_event_once_in_time_order(day: Store) -> None:
    """Scan, entries, fills, protection and exits come by time; a second look has nothing to add."""
    follower = DayEventFeed(CYCLE)
    async with day.read() as conn:
        first, second = await follower.read_new(conn), await follower.read_new(conn)
    assert second == []
    assert [event.at for event in first] == sorted(event.at for event in first)
    kinds = [event.kind for event in first]
    counted = {kind: kinds.count(kind) for kind in DayEventKind}
    assert counted[DayEventKind.SCAN] == 1
    assert counted[DayEventKind.ENTRY] == 3
    assert counted[DayEventKind.PROPOSAL] == 1
    assert counted[DayEventKind.FILL] == 7
    assert counted[DayEventKind.PROTECTED] == 3
    assert counted[DayEventKind.EXIT] == 2
    assert counted[DayEventKind.ALERT] == 1
    exits = [event.text for event in first if event.kind is DayEventKind.EXIT]
    assert exits[0].startswith("AAPL +$250.00")


async def test_explanation_covers_any_symbol_of_the_universe(day: Store) -> None:
    """The stage that dropped it and the reason with its number, also for one that never was a candidate."""
    async with day.read() as conn:
        tsla, junk = await explain(conn, "tsla"), await explain(conn, "JUNK")
    assert tsla is not None
    assert junk is not None
    assert tsla.scans[0].verdict == "refused by scan: spread 80.0 bps, limit 50.0"
    assert junk.scans[0].verdict == "refused by universe: not tradable"
    assert tsla.scans[0].numbers == {"price": 250.0}


async def test_explanation_of_a_candidate_covers_all_its_stages(day: Store) -> None:
    """Headline, pattern, indicators, the order it led to, its fills and its result."""
    async with day.read() as conn:
        result = await explain(conn, "AAPL", DAY)
    assert result is not None
    look = result.scans[0]
    assert (look.stage, look.order_id) == (None, result.orders[0].order_id)
    assert look.headlines[0].headline == "Record quarter"
    assert look.patterns[0].pattern == "gap_and_go"
    assert look.indicators is not None
    assert look.indicators.values == {"rsi": 61.5}
    assert [fill.quantity for fill in result.fills] == [100, 100]
    page = rendered(*render_explanation(result, every_scan=True))
    for expected in (
        "passed every stage: order 1",
        "Record quarter",
        "gap_and_go",
        "rsi 61.5",
        "TAKE_PROFIT_HIT",
    ):
        assert expected in page


async def test_explanation_is_none_for_an_unknown_symbol(day: Store) -> None:
    """None: the command says so instead of showing an empty page."""
    async with day.read() as conn:
        assert await explain(conn, "NOSUCH") is None


async def test_status_names_every_problem(day: Store) -> None:
    """No daemon, and ten shares without a stop at the broker: not healthy, and both are named."""
    async with day.read() as conn:
        seen = await status_report.read_status(conn, OPEN + timedelta(minutes=45))
    assert not seen.healthy
    assert len(seen.problems) == 2
    assert "10 shares of NVDA have no stop at the broker" in seen.problems
    assert seen.phase == "open"
    assert (seen.closed_trades, seen.realized_pnl) == (2, Decimal("15.00"))
    assert [one.symbol for one in seen.proposals] == ["AMD"]
    page = rendered(*render_status(seen), render_screen(seen, [], []))
    assert "catalyst approve 1" in page
    assert "NVDA" in page


async def test_status_shows_the_daemon_alive_while_its_lock_is_held(day: Store) -> None:
    """The lock, not a time stamp, tells: a clock that runs fast or stands still deceives nobody."""
    lock = await acquire_account_lock(day.dsn, ACCOUNT)
    assert lock is not None
    async with day.read() as conn:
        held = await status_report.read_status(conn, OPEN)
    await lock.release()
    async with day.read() as conn:
        gone = await status_report.read_status(conn, OPEN)
    assert (held.daemon.alive, gone.daemon.alive) == (True, False)


async def test_exchange_comparison_matches_when_fills_shares_and_cents_are_equal(day: Store) -> None:
    """Every fill, every share, every cent."""
    async with day.read() as conn:
        fills, rows = await reporting_queries.all_fills(conn), await reporting_queries.recent_positions(conn)
    executions = [
        {"order_id": fill.alpaca_order_id, "qty": str(fill.quantity), "price": str(fill.price)}
        for fill in fills
    ]
    audit = {"problems": [], "positions": {"NVDA": "10"}, "realised": "15.0000"}
    agreed = compare_with_exchange(fills, rows, audit, executions)
    assert agreed.matches
    assert "7 fills" in agreed.sentence
    assert "15.00 to the cent" in agreed.sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"realised": "15.01"}, "realised is 15.00 in the database, 15.01 at the exchange"),
        ({"positions": {}}, "the database holds"),
        ({"problems": ["cash is wrong"]}, "the exchange's own audit failed: cash is wrong"),
    ],
)
async def test_exchange_comparison_fails_on_one_cent_or_share(
    day: Store, change: dict[str, object], said: str
) -> None:
    """Whatever differs is named with both figures."""
    async with day.read() as conn:
        fills, rows = await reporting_queries.all_fills(conn), await reporting_queries.recent_positions(conn)
    executions = [
        {"order_id": fill.alpaca_order_id, "qty": str(fill.quantity), "price": str(fill.price)}
        for fill in fills
    ]
    audit = {"problems": [], "positions": {"NVDA": "10"}, "realised": "15.00", **change}
    result = compare_with_exchange(fills, rows, audit, executions)
    assert not result.matches
    assert said in result.sentence


async def test_exchange_comparison_fails_when_the_database_lacks_a_fill(day: Store) -> None:
    """A lost fill is found by its order, not only by the sum."""
    async with day.read() as conn:
        fills, rows = await reporting_queries.all_fills(conn), await reporting_queries.recent_positions(conn)
    executions = [
        {"order_id": fill.alpaca_order_id, "qty": str(fill.quantity), "price": str(fill.price)}
        for fill in fills
    ]
    audit = {"problems": [], "positions": {"NVDA": "10"}, "realised": "15.00"}
    result = compare_with_exchange(fills[:-1], rows, audit, executions)
    assert not result.matches
    assert any("broker-entry-3" in difference for difference in result.differences)


@pytest.mark.parametrize(
    ("result", "read"),
    [
        (dollars(Decimal("-1234.5")), "−$1,234.50"),
        (dollars(Decimal("0.004"), signed=True), "$0.00"),
        (dollars(Decimal(3), signed=True), "+$3.00"),
        (price(Decimal("12.5")), "12.50"),
        (price(Decimal("0.51234")), "0.5123"),
        (price(Decimal("10.8790909090")), "10.8791"),
        (price(None), "–"),
        (duration(4.26), "4.3 s"),
        (duration(75), "1 min 15 s"),
        (duration(3_900), "1 h 05 min"),
        (duration(None), "–"),
    ],
)
def test_formatting_of_prices_dollars_and_durations(result: str, read: str) -> None:
    """A minus is a minus, a price has its cents, a span its two largest units."""
    assert result == read
