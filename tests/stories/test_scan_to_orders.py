"""Scans that trade: a scan of a market with setups sends its entries, or proposes them."""

import pytest

from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.synthetic.market import make_market
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario

SCAN_TIME = at("10:31")  # after the scheduled scan of 10:30


@pytest.fixture(scope="module")
def market() -> BarMarket:
    """Return a synthetic market with setups, with and without news."""
    return make_market(7, SCAN_TIME.date(), 300)


async def order_statuses(scenario: Scenario) -> dict[str, set[str]]:
    """Return the statuses of the entries of each symbol."""
    rows = await scenario.conn.fetch(
        "SELECT s.symbol, o.status FROM orders o JOIN securities s USING (security_id)"
        " WHERE o.order_purpose = 'entry'"
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["symbol"], set()).add(row["status"])
    return found


async def received_symbols(scenario: Scenario) -> set[str]:
    """Return the symbols of the orders that the exchange received."""
    return {order["symbol"] for order in (await scenario.admin("logs"))["orders"]}


@pytest.mark.parametrize("news_works", [True, False], ids=["with_news", "without_news"])
async def test_autonomous_scan_sends_orders_and_proposes_them_when_news_fails(
    database: str, market: BarMarket, news_works: bool
) -> None:
    """In autonomous mode a scan sends its entries at once. A scan without news is degraded: each of its trades waits
    for a person, and none reaches the broker before the approval."""
    async with open_scenario(database, market=market, now=SCAN_TIME) as scenario:
        assert scenario.components is not None
        if not news_works:
            await scenario.inject_fault("status_before", route="/v1beta1/news", status=500, count=0)
        await scenario.advance(seconds=60)
        result = await scenario.components.trading_day.scan(trade=True)
        assert result is not None
        planned = {plan.symbol for plan in result.plans}
        assert planned
        assert (result.degraded is None) is news_works
        waiting = await scenario.conn.fetch("SELECT proposal_id FROM proposals WHERE decision IS NULL")
        statuses = await order_statuses(scenario)
        if news_works:
            assert not waiting
            assert await received_symbols(scenario) == planned == statuses.keys()
            return
        assert len(planned) == len(waiting) == 2
        assert statuses == {symbol: {"created"} for symbol in planned}
        assert await received_symbols(scenario) == set()
        assert (await scenario.send_command("approve", proposal_id=waiting[0]["proposal_id"]))["ok"]
        assert len(await received_symbols(scenario)) == 1


async def test_entry_that_the_database_refuses_does_not_stop_the_others(
    database: str, market: BarMarket
) -> None:
    """Given the database refuses the row of the first planned entry, then the second one is placed all the same."""
    async with open_scenario(database, market=market, now=SCAN_TIME) as scenario:
        assert scenario.components is not None
        await scenario.inject_fault("status_before", route="/v1beta1/news", status=500, count=0)
        await scenario.advance(seconds=60)
        planned = await scenario.components.trading_day.scan(trade=False)
        assert planned is not None
        first, second = (plan.symbol for plan in planned.plans)
        await scenario.conn.execute(
            f"""
            CREATE FUNCTION refuse_entry() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF new.security_id = (SELECT security_id FROM securities WHERE symbol = '{first}') THEN
                    RAISE EXCEPTION 'refused by the test';
                END IF;
                RETURN new;
            END $$;
            CREATE TRIGGER refuse_entry BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse_entry();
            """
        )
        result = await scenario.components.trading_day.scan(trade=True)
        assert result is not None
        assert [plan.symbol for plan in result.plans] == [first, second]
        assert await order_statuses(scenario) == {second: {"created"}}


async def test_scan_of_a_new_day_reads_the_universe_again(database: str, market: BarMarket) -> None:
    """Given the scanner is prepared for an earlier day, then a scan reads assets and daily bars of this day first."""
    async with open_scenario(database, market=market, now=SCAN_TIME) as scenario:
        assert scenario.components is not None
        assert scenario.components.current_day.session is not None
        await scenario.advance(seconds=60)
        scanner, today = scenario.components.scanner, scenario.components.current_day.session.day
        assert scanner.prepared_day == today
        scanner.prepared_day = scenario.components.current_day.session.open.date().replace(day=1)
        reads = len((await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"])
        assert await scenario.components.trading_day.scan(trade=False) is not None
        assert scanner.prepared_day == today
        assert len((await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"]) == reads + 1
        assert await scenario.components.trading_day.scan(trade=False) is not None
        assert len((await scenario.admin("logs?method=GET&path=/v2/assets"))["requests"]) == reads + 1
