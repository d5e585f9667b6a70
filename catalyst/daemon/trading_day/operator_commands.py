"""Operator commands: rows of `commands`; each is taken once, executed, and answered in its row."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, wait
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.trading_day.trading_day import TradingDay
from catalyst.daemon.trading_state.entry_gate import SAFE_MODE, EntryGate
from catalyst.daemon.trading_state.safe_mode import SafeMode
from catalyst.domain.errors import CatalystError, UserError
from catalyst.domain.order import Purpose, Status
from catalyst.domain.position import CloseReason
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.store import commands, cycles, latches, orders, positions, proposals
from catalyst.store.commands import Command
from catalyst.store.notifications import NotificationListener
from catalyst.store.pool import Store
from catalyst.store.proposals import Decision

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=5)  # for a missed notification
RISK_REDUCING: Final = frozenset(
    {"flatten", "halt", "close"}
)  # these only reduce risk, however often they run
MAX_FAILURES_SHOWN: Final = 3  # failures named when `resume` is refused

CommandResult = dict[str, object]


class CommandRefused(UserError):
    """The command cannot run; the message says what to do instead."""


@dataclass
class OperatorCommands:
    """Takes waiting commands and answers them."""

    store: Store
    listener: NotificationListener
    trading_day: TradingDay
    exits: SafeExit
    gate: EntryGate
    safe_mode: SafeMode
    clock: Clock

    async def run(self) -> None:
        await self.resolve_interrupted()
        while True:
            await wait(self.clock, self.listener.notified, POLL_INTERVAL)
            self.listener.notified.clear()
            while await self.run_next():
                pass

    async def resolve_interrupted(self) -> None:
        """Answer commands that a previous run took and did not answer; their sender must not wait for ever.

        Commands that only stop or exit run again: the crash may have come before their first row, and a
        repetition does no harm. All others are answered as unfinished; recovery handles what they wrote.
        """
        async with self.store.read() as conn:
            left = await commands.unfinished(conn)
        for command in left:
            today = trading_date(command.requested_at) == trading_date(self.clock.now())
            if command.kind in RISK_REDUCING and today:
                await self._run_and_answer(command)
                continue
            why = "the daemon ended over this command: `catalyst status` shows what came of it"
            async with self.store.tx("answer_command") as conn:
                await commands.answer(
                    conn, command.command_id, ok=False, result={"error": why}, at=self.clock.now()
                )
            log.warning("command_interrupted", command_id=command.command_id, kind=command.kind)

    async def run_next(self) -> bool:
        """Execute the oldest waiting command; false when there is none."""
        async with self.store.tx("take_command") as conn:
            command = await commands.take_next(conn, at=self.clock.now())
        if command is None:
            return False
        await self._run_and_answer(command)
        return True

    async def _run_and_answer(self, command: Command) -> None:
        """Execute one command and write its answer."""
        log.info("command_taken", command_id=command.command_id, kind=command.kind, by=command.requested_by)
        try:
            ok, answer = True, await self._dispatch(command)
        except (CatalystError, KeyError, ValueError) as error:
            ok, answer = False, {"error": str(error)}
        except Exception as error:  # the next command still runs; an outage shows in the answer below
            log.exception("command_failed", command_id=command.command_id, kind=command.kind)
            ok, answer = False, {"error": f"{type(error).__name__}: {error}"}
        async with self.store.tx("answer_command") as conn:
            await commands.answer(conn, command.command_id, ok=ok, result=answer, at=self.clock.now())
        log.info("command_answered", command_id=command.command_id, kind=command.kind, ok=ok)

    async def _dispatch(self, command: Command) -> CommandResult:
        verbs: dict[str, Callable[[Command], Awaitable[CommandResult]]] = {
            "approve": self._approve,
            "reject": self._reject,
            "halt": self._halt,
            "resume": self._resume,
            "close": self._close,
            "flatten": self._flatten,
            "scan": self._scan,
            "reconcile": self._reconcile,
        }
        verb = verbs.get(command.kind)
        if verb is None:
            raise CommandRefused(f"this daemon does not know {command.kind!r}")
        return await verb(command)

    async def _approve(self, command: Command) -> CommandResult:
        proposal_id = int(str(command.arguments["proposal_id"]))
        now = self.clock.now()
        async with self.store.read() as conn:
            proposal = await proposals.get(conn, proposal_id)
        if proposal is None:
            raise CommandRefused(
                f"there is no proposal {proposal_id}; `catalyst status` lists those that wait"
            )
        async with self.store.read() as conn:
            waiting = await orders.get(conn, proposal.order_id)
        refusal = await self.trading_day.refusal(proposal.symbol, released=proposal.order_id)
        if refusal is None and waiting.bracket_stop is not None and waiting.bracket_target is not None:
            refusal = await self.trading_day.bracket_refusal(
                waiting.symbol,
                waiting.position_side,
                waiting.limit_price,
                waiting.bracket_stop,
                waiting.bracket_target,
            ) or await self.trading_day.buying_power_refusal(
                waiting.quantity, waiting.limit_price or max(waiting.bracket_stop, waiting.bracket_target)
            )
        if refusal is not None and proposal.decision is None:
            raise CommandRefused(f"no entry now: {refusal}")
        async with self.store.tx("approve") as conn:  # approval and release in one transaction
            decided, fresh = await proposals.decide(
                conn, proposal_id, Decision.APPROVED, by=command.requested_by, at=now
            )
            approved = fresh and decided.decision is Decision.APPROVED
            row = await orders.lock(conn, proposal.order_id)
            if approved and row.status is Status.CREATED:
                row = await self.trading_day.submission.release(conn, row.order_id, by="operator")
        if not approved:
            raise CommandRefused(f"proposal {proposal_id} is {decided.decision} already")
        if row.status is not Status.SUBMITTED:
            raise CommandRefused(f"the order of proposal {proposal_id} is {row.status} already")
        sent = await self.trading_day.submission.send(row)
        return {"order_id": sent.order_id, "symbol": sent.symbol, "status": sent.status}

    async def _reject(self, command: Command) -> CommandResult:
        proposal_id = int(str(command.arguments["proposal_id"]))
        now = self.clock.now()
        async with self.store.tx("reject") as conn:
            try:
                proposal, fresh = await proposals.decide(
                    conn, proposal_id, Decision.REJECTED, by=command.requested_by, at=now
                )
            except KeyError:
                raise CommandRefused(f"there is no proposal {proposal_id}") from None
            if not fresh:
                raise CommandRefused(f"proposal {proposal_id} is {proposal.decision} already")
            if (await orders.lock(conn, proposal.order_id)).status is Status.CREATED:
                await orders.transition(
                    conn,
                    proposal.order_id,
                    from_status=Status.CREATED,
                    to_status=Status.CANCELLED,
                    at=now,
                    source="operator",
                    cancel_reason="OPERATOR",
                    epoch=self.trading_day.epoch,
                )
        return {"proposal_id": proposal_id, "decision": "rejected"}

    async def _halt(self, command: Command) -> CommandResult:
        reason = str(command.arguments.get("reason") or "the operator said so")
        now = self.clock.now()
        async with self.store.tx("halt") as conn:
            await latches.set_latch(conn, "halt", reason=reason, by=command.requested_by, at=now, until=None)
            await cycles.halt(conn, self.trading_day.cycle_id, reason=reason, until=None, at=now)
        self.gate.close("halt", reason)
        return {"halted": True, "reason": reason}

    async def _resume(self, command: Command) -> CommandResult:
        judged = set(self.gate.failed_invariants)
        if SAFE_MODE in self.gate.reasons and (failing := await self.safe_mode.current_violations()):
            raise CommandRefused(
                "SAFE mode stays while an invariant fails: "
                + "; ".join(f"{one.invariant}: {one.description}" for one in failing[:MAX_FAILURES_SHOWN])
                + "; `catalyst doctor` says what to do"
            )
        now = self.clock.now()
        async with self.store.tx("resume") as conn:
            cycle = await cycles.get(conn, self.trading_day.cycle_id)
            if cycle is not None and cycle.halted_until is not None and now < cycle.halted_until:
                until = cycle.halted_until.astimezone(NEW_YORK)
                raise CommandRefused(
                    f"the cooldown ends at {until:%H:%M} New York time ({cycle.halt_reason})"
                )
            cleared = await latches.clear_latches(conn, by=command.requested_by, at=now)
            await self.trading_day.stop_procedure.cancel(conn, by=command.requested_by)
            await cycles.resume(conn, self.trading_day.cycle_id, at=now)
        for name in cleared:
            self.gate.reopen(name)
        self.trading_day.stop_procedure.mark_finished()
        self.safe_mode.on_resumed(judged)
        return {"cleared": cleared, "still_closed": sorted(self.gate.reasons)}

    async def _close(self, command: Command) -> CommandResult:
        symbol = str(command.arguments["symbol"]).upper()
        async with self.store.read() as conn:
            held = [p for p in await positions.open_positions(conn) if p.symbol == symbol]
        if not held:
            raise CommandRefused(f"no open position in {symbol}; `catalyst positions` lists them")
        for position in held:
            await self.exits.request(
                position.position_id,
                reason=f"{CloseReason.MANUAL}: {symbol} closed by {command.requested_by}",
                purpose=Purpose.EXIT,
                by=command.requested_by,
            )
        return {"closing": [position.position_id for position in held], "symbol": symbol}

    async def _flatten(self, command: Command) -> CommandResult:
        await self.trading_day.end_entries(
            "flatten", reason="the operator flattened", by=command.requested_by
        )
        proof = await self.trading_day.flatten.run(
            CloseReason.MANUAL,
            by=command.requested_by,
            purpose=Purpose.FLATTEN,
            within=timedelta(seconds=60),
            cycle_id=self.trading_day.cycle_id,
        )
        return {
            "flat": proof.proven,
            "positions": proof.broker_positions,
            "orders": proof.broker_orders,
            "unproven_reason": proof.unproven_reason,
        }

    async def _scan(self, command: Command) -> CommandResult:
        found = await self.trading_day.scan(trade=bool(command.arguments.get("trade")))
        if found is None:
            raise CommandRefused("the cycle is closed, or the market could not be read")
        return {"counts": found.counts, "plans": [each.symbol for each in found.plans]}

    async def _reconcile(self, command: Command) -> CommandResult:  # noqa: ARG002 - it takes no arguments
        findings = await self.trading_day.reconciler.run_until_settled("reconcile")
        if not findings.complete:
            raise CommandRefused("the broker could not be read; `catalyst check` says more")
        return {
            "orders_applied": findings.orders_applied,
            "fills_booked": findings.fills_booked,
            "discrepancies": list(findings.discrepancies),
        }
