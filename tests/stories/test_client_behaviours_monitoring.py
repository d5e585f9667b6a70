"""What is asked, heard and watched, clause by clause of what a client of this broker must do;
docs/client-behaviours.md has the whole list."""

import re
from datetime import datetime, timedelta
from urllib.parse import parse_qs

import pytest

from catalyst.domain.fault_points import Moment
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Desk, open_desk
from tests.stories.test_client_behaviours_orders import entry_refusal
from tests.stories.test_daily_limits_and_proposals import proposes
from tests.stories.test_operator_actions import by_hand


async def test_c30_everything_is_asked(database: str) -> None:
    """On start and after a reconnect: account, clock, positions, orders (all of the day, and what works), and the
    ledger of fills. Every minute the same, but the ledger every five, where no order has filled more, and every ten
    what works of earlier days, where there is nothing of it."""
    wanted = {"/v2/account", "/v2/clock", "/v2/positions", "/v2/orders", "/v2/account/activities/FILL"}

    async def asked(desk: Desk, since: int) -> tuple[set[str], set[str], int]:
        rows = (await desk.admin("ledger?method=GET"))["requests"]
        fresh = [one for one in rows if one["sequence"] > since]
        statuses = {
            word for one in fresh if one["path"] == "/v2/orders"
            for word in re.findall(r"status=(\w+)", one["query"]) if "nested=true" in one["query"]
        }  # fmt: skip
        return {one["path"] for one in fresh}, statuses, rows[-1]["sequence"]

    async with open_desk(database) as desk:
        paths, statuses, last = await asked(desk, -1)
        assert (wanted - paths, statuses) == (set(), {"all", "open"})
        await desk.waits(seconds=35)
        _, _, last = await asked(desk, last)
        await desk.admin("stream", {"act": "disconnect"})
        await desk.waits(seconds=8)
        paths, statuses, last = await asked(desk, last)
        assert (wanted - paths, statuses) == (set(), {"all", "open"})
        for minutes, later, which in (
            (0, {"/v2/account/activities/FILL"}, {"all"}),
            (4, set(), {"all"}),
            (5, set(), {"all", "open"}),
        ):
            await desk.waits(minutes=minutes, seconds=65)
            paths, statuses, last = await asked(desk, last)
            assert (wanted - paths, statuses) == (later, which)


async def test_c30_what_could_not_be_read_after_a_gap_is_still_owed(database: str) -> None:
    """The stream comes back while no list of orders can be read. The look that opens the gate later is an ordinary
    minute's, and asks for everything all the same: what works of earlier days may have filled in the gap."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        await desk.waits(seconds=35)
        await desk.faults("status_before", method="GET", route="/v2/orders", status=500, count=0)
        await desk.admin("stream", {"act": "disconnect"})
        await desk.waits(seconds=10)
        assert "stream" in desk.parts.gate.reasons
        await desk.heals()
        last = (await desk.admin("ledger?method=GET"))["requests"][-1]["sequence"]
        await desk.waits(seconds=65)
        assert desk.parts.gate.open
        rows = (await desk.admin("ledger?method=GET"))["requests"]
        asked = [f"{one['path']}?{one['query']}" for one in rows if one["sequence"] > last]
        assert any("/v2/orders" in one and "status=open" in one for one in asked)
        assert any("/v2/account/activities/FILL" in one for one in asked)


async def test_c30_a_strangers_order_of_last_week_is_seen(database: str) -> None:
    """A bid good till cancelled that somebody placed days ago is no order of the day, and still it has its row: the
    symbol takes no entry."""
    async with open_desk(database, opened=False) as desk:
        desk.prints("TSLA", "190.00")
        await desk.waits(seconds=1)
        await by_hand(desk, "TSLA", "buy", 3, type="limit", limit_price="100.00", time_in_force="gtc")
        await desk.clock.advance_to(at("10:15", MONDAY + timedelta(days=3)))
        await desk.opens()
        await desk.waits(seconds=2)
        assert "FOREIGN_ORDER" in await desk.alerts()
        assert await entry_refusal(desk, "TSLA") == "the symbol has a working order"


async def test_c31_the_gate_is_shut_until_everything_was_seen(database: str) -> None:
    """Started over an order whose answer was lost, with a stream that is refused at first and positions that cannot be
    read: the order is adopted before the gate opens, and nothing may enter until the stream listens."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.dies_at("POST /orders", Moment.AFTER, desk.enters("AAPL", 20, **ENTRY))
        await desk.faults("stream_refuse", count=1)
        await desk.faults("status_before", method="GET", route="/v2/positions", status=500, count=2)
        steps: list[tuple[str, bool]] = []

        def note(step: str, moment: Moment) -> None:
            gate_open = desk.parts is not None and desk.parts.gate.open
            steps.append((f"{moment} {step}", gate_open))

        desk.fate.forgets()
        desk.fate.also = note
        await desk._opens()
        await desk.waits(seconds=40)
        assert desk.parts is not None
        assert desk.parts.gate.open
        first = next(number for number, (_, gate_open) in enumerate(steps) if gate_open)
        before = [step for step, _ in steps[:first]]
        assert before.count("before GET /positions") >= 3
        assert "after hear" in before
        entry = (await desk.orders("AAPL"))[0]
        assert (entry["status"], await desk.submits("AAPL")) == ("filled", 1)
        await desk.agrees()


