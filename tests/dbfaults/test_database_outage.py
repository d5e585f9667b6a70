"""The database does not answer, shares are held, and somebody wants them gone: done without the tables, which are
told later and then agree with the exchange to the cent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from catalyst import flat_proof_files
from catalyst.domain.fault_points import Moment
from tests.dbfaults.postgres_proxy import Between
from tests.dbfaults.proxied_scenario import Losing, gate_opens, open_desk_behind, sent_once
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Desk, Facts

pytestmark = pytest.mark.usefixtures("impatient")


@asynccontextmanager
async def open_spooling(
    database: str, folder: Path, **options: object
) -> AsyncIterator[tuple[Desk, Between, Losing]]:
    """A desk whose spool lies in `folder`."""
    async with open_desk_behind(
        database, database={"spool": str(folder), "proofs": str(folder / "proofs")}, **options
    ) as opened:  # type: ignore[arg-type]
        yield opened


def spool_in(folder: Path) -> Path | None:
    """The spool that has not been told yet."""
    return next(iter(folder.glob("*.spool")), None)


def lines_of(folder: Path) -> list[Facts]:
    """Every line of it."""
    spool = spool_in(folder)
    return [] if spool is None else [orjson.loads(line) for line in spool.read_bytes().splitlines()]


async def reopened(desk: Desk, proxy: Between) -> None:
    """The database is back, and a new daemon starts."""
    proxy.heals()
    await desk.opens()
    await desk.waits(seconds=20)


async def test_sigterm_while_the_database_is_silent(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flat at the exchange within the bound, code zero with the proof in the spool; the next start tells the
    tables, which equal the exchange, and nobody enters before somebody resumes."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        await desk.holds("MSFT", 10)
        proxy.goes_dark()
        asked = desk.clock.now()
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert (desk.clock.now() - asked).total_seconds() <= 60
        assert desk.held("AAPL") == desk.held("MSFT") == 0
        assert not desk.server.exchange.book.live()
        assert lines_of(tmp_path)[-1]["step"] == "proof"
        assert lines_of(tmp_path)[-1]["flat"] is True
        said = next(line for line in capsys.readouterr().out.splitlines() if "left_without_tables" in line)
        assert str(spool_in(tmp_path)) in said

        await reopened(desk, proxy)
        assert spool_in(tmp_path) is None
        for symbol in ("AAPL", "MSFT"):
            position = await desk.position(symbol)
            assert position is not None
            assert position["status"] == "closed"
            assert position["close_reason"].startswith("EMERGENCY_STOP")
            last = (await desk.orders(symbol))[-1]
            assert (last["origin"], last["status"]) == ("emergency", "filled")
            assert last["position_id"] == position["position_id"]
        journal = await desk.conn.fetch("SELECT kind FROM order_events WHERE source = 'emergency'")
        assert {"spool", "fill", "transition"} <= {row["kind"] for row in journal}
        assert await desk.conn.fetchval("SELECT flat FROM flat_proofs") is True
        assert "SPOOL_IMPORTED" in await desk.alerts()
        assert desk.parts is not None
        assert "flatten" in desk.parts.gate.reasons
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize("fault", ["refused", "cut_at_the_latch", "cut_at_the_exits_row"])
async def test_sigterm_while_the_database_goes_away(database: str, tmp_path: Path, fault: str) -> None:
    """Whatever the ordinary flatten had done when the database went: flat, proven, and told later."""
    async with open_spooling(database, tmp_path) as (desk, proxy, fate):
        await desk.holds("AAPL", 20)
        if fault == "refused":
            proxy.goes_away()
        else:
            label = "latch" if fault == "cut_at_the_latch" else "submit"
            fate.then(label, proxy.goes_away)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert desk.held("AAPL") == 0
        assert not desk.server.exchange.book.live()

        await reopened(desk, proxy)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("DELETE /orders/*", Moment.BEFORE),
        ("DELETE /orders/*", Moment.AFTER),
        ("POST /orders", Moment.BEFORE),
        ("POST /orders", Moment.AFTER),
        ("GET /positions", Moment.AFTER),
    ],
)
async def test_death_in_the_middle_of_a_flatten_without_tables(
    database: str, tmp_path: Path, step: str, moment: Moment
) -> None:
    """Killed at a step of it, the next daemon reads the spool, goes on to flat, and sells nothing twice."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_dark()
        desk.stop.ask("SIGTERM", flatten=True)
        await desk.dies_at(step, moment)
        assert lines_of(tmp_path)[0]["step"] == "latch"
        await desk.waits(seconds=5)

        proxy.heals()
        await desk.opens()
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        latch = await desk.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"
        await sent_once(desk)
        await desk.agrees()


