"""Every verb that asks: its facts as JSON, and words for a person."""

import json

import pytest
from cli.shell import Shell
from report.traded_day import CYCLE


def test_status_command_exits_one_unless_healthy(traded_shell: Shell) -> None:
    """No daemon runs: not healthy, exit 1, and the sentence about scans says why there is none."""
    facts = traded_shell.read_json("status", exit_code=1)
    assert facts["healthy"] is False
    assert facts["mode"] == "sim"
    assert facts["at"].startswith("2026-04-08T14:15:00")
    assert "no daemon is running" in facts["scan_note"]
    assert facts["day_pnl"] == "15.00"
    assert [held["symbol"] for held in facts["positions"]] == ["NVDA"]
    assert [proposal["symbol"] for proposal in facts["proposals"]] == ["AMD"]


def test_report_command_prints_decimals_as_text(traded_shell: Shell) -> None:
    """Amounts keep every digit in JSON: they are text, never floats."""
    facts = traded_shell.read_json("report")
    assert facts["day"] == "2026-04-08"
    assert facts["figures"]["total_pnl"] == "15.00"
    assert facts["figures"]["win_rate"] == "50.00"
    assert [trade["exit"] for trade in facts["trades"]] == ["TAKE_PROFIT_HIT", "STOP_LOSS_HIT", None]
    assert facts["trades"][0]["entry_time"] == "2026-04-08T13:40:00Z"
    assert facts == traded_shell.read_json("report", "2026-04-08") == traded_shell.read_json("cycles", CYCLE)


def test_orders_command_filters_by_symbol_and_working(traded_shell: Shell) -> None:
    """All of the day, one symbol's, or only those that have not ended."""
    assert len(traded_shell.read_json("orders")) == 6
    assert {row["order_purpose"] for row in traded_shell.read_json("orders", "--symbol", "aapl")} == {
        "entry",
        "exit",
    }
    assert [row["symbol"] for row in traded_shell.read_json("orders", "--working")] == ["AMD"]


def test_positions_command_filters_by_status(traded_shell: Shell) -> None:
    """Open ones with what guards them, closed ones with what they brought."""
    both = traded_shell.read_json("positions")
    assert [held["symbol"] for held in both["open"]] == ["NVDA"]
    assert [trade["symbol"] for trade in both["closed"]] == ["AAPL", "MSFT"]
    assert traded_shell.read_json("positions", "--status", "open")["closed"] == []
    assert traded_shell.read_json("positions", "--status", "closed")["open"] == []


def test_candidates_command_lists_the_last_scan_with_reasons(traded_shell: Shell) -> None:
    """Best first; a refused one says which stage refused it and why."""
    rows = traded_shell.read_json("candidates")
    assert [row["symbol"] for row in rows] == ["AAPL", "MSFT", "NVDA"]
    assert (rows[2]["stage_reached"], rows[2]["reason"]) == ("pattern", "no pattern in 5 bars")
    assert [
        row["symbol"] for row in traded_shell.read_json("candidates", "--symbol", "msft", "--cycle", CYCLE)
    ] == ["MSFT"]


def test_explain_command_covers_a_symbol_that_never_was_a_candidate(traded_shell: Shell) -> None:
    """The reason with its number, from the frame that keeps every symbol."""
    facts = traded_shell.read_json("explain", "tsla")
    assert facts["scans"][0]["stage"] == "scan"
    assert facts["scans"][0]["reason"] == "spread 80.0 bps, limit 50.0"


def test_cycles_command_lists_trading_days(traded_shell: Shell) -> None:
    """One line a day, newest first."""
    assert [row["cycle_id"] for row in traded_shell.read_json("cycles")] == [CYCLE]


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
def test_query_command_prints_plain_text_without_json_option(
    traded_shell: Shell, verb: tuple[str, ...], said: str
) -> None:
    """Without --json a table; through a pipe it has no colour codes and is not cut."""
    done = traded_shell.run(*verb)
    assert done.returncode == 0
    assert said in done.stdout
    assert "\x1b[" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report", "2026-04-09"), "no trading day 2026-04-09"),
        (("report", "yesterday"), "write it as 2026-04-08"),
        (("explain", "NOSUCH"), "no data on NOSUCH"),
        (("cycles", "19990101-000000"), "there is no cycle 19990101-000000"),
        (("candidates", "--cycle", "x"), "there is no cycle x"),
        (("positions", "--status", "half"), "use open, closed or all"),
        (("approve", "1"), "no daemon is running"),
        (("halt",), "no daemon is running"),
    ],
)
def test_command_with_wrong_argument_fails_in_one_sentence(
    traded_shell: Shell, arguments: tuple[str, ...], said: str
) -> None:
    """One sentence, exit code 1, no traceback."""
    assert said in traded_shell.error_output(*arguments)


def test_flatten_command_leaves_no_latch_without_daemon(traded_shell: Shell) -> None:
    """An order to trade must not lie in wait for a daemon that starts tomorrow."""
    traded_shell.error_output("flatten", "--yes")
    done = traded_shell.run("status", "--json")
    assert json.loads(done.stdout)["latches"] == []
