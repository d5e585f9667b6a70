"""What a client may look up: lists, single orders, positions, the account, the clock and the calendar."""

from catalyst.simulator.rules.orders import Status
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import MONDAY, at
from tests.simulator.served_exchange import wired


async def test_the_account_follows_trades_to_the_cent() -> None:
    """Cash, market value, equity and buying power after a purchase and a move of the price."""
    async with wired() as wire:
        wire.desk.holds("AAPL", 100)
        wire.clock._now = wire.desk.now
        await wire.prints("AAPL", "101")
        account = await wire.asks(wire.client.get_account)
        assert account["cash"] == "89999"
        assert account["long_market_value"] == "10100"
        assert account["equity"] == "100099"
        assert account["buying_power"] == "390296"  # 4 * 100099 - 10100
        assert account["initial_margin"] == "5050"
        assert account["maintenance_margin"] == "3030"


async def test_the_configuration_is_read_and_changed() -> None:
    """A PATCH changes what it names, and orders obey at once."""
    async with wired() as wire:
        before = await wire.asks(wire.client.get, "/account/configurations")
        assert (before["no_shorting"], before["suspend_trade"]) == (False, False)
        response = await wire.http_("PATCH", "/v2/account/configurations", json={"no_shorting": True})
        assert response.json()["no_shorting"] is True
        assert (await wire.asks(wire.client.get_account))["shorting_enabled"] is False
        refusal = wire.desk.refused(wire.desk.sends, "sell", 1)
        assert refusal.body["message"] == "account is not allowed to short"


async def test_activities_are_the_durable_ledger_of_fills() -> None:
    """Each execution with cumulative and remaining quantity; filtered by order, paged by token, both ways."""
    async with wired() as wire:
        desk = wire.desk
        desk.tape.sizes = 100
        order = desk.sends("buy", 250)
        desk.passes()
        desk.prints("AAPL", "101", size=400)
        desk.prints("AAPL", "102", size=4000)
        desk.tape.sizes = 1000
        other = desk.sends("buy", 5, "MSFT")
        desk.passes()
        wire.clock._now = desk.now
        rows = await wire.asks(wire.client.get, "/account/activities/FILL", {"direction": "asc"})
        assert [
            (row["type"], row["qty"], row["cum_qty"], row["leaves_qty"], row["order_status"]) for row in rows
        ] == [
            ("partial_fill", "100", "100", "150", "partially_filled"),
            ("partial_fill", "100", "200", "50", "partially_filled"),
            ("fill", "50", "250", "0", "filled"),
            ("fill", "5", "5", "0", "filled"),
        ]
        assert rows[0]["id"].split("::")[0] == f"{desk.exchange.executions[0].at:%Y%m%d}110000100"
        newest = await wire.asks(wire.client.get, "/account/activities/FILL", {"page_size": 3})
        assert [row["id"] for row in newest] == [row["id"] for row in reversed(rows[1:])]
        rest = await wire.asks(wire.client.get, "/account/activities/FILL", {"page_token": newest[-1]["id"]})
        assert [row["id"] for row in rest] == [rows[0]["id"]]
        mine = await wire.asks(wire.client.get, "/account/activities", {"order_id": other.id})
        assert [row["symbol"] for row in mine] == ["MSFT"]
        today = await wire.asks(wire.client.get, "/account/activities", {"date": MONDAY.isoformat()})
        assert [row["activity_type"] for row in today] == ["FILL"] * 4 + ["CSD"]
        after = await wire.asks(
            wire.client.get, "/account/activities/FILL", {"after": rows[2]["transaction_time"]}
        )
        assert [row["order_id"] for row in after] == [other.id]
        assert order.status is Status.FILLED


async def test_yesterdays_shares_count_their_day_from_yesterdays_close() -> None:
    """After a night, last equity is the open's, and intraday profit starts at the last close."""
    desk = Desk(start=at("15:00"))
    desk.holds("AAPL", 10)
    desk.tape.trades("AAPL", at("15:59"), "105")
    tuesday = MONDAY.replace(day=10)
    desk.tape.trades("AAPL", at("09:45", tuesday), "107")
    desk.exchange.advance(at("09:46", tuesday))
    async with wired(desk=desk) as wire:
        row = (await wire.asks(wire.client.get_all_positions))[0]
        assert (row["lastday_price"], row["current_price"]) == ("105", "107")
        assert (row["unrealized_intraday_pl"], row["unrealized_pl"]) == ("20", "69.9")
        account = await wire.asks(wire.client.get_account)
        assert (account["last_equity"], account["equity"]) == ("100049.9", "100069.9")
        history = await wire.asks(wire.client.get, "/account/portfolio/history")
        assert history["equity"] == [100049.9, 100069.9]