async def test_a_torn_last_line(database: str, tmp_path: Path) -> None:
    """A spool whose last line a death cut short: what is whole is told, the rest is kept aside, and it is said."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_dark()
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        spool = spool_in(tmp_path)
        assert spool is not None
        whole = spool.read_bytes()
        spool.write_bytes(whole[:-20])

        await reopened(desk, proxy)
        assert spool_in(tmp_path) is None
        assert await desk.conn.fetchval("SELECT count(*) FROM quarantine WHERE source = 'spool'") == 1
        message = await desk.conn.fetchval("SELECT message FROM alerts WHERE event = 'SPOOL_IMPORTED'")
        assert "1 lines are unreadable" in message
        assert await desk.conn.fetchval("SELECT count(*) FROM flat_proofs WHERE flat") == 0
        await desk.agrees()


@pytest.mark.parametrize("label", ["spool"])
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_death_while_the_spool_is_told(
    database: str, tmp_path: Path, label: str, moment: Moment
) -> None:
    """Killed before or after the commit of the import, the next start ends it: every row once."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_dark()
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        proxy.heals()
        await desk.dies_opening(label, moment)
        assert spool_in(tmp_path) is not None
        await desk.opens()
        await desk.waits(seconds=20)
        assert spool_in(tmp_path) is None
        emergencies = [o for o in await desk.orders("AAPL") if o["origin"] == "emergency"]
        assert [(o["attempts"], o["status"]) for o in emergencies] == [(1, "filled")]
        assert await desk.conn.fetchval("SELECT count(*) FROM flat_proofs WHERE flat") == 1
        assert (await desk.alerts()).count("SPOOL_IMPORTED") == 1
        await desk.agrees()


async def test_the_stop_is_watched_from_memory(database: str, tmp_path: Path) -> None:
    """The database is away and the broker's stop does not act: left at the market through the spool, while the
    daemon lives; when the database is back the tables are told, and entries are possible again."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        proxy.goes_away()
        await desk.waits(seconds=10)
        assert "database" in desk.parts.gate.reasons
        for _ in range(20):
            desk.prints("AAPL", "187.50")
            await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        assert lines_of(tmp_path)

        proxy.heals()
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert [o["origin"] for o in await desk.orders("AAPL")][-1] == "emergency"
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


async def test_the_time_limit_comes_while_the_database_is_away(database: str, tmp_path: Path) -> None:
    """Held for longer than it may be, and nobody can be asked since when: left by what is remembered, once; what is
    younger stays, and the tables are told why."""
    async with open_spooling(database, tmp_path, positions={"max_hold_time_minutes": 5}) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        await desk.waits(minutes=4)
        await desk.holds("MSFT", 10)
        proxy.goes_away()
        await desk.waits(seconds=90)
        assert (desk.held("AAPL"), desk.held("MSFT")) == (0, 10)
        proxy.heals()
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TIME_LIMIT: AAPL held 5 minutes")
        assert [o["origin"] for o in await desk.orders("AAPL")][-1] == "emergency"
        await sent_once(desk)
        await desk.agrees()


async def test_the_close_comes_while_the_database_is_away(database: str, tmp_path: Path) -> None:
    """Ten minutes before the close everything is left, database or not."""
    async with open_spooling(database, tmp_path, now=at("15:48")) as (desk, proxy, _):
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 20
        proxy.goes_away()
        await desk.waits(minutes=4)
        assert desk.held("AAPL") == 0

        proxy.heals()
        await desk.waits(seconds=90)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        await sent_once(desk)
        await desk.agrees()


async def test_a_flatten_without_tables_leaves_its_file(database: str, tmp_path: Path) -> None:
    """The database is away: the proof lies on the disk with the last head of the journal that was known, and the next
    start brings it into the tables."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        await desk.waits(minutes=6)
        proxy.goes_dark()
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        ((_, file),) = flat_proof_files.read(
            desk.settings.proofs_dir, desk.settings.account_name(desk.server.exchange.account.id)
        )
        assert (file["flat"], file["tables"]) == (True, "away")
        known = file["journal"]
        assert known["link"] > 0

        proxy.heals()
        await desk.opens()
        await desk.waits(seconds=20)
        row = await desk.conn.fetchrow("SELECT flat, cycle_id, facts FROM flat_proofs")
        assert row is not None
        assert (row["flat"], row["cycle_id"] is not None) == (True, True)
        facts = orjson.loads(row["facts"])
        assert facts["journal"] == known
        assert (desk.settings.proofs_dir / facts["file"]).exists()
        await desk.agrees()


