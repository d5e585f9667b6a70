"""The hard stop: latched before anything else, ended after any death, step by step in the log, as configured."""

from typing import Any

import pytest

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import ENTRY, Desk, Facts, open_desk

TIGHT = {"max_daily_loss": 30, "warning_threshold_pct": 75}


async def loses(desk: Desk) -> None:
    """Twenty shares fall by more than the day may lose, above their stop; a bid for something else rests."""
    await desk.holds("AAPL", 20)
    desk.prints("MSFT", "190.00")
    await desk.waits(seconds=1)
    await desk.enters("MSFT", 10, limit="170.00", stop="160.00", target="190.00")
    await desk.waits(seconds=2)
    desk.prints("AAPL", "188.30")


async def after(desk: Desk, seconds: int = 100) -> Facts:
    """What is left of the day a while later."""
    await desk.waits(seconds=seconds)
    latch = await desk.conn.fetchrow("SELECT name FROM latches WHERE cleared_at IS NULL")
    events = await desk.conn.fetchval("SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'")
    cycle = await desk.conn.fetchrow("SELECT status, halted FROM trading_cycles")
    bids = [o for o in await desk.orders("MSFT") if o["status"] in ("submitted", "accepted")]
    return {
        "latch": latch and latch["name"],
        "events": events,
        "cycle": cycle["status"],
        "halted": cycle["halted"],
        "held": desk.held("AAPL"),
        "bids": len(bids),
    }


STOPPED = {"latch": "emergency_stop", "events": 1, "cycle": "closed", "halted": True, "held": 0, "bids": 0}


async def test_step_by_step(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Gate, latch, record, exits, proof: one line of the log each, in this order; then no entry reaches the broker."""
    async with open_desk(database, risk=TIGHT) as desk:
        await loses(desk)
        assert await after(desk) == STOPPED
        lines = [line for line in capsys.readouterr().out.splitlines() if "emergency_stop " in line]
        steps = [line.split("step=")[1].split()[0] for line in lines if "step=" in line]
        assert steps == ["begun", "gate_shut", "latched", "recorded", "leaving", "left", "done"]
        assert (await desk.enters("TSLA", 5, **ENTRY)).status == "rejected"
        assert await desk.submits("TSLA") == 0
        await desk.agrees()


@pytest.mark.parametrize(
    ("key", "differs"),
    [
        ("close_all_positions_on_limit", {"held": 20}),
        ("halt_new_trades", {"latch": None, "cycle": "monitoring", "halted": False}),
        ("send_email_alert", {}),
    ],
)
async def test_every_key_is_honoured(database: str, key: str, differs: dict[str, Any]) -> None:
    """Switched off, each leaves out its own part and nothing else: shares stay under their stop, entries go on, the
    alert is on record and not sent."""
    async with open_desk(database, risk=TIGHT, emergency={key: False}) as desk:
        await loses(desk)
        found = await after(desk)
        if key == "halt_new_trades":
            found["cycle"] = differs["cycle"]  # whatever it was doing
        assert found == STOPPED | differs
        alert = await desk.conn.fetchrow("SELECT delivered_at FROM alerts WHERE event = 'EMERGENCY_STOP'")
        assert (alert["delivered_at"] is not None) is (key == "send_email_alert")
        position = await desk.position("AAPL")
        assert position is not None
        if key == "close_all_positions_on_limit":
            assert position["protected_at"] is not None
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("latch", Moment.BEFORE),
        ("latch", Moment.AFTER),
        ("halt", Moment.AFTER),
        ("emergency_stop", Moment.AFTER),
        ("DELETE /orders/*", Moment.AFTER),
    ],
)
async def test_death_in_the_middle_of_it(database: str, step: str, moment: Moment) -> None:
    """Killed before the latch, after it, before or after the record, over the first cancel: the next start ends it,
    once, and nobody enters in between."""
    async with open_desk(database, risk=TIGHT) as desk:
        await loses(desk)
        await desk.dies_at(step, moment)
        await desk.opens()
        assert (await desk.enters("TSLA", 5, **ENTRY)).status == "rejected"
        assert await after(desk, 130) == STOPPED
        assert await desk.submits("TSLA") == 0
        await desk.agrees()


GOES_ON = {"latch": None, "halted": False}  # without `halt_new_trades`


@pytest.mark.parametrize(
    ("step", "moment", "nth"),
    [
        ("emergency_stop", Moment.BEFORE, 1),
        ("emergency_stop", Moment.AFTER, 1),
        ("exit_intent", Moment.AFTER, 1),
        ("DELETE /orders/*", Moment.AFTER, 2),
        ("emergency_stop_done", Moment.BEFORE, 1),
    ],
)
async def test_death_in_the_middle_of_it_where_trading_goes_on(
    database: str, step: str, moment: Moment, nth: int
) -> None:
    """Without the latch the record itself is what a start resumes: nobody enters before everything is left and every
    bid is gone, once, and from then on they may."""
    async with open_desk(database, risk=TIGHT, emergency={"halt_new_trades": False}) as desk:
        await loses(desk)
        await desk.dies_at(step, moment, nth=nth)
        await desk.opens()
        found = await after(desk, 130)
        assert found == STOPPED | GOES_ON | {"cycle": found["cycle"]}
        assert found["cycle"] != "closed"
        await ends_once(desk)
        assert (await desk.enters("TSLA", 5, **ENTRY)).status != "rejected"
        await desk.agrees()


async def ends_once(desk: Desk) -> None:
    """One record, one end of it."""
    told = await desk.conn.fetch(
        "SELECT event_type FROM risk_events WHERE event_type LIKE 'EMERGENCY_STOP%' ORDER BY risk_event_id"
    )
    assert [row["event_type"] for row in told] == ["EMERGENCY_STOP", "EMERGENCY_STOP_DONE"]


async def test_nobody_enters_while_it_is_unfinished(database: str) -> None:
    """Exits that do not get through keep entries out, though trading may go on afterwards; a restart changes nothing
    about it, and a person who resumes does."""
    async with open_desk(database, risk=TIGHT, emergency={"halt_new_trades": False}) as desk:
        await loses(desk)
        await desk.admin("halt", {"symbol": "AAPL"})
        await desk.waits(seconds=70)
        assert desk.held("AAPL") == 20
        assert "emergency_leaving" in desk.parts.gate.reasons  # type: ignore[union-attr]
        await desk.dies()
        await desk.opens()
        assert (await desk.enters("TSLA", 5, **ENTRY)).status == "rejected"
        answer = await desk.tells("resume")
        assert answer["ok"], answer
        assert (await desk.enters("TSLA", 5, **ENTRY)).status != "rejected"
        await ends_once(desk)


async def test_entries_alone_are_cancelled_after_a_death(database: str) -> None:
    """Neither leaving nor halting: a death between the record and the cancels leaves no bid behind, and the shares
    stay under their stop."""
    off = {"halt_new_trades": False, "close_all_positions_on_limit": False}
    async with open_desk(database, risk=TIGHT, emergency=off) as desk:
        await loses(desk)
        await desk.dies_at("emergency_stop", Moment.AFTER)
        await desk.opens()
        found = await after(desk, 130)
        assert found == STOPPED | GOES_ON | {"cycle": found["cycle"], "held": 20}
        await ends_once(desk)
        await desk.agrees()
