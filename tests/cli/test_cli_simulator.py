"""`catalyst sim` as a stranger meets it: when it starts, what it keeps, and how its clock is set by hand."""

import json
import signal
import subprocess
import urllib.request
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell, wait_until

from catalyst.cli.simulator_start import last_saved_instant, parse_start
from catalyst.domain.errors import UserError
from catalyst.simulator.exchange.persistence import claim_directory

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
    """Without one the market is half an hour old; the day may be part of it; daylight saving is New York's."""
    begin = parse_start(text, day)
    assert begin.first_instant(begin.day or date(2026, 6, 17)) == instant


def test_start_now_selects_a_day_with_a_session() -> None:
    """The clock is the world's; on a holiday the market is the next day's."""
    from catalyst.simulator.market.calendar import session

    begin = parse_start("now", None)
    assert begin.day is not None
    assert session(begin.day) is not None
    assert begin.first_instant(begin.day) is None


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
    """With what may be written instead."""
    with pytest.raises(UserError, match=r"is no time|is not on --day"):
        parse_start(text, day)


def test_simulator_state_belongs_to_one_market(tmp_path: Path) -> None:
    """Another market refuses the directory, in both names, and so does a day that is over for it; its own has not
    begun yet, and goes on with later days."""
    day = date(2026, 6, 17)
    assert last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", day) is None
    with pytest.raises(UserError, match=r"generated 7, .* not generated 8"):
        last_saved_instant(tmp_path / "state", "generated 8, 60 symbols", day)
    assert last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", date(2026, 6, 18)) is None
    with pytest.raises(UserError, match=r"has reached 2026-06-18, and 2026-06-17 is in its past"):
        last_saved_instant(tmp_path / "state", "generated 7, 60 symbols", day)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        last_saved_instant(tmp_path / "file", "generated 7", day)


class ExchangeUser:
    """Somebody with the address and the demo keys."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.base = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start_exchange(self, *words: str) -> None:
        """The exchange, on any free port, until it can be reached."""
        port = self.shell.folder / "port"
        port.unlink(missing_ok=True)
        ours = ("--symbols", "60", "--port", "0", "--port-file", "port", "--state", "kept")
        self.process = process = self.shell.start_process("sim", "sim", *words, *ours)
        wait_until(lambda: port.exists() or process.poll() is not None, "the exchange")
        assert process.poll() is None, self.shell.log("sim")
        self.base = f"http://127.0.0.1:{port.read_text().strip()}"

    def stop_exchange(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(60)

    def request(self, path: str, **body: Any) -> Any:
        keys = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(
            urllib.request.Request(self.base + path, data, keys), timeout=30
        ) as answer:
            return json.load(answer)


def test_simulator_keeps_orders_positions_and_time_over_restarts(shell: Shell) -> None:
    """A half day that stands still until it is told: an order is filled by a step, the close is a jump away;
    stopped, the exchange goes on where it was, with its orders, positions and time."""
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
        user.request("/admin/clock", to="13:06")  # nothing happens here, and yet it is the time
        assert user.stop_exchange(signal.SIGTERM) == 0
        user.start_exchange("--day", "2026-11-27", "--speed", "0")
        assert user.request("/admin/clock")["new_york"] == "2026-11-27T13:06:00-05:00"
        found = user.request("/v2/orders:by_client_order_id?client_order_id=mine")
        assert (found["status"], len(user.request("/v2/positions"))) == ("filled", 1)
        for lasting in ("day", "gtc"):
            bid = {
                "symbol": "AAPL",
                "qty": "1",
                "side": "buy",
                "type": "limit",
                "limit_price": "1",
                "time_in_force": lasting,
            }
            user.request("/v2/orders", **bid, client_order_id=lasting)
        cash = user.request("/v2/account")["cash"]
        assert user.stop_exchange(signal.SIGTERM) == 0

        user.start_exchange("--start", "2026-12-01 09:31", "--speed", "0")  # two sessions on
        assert user.request("/admin/clock")["new_york"] == "2026-12-01T09:31:00-05:00"
        assert user.request("/v2/clock")["is_open"] is True
        assert [row["qty"] for row in user.request("/v2/positions")] == ["1"]
        assert user.request("/v2/account")["cash"] == cash
        states = [
            user.request(f"/v2/orders:by_client_order_id?client_order_id={lasting}")["status"]
            for lasting in ("day", "gtc")
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
    """Killed at the first byte of a later day's label, it still belongs to the earlier one, and goes on from it."""
    claim_directory(tmp_path, "generated 7", date(2026, 6, 17))
    write = Path.write_text

    def dies(path: Path, text: str) -> int:
        write(path, "")
        raise SystemExit

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(SystemExit):
        claim_directory(tmp_path, "generated 7", date(2026, 6, 18))
    monkeypatch.undo()
    assert claim_directory(tmp_path, "generated 7", date(2026, 6, 16)) == ("generated 7", date(2026, 6, 17))
    assert claim_directory(tmp_path, "generated 7", date(2026, 6, 18)) == ("generated 7", date(2026, 6, 18))