async def bids(desk: Desk, *, fills: int | None = None) -> None:
    """An entry of twenty that rests below the market, and fills (or `fills` of it do) once the price comes down."""
    desk.prints("AAPL", "191.00")
    await desk.waits(seconds=1)
    if fills is not None:
        await desk.faults("partial", symbol="AAPL", qty=str(fills), role="entry")
    await desk.enters("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
    await desk.waits(seconds=3)
    assert desk.held("AAPL") == 0


async def test_a_position_that_opens_in_the_dark_is_watched(database: str, tmp_path: Path) -> None:
    """The entry fills while the database is away, so no row says that we hold it; its stop does not act. It is sold
    all the same, and the tables hear of entry and exit."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await bids(desk)
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        proxy.goes_away()
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 20
        for _ in range(10):
            desk.prints("AAPL", "187.50")
            await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0

        proxy.heals()
        await desk.waits(seconds=40)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert [o["origin"] for o in await desk.orders("AAPL")][-1] == "emergency"
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize("answered", [True, False])
async def test_a_partial_entry_in_the_dark_is_protected(
    database: str, tmp_path: Path, answered: bool
) -> None:
    """Eight of twenty fill while the database is away: the rest is cancelled after the grace, and eight come under a
    stop and a target, once, whether the broker's answer is heard or not; the tables are told, and it stays so."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await bids(desk, fills=8)
        proxy.goes_away()
        desk.prints("AAPL", "190.00")
        if not answered:
            await desk.faults("drop", method="POST", route="/v2/orders")
        await desk.waits(seconds=45)
        assert desk.held("AAPL") == 8
        live = {(o.type, o.qty) for o in desk.server.exchange.book.live()}
        assert live == {("limit", 8), ("stop", 8)}
        assert [line["step"] for line in lines_of(tmp_path)].count("protect") == 1

        proxy.heals()
        await desk.waits(seconds=60)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"]) == ("open", 8)
        assert position["protected_at"] is not None
        working = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working} == {("oco", 8)}
        assert "SPOOL_IMPORTED" in await desk.alerts()
        await sent_once(desk)
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_nobody_waits_for_the_next_look_when_the_tables_go_over_bare_shares(
    database: str, tmp_path: Path
) -> None:
    """Eight of twenty have filled, and in that moment the database goes away: the eight are bare for the entry's grace
    and the few seconds of its cancel, and not until the half minute between two looks is over."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8")
        await desk.enters("AAPL", 20, **ENTRY)
        proxy.goes_away()
        await desk.waits(seconds=18)
        assert desk.held("AAPL") == 8
        assert {(o.type, o.qty) for o in desk.server.exchange.book.live()} == {("limit", 8), ("stop", 8)}
        proxy.heals()
        await desk.waits(seconds=60)
        await desk.agrees()


async def test_the_days_loss_is_watched_in_the_dark(database: str, tmp_path: Path) -> None:
    """The limit is reached while the database is away: by the broker's own equity everything is left and latched in
    the spool; once told, the tables have latch, event and a closed day, and no entry leaves."""
    risk = {"max_daily_loss": 30, "warning_threshold_pct": 75}
    async with open_spooling(database, tmp_path, risk=risk) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_away()
        await desk.waits(seconds=5)
        desk.prints("AAPL", "188.30")
        await desk.waits(seconds=100)
        assert desk.held("AAPL") == 0
        assert lines_of(tmp_path)[0]["name"] == "emergency_stop"

        proxy.heals()
        await desk.waits(seconds=90)
        assert (
            await desk.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL") == "emergency_stop"
        )
        assert await desk.conn.fetchval("SELECT status FROM trading_cycles") == "closed"
        events = "SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
        assert await desk.conn.fetchval(events) == 1
        assert (
            await desk.enters("MSFT", 5, limit="190.10", stop="188.00", target="194.00")
        ).status == "rejected"
        assert await desk.submits("MSFT") == 0
        await sent_once(desk)
        await desk.agrees()


async def test_a_hard_stop_in_the_dark_is_tried_until_it_is_done(database: str, tmp_path: Path) -> None:
    """The limit is reached while neither the database nor the broker's orders can be read, for longer than one try
    lasts: as soon as the broker answers everything is left, and once, whatever becomes of the database."""
    risk = {"max_daily_loss": 30, "warning_threshold_pct": 75}
    async with open_spooling(database, tmp_path, risk=risk) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_away()
        await desk.waits(seconds=5)
        await desk.faults("status_before", method="GET", route="/v2/orders", status=503, count=0)
        desk.prints("AAPL", "188.30")
        await desk.waits(seconds=300)
        assert desk.held("AAPL") == 20
        await desk.heals()
        await desk.waits(seconds=100)
        assert desk.held("AAPL") == 0
        lines = len(lines_of(tmp_path))
        await desk.waits(seconds=100)
        assert len(lines_of(tmp_path)) == lines

        proxy.heals()
        await desk.waits(seconds=90)
        assert await desk.conn.fetchval("SELECT status FROM trading_cycles") == "closed"
        await sent_once(desk)
        await desk.agrees()


async def test_what_is_held_over_the_close_is_held_without_tables_too(database: str, tmp_path: Path) -> None:
    """Told to hold over the close: a database that is away then sells nothing."""
    held: Facts = {"close_all_at_market_close": False}
    async with open_spooling(database, tmp_path, now=at("15:48"), positions=held) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.goes_away()
        await desk.waits(minutes=4)
        assert desk.held("AAPL") == 20
        assert lines_of(tmp_path) == []


async def test_the_close_while_the_database_is_away(database: str, tmp_path: Path) -> None:
    """Away since just before the close: asked again until the day's cycle is completed and proven, and only then the
    daemon of one day ends."""
    async with open_spooling(database, tmp_path, now=at("16:01")) as (desk, proxy, _):
        await desk.waits(seconds=45)
        proxy.goes_away()
        await desk.waits(minutes=2)
        assert desk._life is not None
        assert not desk._life.done()
        proxy.heals()
        await desk.waits(seconds=90)
        await desk.waits(seconds=1)  # its tasks end in turns of the loop, which the clock does not wait for
        assert desk._life.done()
        assert await desk.leaves() == 0
        assert await desk.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        proven = await desk.conn.fetchval(
            "SELECT facts ->> 'proven' FROM flat_proofs WHERE cause = 'the close of the day'"
        )
        assert proven == "true"


@pytest.mark.parametrize("lag", [30, 100])
async def test_what_was_sold_in_the_dark_waits_for_its_entry(database: str, tmp_path: Path, lag: int) -> None:
    """The entry fills while the database is away and the stream loses the word of it; its shares are sold without the
    tables; when these are back, the ledger shows no fill for a while. The sale is booked on the position it ended, once
    there is one, and on no other: it oversold nothing."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("AAPL", 10)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]  # a position of yesterday's, so to speak
        await desk.waits(seconds=5)
        await bids(desk)
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        await desk.faults("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.goes_away()
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=10)
        for _ in range(10):
            desk.prints("AAPL", "187.50")
            await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        await desk.faults("empty", route="/v2/account/activities/FILL", count=0)
        proxy.heals()
        await desk.waits(seconds=lag)
        await desk.heals()
        await desk.waits(seconds=60)
        held = await desk.conn.fetch("SELECT * FROM positions ORDER BY position_id")
        assert [(row["entered_qty"], row["exited_qty"], row["status"]) for row in held] == [
            (10, 10, "closed"), (20, 20, "closed"),
        ]  # fmt: skip
        assert held[-1]["close_reason"].startswith("STOP_LOSS_HIT")
        filled = [order["origin"] for order in await desk.orders("AAPL") if order["filled_qty"]]
        assert filled == ["catalyst", "catalyst", "catalyst", "emergency"]  # and nothing after it
        assert not await desk.conn.fetchval("SELECT count(*) FROM orphans")
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


