"""Stop monitor: long and short positions, valid prices only, and two observations before an exit."""

from decimal import Decimal

from catalyst.domain.errors import DatabaseContention
from catalyst.domain.fault_points import Moment
from tests.stories.scenario import Scenario, open_scenario

SHORT_BRACKET = {"limit": "189.90", "stop": "192.00", "target": "186.00"}


def remove_quotes(scenario: Scenario, symbol: str) -> None:
    """Remove the quote of this symbol."""
    assert isinstance(scenario.market.quotes, dict)  # type: ignore[attr-defined]
    scenario.market.quotes[symbol] = None  # type: ignore[attr-defined]


async def test_stop_monitor_covers_short_positions(database: str) -> None:
    """A short position whose buy stop does not trigger is bought back after two observations and the grace."""
    async with open_scenario(database, trading={"allow_short": True}) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, side="short", **SHORT_BRACKET)
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == -20
        await scenario.advance(seconds=35)
        position = await scenario.position("AAPL")
        assert position is not None  # marked at the ask, where it would buy
        assert (position["last_price"], position["unrealized_pnl"]) == (Decimal("190.01"), Decimal("-0.40"))
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        scenario.print_trade("AAPL", "192.40")
        await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await scenario.assert_consistent()


async def test_stop_monitor_requires_two_prints(database: str) -> None:
    """One print below the stop, without a quote, causes no exit however often it is read; a second print
    does."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        remove_quotes(scenario, "AAPL")
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 20
        scenario.print_trade("AAPL", "187.40")
        await scenario.advance(seconds=10)
        assert await scenario.count_submitted("AAPL") == 2


async def test_return_of_the_price_ends_a_breach(database: str) -> None:
    """One print below the stop, a return above it, and one print below again are no two observations of one breach; the
    next print is the second of the new one."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("no_trigger", symbol="AAPL", count=0)
        remove_quotes(scenario, "AAPL")
        for price in ("187.50", "189.00", "187.40"):
            scenario.print_trade("AAPL", price)
            await scenario.advance(seconds=45)
        assert scenario.held_qty("AAPL") == 20
        assert await scenario.count_submitted("AAPL") == 1
        scenario.print_trade("AAPL", "187.30")
        await scenario.advance(seconds=10)
        assert await scenario.count_submitted("AAPL") == 2


async def test_mark_whose_write_failed_is_written_at_the_next_refresh(database: str) -> None:
    """The database refuses one write of marks: the next refresh writes the unchanged price."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=60)
        refused: list[str] = []

        def refuse_once(step: str, moment: Moment) -> None:
            if step == "mark" and moment is Moment.BEFORE and not refused:
                refused.append(step)
                raise DatabaseContention("set by the test")

        scenario.crash_trigger.on_step = refuse_once
        scenario.print_trade("AAPL", "190.50")
        await scenario.advance(seconds=31)
        assert refused == ["mark"]
        await scenario.advance(seconds=31)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["last_price"] == Decimal("190.49")


async def test_stop_monitor_uses_broker_price_without_market_data(database: str) -> None:
    """Without market data and without a working stop, the stop is enforced with the broker's own price of the
    position."""
    async with open_scenario(database, execution={"partial_entry_grace_seconds": 60}) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await scenario.advance(seconds=3)
        assert scenario.held_qty("AAPL") == 8
        await scenario.inject_fault("status_before", method="GET", route="/v2/stocks/*", status=503, count=0)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await scenario.assert_consistent()


async def fail_price_reads(scenario: Scenario) -> None:
    """Fail every read of market prices and positions."""
    for route in ("/v2/stocks/*", "/v2/positions"):
        await scenario.inject_fault("status_before", method="GET", route=route, status=503, count=0)


def restore_price_reads(scenario: Scenario) -> None:
    """Remove the faults of `fail_price_reads`."""
    faults = scenario.server.exchange.state.faults
    for key in [key for key, fault in faults.rules.items() if fault.kind == "status_before"]:
        faults.remove(key)


async def test_stop_monitor_counts_one_price_once(database: str) -> None:
    """One price beyond the stop counts as one observation however often it is checked; the next price is the
    second."""
    async with open_scenario(database, execution={"partial_entry_grace_seconds": 60}) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await scenario.advance(seconds=3)
        assert scenario.components is not None
        monitor = scenario.components.stop_monitor
        await fail_price_reads(scenario)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=1)
        restore_price_reads(scenario)
        await monitor.refresh_prices()
        assert monitor.prices.price_ranges["AAPL"][0] < 188
        await fail_price_reads(scenario)
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 8
        restore_price_reads(scenario)
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()
