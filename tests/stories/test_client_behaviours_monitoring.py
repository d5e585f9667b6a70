"""What is asked, heard and watched, clause by clause of what a client of this broker must do;
docs/client-behaviours.md has the whole list."""

import re
from datetime import datetime, timedelta
from urllib.parse import parse_qs

import pytest

from catalyst.domain.fault_points import Moment
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_client_behaviours_orders import entry_refusal
from tests.stories.test_daily_limits_and_proposals import insert_proposal
from tests.stories.test_operator_actions import order_by_hand


@pytest.mark.promise("C30")
async def test_reconciliation_reads_broker_state_on_schedule(database: str) -> None:
    """On start and after a reconnect: account, clock, positions, orders (all of the day, and what works), and the
    ledger of fills. Every minute the same, but the ledger every five, where no order has filled more, and every ten
    what works of earlier days, where there is nothing of it."""
    wanted = {"/v2/account", "/v2/clock", "/v2/positions", "/v2/orders", "/v2/account/activities/FILL"}

    async def asked(scenario: Scenario, since: int) -> tuple[set[str], set[str], int]:
        rows = (await scenario.admin("logs?method=GET"))["requests"]
        fresh = [one for one in rows if one["sequence"] > since]
        statuses = {
            word for one in fresh if one["path"] == "/v2/orders"
            for word in re.findall(r"status=(\w+)", one["query"]) if "nested=true" in one["query"]
        }  # fmt: skip
        return {one["path"] for one in fresh}, statuses, rows[-1]["sequence"]

    async with open_scenario(database) as scenario:
        paths, statuses, last = await asked(scenario, -1)
        assert (wanted - paths, statuses) == (set(), {"all", "open"})
        await scenario.advance(seconds=35)
        _, _, last = await asked(scenario, last)
        await scenario.admin("stream", {"act": "disconnect"})
        await scenario.advance(seconds=8)
        paths, statuses, last = await asked(scenario, last)
        assert (wanted - paths, statuses) == (set(), {"all", "open"})
        for minutes, later, which in (
            (0, {"/v2/account/activities/FILL"}, {"all"}),
            (4, set(), {"all"}),
            (5, set(), {"all", "open"}),
        ):
            await scenario.advance(minutes=minutes, seconds=65)
            paths, statuses, last = await asked(scenario, last)
            assert (wanted - paths, statuses) == (later, which)


@pytest.mark.promise("C30")
async def test_full_reconciliation_is_repeated_after_failed_read_in_gap(database: str) -> None:
    """The stream comes back while no list of orders can be read. The look that opens the gate later is an ordinary
    minute's, and asks for everything all the same: what works of earlier days may have filled in the gap."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        await scenario.advance(seconds=35)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=500, count=0)
        await scenario.admin("stream", {"act": "disconnect"})
        await scenario.advance(seconds=10)
        assert "stream" in scenario.components.gate.reasons
        await scenario.clear_faults()
        last = (await scenario.admin("logs?method=GET"))["requests"][-1]["sequence"]
        await scenario.advance(seconds=65)
        assert scenario.components.gate.is_open
        rows = (await scenario.admin("logs?method=GET"))["requests"]
        asked = [f"{one['path']}?{one['query']}" for one in rows if one["sequence"] > last]
        assert any("/v2/orders" in one and "status=open" in one for one in asked)
        assert any("/v2/account/activities/FILL" in one for one in asked)


@pytest.mark.promise("C30")
async def test_old_external_order_is_recorded_and_blocks_symbol(database: str) -> None:
    """A bid good till cancelled that somebody placed days ago is no order of the day, and still it has its row: the
    symbol takes no entry."""
    async with open_scenario(database, started=False) as scenario:
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(
            scenario, "TSLA", "buy", 3, type="limit", limit_price="100.00", time_in_force="gtc"
        )
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=3)))
        await scenario.start()
        await scenario.advance(seconds=2)
        assert "FOREIGN_ORDER" in await scenario.alert_events()
        assert await entry_refusal(scenario, "TSLA") == "the symbol has a working order"


@pytest.mark.promise("C31")
async def test_entry_gate_stays_closed_until_recovery_is_complete(database: str) -> None:
    """Started over an order whose answer was lost, with a stream that is refused at first and positions that cannot be
    read: the order is adopted before the gate opens, and nothing may enter until the stream listens."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.crash_at("POST /orders", Moment.AFTER, scenario.submit_entry("AAPL", 20, **ENTRY))
        await scenario.inject_fault("stream_refuse", count=1)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=2)
        steps: list[tuple[str, bool]] = []

        def note(step: str, moment: Moment) -> None:
            gate_open = scenario.components is not None and scenario.components.gate.is_open
            steps.append((f"{moment} {step}", gate_open))

        scenario.crash_trigger.reset()
        scenario.crash_trigger.on_step = note
        await scenario._start()
        await scenario.advance(seconds=40)
        assert scenario.components is not None
        assert scenario.components.gate.is_open
        first = next(number for number, (_, gate_open) in enumerate(steps) if gate_open)
        before = [step for step, _ in steps[:first]]
        assert before.count("before GET /positions") >= 3
        assert "after apply_report" in before
        entry = (await scenario.orders("AAPL"))[0]
        assert (entry["status"], await scenario.count_submitted("AAPL")) == ("filled", 1)
        await scenario.assert_consistent()


@pytest.mark.promise("C34")
async def test_stale_prices_raise_alert_without_exit(database: str) -> None:
    """Shares are held and their last print and quote grow old in the middle of the session: nothing is sold on them,
    and somebody is told."""
    async with open_scenario(database, stop_monitor={"stale_after_seconds": 30}) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=70)
        assert "PRICES_STALE" not in await scenario.alert_events()
        await scenario.advance(seconds=60)
        assert "PRICES_STALE" in await scenario.alert_events()
        assert (scenario.held_qty("AAPL"), await scenario.count_submitted("AAPL")) == (20, 1)