async def test_a_lagging_ledger_of_one_symbol_leaves_no_other_bare(database: str, tmp_path: Path) -> None:
    """A flatten without tables dies when it has cancelled the stops of both; one's entry is not in the ledger yet. The
    next life leaves the other at once."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await desk.holds("MSFT", 10)
        await bids(desk)
        await desk.faults("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.goes_dark()
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=2)
        assert desk.held("AAPL") == 20
        desk.stop.ask("SIGTERM", flatten=True)
        await desk.dies_at("POST /orders", Moment.BEFORE)
        assert desk.server.exchange.book.live() == []
        await desk.faults("empty", route="/v2/account/activities/FILL", count=0)
        proxy.heals()
        await desk.opens()
        await desk.waits(seconds=10)
        assert desk.held("MSFT") == 0
        await desk.heals()
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 0
        await sent_once(desk)
        await desk.agrees()


async def test_what_was_protected_in_the_dark_is_its_positions_once_there_is_one(
    database: str, tmp_path: Path
) -> None:
    """Eight of twenty fill in the dark and come under a stop; the tables are back, and a hundred seconds later the
    ledger shows the entry's fill. The stop is the position's then, no other is sent, and ends it when it fills."""
    async with open_spooling(database, tmp_path) as (desk, proxy, _):
        await bids(desk, fills=8)
        await desk.faults("stream_drop", symbol="AAPL", role="entry", count=0)
        proxy.goes_away()
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=45)
        assert desk.held("AAPL") == 8
        await desk.faults("empty", route="/v2/account/activities/FILL", count=0)
        proxy.heals()
        await desk.waits(seconds=100)
        await desk.heals()
        await desk.waits(seconds=20)
        assert not [order for order in await desk.orders("AAPL") if order["status"] == "rejected"]
        assert {(o.type, o.qty) for o in desk.server.exchange.book.live()} == {("limit", 8), ("stop", 8)}
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=90)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert not {"EXIT_WITHOUT_POSITION", "RECONCILED_PHANTOM", "OVERSOLD"} & set(await desk.alerts())
        await sent_once(desk)
        await desk.agrees()
