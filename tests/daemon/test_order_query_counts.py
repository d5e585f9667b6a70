"""What an order's life costs, counted and not timed: transactions, statements, requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from catalyst.domain.fault_points import Moment
from tests.dbfaults.postgres_proxy import Between, between
from tests.stories.scenario import ENTRY, Desk, open_desk


@dataclass
class Counter:
    """What happened since `begins`: steps by their labels, statements, and transactions that the server gave a
    number to: those that wrote or locked anything, and so end by a flush of the log."""

    proxy: Between
    conn: "asyncpg.Connection[asyncpg.Record]"
    _steps: list[str] = field(default_factory=list)
    _xid: int = 0
    _asked: int = 0

    async def begins(self) -> None:
        self._steps.clear()
        self._asked = len(self.proxy.asked)
        self._xid = await self.conn.fetchval("SELECT pg_current_xact_id()::text::bigint")

    def steps(self, *labels: str) -> list[str]:
        """The steps of these labels, or requests of these verbs, that were done, in order."""
        return [step for step in self._steps if step.split(" ")[0] in labels]

    def asked(self) -> list[str]:
        """The first words of every statement, in order."""
        return [" ".join(text.split()[:6]) for text in self.proxy.asked[self._asked :]]

    async def written(self) -> int:
        """Transactions that wrote, of anybody on the server but this counter."""
        now: int = await self.conn.fetchval("SELECT pg_current_xact_id()::text::bigint")
        written, self._xid = now - self._xid - 1, now
        return written

    def tell(self, step: str, moment: Moment) -> None:
        if moment is Moment.AFTER:
            self._steps.append(step)


@asynccontextmanager
async def counted(dsn: str) -> AsyncIterator[tuple[Desk, Counter]]:
    """A desk whose daemon has prepared its statements: one order has lived already."""
    async with between(dsn) as proxy, open_desk(dsn, opened=False) as desk:
        desk.dsn = proxy.dsn
        counter = Counter(proxy, desk.conn)
        await desk.opens()
        desk.fate.also = counter.tell
        await desk.holds("MSFT", 10)
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await counter.begins()
        yield desk, counter


async def test_an_entry_is_three_commits_and_one_request_from_signal_to_fill(database: str) -> None:
    """Its row, the broker's answer with both legs, its fill with the position. Each is one statement that is a
    transaction by itself: no BEGIN, no COMMIT, no reset, and no question before it."""
    async with counted(database) as (desk, counter):
        row = await desk.enters("AAPL", 100, **ENTRY)
        assert counter.asked()[:2] == [
            "WITH born AS ( INSERT INTO",
            "WITH seen AS ( SELECT *",
        ]
        assert not {"BEGIN;", "COMMIT;"} & set(counter.asked())
        assert await counter.written() == 2
        while desk.held("AAPL") == 0:
            await desk.waits(seconds=0.1)
        assert counter.steps("submit", "POST", "hear")[:4] == ["submit", "POST /orders", "hear", "hear"]
        assert counter.asked().count("WITH seen AS ( SELECT nextval('positions_position_id_seq')") == 1
        entry, *legs = await desk.orders("AAPL")
        assert (entry["order_id"], entry["status"], len(legs)) == (row.order_id, "filled", 2)
        assert {order["position_id"] for order in (entry, *legs)} == {entry["position_id"]} != {None}
        told = await desk.conn.fetch("SELECT order_id, from_status, to_status FROM order_events ORDER BY seq")
        of_each = [
            [line["to_status"] for line in told if line["order_id"] == order["order_id"]]
            for order in (entry, *legs)
        ]
        # We made the entry, and sent it. Its legs began at the broker: a line of each says as what we first saw it.
        assert of_each[0] == ["created", "submitted", "filled"]
        assert of_each[1:] == [[leg["status"]] for leg in legs]


async def test_every_later_event_is_one_commit_and_a_report_that_says_nothing_is_none(database: str) -> None:
    """A target's fill with the closed position, the end of the stop beside it; what was said before costs no
    transaction, whoever says it again."""
    async with counted(database) as (desk, counter):
        row = await desk.enters("AAPL", 100, **ENTRY)
        await desk.waits(seconds=5)
        assert desk.parts is not None
        assert row.alpaca_order_id is not None
        report = await desk.parts.broker.order(row.alpaca_order_id)
        await counter.begins()
        for source in ("stream", "poll", "reconcile"):
            assert await desk.parts.books.hear(report, source)
        assert await counter.written() == 0
        desk.prints("AAPL", "194.05")
        while desk.held("AAPL"):
            await desk.waits(seconds=0.1)
        await desk.waits(seconds=2)
        assert counter.steps("hear", "book", "write_off") == ["hear", "hear"]
        assert [order["status"] for order in await desk.orders("AAPL")] == ["filled", "filled", "cancelled"]
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await desk.agrees()
