"""Proposals, alerts, risk events, quarantine, flat proofs and epochs in the database."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.domain.alert_message import WaitingAlert
from catalyst.domain.errors import WrongAccount
from catalyst.store import (
    alerts,
    daemon_epoch,
    flat_proofs,
    pipeline_views,
    proposals,
    quarantine,
    risk_events,
)
from catalyst.store.constraint_errors import StaleEpoch
from catalyst.store.daemon_epoch import RunInfo
from catalyst.store.pool import Store
from catalyst.store.proposals import Decision

RUN = RunInfo(version="1.0", commit="abc", config_hash="c", lockfile_hash="l", pid=42)


async def _propose(raw_rows: RawRows, expires_at: datetime) -> int:
    order_id = await raw_rows.insert_order()
    return await proposals.put(
        raw_rows.conn, order_id=order_id, cycle_id=CYCLE, security_id=1, ticket={"entry": "190.00"}, at=AT,
        expires_at=expires_at,
    )  # fmt: skip


async def test_first_proposal_decision_holds(raw_rows: RawRows, later: datetime):
    """A proposal is decided once; a second decision returns the first."""
    proposal_id = await _propose(raw_rows, later)
    assert [proposal.proposal_id for proposal in await proposals.waiting(raw_rows.conn)] == [proposal_id]
    proposal, mine = await proposals.decide(raw_rows.conn, proposal_id, Decision.APPROVED, by="ann", at=AT)
    assert (proposal.decision, proposal.decided_by, proposal.symbol, mine) == (
        "approved",
        "ann",
        "AAPL",
        True,
    )
    proposal, mine = await proposals.decide(raw_rows.conn, proposal_id, Decision.REJECTED, by="bob", at=AT)
    assert (proposal.decision, proposal.decided_by, mine) == ("approved", "ann", False)
    assert await proposals.waiting(raw_rows.conn) == []
    assert await proposals.of_cycle(raw_rows.conn, CYCLE) == [proposal]


async def test_late_approval_expires_proposal(raw_rows: RawRows, later: datetime):
    """After its expiry a proposal cannot be approved, not even by the first decision."""
    proposal_id = await _propose(raw_rows, later)
    proposal, mine = await proposals.decide(
        raw_rows.conn, proposal_id, Decision.APPROVED, by="ann", at=later + timedelta(seconds=1), note="yes"
    )
    assert (proposal.decision, mine) == ("expired", True)
    with pytest.raises(KeyError):
        await proposals.decide(raw_rows.conn, 999, Decision.REJECTED, by="ann", at=AT)


async def test_proposals_expire_once_by_callers_clock(raw_rows: RawRows, later: datetime):
    """Each proposal past its expiry is decided as expired once; the others still wait."""
    expired_id = await _propose(raw_rows, later)
    await _propose(raw_rows, later + timedelta(minutes=5))
    assert [proposal.proposal_id for proposal in await proposals.expire(raw_rows.conn, at=later)] == [
        expired_id
    ]
    assert await proposals.expire(raw_rows.conn, at=later) == []
    assert len(await proposals.waiting(raw_rows.conn)) == 1


async def _alert(store: Store, subject: str, at: datetime = AT, message: str = "m") -> bool:
    async with store.tx("alert") as conn:
        return await alerts.raise_alert(conn, "NOT_FLAT", message, subject=subject, facts={"n": 1}, at=at)


async def test_identical_alerts_at_once_are_one_row(store: Store):
    """Eight tasks raise one alert at once: one row, seven repeats."""
    fresh = await asyncio.gather(*(_alert(store, "k") for _ in range(8)))
    assert sorted(fresh) == [False] * 7 + [True]
    async with store.read() as conn:
        (alert,) = await alerts.recent(conn)
    assert (alert.repeats, alert.facts, alert.severity) == (7, {"n": 1}, "CRITICAL")


async def test_alert_repeats_after_its_window(store: Store):
    """A persistent problem raises a new alert every 15 minutes; another subject is another alert."""
    assert await _alert(store, "k")
    assert not await _alert(store, "k", AT + timedelta(minutes=14, seconds=59))
    assert await _alert(store, "k", AT + timedelta(minutes=15))
    assert await _alert(store, "other")


async def test_alert_outbox_retries_until_delivered(store: Store, later: datetime):
    """An alert waits until every channel of its severity has sent it; then it never waits again, however many channels
    record it at once."""
    await _alert(store, "k", message="x\x00y")
    channels = {"CRITICAL": frozenset({"mail", "url"})}

    async def waiting() -> list[WaitingAlert]:
        async with store.read() as conn:
            return await alerts.waiting(conn, ["CRITICAL"], since=AT - timedelta(hours=1))

    async def send(channel: str) -> None:
        async with store.tx("deliver") as conn:
            await alerts.record_sent(conn, [alert], channel, at=later, channels_of=channels)

    (alert,) = await waiting()
    assert alert.message == "x\ufffdy"
    async with store.tx("deliver") as conn:
        await alerts.record_failure(conn, [alert.alert_id], error="no route", next_attempt_at=later)
        (row,) = await alerts.recent(conn)
        assert (row.attempts, row.last_error, row.delivered_at) == (1, "no route", None)
    await send("mail")
    (alert,) = await waiting()
    assert alert.sent_by == {"mail"}
    alert = replace(alert, sent_by=frozenset())  # as read before the other channel's row
    await asyncio.gather(send("url"), send("mail"))
    assert await waiting() == []
    async with store.read() as conn:
        (row,) = await alerts.recent(conn)
    assert (row.last_error, row.delivered_at) == (None, later)


async def test_alert_is_rolled_back_with_its_transaction(store: Store):
    """A transaction that is rolled back leaves no alert."""

    async def step() -> None:
        async with store.tx("event") as conn:
            await alerts.raise_alert(conn, "E", "m", severity=alerts.INFO, facts={}, at=AT)
            raise LookupError

    with pytest.raises(LookupError):
        await step()
    async with store.read() as conn:
        assert await alerts.recent(conn) == []


async def test_risk_events_are_filtered_by_time_and_severity(raw_rows: RawRows, later: datetime):
    """The operator's list begins with the latest event; the report's list is in order of time."""
    for severity, at in (("INFO", AT), ("WARNING", later)):
        await risk_events.put(
            raw_rows.conn, event_type="E", severity=severity, message="m", facts={"loss": Decimal("1.5")}, at=at,
            cycle_id=CYCLE,
        )  # fmt: skip
    assert [e.severity for e in await risk_events.recent(raw_rows.conn)] == ["WARNING", "INFO"]
    (warning,) = await risk_events.recent(raw_rows.conn, severity="WARNING")
    assert warning.facts == {"loss": "1.5"}
    assert [e.severity for e in await risk_events.between(raw_rows.conn, AT, later)] == ["INFO"]
    with pytest.raises(asyncpg.CheckViolationError):
        await risk_events.put(raw_rows.conn, event_type="E", severity="LOUD", message="m", facts={}, at=AT)


@pytest.mark.parametrize(
    ("payload", "raw"),
    [
        (b"\xff\x00{broken", "\ufffd\ufffd{broken"),
        ("half \ud800 text", "half ??? text"),
        ({"qty": "ten"}, '{"qty":"ten"}'),
        ([Decimal("1.5"), None], '["1.5",null]'),
    ],
    ids=["bytes", "surrogate", "object", "list"],
)
async def test_quarantine_stores_any_payload(raw_rows: RawRows, payload: object, raw: str):
    """Any payload is stored with the hash of its bytes and stays unresolved until an operator resolves it."""
    quarantine_id = await quarantine.put(
        raw_rows.conn, source="stream", reason="unparsable", payload=payload, at=AT
    )
    (row,) = await quarantine.unresolved(raw_rows.conn)
    assert row.raw.replace("\ufffd\ufffd\ufffd", "???") == raw
    assert len(row.raw_sha256) == 64
    assert await quarantine.resolve(raw_rows.conn, quarantine_id, by="ann", note="a new status", at=AT)
    assert not await quarantine.resolve(raw_rows.conn, quarantine_id, by="bob", note="mine", at=AT)
    assert await quarantine.count_unresolved(raw_rows.conn) == 0


async def test_flat_proof_requires_zero_orders_and_positions_at_broker(raw_rows: RawRows):
    """A flat proof requires zero orders and zero positions at the broker."""
    base = {
        "cycle_id": CYCLE, "at": AT, "cause": "MARKET_CLOSE", "requested_by": "daemon", "stored_orders": 0,
        "stored_positions": 0,
    }  # fmt: skip
    await flat_proofs.put_flat_proof(raw_rows.conn, flat=True, broker_orders=0, broker_positions=0, **base)
    await flat_proofs.put_flat_proof(
        raw_rows.conn, flat=False, broker_orders=None, broker_positions=None, **base
    )
    with pytest.raises(asyncpg.CheckViolationError):
        await flat_proofs.put_flat_proof(
            raw_rows.conn, flat=True, broker_orders=1, broker_positions=0, **base
        )
    with pytest.raises(asyncpg.CheckViolationError):
        await flat_proofs.put_flat_proof(
            raw_rows.conn, flat=True, broker_orders=None, broker_positions=0, **base
        )
    assert [proof.flat for proof in await flat_proofs.recent_flat_proofs(raw_rows.conn)] == [False, True]


async def test_each_start_gets_a_new_epoch(store: Store, later: datetime):
    """Epochs count up, each with its run data; the heartbeat and the orders of an old epoch are refused."""
    async with store.tx("start") as conn:
        assert (await daemon_epoch.current(conn)).epoch == 0
        first = await daemon_epoch.begin_epoch(conn, "PA1", RUN, at=AT)
    async with store.tx("start") as conn:
        second = await daemon_epoch.begin_epoch(conn, "PA1", RUN, at=later)
        assert (first, second) == (1, 2)
        assert not await daemon_epoch.heartbeat(conn, first, at=later)
        assert await daemon_epoch.heartbeat(conn, second, at=later)
        await daemon_epoch.end_epoch(conn, second, end_reason="stopped", at=later)
        row = await daemon_epoch.current(conn)
        runs = await conn.fetch("SELECT epoch, commit, end_reason FROM daemon_runs ORDER BY epoch")
    assert (row.epoch, row.account_id, row.pid, row.heartbeat_at) == (2, "PA1", 42, later)
    assert [tuple(run.values()) for run in runs] == [(1, "abc", None), (2, "abc", "stopped")]


async def test_two_simultaneous_starts_get_two_epochs(store: Store):
    """Eight simultaneous starts get eight different epochs."""

    async def start() -> int:
        async with store.tx("start") as conn:
            return await daemon_epoch.begin_epoch(conn, "PA1", RUN, at=AT)

    assert sorted(await asyncio.gather(*(start() for _ in range(8)))) == list(range(1, 9))


async def test_database_is_pinned_to_one_account(store: Store):
    """The first start pins the account; another account is refused by name and changes nothing."""
    async with store.tx("start") as conn:
        await daemon_epoch.begin_epoch(conn, "PA1", RUN, at=AT)
    async with store.tx("start") as conn:
        with pytest.raises(WrongAccount, match=r"PA1.*PA2"):
            await daemon_epoch.begin_epoch(conn, "PA2", RUN, at=AT)
        assert (await daemon_epoch.current(conn)).epoch == 1


async def test_takeover_waits_for_open_order_write(raw_rows: RawRows, store: Store):
    """A takeover waits for the open write; the next write of the old epoch is refused."""
    begun = asyncio.Event()

    async def take_over() -> int:
        async with store.tx("start") as conn:
            begun.set()
            return await daemon_epoch.begin_epoch(conn, "PA1", RUN, at=AT)

    async with raw_rows.conn.transaction():
        await raw_rows.insert_order()
        waiting = asyncio.create_task(take_over())
        await begun.wait()
    assert await waiting == 2
    with pytest.raises(StaleEpoch):
        await raw_rows.insert_order()


async def test_pipeline_views_summarise_orders_and_positions(raw_rows: RawRows):
    """The views show orders by result, positions and P&L of the cycle, and entry attempts without a position."""
    await raw_rows.insert_position()
    await raw_rows.conn.execute("UPDATE positions SET unrealized_pnl = 12.5")
    for status in ("rejected", "cancelled"):
        await raw_rows.set_status(await raw_rows.insert_order(), status)
    await raw_rows.insert_order()
    (status,) = await pipeline_views.recent_pipeline_statuses(raw_rows.conn)
    assert status == await pipeline_views.pipeline_status(raw_rows.conn, CYCLE)
    assert (status.orders_total, status.orders_pending, status.orders_filled, status.orders_cancelled) == (
        4,
        1,
        1,
        2,
    )
    assert (status.positions_total, status.positions_open, status.daily_pnl) == (1, 1, Decimal("12.5"))
    tried = [attempt.attempt_status for attempt in await pipeline_views.entry_attempts(raw_rows.conn, CYCLE)]
    assert tried == ["open", "failed", "cancelled", "pending"]
    assert await pipeline_views.pipeline_status(raw_rows.conn, "20260409-091500") is None
