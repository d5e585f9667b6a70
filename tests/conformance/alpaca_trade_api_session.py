"""A trading session of alpaca-trade-api, the client before alpaca-py; run by the interpreter of its own
environment: `python alpaca_trade_api_session.py http://127.0.0.1:PORT`. Exits 0 and prints its results as
JSON, or fails."""

import json
import sys
import threading
import time

import alpaca_trade_api as tradeapi
from alpaca_trade_api.common import URL
from alpaca_trade_api.rest import APIError, TimeFrame

BASE = sys.argv[1]
DEADLINE = 60  # seconds, for each wait


def wait_until(what, poll):
    """Poll until the result is true; return it."""
    began = time.monotonic()
    while time.monotonic() - began < DEADLINE:
        answer = poll()
        if answer:
            return answer
        time.sleep(0.02)
    raise SystemExit(f"timed out: {what}")


class StreamRecorder:
    """Records both streams in a thread with its own event loop."""

    def __init__(self):
        self.updates, self.market_messages = [], []
        self.stream = tradeapi.Stream(
            "demo", "demo", URL(BASE), URL(BASE.replace("http", "ws")), data_feed="iex"
        )
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        async def update(message):
            self.updates.append((message.event, message.order["id"], message.order["status"]))

        async def trade(message):
            self.market_messages.append(("trade", message.symbol, message.price))

        async def quote(message):
            self.market_messages.append(("quote", message.symbol, message.ask_price))

        self.stream.subscribe_trade_updates(update)
        self.stream.subscribe_trades(trade, "AAPL")
        self.stream.subscribe_quotes(quote, "AAPL")
        self.stream.run()

    def wait_for_update(self, event, order_id):
        return wait_until(
            f"{event} of {order_id}", lambda: any(u[:2] == (event, order_id) for u in self.updates)
        )


def expect_error(code, act, *arguments, **more):
    try:
        act(*arguments, **more)
    except APIError as error:
        if error.status_code == code:
            return str(error)
        raise
    raise SystemExit(f"{act} was not refused")


def main():
    api = tradeapi.REST("demo", "demo", BASE)
    account = api.get_account()
    assert (account.status, float(account.cash)) == ("ACTIVE", 100_000), account
    assert (account.daytrade_count, account.pattern_day_trader) == (0, False), account
    assert api.get_clock().is_open
    assert api.get_asset("AAPL").easy_to_borrow
    assert len(api.list_assets(status="active")) > 100
    assert expect_error(404, api.get_asset, "NOBODY") == "asset not found for NOBODY"
    assert expect_error(404, api.get_position, "AAPL") == "position does not exist"

    recorder = StreamRecorder()
    wait_until("trades and quotes arrive", lambda: len({kind for kind, *_ in recorder.market_messages}) == 2)
    wait_until("the account stream runs", lambda: recorder.stream._trading_ws._running)

    price = api.get_latest_trade("AAPL").price
    target, stop = round(price * 1.05, 2), round(price * 0.95, 2)
    entry = api.submit_order(
        "AAPL",
        10,
        "buy",
        "market",
        "day",
        order_class="bracket",
        client_order_id="foreign-1",
        take_profit={"limit_price": target},
        stop_loss={"stop_price": stop},
    )
    assert [leg.status for leg in entry.legs] == ["held", "held"], entry
    recorder.wait_for_update("fill", entry.id)
    legs = {leg.type: leg.id for leg in entry.legs}
    recorder.wait_for_update("new", legs["limit"])
    shown = {leg.type: leg.status for leg in api.get_order(entry.id, nested=True).legs}
    assert shown == {"limit": "new", "stop": "held"}, shown
    assert api.get_order_by_client_order_id("foreign-1").id == entry.id
    duplicate = expect_error(
        422, api.submit_order, "AAPL", 1, "buy", "market", "day", client_order_id="foreign-1"
    )
    assert "client_order_id must be unique" in duplicate
    position = api.get_position("AAPL")
    assert (position.qty, position.qty_available, position.side) == ("10", "0", "long"), position

    raised = api.replace_order(legs["limit"], limit_price=str(round(target + 1, 2)))
    recorder.wait_for_update("replaced", legs["limit"])
    recorder.wait_for_update("new", raised.id)
    assert "insufficient qty available" in expect_error(403, api.close_position, "AAPL")
    api.cancel_order(raised.id)
    recorder.wait_for_update("canceled", raised.id)
    recorder.wait_for_update("canceled", legs["stop"])

    short = api.submit_order(
        "MSFT",
        3,
        "sell",
        "limit",
        "day",
        limit_price=str(round(api.get_latest_trade("MSFT").price * 0.99, 2)),
    )
    recorder.wait_for_update("fill", short.id)
    assert sorted(p.symbol for p in api.list_positions()) == ["AAPL", "MSFT"]
    part = api.close_position("AAPL", qty=4)
    recorder.wait_for_update("fill", part.id)
    assert api.get_position("AAPL").qty == "6"
    resting = api.submit_order("SPY", 1, "buy", "limit", "gtc", limit_price="20")
    recorder.wait_for_update("new", resting.id)
    assert [order.id for order in api.list_orders(status="open")] == [resting.id]
    api.cancel_all_orders()
    recorder.wait_for_update("canceled", resting.id)
    api.close_all_positions()
    wait_until("everything is closed", lambda: not api.list_positions())
    everything = api.list_orders(status="all", limit=500, nested=True)
    assert {order.client_order_id for order in everything} >= {"foreign-1"}
    fills = api.get_activities(activity_types="FILL")
    assert {fill.symbol for fill in fills} == {"AAPL", "MSFT"}

    day = api.get_clock().timestamp.strftime("%Y-%m-%d")
    bars = api.get_bars("AAPL", TimeFrame.Minute, start=f"{day}T13:30:00Z", end=f"{day}T14:00:00Z").df
    assert len(bars) > 20
    assert bars.high.ge(bars.low).all(), bars
    both = api.get_bars(["AAPL", "SPY"], TimeFrame.Day, limit=10_000, start="2026-06-01").df
    assert set(both.symbol) == {"AAPL", "SPY"}
    trades = api.get_trades("AAPL", f"{day}T13:30:00Z", f"{day}T13:31:00Z").df
    quotes = api.get_quotes("AAPL", f"{day}T13:30:00Z", f"{day}T13:31:00Z").df
    assert len(trades)
    assert len(quotes)
    snapshots = api.get_snapshots(["AAPL", "MSFT"])
    assert snapshots["AAPL"].latest_trade.price > 0
    assert snapshots["MSFT"].daily_bar.volume > 0
    assert api.get_snapshot("SPY").prev_daily_bar.close > 0
    assert api.get_latest_quote("AAPL").ask_price > api.get_latest_quote("AAPL").bid_price
    assert api.get_latest_bar("AAPL").close > 0
    assert api.get_news(limit=5)
    assert len(api.get_calendar(start="2026-11-23", end="2026-11-27")) == 4
    assert api.get_portfolio_history().equity
    print(
        json.dumps(
            {
                "client": tradeapi.__version__,
                "orders": len(everything),
                "fills": len(fills),
                "updates": [event for event, *_ in recorder.updates],
                "market_messages": len(recorder.market_messages),
            }
        )
    )


main()
