"""The exchange as a process: restart, port file and driving clocks."""

import asyncio
import random
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import aiohttp
import orjson
import pytest

from catalyst.clock import ManualClock, ScaledClock, SystemClock
from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.persistence import JOURNAL_FILE, Journal
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.rules.orders import OrderRole, OrderStatus
from catalyst.simulator.server import SimOptions, run_server, serve_until_cancelled
from catalyst.simulator.synthetic.market import make_market
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import MONDAY, at
from tests.simulator.served_exchange import KEYS, ORDER
from tests.waiting import wait_until


def restore_from_journal(scenario: ExchangeScenario, journal: Journal) -> ExchangeScenario:
    """Return a new exchange on the same market, restored from the journal of the old one."""
    restored = ExchangeScenario()
    restored.feed.prints_by_symbol, restored.feed.quote_size = (
        scenario.feed.prints_by_symbol,
        scenario.feed.quote_size,
    )
    journal.restore(restored.exchange)
    return restored


def test_restart_processes_the_events_missed_while_down(tmp_path: Path) -> None:
    """A stop triggered during the outage sells at that time's price."""
    scenario = ExchangeScenario()
    journal = Journal(tmp_path)
    journal.restore(scenario.exchange)
    order = scenario.submit_bracket(10)
    scenario.advance()
    journal.save(scenario.exchange)
    scenario.feed.add_trade("AAPL", scenario.now + timedelta(seconds=30), "94")
    restored = restore_from_journal(scenario, Journal(tmp_path))
    assert restored.now == scenario.now
    restored.advance(60)
    stop = restored.leg(restored.exchange.find_order(order.id), OrderRole.STOP)
    assert (stop.status, stop.average_fill_price) == (OrderStatus.FILLED, Decimal("93.99"))
    restored.assert_audit_clean()


def test_restart_keeps_unprotected_times(tmp_path: Path) -> None:
    """A time without protection that ended, and one that lasts over a kill, are as without a restart; each names
    the order that began it."""
    scenario = ExchangeScenario()
    journal = Journal(tmp_path)
    journal.restore(scenario.exchange)
    first = scenario.submit("buy", 10)
    scenario.advance(5)
    sold = scenario.submit("sell", 10)
    scenario.advance(5)
    second = scenario.submit("buy", 7)
    scenario.advance(5)
    journal.save(scenario.exchange)
    restored = restore_from_journal(scenario, Journal(tmp_path))
    for each in (scenario, restored):
        each.advance(30)
    times = restored.exchange.state.unprotected_time.totals(restored.now)["AAPL"]
    assert times == scenario.exchange.state.unprotected_time.totals(scenario.now)["AAPL"]
    assert sold.status is OrderStatus.FILLED
    assert [gap["order_id"] for gap in times["gaps"]] == [first.id, second.id]
    assert float(times["longest_seconds"]) > 30
    assert times["unprotected_now"] == "7"


def test_journal_ignores_a_torn_last_line(tmp_path: Path) -> None:
    """After a kill during a write the complete lines count, and the next start writes one clean line."""
    scenario = ExchangeScenario()
    journal = Journal(tmp_path)
    first = scenario.submit("buy", 1)
    journal.save(scenario.exchange)
    scenario.submit("buy", 2)
    journal.save(scenario.exchange)
    file = tmp_path / JOURNAL_FILE
    raw = file.read_bytes()
    assert raw.count(b"\n") == 2
    file.write_bytes(raw[:-100])
    restored = restore_from_journal(scenario, Journal(tmp_path))
    assert list(restored.exchange.state.order_store.orders) == [first.id]
    assert file.read_bytes().count(b"\n") == 1
    assert list(restore_from_journal(scenario, Journal(tmp_path)).exchange.state.order_store.orders) == [
        first.id
    ]


def test_journal_restarts_after_a_torn_first_line(tmp_path: Path) -> None:
    """After a kill during the first write the next start begins empty, and its journal can be read."""
    (tmp_path / JOURNAL_FILE).write_bytes(b'{"now": "2026-')
    scenario = ExchangeScenario()
    journal = Journal(tmp_path)
    journal.restore(scenario.exchange)
    order = scenario.submit("buy", 1)
    journal.save(scenario.exchange)
    assert list(restore_from_journal(scenario, Journal(tmp_path)).exchange.state.order_store.orders) == [
        order.id
    ]


def test_journal_line_holds_only_changes(tmp_path: Path) -> None:
    """100 resting orders, a deposit and a watchlist are written once, and not again with each later order."""
    scenario = ExchangeScenario()
    journal = Journal(tmp_path)
    scenario.exchange.deposit(Decimal(50_000))
    scenario.exchange.watchlists.create("own", ["AAPL"], scenario.exchange.state.now)
    for _ in range(100):
        scenario.submit("buy", 1, "AAPL", "limit", limit_price="50")
    scenario.advance()
    journal.save(scenario.exchange)
    scenario.submit("buy", 1, "AAPL", "limit", limit_price="50")
    journal.save(scenario.exchange)
    first, second = (orjson.loads(line) for line in (tmp_path / JOURNAL_FILE).read_bytes().splitlines())
    assert (len(first["orders"]), len(first["transfers"]), len(first["watchlists"])) == (100, 2, 1)
    assert second.keys() == {"now", "draw_count", "sequence", "orders", "scheduled", "completed"}
    assert (len(second["orders"]), second["completed"]) == (1, [])
    assert len(second["scheduled"]) <= 3
    restored = restore_from_journal(scenario, Journal(tmp_path)).exchange
    assert restored.watchlists.by_id == scenario.exchange.watchlists.by_id
    for name in ("transfers", "account", "executions", "equity_history", "halted"):
        assert getattr(restored.state, name) == getattr(scenario.exchange.state, name)
    assert sorted(restored.state.event_queue.events, key=str) == sorted(
        scenario.exchange.state.event_queue.events, key=str
    )


