"""Every command that reads the database: its facts as JSON, and its text for people."""

import pytest
from cli.shell import Shell
from report.traded_day import CYCLE


def test_status_command_exits_one_unless_healthy(traded_shell: Shell) -> None:
    """Without a daemon the status is not healthy, the exit code is 1, and the scan note gives the reason."""
    facts = traded_shell.read_json("status", exit_code=1)
    assert facts["healthy"] is False
    assert facts["mode"] == "sim"
    assert facts["at"].startswith("2026-04-08T14:15:00")
    assert "no daemon is running" in facts["scan_note"]
    assert facts["day_pnl"] == "15.00"
    assert [position["symbol"] for position in facts["positions"]] == ["NVDA"]
    assert [proposal["symbol"] for proposal in facts["proposals"]] == ["AMD"]


def test_report_command_prints_decimals_as_text(traded_shell: Shell) -> None:
    """Amounts in JSON are text, never floats, and keep every digit."""
    facts = traded_shell.read_json("report")
    assert facts["day"] == "2026-04-08"
    assert facts["figures"]["total_pnl"] == "15.00"
    assert facts["figures"]["win_rate"] == "50.00"
    assert [trade["exit"] for trade in facts["trades"]] == ["TAKE_PROFIT_HIT", "STOP_LOSS_HIT", None]
    assert facts["trades"][0]["entry_time"] == "2026-04-08T13:40:00Z"
    assert facts == traded_shell.read_json("report", "2026-04-08") == traded_shell.read_json("cycles", CYCLE)


def test_orders_command_filters_by_symbol_and_working(traded_shell: Shell) -> None:
    """The command lists all orders of the day, one symbol's orders, or only working orders."""
    assert len(traded_shell.read_json("orders")) == 6
    assert {row["order_purpose"] for row in traded_shell.read_json("orders", "--symbol", "aapl")} == {
        "entry",
        "exit",
    }
    assert [row["symbol"] for row in traded_shell.read_json("orders", "--working")] == ["AMD"]


def test_positions_command_filters_by_status(traded_shell: Shell) -> None:
    """The command lists open positions, closed positions, or both."""
    both = traded_shell.read_json("positions")
    assert [position["symbol"] for position in both["open"]] == ["NVDA"]
    assert [trade["symbol"] for trade in both["closed"]] == ["AAPL", "MSFT"]
    assert traded_shell.read_json("positions", "--status", "open")["closed"] == []
    assert traded_shell.read_json("positions", "--status", "closed")["open"] == []


def test_candidates_command_lists_the_last_scan_with_reasons(traded_shell: Shell) -> None:
    """Candidates are listed best first; a refused one has its stage and reason."""
    rows = traded_shell.read_json("candidates")
    assert [row["symbol"] for row in rows] == ["AAPL", "MSFT", "NVDA"]
    assert (rows[2]["stage_reached"], rows[2]["reason"]) == ("pattern", "no pattern in 5 bars")
    assert [
        row["symbol"] for row in traded_shell.read_json("candidates", "--symbol", "msft", "--cycle", CYCLE)
    ] == ["MSFT"]


def test_explain_command_covers_a_symbol_that_never_was_a_candidate(traded_shell: Shell) -> None:
    """The stored frame gives stage and reason, with its number, for every symbol of the scan."""
    facts = traded_shell.read_json("explain", "tsla")
    assert facts["scans"][0]["stage"] == "scan"
    assert facts["scans"][0]["reason"] == "spread 80.0 bps, limit 50.0"


def test_cycles_command_lists_trading_days(traded_shell: Shell) -> None:
    """The command lists one cycle per day, newest first."""
    assert [row["cycle_id"] for row in traded_shell.read_json("cycles")] == [CYCLE]


@pytest.mark.parametrize(
    ("verb", "text"),
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
    traded_shell: Shell, verb: tuple[str, ...], text: str
) -> None:
    """Without --json the command prints text; through a pipe it has no colour codes and is not cut."""
    completed = traded_shell.run(*verb)
    assert completed.returncode == 0
    assert text in completed.stdout
    assert "\x1b[" not in completed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "2026-04-09"), "no trading day 2026-04-09"),
        (("report", "yesterday"), "write it as 2026-04-08"),
        (("explain", "NOSUCH"), "no data on NOSUCH"),
        (("cycles", "19990101-000000"), "there is no cycle 19990101-000000"),
        (("candidates", "--cycle", "x"), "there is no cycle x"),
        (("positions", "--status", "half"), "use open, closed or all"),
        (("approve", "1"), "no daemon is running"),
    ],
)
def test_command_with_wrong_argument_fails_in_one_sentence(
    traded_shell: Shell, arguments: tuple[str, ...], message: str
) -> None:
    """A wrong argument gives one sentence, exit code 1 and no traceback."""
    assert message in traded_shell.error_output(*arguments)
