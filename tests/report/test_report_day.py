"""Day report, day events and exchange comparison of a small traded day in the database."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from io import StringIO

import pytest
from report.traded_day import ACCOUNT, CYCLE, DAY, OPEN, SCANNED_AT, write_day, write_trade
from rich.console import Console

from catalyst.cli.command_lines import scan_line
from catalyst.domain.order import PositionSide
from catalyst.domain.session import Session
from catalyst.report import status as status_report
from catalyst.report.day import ProposalFigures, max_drawdown, read_day_report
from catalyst.report.events import DayEventFeed, DayEventKind
from catalyst.report.exchange_audit import compare_with_exchange
from catalyst.report.explain import explain
from catalyst.report.explain_screen import render_explanation
from catalyst.report.formatting import dollars, duration, price
from catalyst.report.live_screen import render_screen
from catalyst.report.tables import render_status
from catalyst.report.terminal import render_day
from catalyst.store import flat_proofs, orphans, positions, proposals, reporting_queries, trading_days
from catalyst.store.account_lock import acquire_account_lock
from catalyst.store.pool import Store
from catalyst.store.proposals import Decision


@pytest.fixture
async def day(store: Store) -> Store:
    """Return a store with the traded day."""
    await write_day(store)
    return store


def rendered(*parts: object) -> str:
    """Return the text that the operator reads."""
    page = StringIO()
    console = Console(width=220, no_color=True, file=page)
    for part in parts:
        console.print(part, markup=False)
    return page.getvalue()


async def test_report_figures_follow_from_the_fills(day: Store) -> None:
    """Results of +250.00 and −235.00 give +15.00, one winner, one loser and a win rate of 50 %."""
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
    assert [(row.reason, row.count, row.pnl) for row in result.exits] == [
        ("STOP_LOSS_HIT", 1, Decimal("-235.00")),
        ("TAKE_PROFIT_HIT", 1, Decimal("250.00")),
    ]
    assert (result.orders, result.entries, result.entries_filled, result.fills) == (5, 3, 3, 7)


async def test_report_separates_proposals_from_sent_orders(day: Store) -> None:
    """A proposal that was never sent is no order; the report counts proposals by decision and names who approved."""
    async with day.tx("decided") as conn:
        (waiting,) = await proposals.waiting(conn)
        before = await read_day_report(conn)
        await proposals.decide(
            conn, waiting.proposal_id, Decision.APPROVED, by="cli:ann", at=SCANNED_AT, note="8 of 12 shares"
        )
        explanation = await explain(conn, "AMD")
        after = await read_day_report(conn)
    assert before is not None
    assert after is not None
    assert (before.proposals.waiting, before.proposals.approved) == (1, 0)
    assert after.proposals == ProposalFigures(1, 1, 0, 0, 0, ("cli:ann",), after.proposals.decisions)
    page = rendered(*render_day(after))
    assert "orders    5 sent: 3 entries of which 3 filled" in page
    assert "proposals 1: 1 approved by cli:ann, 0 rejected, 0 expired" in page
    decision = f"09:35:00 AMD: proposal {waiting.proposal_id} approved by cli:ann (8 of 12 shares)"
    assert decision in page
    assert explanation is not None
    assert decision in rendered(*render_explanation(explanation))


async def test_flat_proof_is_withdrawn_when_the_account_traded_after_it(day: Store) -> None:
    """A proof of the morning says nothing about the trades after it: status and report say since when it is past."""
    async with day.tx("proof") as conn:
        await flat_proofs.put_flat_proof(
            conn, cycle_id=CYCLE, at=OPEN, cause="MANUAL", requested_by="test", flat=True, broker_orders=0,
            broker_positions=0, stored_orders=0, stored_positions=0, facts={"proven": True},
        )  # fmt: skip
    async with day.read() as conn:
        status = await status_report.read_status(conn, OPEN + timedelta(minutes=45))
        result = await read_day_report(conn)
    assert result is not None
    assert (status.proof_holds, result.proof_holds) == (False, False)
    for page in (rendered(*render_status(status)), rendered(*render_day(result))):
        assert "not flat any more: it was proven at 09:30:00" in page
        assert "proven flat" not in page


async def test_status_without_a_known_calendar_says_so(store: Store) -> None:
    """On a new database the market's hours are unknown, not closed, except at a weekend; a day before the next known
    session is a holiday."""
    wednesday, saturday = OPEN, OPEN + timedelta(days=3)
    async with store.tx("calendar") as conn:
        phases = [(await status_report.read_status(conn, when)).phase for when in (wednesday, saturday)]
        await trading_days.put(
            conn, [Session(DAY + timedelta(days=1), OPEN + timedelta(days=1), OPEN + timedelta(days=1.2))]
        )
        phases.append((await status_report.read_status(conn, OPEN)).phase)
    assert phases == ["unknown", "closed", "closed"]


def test_scan_answer_lists_the_stages_in_their_order() -> None:
    """The keys of a JSON answer have no order; the line has the order of the pipeline."""
    counts = {"news": 3, "plan": 1, "risk": 2, "scan": 4, "score": 3, "listed": 9}
    assert scan_line({"counts": counts, "plans": ["AAPL"]}) == (
        "listed 9 → scan 4 → news 3 → score 3 → risk 2 → plan 1: AAPL"
    )


async def test_report_drawdown_is_the_deepest_fall_from_the_peak(day: Store) -> None:
    """After +250 two exit fills of −105 and −130 give a drawdown of 235."""
    async with day.read() as conn:
        result = await read_day_report(conn, DAY)
    assert result is not None
    assert result.figures.max_drawdown == Decimal("235.00")


async def test_report_drawdown_follows_the_time_of_fills_of_both_sides(day: Store) -> None:
    """A short whose orders are the newest gains 60 between the two exit fills of a loser: +250, −105, +60, −130 is a
    fall of 175, in the order of the fills' times and not of their orders."""
    async with day.tx("late_orders") as conn:
        await write_trade(
            conn, "AMZN", 4, [(30, "200.00")], [(30, "198.00")], "TAKE_PROFIT_HIT: AMZN", minutes=20.5,
            side=PositionSide.SHORT,
        )  # fmt: skip
    async with day.read() as conn:
        result = await read_day_report(conn, DAY)
        fills = await reporting_queries.fills_of_day(conn, CYCLE)
        rows = await reporting_queries.recent_positions(conn)
    assert result is not None
    assert result.trades[-1].pnl == Decimal("60.00")
    assert result.figures.max_drawdown == Decimal("175.00")
    # Fills in any order give one drawdown.
    assert max_drawdown(sorted(fills, key=lambda fill: fill.order_id), rows) == Decimal("175.00")
    assert max_drawdown(list(reversed(fills)), rows) == Decimal("175.00")


