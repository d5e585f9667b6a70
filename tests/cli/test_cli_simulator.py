"""`catalyst sim` as a user sees it: its start time, its saved state, and its clock set over the admin API."""

import json
import signal
import subprocess
import urllib.request
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cli.shell import TIMEOUT_S, Shell, wait_until

from catalyst.cli.settings import open_clock
from catalyst.cli.simulator import _date_lines
from catalyst.cli.simulator_start import (
    day_to_continue,
    day_with_session,
    last_saved_instant,
    new_account_id,
    parse_start,
)
from catalyst.clock import NEW_YORK, ScaledClock, SystemClock
from catalyst.domain.errors import UserError
from catalyst.simulator.exchange.persistence import JOURNAL_FILE, claim_directory
from tests.stories.scenario import settings_for

HALF_DAY = date(2026, 11, 27)


@pytest.mark.parametrize(
    ("text", "day", "instant"),
    [
        (None, None, datetime(2026, 6, 17, 14, 0, tzinfo=UTC)),
        ("09:31", None, datetime(2026, 6, 17, 13, 31, tzinfo=UTC)),
        ("12:30", HALF_DAY, datetime(2026, 11, 27, 17, 30, tzinfo=UTC)),
        ("2026-11-27 12:30", None, datetime(2026, 11, 27, 17, 30, tzinfo=UTC)),
        ("2026-11-27T12:30", HALF_DAY, datetime(2026, 11, 27, 17, 30, tzinfo=UTC)),
        ("2026-03-09 09:30", None, datetime(2026, 3, 9, 13, 30, tzinfo=UTC)),
        ("2026-03-06 09:30", None, datetime(2026, 3, 6, 14, 30, tzinfo=UTC)),
    ],
)
def test_start_option_is_new_york_time(text: str | None, day: date | None, instant: datetime) -> None:
    """The default is half an hour after the open; --start may include the day; daylight saving is New York's."""
    market_start = parse_start(text, day)
    assert market_start.first_instant(market_start.day or date(2026, 6, 17)) == instant


def test_start_now_selects_a_day_with_a_session() -> None:
    """`now` uses the wall clock, and on a day without a session the next day with one."""
    from catalyst.simulator.market.calendar import session

    market_start = parse_start("now", None)
    assert market_start.day is not None
    assert session(market_start.day) is not None
    assert market_start.first_instant(market_start.day) is None


@pytest.mark.parametrize(
    ("day", "played"),
    [
        (date(2026, 6, 17), date(2026, 6, 17)),
        (date(2026, 7, 4), date(2026, 7, 2)),  # a Saturday; the holiday was on Friday
        (date(2026, 11, 29), date(2026, 11, 27)),
        (date(1990, 1, 2), date(1990, 1, 2)),  # no calendar: the market refuses it
    ],
)
def test_day_without_a_session_is_shifted_to_the_last_one(day: date, played: date) -> None:
    """A weekend or a holiday plays the last session before it, so that a client finds data before its own date."""
    assert day_with_session(day) == played


def test_default_day_is_today_or_the_last_session() -> None:
    """Without a day the market plays a session that is not after today in New York, at most a long weekend before."""
    today = SystemClock().now().astimezone(NEW_YORK).date()
    assert timedelta(0) <= today - day_with_session(None) <= timedelta(days=5)


def test_first_lines_say_whose_day_it_is() -> None:
    """The exchange says whether its day is today's, and what a client with a clock of its own must do."""
    friday = date(2026, 11, 27)
    [line] = _date_lines(friday, datetime(2026, 11, 27, 20, 0, tzinfo=NEW_YORK))
    assert "the market's day is today, 2026-11-27" in line
    assert "ask /v2/clock" in line
    first, second = _date_lines(friday, datetime(2026, 11, 29, 8, 0, tzinfo=NEW_YORK))
    assert "the market's day is 2026-11-27, not today (Sun 2026-11-29 in New York)" in first
    assert "give it dates of that day" in second


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("25:99", None),
        ("soon", None),
        ("2026-11-27", None),
        ("a b c", None),
        ("2026-11-27 12:30", date(2026, 11, 30)),
    ],
)
def test_start_option_refuses_an_invalid_time(text: str, day: date | None) -> None:
    """An invalid time is refused with valid examples."""
    with pytest.raises(UserError, match=r"is not a time|is not on --day"):
        parse_start(text, day)