async def test_c34_prices_that_stand_still_are_told_of(database: str) -> None:
    """Shares are held and their last print and quote grow old in the middle of the session: nothing is sold on them,
    and somebody is told."""
    async with open_desk(database, stop_monitor={"stale_after_seconds": 30}) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=70)
        assert "PRICES_STALE" not in await desk.alerts()
        await desk.waits(seconds=60)
        assert "PRICES_STALE" in await desk.alerts()
        assert (desk.held("AAPL"), await desk.submits("AAPL")) == (20, 1)


async def test_c36_what_cannot_be_read_is_counted_and_kept(database: str) -> None:
    """`data: null` and broken JSON are a number, a row each in quarantine, and a look at everything; the next message
    is heard."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("stream_null", symbol="AAPL")
        await desk.faults("stream_raw", symbol="AAPL", text="{oops")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=10)
        assert desk.parts is not None
        assert desk.parts.listening.unknown == 2
        assert await desk.conn.fetchval("SELECT count(*) FROM quarantine WHERE source = 'stream'") == 2
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await desk.agrees()


async def test_c39_what_a_failed_read_missed_is_read_again(database: str) -> None:
    """Bars come by asking, for the whole window each time: a scan that could not read them leaves no hole in the next
    one, which asks from before the open up to now."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", method="GET", route="/v2/stocks/bars", status=500)
        assert (await desk.tells("scan"))["ok"] is False
        await desk.waits(minutes=3)
        assert (await desk.tells("scan"))["ok"]
        bars = (await desk.admin("ledger?method=GET&path=/v2/stocks/bars"))["requests"]
        failed, read = bars[-2:]
        assert (failed["status"], read["status"]) == (500, 200)
        query = parse_qs(read["query"])
        assert (query["symbols"], query["timeframe"]) == (["AAPL"], ["1Min"])
        assert datetime.fromisoformat(query["start"][0]) < at("09:30")
        assert desk.clock.now() - datetime.fromisoformat(query["end"][0]) < timedelta(seconds=10)


@pytest.mark.parametrize(
    ("seconds", "told", "shut"), [(1.5, False, False), (-3, True, False), (45, True, True)]
)
async def test_c40_clocks_that_disagree(database: str, seconds: float, told: bool, shut: bool) -> None:
    """Two seconds apart, somebody is told; thirty, and no entry leaves until they agree again."""
    async with open_desk(database) as desk:
        await desk.faults("clock_skew", seconds=seconds, count=0)
        await desk.waits(seconds=65)
        assert desk.parts is not None
        assert ("CLOCK_SKEW" in await desk.alerts(), "clock" in desk.parts.gate.reasons) == (told, shut)
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        row = await desk.enters("AAPL", 20, **ENTRY)
        assert (row.status == "rejected") is shut
        await desk.heals()
        await desk.waits(seconds=65)
        assert desk.parts.gate.open


async def test_c40_one_odd_answer_is_no_evidence(database: str) -> None:
    """A single answer that is far off is asked again, and not believed."""
    async with open_desk(database) as desk:
        await desk.faults("clock_skew", seconds=600)
        await desk.waits(seconds=65)
        assert desk.parts is not None
        assert desk.parts.gate.open
        assert "CLOCK_SKEW" not in await desk.alerts()


async def test_c42_the_list_of_assets_is_read_for_the_day(database: str) -> None:
    """However late the start: once for the day, and what it says stands in the tables."""
    async with open_desk(database) as desk:
        await desk.waits(seconds=5)
        assert len((await desk.admin("ledger?method=GET&path=/v2/assets"))["requests"]) == 1
        rows = await desk.conn.fetch(
            "SELECT symbol, tradable FROM securities WHERE symbol IN ('AAPL', 'DEAD')"
        )
        assert {tuple(row) for row in rows} >= {("AAPL", True)}


LOCKS = [
    ({"trading_blocked": True}, {"trading_blocked": False}),
    ({"status": "ACCOUNT_UPDATED"}, {"status": "ACTIVE"}),
]


@pytest.mark.parametrize(("lock", "unlock"), LOCKS, ids="-".join)
async def test_c43_a_blocked_account_takes_no_entry(
    database: str, lock: dict[str, object], unlock: dict[str, object]
) -> None:
    """Blocked in the middle of the day: within the minute no entry leaves, somebody is told, shares stay protected;
    unblocked, entries leave again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("MSFT", "190.00")
        await desk.admin("account", lock)
        await desk.waits(seconds=65)
        row = await desk.enters("MSFT", 5, **ENTRY)
        assert (row.status, await desk.submits("MSFT")) == ("rejected", 0)
        assert "ACCOUNT_BLOCKED" in await desk.alerts()
        await desk.admin("account", unlock)
        await desk.waits(seconds=65)
        assert (await desk.enters("MSFT", 5, **ENTRY)).status != "rejected"
        await desk.waits(seconds=10)
        await desk.agrees()


async def test_c43_the_account_is_read_before_an_approved_entry(database: str) -> None:
    """What was affordable when it was proposed is held against the buying power of now, and against a lock of now."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        answer = await desk.tells("approve", proposal_id=await proposes(desk, "AAPL", qty=5_000))
        assert "buying power" in answer["error"]
        small = await proposes(desk, "MSFT")
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("account", {"trading_blocked": True})
        answer = await desk.tells("approve", proposal_id=small)
        assert "trading_blocked" in answer["error"]
        await desk.admin("account", {"trading_blocked": False})
        assert (await desk.tells("approve", proposal_id=small))[
            "ok"
        ] is False  # the gate opens with the next look
        await desk.waits(seconds=65)
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        assert (await desk.tells("approve", proposal_id=small))["ok"]
        assert (await desk.submits("AAPL"), await desk.submits("MSFT")) == (0, 1)
