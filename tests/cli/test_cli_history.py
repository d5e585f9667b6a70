"""Commands over several days and single trades: performance, events, risk-check, stop."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest
from cli.shell import Shell

from catalyst.cli.risk_check import judge_proposal
from catalyst.domain.order import PositionSide
from catalyst.pipeline.proposal import propose
from catalyst.pipeline.risk_inputs import limits_of
from catalyst.report.statistics import largest_fall, trade_statistics
from catalyst.store.pool import open_store
from tests.conftest import PostgresServer
from tests.stories.scenario import open_scenario


def test_performance_sums_the_days_of_a_range(traded_shell: Shell) -> None:
    """Seven days up to today hold the traded day; a range before it holds none."""
    facts = traded_shell.read_json("performance", "--days", "7")
    statistics = facts["statistics"]
    assert (statistics["trades"], statistics["win_rate"], statistics["total_pnl"]) == (2, "50.00", "15.00")
    assert (facts["worst_drawdown"], facts["entries"], facts["scans"]) == ("235.00", 3, 1)
    assert (facts["since"], facts["until"], facts["days"][0]["day"]) == (
        "2026-04-02",
        "2026-04-08",
        "2026-04-08",
    )
    assert facts["funnel"]["listed"] == 5
    text = traded_shell.run("performance").stdout
    assert "+$15.00 from 2 trades: 1 won, 1 lost, win rate 50 %, average +$7.50" in text
    empty = traded_shell.read_json("performance", "--since", "2026-03-01", "--until", "2026-03-31")
    assert (empty["statistics"]["trades"], empty["statistics"]["win_rate"], empty["days"]) == (0, None, [])
    assert "is after" in traded_shell.error_output("performance", "--since", "2026-05-01")


def test_events_are_listed_by_severity(traded_shell: Shell, database: str, postgres: PostgresServer) -> None:
    """Risk events are listed newest first, of one severity when asked."""

    async def write() -> None:
        conn = await asyncpg.connect(database)
        await conn.executemany(
            "INSERT INTO risk_events (event_type, severity, message, occurred_at) VALUES ($1, $2, $3, $4)",
            [
                ("FIRST", "INFO", "one", datetime(2026, 4, 8, 14, tzinfo=UTC)),
                ("SECOND", "CRITICAL", "two", datetime(2026, 4, 8, 15, tzinfo=UTC)),
            ],
        )
        await conn.close()

    postgres.run(write)
    assert [event["event_type"] for event in traded_shell.read_json("events")] == ["SECOND", "FIRST"]
    assert [event["message"] for event in traded_shell.read_json("events", "--severity", "info")] == ["one"]
    assert "2026-04-08 11:00:00  CRITICAL  SECOND  two" in traded_shell.run("events", "--last", "1").stdout
    assert "use INFO, WARNING, CRITICAL" in traded_shell.error_output("events", "--severity", "loud")


def test_statistics_of_results() -> None:
    """Win rate, averages, profit factor and the largest fall follow from the results; none is a division by zero."""
    results = [Decimal(100), Decimal(-50), Decimal(0), Decimal(-30)]
    found = trade_statistics(results, [Decimal(2), None, Decimal(-1)])
    assert (found.winners, found.losers, found.flat) == (1, 2, 1)
    assert (found.win_rate, found.average_pnl, found.profit_factor) == (25, 5, Decimal("1.25"))
    assert found.average_r == Decimal("0.5")
    assert largest_fall(results) == 80
    none = trade_statistics([])
    assert (none.win_rate, none.average_pnl, none.profit_factor, none.average_r) == (None, None, None, None)
    assert largest_fall([]) == 0


async def test_risk_check_of_the_golden_case(database: str) -> None:
    """Ten TSLA at 250 with a stop of 2 % are approved with a risk of $50.00; a held symbol and a halt refuse it, and
    nothing is sent."""
    async with open_scenario(database) as scenario:
        proposal = propose(
            "TSLA", PositionSide.LONG, Decimal(250), limits_of(scenario.settings.config), quantity=10
        )
        store = await open_store(database, scenario.clock, size=2, name="test")
        try:
            _, verdict = await judge_proposal(store, scenario.settings, proposal)
            assert verdict.approved
            assert (verdict.risk_amount, verdict.reasons) == (Decimal("50.00"), ("Risk within limits",))
            assert verdict.risk_score == 0.5  # $2,500 of $5,000
            await scenario.given_position("TSLA", 5)
            assert (await scenario.send_command("halt"))["ok"]
            _, verdict = await judge_proposal(store, scenario.settings, proposal)
            assert not verdict.approved
            assert {check.name for check in verdict.checks if not check.passed} == {"account", "duplicate"}
        finally:
            await store.close()
        assert await scenario.count_submitted("TSLA") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--side", "up", "--price", "250"), "--side up: use buy, long, sell, short"),
        (("--price", "x"), "--price x: write a price in dollars"),
        (("--price", "NaN"), "write a price in dollars"),
    ],
)
def test_risk_check_refuses_what_is_no_trade(shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    """A wrong side and a wrong price are one sentence each."""
    assert words in shell.error_output("risk-check", "TSLA", *arguments)


def test_stop_needs_keep_and_a_daemon(shell: Shell, tmp_path: Path) -> None:
    """Without --keep the command asks what becomes of the positions; without a daemon it says so."""
    assert "`catalyst stop --keep` leaves them" in shell.error_output("stop")
    assert "no daemon of this machine holds a lock" in shell.error_output("stop", "--keep")


def test_readiness_computes_and_attests(traded_shell: Shell, database: str, postgres: PostgresServer) -> None:
    """A fresh record is not ready and says what is missing; completed sessions, commands and attestations of persons
    turn their items; a crash is counted, and an item that is computed cannot be attested."""

    def passed(*arguments: str) -> dict[str, bool]:
        facts = traded_shell.read_json("readiness", *arguments, exit_code=1)
        return {item["name"]: item["passed"] for item in facts["items"]}

    first = passed("live")
    assert first["no-crash"]
    assert first["drawdown"]
    assert not any(
        first[name] for name in ("supervised-week", "paper-sessions", "win-rate", "test-order", "backup")
    )

    async def practise() -> None:
        conn = await asyncpg.connect(database)
        await conn.execute(
            """
            INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                        start_time, end_time, updated_at, config_hash, status)
            SELECT to_char(day, 'YYYYMMDD') || '-093000', day, 'supervised', 5, 2000, 1800, day, day, day, 'hash',
                   'completed'
              FROM generate_series('2026-03-02'::timestamp, '2026-03-11', '1 day') AS day;
            INSERT INTO commands (kind, requested_at, requested_by, taken_at, answered_at, ok, result)
            SELECT kind, now(), 'me', now(), now(), true, '{"cancelled": true}'
              FROM unnest('{scan,flatten,test_order}'::text[]) AS kind;
            UPDATE daemon SET mode = 'paper', epoch = 2;
            """
        )
        await conn.close()

    postgres.run(practise)
    second = passed("live", "--attest", "config-review", "--note", "read twice")
    done = ("supervised-week", "paper-sessions", "scan", "test-order", "emergency-stop", "config-review")
    assert all(second[name] for name in done)
    assert not second["no-crash"]  # the run of the traded day has no end
    text = traded_shell.run("readiness").stdout
    assert "read twice" in text
    assert "NOT ready for autonomous" in text
    assert "paper-sessions" not in text
    assert "a person can attest config-review" in traded_shell.error_output(
        "readiness", "--attest", "win-rate"
    )