def test_simulator_state_belongs_to_one_market(tmp_path: Path) -> None:
    """Another market is refused with the names of both markets; a day before the saved one is refused. The directory's
    own market has no saved instant yet, and continues with later days."""
    day = date(2026, 6, 17)
    assert last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", day) is None
    with pytest.raises(UserError, match=r"generated 7, .* not generated 8"):
        last_saved_instant(tmp_path / "state", "generated 8, 60 symbols", day)
    assert last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", date(2026, 6, 18)) is None
    with pytest.raises(UserError, match=r"has reached 2026-06-18, which is after 2026-06-17"):
        last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", day)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        last_saved_instant(tmp_path / "file", "generated 7", day)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("2026-06-18T14:00:00+00:00", date(2026, 6, 18)),
        ("2026-06-18T19:29:00+00:00", date(2026, 6, 18)),
        ("2026-06-18T19:30:00+00:00", date(2026, 6, 22)),  # the 19th is a holiday
        ("2026-06-18T23:00:00+00:00", date(2026, 6, 22)),
    ],
)
def test_simulator_state_continues_on_the_next_session(tmp_path: Path, last: str, expected: date) -> None:
    """A kept market plays the day that it had reached, or the next session when that day is nearly over."""
    claim_directory(tmp_path, "generated 7", date(2026, 6, 18))
    assert day_to_continue(tmp_path, "generated 7") is None
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"now": last}) + "\n")
    assert day_to_continue(tmp_path, "generated 7") == expected
    assert day_to_continue(tmp_path, "generated 8") is None


def test_each_start_without_state_is_a_new_account() -> None:
    """Two starts have two account ids."""
    assert new_account_id() != new_account_id()


class ExchangeUser:
    """A client with the exchange's address and the demo keys."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.base = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start_exchange(self, *options: str) -> None:
        """Start the exchange on a free port and wait until it listens."""
        port = self.shell.folder / "port"
        port.unlink(missing_ok=True)
        common_options = ("--symbols", "60", "--port", "0", "--port-file", "port", "--state", "kept")
        self.process = process = self.shell.start_process("sim", "sim", *common_options, *options)
        wait_until(lambda: port.exists() or process.poll() is not None, "the exchange")
        assert process.poll() is None, self.shell.log("sim")
        self.base = f"http://127.0.0.1:{port.read_text().strip()}"

    def stop_exchange(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def request(self, path: str, **body: Any) -> Any:
        keys = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(
            urllib.request.Request(self.base + path, data, keys), timeout=30
        ) as response:
            return json.load(response)


def test_simulator_keeps_orders_positions_and_time_over_restarts(shell: Shell) -> None:
    """On a half day with a stopped clock, a step fills an order and a jump reaches the close. After a restart the
    exchange continues with its orders, positions, cash and time, on that day and on a later one."""
    user = ExchangeUser(shell)
    user.start_exchange("--day", "2026-11-27", "--start", "12:30", "--speed", "0")
    try:
        assert "/v2/orders" in user.request("/")["routes"]
        assert user.request("/v2/clock")["next_close"] == "2026-11-27T13:00:00-05:00"
        order = {"symbol": "SPY", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
        assert user.request("/v2/orders", **order, client_order_id="mine")["status"] == "pending_new"
        user.request("/admin/clock", seconds=1)
        assert [row["symbol"] for row in user.request("/v2/positions")] == ["SPY"]
        assert user.request("/admin/clock", to="13:05")["new_york"] == "2026-11-27T13:05:00-05:00"
        assert user.request("/v2/clock")["is_open"] is False
        user.request("/admin/clock", to="13:06")  # no event happens here, but the time is saved
        assert user.stop_exchange(signal.SIGTERM) == 0
        user.start_exchange("--day", "2026-11-27", "--speed", "0")
        assert user.request("/admin/clock")["new_york"] == "2026-11-27T13:06:00-05:00"
        order_shown = user.request("/v2/orders:by_client_order_id?client_order_id=mine")
        assert (order_shown["status"], len(user.request("/v2/positions"))) == ("filled", 1)
        for time_in_force in ("day", "gtc"):
            bid = {
                "symbol": "AAPL",
                "qty": "1",
                "side": "buy",
                "type": "limit",
                "limit_price": "1",
                "time_in_force": time_in_force,
            }
            user.request("/v2/orders", **bid, client_order_id=time_in_force)
        account = user.request("/v2/account")
        assert user.stop_exchange(signal.SIGTERM) == 0

        user.start_exchange("--start", "2026-12-01 09:31", "--speed", "0")  # two sessions later
        assert user.request("/admin/clock")["new_york"] == "2026-12-01T09:31:00-05:00"
        assert user.request("/v2/clock")["is_open"] is True
        assert [row["qty"] for row in user.request("/v2/positions")] == ["1"]
        kept = user.request("/v2/account")
        assert [kept[name] for name in ("id", "account_number", "cash")] == [
            account[name] for name in ("id", "account_number", "cash")
        ]
        states = [
            user.request(f"/v2/orders:by_client_order_id?client_order_id={time_in_force}")["status"]
            for time_in_force in ("day", "gtc")
        ]
        assert states == ["expired", "new"]
        assert user.request("/admin/audit")["clean"]
        order["side"] = "sell"
        user.request("/v2/orders", **order)
        user.request("/admin/clock", seconds=1)
        assert user.request("/v2/positions") == []
    finally:
        assert user.process is not None
        user.process.kill()
        user.process.wait()


def test_simulator_state_keeps_its_day_when_killed_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill while a later day's label is written, the state still belongs to the earlier day and continues."""
    claim_directory(tmp_path, "generated 7", date(2026, 6, 17))
    write = Path.write_text

    def crash_after_truncate(path: Path, text: str) -> int:
        write(path, "")
        raise SystemExit

    monkeypatch.setattr(Path, "write_text", crash_after_truncate)
    with pytest.raises(SystemExit):
        claim_directory(tmp_path, "generated 7", date(2026, 6, 18))
    monkeypatch.undo()
    assert claim_directory(tmp_path, "generated 7", date(2026, 6, 16)) == ("generated 7", date(2026, 6, 17))
    assert claim_directory(tmp_path, "generated 7", date(2026, 6, 18)) == ("generated 7", date(2026, 6, 18))


