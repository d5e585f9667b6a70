"""Read endpoints: account, account configuration, activities and positions."""

from catalyst.simulator.rules.orders import OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import MONDAY, at
from tests.simulator.served_exchange import serve_exchange


async def test_account_values_follow_trades_to_the_cent() -> None:
    """Cash, market value, equity and buying power are exact after a purchase and a price change."""
    async with serve_exchange() as served:
        served.scenario.given_position("AAPL", 100)
        served.clock._now = served.scenario.now
        await served.print_trade("AAPL", "101")
        account = await served.call(served.client.get_account)
        assert account["cash"] == "89999"
        assert account["long_market_value"] == "10100"
        assert account["equity"] == "100099"
        assert account["buying_power"] == "390296"  # 4 * 100099 - 10100
        assert account["initial_margin"] == "5050"
        assert account["maintenance_margin"] == "3030"


async def test_account_configuration_patch_takes_effect_at_once() -> None:
    """A PATCH changes only the named fields, and the next order obeys them."""
    async with serve_exchange() as served:
        before = await served.call(served.client.get, "/account/configurations")
        assert (before["no_shorting"], before["suspend_trade"]) == (False, False)
        response = await served.request("PATCH", "/v2/account/configurations", json={"no_shorting": True})
        assert response.json()["no_shorting"] is True
        assert (await served.call(served.client.get_account))["shorting_enabled"] is False
        rejection = served.scenario.expect_rejection(served.scenario.submit, "sell", 1)
        assert rejection.body["message"] == "account is not allowed to short"


async def test_fill_activities_have_quantities_filters_and_paging() -> None:
    """Each execution has cumulative and remaining quantity; rows are filtered by order and paged by token in
    both directions."""
    async with serve_exchange() as served:
        scenario = served.scenario
        scenario.feed.quote_size = 100
        order = scenario.submit("buy", 250)
        scenario.advance()
        scenario.print_trade("AAPL", "101", size=400)
        scenario.print_trade("AAPL", "102", size=4000)
        scenario.feed.quote_size = 1000
        other = scenario.submit("buy", 5, "MSFT")
        scenario.advance()
        served.clock._now = scenario.now
        rows = await served.call(served.client.get, "/account/activities/FILL", {"direction": "asc"})
        assert [
            (row["type"], row["qty"], row["cum_qty"], row["leaves_qty"], row["order_status"]) for row in rows
        ] == [
            ("partial_fill", "100", "100", "150", "partially_filled"),
            ("partial_fill", "100", "200", "50", "partially_filled"),
            ("fill", "50", "250", "0", "filled"),
            ("fill", "5", "5", "0", "filled"),
        ]
        assert rows[0]["id"].split("::")[0] == f"{scenario.exchange.state.executions[0].at:%Y%m%d}110000100"
        newest = await served.call(served.client.get, "/account/activities/FILL", {"page_size": 3})
        assert [row["id"] for row in newest] == [row["id"] for row in reversed(rows[1:])]
        rest = await served.call(
            served.client.get, "/account/activities/FILL", {"page_token": newest[-1]["id"]}
        )
        assert [row["id"] for row in rest] == [rows[0]["id"]]
        of_order = await served.call(served.client.get, "/account/activities", {"order_id": other.id})
        assert [row["symbol"] for row in of_order] == ["MSFT"]
        of_today = await served.call(served.client.get, "/account/activities", {"date": MONDAY.isoformat()})
        assert [row["activity_type"] for row in of_today] == ["FILL"] * 4 + ["CSD"]
        after_time = await served.call(
            served.client.get, "/account/activities/FILL", {"after": rows[2]["transaction_time"]}
        )
        assert [row["order_id"] for row in after_time] == [other.id]
        assert order.status is OrderStatus.FILLED


async def test_overnight_position_intraday_profit_starts_at_the_last_close() -> None:
    """After a night, last equity is that of the last close, and intraday profit counts from the last close."""
    scenario = ExchangeScenario(start=at("15:00"))
    scenario.given_position("AAPL", 10)
    scenario.feed.add_trade("AAPL", at("15:59"), "105")
    tuesday = MONDAY.replace(day=10)
    scenario.feed.add_trade("AAPL", at("09:45", tuesday), "107")
    scenario.exchange.venue.advance(at("09:46", tuesday))
    async with serve_exchange(scenario=scenario) as served:
        row = (await served.call(served.client.get_all_positions))[0]
        assert (row["lastday_price"], row["current_price"]) == ("105", "107")
        assert (row["unrealized_intraday_pl"], row["unrealized_pl"]) == ("20", "69.9")
        account = await served.call(served.client.get_account)
        assert (account["last_equity"], account["equity"]) == ("100049.9", "100069.9")
        history = await served.call(served.client.get, "/account/portfolio/history")
        assert history["equity"] == [100049.9, 100069.9]
