"""The exchange as a process: its own restart, its port, and the clocks that drive it."""

import asyncio
import random
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import aiohttp
import orjson
import pytest

from catalyst.clock import ManualClock, ScaledClock, SystemClock
from catalyst.simulator.exchange import watchlists
from catalyst.simulator.exchange.persistence import FILE, Journal
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.rules.orders import Role, Status
from catalyst.simulator.server import SimOptions, run, running
from catalyst.simulator.synthetic.market import make
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import KEYS, ORDER


def reborn(desk: Desk, journal: Journal) -> Desk:
    """The same market, a new exchange, and the journal of the old one."""
    again = Desk()
    again.tape.tape, again.tape.sizes = desk.tape.tape, desk.tape.sizes
    journal.restore(again.exchange)
    return again


def test_what_was_missed_while_it_was_down_happens_afterwards(tmp_path: Path) -> None:
    """A stop that should have sold during the outage has sold, at that time's price."""
    desk = Desk()
    journal = Journal(tmp_path)
    journal.restore(desk.exchange)
    order = desk.bracket(10)
    desk.passes()
    journal.save(desk.exchange)
    desk.tape.trades("AAPL", desk.now + timedelta(seconds=30), "94")
    again = reborn(desk, Journal(tmp_path))
    assert again.now == desk.now
    again.passes(60)
    stop = again.leg(again.exchange.find(order.id), Role.STOP)
    assert (stop.status, stop.average) == (Status.FILLED, Decimal("93.99"))
    again.balanced()


def test_a_torn_last_line_did_not_happen(tmp_path: Path) -> None:
    """Killed while writing: the whole lines count, and the next start writes one clean line."""
    desk = Desk()
    journal = Journal(tmp_path)
    first = desk.sends("buy", 1)
    journal.save(desk.exchange)
    desk.sends("buy", 2)
    journal.save(desk.exchange)
    file = tmp_path / FILE
    raw = file.read_bytes()
    assert raw.count(b"\n") == 2
    file.write_bytes(raw[:-100])
    again = reborn(desk, Journal(tmp_path))
    assert list(again.exchange.book.orders) == [first.id]
    assert file.read_bytes().count(b"\n") == 1
    assert list(reborn(desk, Journal(tmp_path)).exchange.book.orders) == [first.id]


def test_a_torn_first_line_spoils_nothing_that_follows(tmp_path: Path) -> None:
    """Killed while writing for the first time: the next start begins anew, and what it writes is read again."""
    (tmp_path / FILE).write_bytes(b'{"now": "2026-')
    desk = Desk()
    journal = Journal(tmp_path)
    journal.restore(desk.exchange)
    order = desk.sends("buy", 1)
    journal.save(desk.exchange)
    assert list(reborn(desk, Journal(tmp_path)).exchange.book.orders) == [order.id]


def test_a_line_holds_only_what_is_new(tmp_path: Path) -> None:
    """A hundred resting orders, a deposit and a list are written once, not again with each order after them."""
    desk = Desk()
    journal = Journal(tmp_path)
    desk.exchange.deposit(Decimal(50_000))
    watchlists.create(desk.exchange, "own", ["AAPL"])
    for _ in range(100):
        desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    desk.passes()
    journal.save(desk.exchange)
    desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    journal.save(desk.exchange)
    first, second = (orjson.loads(line) for line in (tmp_path / FILE).read_bytes().splitlines())
    assert (len(first["orders"]), len(first["transfers"]), len(first["watchlists"])) == (100, 2, 1)
    assert second.keys() == {"now", "drawn", "sequence", "orders", "promised", "kept"}
    assert (len(second["orders"]), second["kept"]) == (1, [])
    assert len(second["promised"]) <= 3
    again = reborn(desk, Journal(tmp_path)).exchange
    for name in ("transfers", "watchlists", "account", "executions", "equity_history", "halted"):
        assert getattr(again, name) == getattr(desk.exchange, name)
    assert sorted(again.agenda.promises, key=str) == sorted(desk.exchange.agenda.promises, key=str)