def test_restart_after_every_step_changes_nothing(tmp_path: Path) -> None:
    """A day with a kill after every step ends like the day without one: no fill, replacement, halt or close of before
    happens again."""
    random_source = random.Random(3)
    prices = [str(100 + random_source.randint(-8, 12)) for _ in range(40)]
    steps = [at("11:00") + timedelta(seconds=n * 10 + 10) for n in range(41)]
    steps += [at("16:00"), at("16:01"), at("16:00", MONDAY + timedelta(days=1))]

    def trade_day(*, killed: bool) -> list[object]:
        folder = tmp_path / str(killed)
        scenario = ExchangeScenario()
        scenario.feed.quote_size = 30
        journal = Journal(folder)
        for n, price in enumerate(prices):
            scenario.feed.add_trade("AAPL", at("11:00") + timedelta(seconds=n * 10 + 5), price, 200)
        scenario.submit_bracket(100, kind="limit", limit_price="101")
        scenario.submit("buy", 20, "MSFT")
        resting = scenario.submit("buy", 50, "TSLA", "limit", limit_price="200.01", time_in_force="gtc").id
        for n, instant in enumerate(steps):
            scenario.exchange.venue.advance(steps[n - 1] if n else at("11:00"))  # as before each request
            if n in (3, 6):  # 30 shares are filled, the rest rests at a lower limit
                resting = scenario.replace(
                    scenario.exchange.find_order(resting), qty=50 + n, limit_price=str(150 + n)
                ).id
            if n in (10, 20):
                scenario.exchange.state.halt("TSLA")
                scenario.exchange.state.event_queue.schedule(
                    instant + timedelta(seconds=5), EventKind.RESUME, other_id="TSLA"
                )
            scenario.exchange.venue.advance(instant)
            journal.save(scenario.exchange)
            if killed:
                journal = Journal(folder)
                scenario = restore_from_journal(scenario, journal)
        assert scenario.exchange.find_order(resting).filled_qty == 30
        assert len(scenario.exchange.state.equity_history) == 2
        scenario.assert_audit_clean()
        order_store = scenario.exchange.state.order_store
        rows = [
            order_view(o, order_store, scenario.exchange.state.settings, nested=True)
            for o in order_store.orders.values()
        ]
        return [
            *sorted(rows, key=lambda row: str(row["id"])),
            *scenario.exchange.state.executions,
            scenario.exchange.state.equity_history,
            scenario.exchange.state.account,
            scenario.exchange.state.halted,
        ]

    assert trade_day(killed=True) == trade_day(killed=False)


async def test_simulator_process_writes_its_port_and_serves_both_apis(tmp_path: Path) -> None:
    """The process writes a complete port file, accepts the configured keys, and serves trading and data on
    one port until cancelled."""
    market = make_market(seed=1, day=date(2026, 4, 8), symbols=40)
    port_file = tmp_path / "port"
    options = SimOptions(market=market, clock=SystemClock(), key="k", secret="s", port_file=port_file)
    task = asyncio.create_task(serve_until_cancelled(options))
    await wait_until(port_file.exists)
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


async def test_scaled_clock_drives_the_exchange(tmp_path: Path) -> None:
    """Orders are acknowledged, filled and expired by market time, whichever process drives the clock."""
    scenario = ExchangeScenario(start=at("15:58"))
    clock = ScaledClock.create(tmp_path / "clock", scenario.now)
    driver = ScaledClock(tmp_path / "clock", drive=True, speed=400.0)
    async with run_server(scenario.exchange, clock) as server, aiohttp.ClientSession(headers=KEYS) as client:
        body = {**ORDER, "type": "limit", "limit_price": 50}
        async with client.post(f"{server.url}/v2/orders", json=body) as response:
            order_id = (await response.json())["id"]
        async with client.post(f"{server.url}/v2/orders", json=ORDER) as response:
            assert response.status == 200
        await driver.sleep_until(at("16:00") + timedelta(seconds=5))
        async with client.get(f"{server.url}/v2/orders/{order_id}") as response:
            assert (await response.json())["status"] == "expired"
        assert scenario.exchange.state.account.qty("AAPL") == 1


async def test_manual_clock_wakes_the_exchange_at_each_event() -> None:
    """The exchange does not poll: a fill happens at its own time, before the end of the step."""
    scenario = ExchangeScenario()
    clock = ManualClock(scenario.now)
    async with run_server(scenario.exchange, clock) as server:
        order = scenario.submit("buy", 1)
        server.publish_changes()
        await clock.advance(timedelta(seconds=10))
        assert order.filled_at == at("11:00") + timedelta(seconds=0.1)