async def test_report_trade_has_hold_time_unprotected_time_and_r_multiple(day: Store) -> None:
    """100 shares with a stop $2 away risk $200; a profit of $250 is 1.25 R after one minute."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    won = result.trades[0]
    assert (won.symbol, won.held_seconds, won.unprotected_seconds) == ("AAPL", 60.0, Decimal("1.5"))
    assert (won.risk, won.r_multiple, won.pnl_pct) == (Decimal("200.00"), Decimal("1.25"), Decimal("1.32"))
    assert result.trades[2].closed is False


async def test_report_is_none_without_a_cycle(store: Store) -> None:
    """An empty database or a day without a cycle gives None instead of zeros."""
    async with store.read() as conn:
        assert await read_day_report(conn) is None
        assert await read_day_report(conn, DAY) is None


async def test_report_lists_scan_stages_in_pipeline_order(day: Store) -> None:
    """The funnel is in pipeline order, although jsonb orders keys by their length."""
    async with day.read() as conn:
        result = await read_day_report(conn)
    assert result is not None
    assert list(result.scans[0].counts) == ["listed", "universe", "scan", "news", "pattern", "plan"]
    assert result.scans[0].total_milliseconds == 112.5


async def test_rendered_report_shows_trades_results_and_reasons(day: Store) -> None:
    """The page shows symbols, results, exit reasons and the win rate."""
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
    """Scan, entries, fills, protection and exits are in time order; a second read returns nothing."""
    feed = DayEventFeed(CYCLE)
    async with day.read() as conn:
        first, second = await feed.read_new(conn), await feed.read_new(conn)
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
    """A symbol refused by any stage has this stage and the reason with its number, also without a candidate
    row."""
    async with day.read() as conn:
        tsla, junk = await explain(conn, "tsla"), await explain(conn, "JUNK")
    assert tsla is not None
    assert junk is not None
    assert tsla.scans[0].verdict == "refused by scan: spread 80.0 bps, limit 50.0"
    assert junk.scans[0].verdict == "refused by universe: not tradable"
    assert tsla.scans[0].numbers == {"price": 250.0}


async def test_explanation_of_a_candidate_covers_all_its_stages(day: Store) -> None:
    """The explanation has headline, pattern, indicators, the order, its fills and its result."""
    async with day.read() as conn:
        result = await explain(conn, "AAPL", DAY)
    assert result is not None
    scan = result.scans[0]
    assert (scan.stage, scan.order_id) == (None, result.orders[0].order_id)
    assert scan.headlines[0].headline == "Record quarter"
    assert scan.patterns[0].pattern == "gap_and_go"
    assert scan.indicators is not None
    assert scan.indicators.values == {"rsi": 61.5}
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
    """An unknown symbol gives None."""
    async with day.read() as conn:
        assert await explain(conn, "NOSUCH") is None


async def test_status_names_every_problem(day: Store) -> None:
    """Without a daemon and with ten unprotected shares the status is unhealthy and names both problems."""
    async with day.read() as conn:
        status = await status_report.read_status(conn, OPEN + timedelta(minutes=45))
    assert not status.healthy
    assert len(status.problems) == 2
    assert "10 shares of NVDA have no stop at the broker" in status.problems
    assert status.phase == "open"
    assert (status.closed_trades, status.realized_pnl) == (2, Decimal("15.00"))
    assert [proposal.symbol for proposal in status.proposals] == ["AMD"]
    page = rendered(*render_status(status), render_screen(status, [], []))
    assert "catalyst approve 1" in page
    assert "NVDA" in page


async def test_status_counts_what_the_exits_oversold(day: Store) -> None:
    """The day's result and the used part of the loss limit contain the loss of oversold shares, as the daily loss limit
    itself does."""
    async with day.tx("oversold") as conn:
        held = (await positions.open_positions(conn))[0]
        await orphans.record(
            conn, "MSFT", PositionSide.SHORT, Decimal(10), at=OPEN, cycle_id=CYCLE, position_id=held.position_id,
            cost=Decimal(4000),
        )  # fmt: skip
        orphan = await orphans.lock_open(conn, "MSFT", PositionSide.SHORT)
        assert orphan is not None
        closed = replace(orphan, quantity=Decimal(0), exited_qty=Decimal(10), realized_pnl=Decimal(-515))
        await orphans.update(conn, closed, at=OPEN)
        await orphans.close(conn, orphan.orphan_id, end_reason="exited", at=OPEN)
    async with day.read() as conn:
        status = await status_report.read_status(conn, OPEN + timedelta(minutes=45))
        realized, _ = await positions.day_pnl(conn, CYCLE)
    assert status.realized_pnl == realized == Decimal("-500.00")
    assert status.day_pnl == status.realized_pnl + status.unrealized_pnl
    assert status.loss_limit_used_pct == round(float(-status.day_pnl) / 20, 1)


async def test_status_shows_the_daemon_alive_while_its_lock_is_held(day: Store) -> None:
    """The daemon counts as alive while it holds the account lock, whatever its clock says."""
    lock = await acquire_account_lock(day.dsn, ACCOUNT)
    assert lock is not None
    async with day.read() as conn:
        running = await status_report.read_status(conn, OPEN)
    await lock.release()
    async with day.read() as conn:
        stopped = await status_report.read_status(conn, OPEN)
    assert (running.daemon.alive, stopped.daemon.alive) == (True, False)


async def test_exchange_comparison_matches_when_fills_shares_and_cents_are_equal(day: Store) -> None:
    """Equal fills, shares and cents match."""
    async with day.read() as conn:
        fills, rows = await reporting_queries.all_fills(conn), await reporting_queries.recent_positions(conn)
    executions = [
        {"order_id": fill.alpaca_order_id, "qty": str(fill.quantity), "price": str(fill.price)}
        for fill in fills
    ]
    audit = {"problems": [], "positions": {"NVDA": "10"}, "realised": "15.0000"}
    result = compare_with_exchange(fills, rows, audit, executions)
    assert result.matches
    assert "7 fills" in result.sentence
    assert "15.00 to the cent" in result.sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"realised": "15.01"}, "realised is 15.00 in the database, 15.01 at the exchange"),
        ({"positions": {}}, "the database holds"),
        ({"problems": ["cash is wrong"]}, "the exchange's own audit failed: cash is wrong"),
    ],
)
async def test_exchange_comparison_fails_on_one_cent_or_share(
    day: Store, change: dict[str, object], sentence: str
) -> None:
    """A difference in cents, shares or the exchange's own audit is named with both figures."""
    async with day.read() as conn:
        fills, rows = await reporting_queries.all_fills(conn), await reporting_queries.recent_positions(conn)
    executions = [
        {"order_id": fill.alpaca_order_id, "qty": str(fill.quantity), "price": str(fill.price)}
        for fill in fills
    ]
    audit = {"problems": [], "positions": {"NVDA": "10"}, "realised": "15.00", **change}
    result = compare_with_exchange(fills, rows, audit, executions)
    assert not result.matches
    assert sentence in result.sentence


async def test_exchange_comparison_fails_when_the_database_lacks_a_fill(day: Store) -> None:
    """A missing fill is found by its order, also where the sums agree."""
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
    ("text", "expected"),
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
def test_formatting_of_prices_dollars_and_durations(text: str, expected: str) -> None:
    """Negative amounts have a minus sign, prices their cents, durations their two largest units."""
    assert text == expected
