"""Transactions, statements and requests that one order needs, counted instead of timed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from catalyst.domain.fault_points import Moment
from tests.dbfaults.postgres_proxy import PostgresProxy, open_proxy
from tests.stories.scenario import ENTRY, Scenario, open_scenario

LEASE_READ = "SELECT (SELECT epoch FROM daemon) AS"


@dataclass
class ActivityCounter:
    """Counts steps by label, statements, and transactions with a number, i.e. those that wrote or locked a
    row and flush the log."""

    proxy: PostgresProxy
    conn: "asyncpg.Connection[asyncpg.Record]"
    _steps: list[str] = field(default_factory=list)
    _xid: int = 0
    _statement_offset: int = 0

    async def reset(self) -> None:
        """Count from zero again."""
        self._steps.clear()
        self._statement_offset = len(self.proxy.statements)
        self._xid = await self.conn.fetchval("SELECT pg_current_xact_id()::text::bigint")

    def completed_steps(self, *labels: str) -> list[str]:
        """Return the completed steps with these labels, or requests with these verbs, in order."""
        return [step for step in self._steps if step.split(" ")[0] in labels]

    def statement_heads(self) -> list[str]:
        """Return the first six words of every statement, in order, but the reads of the account lease, which
        come in real time."""
        heads = (" ".join(text.split()[:6]) for text in self.proxy.statements[self._statement_offset :])
        return [head for head in heads if head != LEASE_READ]

    async def written_transactions(self) -> int:
        """Return the number of transactions that wrote, of all clients of the server except this counter."""
        xid: int = await self.conn.fetchval("SELECT pg_current_xact_id()::text::bigint")
        written, self._xid = xid - self._xid - 1, xid
        return written

    def record_step(self, step: str, moment: Moment) -> None:
        """Record a completed step."""
        if moment is Moment.AFTER:
            self._steps.append(step)


@asynccontextmanager
async def open_counted_scenario(dsn: str) -> AsyncIterator[tuple[Scenario, ActivityCounter]]:
    """Open a scenario whose daemon has prepared its statements: one order was traded already."""
    async with open_proxy(dsn) as proxy, open_scenario(dsn, started=False) as scenario:
        scenario.dsn = proxy.dsn
        counter = ActivityCounter(proxy, scenario.conn)
        await scenario.start()
        scenario.crash_trigger.on_step = counter.record_step
        await scenario.given_position("MSFT", 10)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await counter.reset()
        yield scenario, counter


async def test_entry_takes_three_commits_and_one_request(database: str) -> None:
    """An entry commits its row, the response with both legs, and the fill with the position; each is a single
    statement without BEGIN, COMMIT or a query before it."""
    async with open_counted_scenario(database) as (scenario, counter):
        row = await scenario.submit_entry("AAPL", 100, **ENTRY)
        assert counter.statement_heads()[:2] == [
            "WITH inserted AS ( INSERT INTO",
            "WITH expected AS ( SELECT e.*,",
        ]
        assert not {"BEGIN;", "COMMIT;"} & set(counter.statement_heads())
        assert await counter.written_transactions() == 2
        while scenario.held_qty("AAPL") == 0:
            await scenario.advance(seconds=0.1)
        assert counter.completed_steps("submit", "POST", "apply_report")[:4] == [
            "submit",
            "POST /orders",
            "apply_report",
            "apply_report",
        ]
        opening_statement = "WITH expected AS ( SELECT nextval('positions_position_id_seq')"
        assert counter.statement_heads().count(opening_statement) == 1
        entry, *legs = await scenario.orders("AAPL")
        assert (entry["order_id"], entry["status"], len(legs)) == (row.order_id, "filled", 2)
        assert {order["position_id"] for order in (entry, *legs)} == {entry["position_id"]} != {None}
        events = await scenario.conn.fetch(
            "SELECT order_id, from_status, to_status FROM order_events ORDER BY seq"
        )
        statuses = [
            [line["to_status"] for line in events if line["order_id"] == order["order_id"]]
            for order in (entry, *legs)
        ]
        # We created and sent the entry. The legs begin at the broker: their first event has the status we first saw.
        assert statuses[0] == ["created", "submitted", "filled"]
        assert statuses[1:] == [[leg["status"]] for leg in legs]


async def test_later_event_takes_one_commit_and_repeated_report_none(database: str) -> None:
    """A target's fill with the closed position is one commit, the cancel of the stop another; a repeated
    report from any source is none."""
    async with open_counted_scenario(database) as (scenario, counter):
        row = await scenario.submit_entry("AAPL", 100, **ENTRY)
        await scenario.advance(seconds=5)
        assert scenario.components is not None
        assert row.alpaca_order_id is not None
        report = await scenario.components.broker.order(row.alpaca_order_id)
        await counter.reset()
        for source in ("stream", "poll", "reconcile"):
            assert await scenario.components.ledger.apply_report(report, source)
        assert await counter.written_transactions() == 0
        scenario.print_trade("AAPL", "194.05")
        while scenario.held_qty("AAPL"):
            await scenario.advance(seconds=0.1)
        await scenario.advance(seconds=2)
        assert counter.completed_steps("apply_report", "book_fill", "write_off") == [
            "apply_report",
            "apply_report",
        ]
        assert [order["status"] for order in await scenario.orders("AAPL")] == [
            "filled",
            "filled",
            "cancelled",
        ]
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.assert_consistent()
