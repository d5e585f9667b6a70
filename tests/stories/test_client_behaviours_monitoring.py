"""Client behaviours: reads, stream and monitoring. docs/client-behaviours.md has the whole list."""

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
    """On start and after a reconnect the reconciliation reads account, clock, positions, all and open orders,
    and activities. Each minute it repeats this, except activities (every 5 minutes unless an order filled)
    and open orders of earlier days (every 10 minutes while there are none)."""
    all_paths = {"/v2/account", "/v2/clock", "/v2/positions", "/v2/orders", "/v2/account/activities/FILL"}

    async def requests_since(scenario: Scenario, last: int) -> tuple[set[str], set[str], int]:
        rows = (await scenario.admin("logs?method=GET"))["requests"]
        new = [request for request in rows if request["sequence"] > last]
        statuses = {
            status for request in new if request["path"] == "/v2/orders"
            for status in re.findall(r"status=(\w+)", request["query"]) if "nested=true" in request["query"]
        }  # fmt: skip
        return {request["path"] for request in new}, statuses, rows[-1]["sequence"]

    async with open_scenario(database) as scenario:
        paths, statuses, last = await requests_since(scenario, -1)
        assert (all_paths - paths, statuses) == (set(), {"all", "open"})
        await scenario.advance(seconds=35)
        _, _, last = await requests_since(scenario, last)
        await scenario.admin("stream", {"act": "disconnect"})
        await scenario.advance(seconds=8)
        paths, statuses, last = await requests_since(scenario, last)
        assert (all_paths - paths, statuses) == (set(), {"all", "open"})
        for minutes, omitted_paths, expected_statuses in (
            (0, {"/v2/account/activities/FILL"}, {"all"}),
            (4, set(), {"all"}),
            (5, set(), {"all", "open"}),
        ):
            await scenario.advance(minutes=minutes, seconds=65)
            paths, statuses, last = await requests_since(scenario, last)
            assert (all_paths - paths, statuses) == (omitted_paths, expected_statuses)


@pytest.mark.promise("C30")
async def test_full_reconciliation_is_repeated_after_failed_read_in_gap(database: str) -> None:
    """Given the stream reconnects while orders cannot be read, then the reconciliation that opens the entry
    gate later is a full one: old orders may have filled in the gap."""
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
        requests = [f"{row['path']}?{row['query']}" for row in rows if row["sequence"] > last]
        assert any("/v2/orders" in text and "status=open" in text for text in requests)
        assert any("/v2/account/activities/FILL" in text for text in requests)


@pytest.mark.promise("C30")
async def test_old_external_order_is_recorded_and_blocks_symbol(database: str) -> None:
    """An external GTC order of an earlier day gets a row and blocks entries in its symbol."""
    async with open_scenario(database, started=False) as scenario:
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(
            scenario, "TSLA", "buy", 3, type="limit", limit_price="100.00", time_in_force="gtc"
        )
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=3)))
        await scenario.start()
        await scenario.advance(seconds=2)
        assert "EXTERNAL_ORDER" in await scenario.alert_events()
        assert await entry_refusal(scenario, "TSLA") == "the symbol has a working order"


@pytest.mark.promise("C31")
async def test_entry_gate_stays_closed_until_recovery_is_complete(database: str) -> None:
    """Given a start with an unresolved order, a refused stream and unreadable positions, then the order is
    adopted before the entry gate opens, and the gate opens only with the stream."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.crash_at("POST /orders", Moment.AFTER, scenario.submit_entry("AAPL", 20, **ENTRY))
        await scenario.inject_fault("stream_refuse", count=1)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=2)
        steps: list[tuple[str, bool]] = []

        def record_step(step: str, moment: Moment) -> None:
            gate_open = scenario.components is not None and scenario.components.gate.is_open
            steps.append((f"{moment} {step}", gate_open))

        scenario.crash_trigger.reset()
        scenario.crash_trigger.on_step = record_step
        await scenario._start()
        await scenario.advance(seconds=40)
        assert scenario.components is not None
        assert scenario.components.gate.is_open
        first = next(number for number, (_, gate_open) in enumerate(steps) if gate_open)
        earlier_steps = [step for step, _ in steps[:first]]
        assert earlier_steps.count("before GET /positions") >= 3
        assert "after apply_report" in earlier_steps
        entry = (await scenario.orders("AAPL"))[0]
        assert (entry["status"], await scenario.count_submitted("AAPL")) == ("filled", 1)
        await scenario.assert_consistent()


@pytest.mark.promise("C34")
async def test_stale_prices_raise_alert_without_exit(database: str) -> None:
    """Stale prints and quotes of a held symbol raise an alert and cause no exit."""
    async with open_scenario(database, stop_monitor={"stale_after_seconds": 30}) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=70)
        assert "PRICES_STALE" not in await scenario.alert_events()
        await scenario.advance(seconds=60)
        assert "PRICES_STALE" in await scenario.alert_events()
        assert (scenario.held_qty("AAPL"), await scenario.count_submitted("AAPL")) == (20, 1)


@pytest.mark.promise("C36")
async def test_malformed_stream_messages_are_quarantined(database: str) -> None:
    """`data: null` and broken JSON are counted, quarantined and followed by a reconciliation; the next
    message is processed."""
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
    """Each scan reads the bars from before the open up to now, so a failed read leaves no gap in the next
    scan."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", route="/v2/stocks/bars", status=500)
        assert (await scenario.send_command("scan"))["ok"] is False
        await scenario.advance(minutes=3)
        assert (await scenario.send_command("scan"))["ok"]
        bars = (await scenario.admin("logs?method=GET&path=/v2/stocks/bars"))["requests"]
        failed, succeeded = bars[-2:]
        assert (failed["status"], succeeded["status"]) == (500, 200)
        query = parse_qs(succeeded["query"])
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
    """A clock skew over 2 s raises an alert; over 30 s it also closes the entry gate until the clocks agree."""
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
    """A single skewed clock response is read again and ignored."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=600)
        await scenario.advance(seconds=65)
        assert scenario.components is not None
        assert scenario.components.gate.is_open
        assert "CLOCK_SKEW" not in await scenario.alert_events()


@pytest.mark.promise("C42")
async def test_asset_list_is_read_once_per_day(database: str) -> None:
    """The asset list is read once a day, also after a late start, and is stored in the database."""
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
    """A blocked account closes the entry gate within a minute and raises an alert; shares stay protected, and
    entries are allowed once it is unblocked."""
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
    """An approval is checked against the current buying power and account status."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        answer = await scenario.send_command(
            "approve", proposal_id=await insert_proposal(scenario, "AAPL", qty=5_000)
        )
        assert "buying power" in answer["error"]
        proposal_id = await insert_proposal(scenario, "MSFT")
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("account", {"trading_blocked": True})
        answer = await scenario.send_command("approve", proposal_id=proposal_id)
        assert "trading_blocked" in answer["error"]
        await scenario.admin("account", {"trading_blocked": False})
        assert (await scenario.send_command("approve", proposal_id=proposal_id))[
            "ok"
        ] is False  # the next account check opens the gate
        await scenario.advance(seconds=65)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.send_command("approve", proposal_id=proposal_id))["ok"]
        assert (await scenario.count_submitted("AAPL"), await scenario.count_submitted("MSFT")) == (0, 1)
