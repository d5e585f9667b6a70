"""Open positions of the earlier Catalyst after the upgrade of its database: adopted, protected, counted, exited."""

from datetime import timedelta

import pytest

from catalyst.store.legacy.upgrade import upgrade
from tests.simulator.manual_feed import MONDAY, at
from tests.store import legacy_database as old
from tests.stories.scenario import open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal

OLD_ROWS = """
    INSERT INTO securities (symbol, exchange, is_active) VALUES ('AAPL', 'NASDAQ', true), ('MSFT', 'NASDAQ', true),
        ('TSLA', 'NASDAQ', true);
    INSERT INTO trading_cycles (cycle_id, cycle_date, mode, status, start_time, end_time, updated_at)
    SELECT to_char(d, 'YYYYMMDD') || '-133000', d, 'normal', 'completed', d + time '13:30', d + time '20:00',
           d + time '20:00' FROM (SELECT ($1::timestamptz)::date AS d) x;
    INSERT INTO positions (cycle_id, security_id, side, quantity, entry_price, stop_loss, take_profit, entry_time,
                           status, alpaca_order_id, alpaca_status, updated_at, unrealized_pnl)
    SELECT (SELECT cycle_id FROM trading_cycles), security_id, 'long', v.quantity, 190, 186, 210, $1, 'open', v.id,
           'filled', $1, 0
      FROM (VALUES ('AAPL', 20, $2), ('MSFT', 10, $3)) AS v (symbol, quantity, id) JOIN securities USING (symbol);
"""


@pytest.mark.slow(12)
async def test_open_legacy_positions_are_protected_and_exited_at_the_open(empty_database: str) -> None:
    """v6 left 20 AAPL without a stop, 10 MSFT under its own stop, and a row of an order that the broker has not. After
    the upgrade both are carried: AAPL gets a stop, no entry is made, and the open sells both."""
    async with open_scenario(empty_database, now=at("15:30", MONDAY), started=False) as scenario:
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        buy = {"side": "buy", "type": "market", "time_in_force": "day"}
        bought = {
            symbol: await scenario.admin("order", {"symbol": symbol, "qty": qty, **buy})
            for symbol, qty in (("AAPL", "20"), ("MSFT", "10"))
        }
        await scenario.advance(seconds=2)
        stop = await scenario.admin(
            "order",
            {
                "symbol": "MSFT",
                "qty": "10",
                "side": "sell",
                "type": "stop",
                "stop_price": "186",
                "time_in_force": "gtc",
            },
        )
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 10)
        await scenario.conn.execute(old.DDL)
        for statement in OLD_ROWS.split(";\n")[:-1]:
            values = [scenario.clock.now(), bought["AAPL"]["id"], bought["MSFT"]["id"]]
            used = [value for n, value in enumerate(values, start=1) if f"${n}" in statement]
            await scenario.conn.execute(statement, *used)
        await scenario.conn.execute(old.ORDERS_TABLE)
        await scenario.conn.execute(old.MIGRATE_ORDERS.replace("$1", "NULL"))
        await scenario.conn.execute("ALTER TABLE orders ADD COLUMN time_in_force VARCHAR(10)")
        await scenario.conn.execute(
            """
            INSERT INTO orders (parent_order_id, security_id, side, order_type, quantity, stop_price, alpaca_order_id,
                                status, time_in_force, created_at, submitted_at, updated_at)
            SELECT order_id, security_id, 'sell', 'stop', 10, 186, $1, 'new', 'gtc', created_at, created_at, created_at
              FROM orders WHERE security_id = 2
            """,
            stop["id"],
        )
        await scenario.conn.execute(
            """
            INSERT INTO orders (security_id, side, order_type, quantity, alpaca_order_id, status, created_at)
            SELECT 3, 'buy', 'market', 5, '00000000-0000-4000-8000-000000000000', 'accepted', entry_time FROM positions
             LIMIT 1
            """
        )
        tuesday = MONDAY + timedelta(days=1)
        scenario.print_trade("AAPL", "191.00", after=60)
        scenario.print_trade("MSFT", "189.00", after=60)
        await scenario.clock.advance_to(at("09:20", tuesday))

        async def no_backup() -> str:
            return "memory"

        assert await upgrade(empty_database, now=scenario.clock.now(), create_backup=no_backup) is not None
        await scenario.conn.reload_schema_state()
        await scenario.start()
        await scenario.advance(minutes=2)
        for symbol in ("AAPL", "MSFT"):
            position = await scenario.position(symbol)
            assert position is not None
            assert position["carried"], symbol
        aapl, msft = await scenario.orders("AAPL"), await scenario.orders("MSFT")
        stops = [order for order in (*aapl, *msft) if order["order_purpose"] == "stop_loss"]
        assert {order["position_id"]: (order["origin"], order["quantity"]) for order in stops} == {
            1: ("broker", 20),
            2: ("legacy", 10),
        }
        proposal = await insert_proposal(scenario, "TSLA")
        answer = await scenario.send_command("approve", proposal_id=proposal)
        assert not answer["ok"], answer
        risk = await scenario.conn.fetch(
            "SELECT symbol, worst_case, protected_qty FROM v_open_risk ORDER BY symbol"
        )
        assert [tuple(row) for row in risk] == [("AAPL", -80, 20), ("MSFT", -40, 10)]
        scenario.print_trade("AAPL", "191.30", after=8 * 60)
        scenario.print_trade("MSFT", "188.70", after=8 * 60)
        await scenario.advance(minutes=10)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)
        for symbol, result in (("AAPL", 1), ("MSFT", -1)):
            position = await scenario.position(symbol)
            assert position is not None
            assert position["status"] == "closed"
            assert position["close_reason"].startswith("MARKET_CLOSE")
            assert position["realized_pnl"] * result > 0
        assert await scenario.conn.fetchval("SELECT status FROM orders WHERE security_id = 3") == "expired"
        assert await scenario.alert_events() == ["UNPROTECTED_OVER_BUDGET"]  # AAPL had no stop for a night
