"""Rows, journal, fills, the broker's orders and its shares: what differs is found from each side, believed only when
it lasts, kept as an adjustment, and blocks its symbol; nothing is invented to make it fit."""

import asyncio

import asyncpg
import pytest

from catalyst.daemon.reconciliation.reconciler import Findings
from tests.stories.scenario import Desk, open_desk


async def past_the_guards(desk: Desk, sql: str, *arguments: object) -> None:
    """Write what no daemon could: somebody at the database, with its triggers off."""
    async with desk.conn.transaction():
        await desk.conn.execute("SET LOCAL session_replication_role = replica")
        await desk.conn.execute(sql, *arguments)


async def told(desk: Desk) -> dict[str, str]:
    """Event → message of every alert that a reconciliation raised."""
    rows = await desk.conn.fetch(
        "SELECT event, message FROM alerts WHERE event LIKE '%MISMATCH' OR event = 'BOOKS_CONTRADICT'"
    )
    return {row["event"]: row["message"] for row in rows}


DAMAGE = {
    "PNL_MISMATCH": (
        "UPDATE positions SET realized_pnl = realized_pnl + 0.01 WHERE position_id = $1",
        "its row says",
    ),
    "LEG_MISMATCH": (
        """
        UPDATE orders SET order_purpose = CASE order_purpose WHEN 'stop_loss' THEN 'take_profit' ELSE 'stop_loss' END
         WHERE position_id = $1 AND order_purpose IN ('stop_loss', 'take_profit')
        """,
        "of type",
    ),
    "BOOKS_CONTRADICT": (
        """
        DELETE FROM order_events
         WHERE order_id = (SELECT min(order_id) FROM orders WHERE position_id = $1) AND to_status = 'filled'
        """,
        "its journal ends at",
    ),
}


@pytest.mark.parametrize("event", DAMAGE)
async def test_a_contradiction_is_found(database: str, event: str) -> None:
    """A cent of a result, the role of a leg, a line of the journal: told of once it has lasted, with an adjustment
    in journal and quarantine, and no entry in the symbol; the next reconciliation says nothing twice."""
    sql, said = DAMAGE[event]
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        position = await desk.position("AAPL")
        assert position is not None
        fills = await desk.conn.fetchval("SELECT count(*) FROM executions")
        await past_the_guards(desk, sql, position["position_id"])
        assert desk.parts is not None
        findings = await desk.parts.reconciler.look("operator")
        assert findings.clean  # one look is no proof
        assert await told(desk) == {}
        findings = await examined(desk)
        assert not findings.clean
        messages = await told(desk)
        assert said in messages[event], messages
        assert "AAPL" in desk.parts.gate.disputed
        kept = "SELECT count(*) FROM quarantine WHERE reason LIKE $1 || '%'"
        found = await desk.conn.fetchval(kept, event)
        assert found >= 1
        await desk.waits(seconds=70)
        assert await desk.conn.fetchval(kept, event) == found
        adjusted = "SELECT count(*) FROM order_events WHERE kind = 'adjustment' AND note LIKE $1 || '%'"
        assert await desk.conn.fetchval(adjusted, event) == found
        assert await desk.conn.fetchval("SELECT count(*) FROM executions") == fills


async def examined(desk: Desk) -> Findings:
    """What a reconciliation on demand comes to, while time passes."""
    assert desk.parts is not None
    task = asyncio.ensure_future(desk.parts.reconciler.examine("operator"))
    while not task.done():
        await desk.waits(seconds=1)
    return task.result()


async def test_an_order_the_broker_does_not_have(database: str) -> None:
    """A row that names an order the exchange never saw is no working order: asked for by its id, told of, blocked."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await past_the_guards(
            desk,
            """
            WITH born AS (
                INSERT INTO orders (client_order_id, alpaca_order_id, security_id, order_purpose, position_side, side,
                                    quantity, order_type, time_in_force, status, broker_status, origin, epoch,
                                    created_at, updated_at, submitted_at)
                SELECT 'cat-ghost-e', gen_random_uuid()::text, security_id, 'entry', 'long', 'buy', 5, 'market', 'day',
                       'accepted', 'new', 'external', NULL, $1::timestamptz, $1, $1
                  FROM securities WHERE symbol = 'AAPL' RETURNING order_id)
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status)
            SELECT order_id, $1, 'submit', 'transition', was, became
              FROM born, (VALUES (1, NULL, 'created'), (2, 'created', 'submitted'), (3, 'submitted', 'accepted'))
                         AS step (n, was, became)
            """,
            desk.clock.now(),
        )
        await examined(desk)
        assert "the broker does not list it" in (await told(desk))["ORDER_MISMATCH"]
        assert desk.parts is not None
        assert "AAPL" in desk.parts.gate.disputed


async def test_an_invented_fill_is_found(database: str) -> None:
    """A fill that the broker's ledger does not know is a contradiction, whatever sums it makes fit."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(minutes=7)
        assert await told(desk) == {}
        await past_the_guards(
            desk,
            "UPDATE executions SET activity_id = NULL WHERE order_id = (SELECT min(order_id) FROM orders)",
        )
        await examined(desk)
        assert "is not in the broker's ledger" in (await told(desk))["BOOKS_CONTRADICT"]


async def test_more_shares_are_ours_than_the_brokers(database: str) -> None:
    """The broker holds fewer than the tables, and nothing explains it: an adjustment, a page, the symbol blocked, and
    no order and no fill of ours to make it fit."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        submitted = await desk.submits("AAPL")
        held = desk.server.exchange.account.positions["AAPL"]
        held.qty -= 8
        await desk.waits(seconds=90)
        assert "ours 20 broker 12" in (await told(desk))["QTY_MISMATCH"]
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], await desk.submits("AAPL")) == (20, submitted)
        assert desk.parts is not None
        assert "AAPL" in desk.parts.gate.disputed
        held.qty += 8
        await desk.waits(seconds=70)
        assert "AAPL" not in desk.parts.gate.disputed
        await desk.agrees()


async def test_a_look_asks_the_same_whatever_there_is(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four statements a look, with nothing and with three positions under their brackets."""
    counted: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def counting(self: object, query: str, *arguments: object, **options: object) -> object:
        counted.append(query)
        return await fetch(self, query, *arguments, **options)  # type: ignore[arg-type]

    async with open_desk(database) as desk:
        assert desk.parts is not None
        for number, symbol in enumerate((None, "AAPL", "MSFT", "TSLA")):
            if symbol is not None:
                await desk.holds(symbol, 5)
            await desk.parts.reconciler.look("reconcile")
            counted.clear()
            with monkeypatch.context() as patched:
                patched.setattr(asyncpg.Connection, "fetch", counting)
                assert (await desk.parts.reconciler.look("reconcile")).clean
            assert len(counted) <= 4, (number, counted)