@pytest.mark.promise("C36")
async def test_malformed_stream_messages_are_quarantined(database: str) -> None:
    """`data: null` and broken JSON are a number, a row each in quarantine, and a look at everything; the next message
    is heard."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_null", symbol="AAPL")
        await scenario.inject_fault("stream_raw", symbol="AAPL", text="{oops")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=10)
        assert scenario.components is not None
        assert scenario.components.stream_consumer.malformed == 2
        assert await scenario.conn.fetchval("SELECT count(*) FROM quarantine WHERE source = 'stream'") == 2
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("C39")
async def test_scan_after_failed_bar_read_covers_missed_bars(database: str) -> None:
    """Bars come by asking, for the whole window each time: a scan that could not read them leaves no hole in the next
    one, which asks from before the open up to now."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", route="/v2/stocks/bars", status=500)
        assert (await scenario.send_command("scan"))["ok"] is False
        await scenario.advance(minutes=3)
        assert (await scenario.send_command("scan"))["ok"]
        bars = (await scenario.admin("logs?method=GET&path=/v2/stocks/bars"))["requests"]
        failed, read = bars[-2:]
        assert (failed["status"], read["status"]) == (500, 200)
        query = parse_qs(read["query"])
        assert (query["symbols"], query["timeframe"]) == (["AAPL"], ["1Min"])
        assert datetime.fromisoformat(query["start"][0]) < at("09:30")
        assert scenario.clock.now() - datetime.fromisoformat(query["end"][0]) < timedelta(seconds=10)


@pytest.mark.promise("C40")
@pytest.mark.parametrize(
    ("seconds", "alerted", "gate_closed"), [(1.5, False, False), (-3, True, False), (45, True, True)]
)
async def test_clock_skew_raises_alert_and_closes_entry_gate(
    database: str, seconds: float, alerted: bool, gate_closed: bool
) -> None:
    """Two seconds apart, somebody is told; thirty, and no entry leaves until they agree again."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=seconds, count=0)
        await scenario.advance(seconds=65)
        assert scenario.components is not None
        assert (
            "CLOCK_SKEW" in await scenario.alert_events(),
            "clock" in scenario.components.gate.reasons,
        ) == (alerted, gate_closed)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        assert (row.status == "rejected") is gate_closed
        await scenario.clear_faults()
        await scenario.advance(seconds=65)
        assert scenario.components.gate.is_open


@pytest.mark.promise("C40")
async def test_single_skewed_clock_response_is_ignored(database: str) -> None:
    """A single answer that is far off is asked again, and not believed."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=600)
        await scenario.advance(seconds=65)
        assert scenario.components is not None
        assert scenario.components.gate.is_open
        assert "CLOCK_SKEW" not in await scenario.alert_events()


@pytest.mark.promise("C42")
async def test_asset_list_is_read_once_per_day(database: str) -> None:
    """However late the start: once for the day, and what it says stands in the tables."""
    async with open_scenario(database) as scenario:
        await scenario.advance(seconds=5)
        assert len((await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"]) == 1
        rows = await scenario.conn.fetch(
            "SELECT symbol, tradable FROM securities WHERE symbol IN ('AAPL', 'DEAD')"
        )
        assert {tuple(row) for row in rows} >= {("AAPL", True)}


ACCOUNT_BLOCKS = [
    ({"trading_blocked": True}, {"trading_blocked": False}),
    ({"status": "ACCOUNT_UPDATED"}, {"status": "ACTIVE"}),
]


@pytest.mark.promise("C43")
@pytest.mark.parametrize(("lock", "unlock"), ACCOUNT_BLOCKS, ids="-".join)
async def test_blocked_account_closes_entry_gate_until_unblocked(
    database: str, lock: dict[str, object], unlock: dict[str, object]
) -> None:
    """Blocked in the middle of the day: within the minute no entry leaves, somebody is told, shares stay protected;
    unblocked, entries leave again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("MSFT", "190.00")
        await scenario.admin("account", lock)
        await scenario.advance(seconds=65)
        row = await scenario.submit_entry("MSFT", 5, **ENTRY)
        assert (row.status, await scenario.count_submitted("MSFT")) == ("rejected", 0)
        assert "ACCOUNT_BLOCKED" in await scenario.alert_events()
        await scenario.admin("account", unlock)
        await scenario.advance(seconds=65)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status != "rejected"
        await scenario.advance(seconds=10)
        await scenario.assert_consistent()


@pytest.mark.promise("C43")
async def test_approved_entry_is_checked_against_current_account(database: str) -> None:
    """What was affordable when it was proposed is held against the buying power of now, and against a lock of now."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        answer = await scenario.send_command(
            "approve", proposal_id=await insert_proposal(scenario, "AAPL", qty=5_000)
        )
        assert "buying power" in answer["error"]
        small = await insert_proposal(scenario, "MSFT")
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("account", {"trading_blocked": True})
        answer = await scenario.send_command("approve", proposal_id=small)
        assert "trading_blocked" in answer["error"]
        await scenario.admin("account", {"trading_blocked": False})
        assert (await scenario.send_command("approve", proposal_id=small))[
            "ok"
        ] is False  # the gate opens with the next look
        await scenario.advance(seconds=65)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.send_command("approve", proposal_id=small))["ok"]
        assert (await scenario.count_submitted("AAPL"), await scenario.count_submitted("MSFT")) == (0, 1)