def test_a_restart_anywhere_changes_nothing(tmp_path: Path) -> None:
    """A day killed after every step ends as the day that was never killed."""
    rolls = random.Random(3)
    prices = [str(100 + rolls.randint(-8, 12)) for _ in range(40)]

    def day(*, killed: bool) -> list[object]:
        state = tmp_path / str(killed)
        desk = Desk()
        desk.tape.sizes = 30
        journal = Journal(state)
        for n, price in enumerate(prices):
            desk.tape.trades("AAPL", at("11:00") + timedelta(seconds=n * 10 + 5), price, 200)
        desk.bracket(100, kind="limit", limit_price="101")
        desk.sends("buy", 20, "MSFT")
        for n in range(41):
            desk.exchange.advance(at("11:00") + timedelta(seconds=n * 10 + 10))
            journal.save(desk.exchange)
            if killed:
                journal = Journal(state)
                desk = reborn(desk, journal)
        desk.balanced()
        book = desk.exchange.book
        rows = [order_view(o, book, desk.exchange.switches, nested=True) for o in book.orders.values()]
        return sorted(rows, key=lambda row: str(row["id"])) + list(desk.exchange.executions)

    assert day(killed=True) == day(killed=False)


async def test_the_process_writes_its_port_and_serves_both_apis(tmp_path: Path) -> None:
    """A whole port file, keys of choice, trading and data behind one port, until it is cancelled."""
    market = make(seed=1, day=date(2026, 4, 8), symbols=40)
    port_file = tmp_path / "port"
    options = SimOptions(market=market, clock=SystemClock(), key="k", secret="s", port_file=port_file)
    task = asyncio.create_task(run(options))
    while not port_file.exists():  # noqa: ASYNC110 - another task's file
        await asyncio.sleep(0.005)
    base = f"http://127.0.0.1:{int(port_file.read_text())}"
    headers = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    async with aiohttp.ClientSession(headers=headers) as client:
        async with client.get(f"{base}/v2/account") as response:
            assert (await response.json())["status"] == "ACTIVE"
        async with client.get(f"{base}/v2/stocks/snapshots?symbols=NOPE") as response:
            assert await response.json() == {}
        async with client.get(f"{base}/v2/account", headers=KEYS) as response:
            assert response.status == 401
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_scaled_clock_drives_it_at_four_hundred_times_the_pace(tmp_path: Path) -> None:
    """Orders are acknowledged, filled and expired by market time, whoever sets the pace."""
    desk = Desk(start=at("15:58"))
    clock = ScaledClock.create(tmp_path / "clock", desk.now)
    pace = ScaledClock(tmp_path / "clock", drive=True, speed=400.0)
    async with running(desk.exchange, clock) as server, aiohttp.ClientSession(headers=KEYS) as client:
        body = {**ORDER, "type": "limit", "limit_price": 50}
        async with client.post(f"{server.url}/v2/orders", json=body) as response:
            order_id = (await response.json())["id"]
        async with client.post(f"{server.url}/v2/orders", json=ORDER) as response:
            assert response.status == 200
        await pace.sleep_until(at("16:00") + timedelta(seconds=5))
        async with client.get(f"{server.url}/v2/orders/{order_id}") as response:
            assert (await response.json())["status"] == "expired"
        assert desk.exchange.account.qty("AAPL") == 1


async def test_a_manual_clock_wakes_it_at_each_instant() -> None:
    """Nothing polls: an acknowledgement happens at its own instant, not at the end of the step."""
    desk = Desk()
    clock = ManualClock(desk.now)
    async with running(desk.exchange, clock) as server:
        order = desk.sends("buy", 1)
        server.settle()
        await clock.advance(timedelta(seconds=10))
        assert order.filled_at == at("11:00") + timedelta(seconds=0.1)