def test_practice_works_twice_with_one_database(shell: Shell, database: str) -> None:
    """The daemon finds the exchange's clock without CATALYST_CLOCK. With the same --state the next play is the next
    session of the same account; an exchange with another account is refused, by `run` and by `check`."""
    user = ExchangeUser(shell)
    shell.settings = {"DATABASE_URL": database}

    def play(*options: str) -> None:
        user.start_exchange(*options)
        (shell.folder / "config.yaml").write_text(f"broker: {{simulator: '{user.base}'}}\n")

    def run_daemon(day: str) -> None:
        process = shell.start_process("daemon", "run")
        try:
            wait_until(
                lambda: "cycle_opened" in shell.log("daemon") or process.poll() is not None, "the daemon"
            )
            assert f'"cycle_id":"{day}-' in shell.log("daemon")
            process.send_signal(signal.SIGUSR1)
            process.wait(TIMEOUT_S)
        finally:
            process.kill()
            process.wait()

    try:
        play("--day", "2026-06-17")
        run_daemon("20260617")
        user.request("/admin/clock", to="16:10")
        assert user.stop_exchange(signal.SIGTERM) == 0
        play()
        assert user.request("/admin/clock")["new_york"].startswith("2026-06-18T10:0")
        run_daemon("20260618")
        assert user.stop_exchange(signal.SIGTERM) == 0
        play("--state", "other", "--day", "2026-06-17")
        message = shell.error_output("run", exit_code=78)
        assert "this database belongs to account" in message
        assert "`catalyst sim --state FOLDER`" in message
        checks = {check["name"]: check for check in shell.read_json("check", exit_code=1)["checks"]}
        assert checks["account"]["verdict"] == "fail"
        assert "the database belongs to account" in checks["account"]["detail"]
    finally:
        assert user.process is not None
        user.process.kill()
        user.process.wait()


@pytest.mark.parametrize(
    ("drives", "drive", "follows"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_command_follows_the_clock_of_an_exchange(
    tmp_path: Path, drives: bool, drive: bool, follows: bool
) -> None:
    """Beside a demo, whose daemon drives the clock, `status` shows the market's time. A process that waits for the
    clock follows only one that the exchange drives: another driver may have ended."""
    ScaledClock.create(tmp_path / "clock", datetime(2026, 4, 8, 14, 15, tzinfo=UTC))
    view = json.dumps({"file": str(tmp_path / "clock"), "drives": drives}).encode()

    class Exchange(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(view)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Exchange) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        clock = open_clock(settings_for(f"http://127.0.0.1:{server.server_port}"), drive=drive)
        thread.join()
    assert isinstance(clock, ScaledClock) is follows
