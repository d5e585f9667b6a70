"""Every verb that asks: its facts as JSON, and words for a person."""

import json

import pytest
from cli.shell import Shell
from report.traded_day import CYCLE


def test_status_tells_the_facts_and_leaves_with_one_unless_all_is_well(desk: Shell) -> None:
    """No daemon runs: not healthy, exit 1, and the sentence about scans says why there is none."""
    facts = desk.facts("status", exit_code=1)
    assert facts["healthy"] is False
    assert facts["mode"] == "sim"
    assert facts["at"].startswith("2026-04-08T14:15:00")
    assert "no daemon is running" in facts["scanning"]
    assert facts["day_pnl"] == "15.00"
    assert [held["symbol"] for held in facts["positions"]] == ["NVDA"]
    assert [proposal["symbol"] for proposal in facts["proposals"]] == ["AMD"]


def test_report_tells_the_day_with_decimals_as_text(desk: Shell) -> None:
    """Amounts keep every digit in JSON: they are text, never floats."""
    facts = desk.facts("report")
    assert facts["day"] == "2026-04-08"
    assert facts["figures"]["total_pnl"] == "15.00"
    assert facts["figures"]["win_rate"] == "50.00"
    assert [trade["exit"] for trade in facts["trades"]] == ["TAKE_PROFIT_HIT", "STOP_LOSS_HIT", None]
    assert facts["trades"][0]["entry_time"] == "2026-04-08T13:40:00Z"
    assert facts == desk.facts("report", "2026-04-08") == desk.facts("cycles", CYCLE)


def test_orders_are_listed_whole_by_symbol_or_working(desk: Shell) -> None:
    """All of the day, one symbol's, or only those that have not ended."""
    assert len(desk.facts("orders")) == 6
    assert {row["order_purpose"] for row in desk.facts("orders", "--symbol", "aapl")} == {"entry", "exit"}
    assert [row["symbol"] for row in desk.facts("orders", "--working")] == ["AMD"]


def test_positions_are_listed_by_status(desk: Shell) -> None:
    """Open ones with what guards them, closed ones with what they brought."""
    both = desk.facts("positions")
    assert [held["symbol"] for held in both["open"]] == ["NVDA"]
    assert [trade["symbol"] for trade in both["closed"]] == ["AAPL", "MSFT"]
    assert desk.facts("positions", "--status", "open")["closed"] == []
    assert desk.facts("positions", "--status", "closed")["open"] == []


def test_candidates_are_those_of_the_last_scan_with_reasons(desk: Shell) -> None:
    """Best first; a refused one says which stage refused it and why."""
    rows = desk.facts("candidates")
    assert [row["symbol"] for row in rows] == ["AAPL", "MSFT", "NVDA"]
    assert (rows[2]["stage_reached"], rows[2]["reason"]) == ("pattern", "no pattern in 5 bars")
    assert [row["symbol"] for row in desk.facts("candidates", "--symbol", "msft", "--cycle", CYCLE)] == [
        "MSFT"
    ]


def test_explain_tells_of_a_symbol_that_never_was_a_candidate(desk: Shell) -> None:
    """The reason with its number, from the frame that keeps every symbol."""
    facts = desk.facts("explain", "tsla")
    assert facts["looks"][0]["stage"] == "scan"
    assert facts["looks"][0]["reason"] == "spread 80.0 bps, limit 50.0"


def test_cycles_lists_the_days(desk: Shell) -> None:
    """One line a day, newest first."""
    assert [row["cycle_id"] for row in desk.facts("cycles")] == [CYCLE]


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (("report",), "+$250.00"),
        (("orders",), "limit bracket"),
        (("positions",), "not at the broker"),
        (("candidates", "--all"), "no pattern in 5 bars"),
        (("explain", "AAPL"), "passed every stage: order 1"),
        (("cycles",), CYCLE),
    ],
)
def test_each_verb_also_speaks_to_people(desk: Shell, verb: tuple[str, ...], said: str) -> None:
    """Without --json a table; through a pipe it has no colour codes and is not cut."""
    done = desk.run(*verb)
    assert done.returncode == 0
    assert said in done.stdout
    assert "\x1b[" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report", "2026-04-09"), "no trading day 2026-04-09"),
        (("report", "yesterday"), "write it as 2026-04-08"),
        (("explain", "NOSUCH"), "nothing is known of NOSUCH"),
        (("cycles", "19990101-000000"), "there is no cycle 19990101-000000"),
        (("candidates", "--cycle", "x"), "there is no cycle x"),
        (("positions", "--status", "half"), "say open, closed or all"),
        (("approve", "1"), "no daemon is running"),
        (("halt",), "no daemon is running"),
    ],
)
def test_a_wrong_question_is_answered_with_what_to_do(
    desk: Shell, arguments: tuple[str, ...], said: str
) -> None:
    """One sentence, exit code 1, no traceback."""
    assert said in desk.complaint(*arguments)


def test_an_order_to_no_daemon_leaves_nothing_behind(desk: Shell) -> None:
    """An order to trade must not lie in wait for a daemon that starts tomorrow."""
    desk.complaint("flatten", "--yes")
    done = desk.run("status", "--json")
    assert json.loads(done.stdout)["latches"] == []
