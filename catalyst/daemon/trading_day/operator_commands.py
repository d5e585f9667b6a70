"""Operator commands: executes each row of `commands` once and writes its result into the row.

It runs from the moment the database is read, also while the start waits for the broker: a halt and a resume are carried
out then, a flatten and a close are stored as latch and exit intents, and every other command is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from catalyst.clock import Clock, wait
from catalyst.daemon.exits.flatten import FLATTEN_LATCH, Flatten
from catalyst.daemon.exits.safe_exit import SafeExit
from catalyst.daemon.reconciliation.reconciler import Reconciler
from catalyst.daemon.risk.emergency_stop import EmergencyStop
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import run_on_signal
from catalyst.daemon.trading_day.bracket_trial import BracketTrial, trial_of
from catalyst.daemon.trading_day.entry import EntryPlacement
from catalyst.daemon.trading_day.trading_day import TradingDay
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import SAFE_MODE, EntryGate
from catalyst.daemon.trading_state.safe_mode import SafeMode
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import CatalystError, UserError
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.store import commands, cycles, latches, positions
from catalyst.store.commands import Command, CommandKinds
from catalyst.store.pool import Store

log = structlog.get_logger()

POLL_INTERVAL: Final = timedelta(seconds=5)  # in case a notification is missed
RISK_REDUCING: Final = frozenset({"flatten", "halt", "close"})  # may be repeated: they only reduce risk
# Commands of one lane run in order, beside those of the other lanes: a scan delays no flatten, a flatten no halt.
_HALTS: Final = ("halt",)
_EXITS: Final = ("flatten", "close", "resume")
LANES: Final = (CommandKinds(_HALTS), CommandKinds(_EXITS), CommandKinds(without=(*_HALTS, *_EXITS)))
# A command that needs the broker's orders and positions waits that long for the start; its sender waits 30 s.
RECOVERY_TIMEOUT: Final = timedelta(seconds=20)
NOT_RECOVERED: Final = "the start has not read the broker's orders and positions yet"
# A command to trade that nobody waits for any more is not carried out. Real time.
LIFE: Final = timedelta(minutes=1)
LIFE_OF_RISK_REDUCING: Final = timedelta(days=1)
MAX_FAILURES_SHOWN: Final = 3  # invariants named when `resume` is refused

HALT_LATCH: Final = "halt"

CommandResult = dict[str, object]


class CommandRefused(UserError):
    """The command cannot run now; the message gives the reason."""


@dataclass
class OperatorCommands:
    """Executes waiting commands, those of each lane in order. `recovered` is set when the start is complete."""

    store: Store
    requested: ChangeSignal  # notified when a command was inserted
    trading_day: TradingDay
    entries: EntryPlacement
    trial: BracketTrial
    emergency_stop: EmergencyStop
    flatten: Flatten
    reconciler: Reconciler
    current_day: CurrentDay
    exits: SafeExit
    gate: EntryGate
    safe_mode: SafeMode
    recovered: asyncio.Event
    clock: Clock

    async def run(self) -> None:
        """Resolve interrupted commands, then execute new ones until cancelled."""
        async with asyncio.TaskGroup() as lanes:
            for kinds in LANES:
                lanes.create_task(self._run_lane(kinds))

    async def _run_lane(self, kinds: CommandKinds) -> None:
        await self.resolve_interrupted(kinds)
        await run_on_signal(
            self.requested, self.clock, partial(self._run_waiting, kinds), lambda _: POLL_INTERVAL
        )

    async def _run_waiting(self, kinds: CommandKinds) -> None:
        while await self.run_next(kinds):
            pass

    async def resolve_interrupted(self, kinds: CommandKinds) -> None:
        """Answer commands that a previous run took and did not answer, so that their sender does not wait for ever.

        RISK_REDUCING commands run again while they live: the crash may have happened before their first row. All others
        are answered as failed; recovery handles the rows that they wrote.
        """
        async with self.store.read() as conn:
            unanswered = [each for each in await commands.unfinished(conn) if each.kind in kinds]
        for command in unanswered:
            if command.kind in RISK_REDUCING and not self._is_too_old(command):
                await self._run_and_answer(command)
                continue
            error = "the daemon stopped during this command; check its effect with `catalyst status`"
            async with self.store.tx("answer_command") as conn:
                await commands.answer(
                    conn, command.command_id, ok=False, result={"error": error}, at=self.clock.now()
                )
            log.warning("command_interrupted", command_id=command.command_id, kind=command.kind)

    async def run_next(self, kinds: CommandKinds) -> bool:
        """Execute the oldest waiting command of these kinds, or answer that it is too old; false when there is none."""
        async with self.store.read() as conn:
            if not await commands.is_waiting(conn, kinds):
                return False
        async with self.store.tx("take_command") as conn:
            command = await commands.take_next(conn, at=self.clock.now(), kinds=kinds)
        if command is None:
            return False
        if self._is_too_old(command):
            age = self.clock.now() - command.requested_at
            error = (
                f"too old: it was requested {_describe_age(age)} ago and is not carried out; send it again"
            )
            async with self.store.tx("answer_command") as conn:
                await commands.answer(
                    conn, command.command_id, ok=False, result={"error": error}, at=self.clock.now()
                )
            log.warning(
                "command_too_old", command_id=command.command_id, kind=command.kind, age_s=age.total_seconds()
            )
            return True
        await self._run_and_answer(command)
        return True

    def _is_too_old(self, command: Command) -> bool:
        """Return true when the life of the command is over: its sender has stopped waiting long ago. A halt has no
        end but `resume`."""
        if command.kind == "halt":
            return False
        life = LIFE_OF_RISK_REDUCING if command.kind in RISK_REDUCING else LIFE * max(1.0, self.clock.speed)
        return self.clock.now() - command.requested_at >= life

    async def _run_and_answer(self, command: Command) -> None:
        """Execute one command and write its result, or its error, into its row."""
        log.info("command_taken", command_id=command.command_id, kind=command.kind, by=command.requested_by)
        try:
            ok, answer = True, await self._dispatch(command)
        except (CatalystError, KeyError, ValueError) as error:
            ok, answer = False, {"error": str(error)}
        except Exception as error:  # the next command must still run; an outage makes the write below fail
            log.exception("command_failed", command_id=command.command_id, kind=command.kind)
            ok, answer = False, {"error": f"{type(error).__name__}: {error}"}
        async with self.store.tx("answer_command") as conn:
            await commands.answer(conn, command.command_id, ok=ok, result=answer, at=self.clock.now())
        log.info("command_answered", command_id=command.command_id, kind=command.kind, ok=ok)

    async def _dispatch(self, command: Command) -> CommandResult:
        """Run the handler of this kind of command. Raises CommandRefused, KeyError or ValueError."""
        handlers: dict[str, Callable[[Command], Awaitable[CommandResult]]] = {
            "approve": self._approve,
            "reject": self._reject,
            "halt": self._halt,
            "resume": self._resume,
            "close": self._close,
            "flatten": self._flatten,
            "scan": self._scan,
            "reconcile": self._reconcile,
            "test_order": self._test_order,
        }
        handler = handlers.get(command.kind)
        if handler is None:
            raise CommandRefused(
                f"this daemon has no command {command.kind!r}; restart it if a newer release is installed"
            )
        return await handler(command)

    async def _has_recovered(self) -> bool:
        """Return true when the start is complete, after waiting for it."""
        return self.recovered.is_set() or await wait(self.clock, self.recovered, RECOVERY_TIMEOUT)

    async def _require_recovered(self) -> None:
        if not await self._has_recovered():
            raise CommandRefused(
                f"{NOT_RECOVERED}; `catalyst status` shows when entries are possible: repeat it then"
            )

    async def _approve(self, command: Command) -> CommandResult:
        """Release and send the proposal's order."""
        await self._require_recovered()
        proposal_id = int(str(command.arguments["proposal_id"]))
        quantity = command.arguments.get("quantity")
        sent = await self.entries.approve(
            proposal_id, by=command.requested_by, quantity=None if quantity is None else int(str(quantity))
        )
        return {
            "order_id": sent.order_id,
            "symbol": sent.symbol,
            "quantity": str(sent.quantity),
            "status": sent.status,
        }

    async def _test_order(self, command: Command) -> CommandResult:
        """Send a bracket far from the market, return its legs, and cancel it."""
        return await self.trial.run(trial_of(command.arguments), by=command.requested_by)

    async def _reject(self, command: Command) -> CommandResult:
        """Reject the proposal and mark its unsent order as cancelled."""
        proposal_id = int(str(command.arguments["proposal_id"]))
        await self.entries.reject(proposal_id, by=command.requested_by)
        return {"proposal_id": proposal_id, "decision": "rejected"}

    async def _halt(self, command: Command) -> CommandResult:
        """Set the halt latch and close the entry gate; protection and exits continue."""
        reason = str(command.arguments.get("reason") or "requested by the operator")
        now = self.clock.now()
        self.gate.close(HALT_LATCH, reason)
        async with self.current_day.latch_lock, self.store.tx("halt") as conn:
            await latches.set_latch(
                conn, HALT_LATCH, reason=reason, by=command.requested_by, at=now, until=None
            )
            if self.current_day.cycle_id is not None:
                await cycles.halt(conn, self.current_day.cycle_id, reason=reason, until=None, at=now)
        self.gate.close(HALT_LATCH, reason)  # a `resume` of another sender may have come between
        return {"halted": True, "reason": reason}

    async def _resume(self, command: Command) -> CommandResult:
        """Clear all latches, end an unfinished emergency stop, release the symbols whose unbooked money a person has
        resolved, and reopen the entry gate.

        Refused while an invariant fails in SAFE mode, and during the cooldown after an emergency stop.
        """
        failed_before = set(self.gate.failed_invariants)
        if SAFE_MODE in self.gate.reasons and (violations := await self.safe_mode.current_violations()):
            raise CommandRefused(
                "SAFE mode stays while an invariant fails: "
                + "; ".join(
                    f"{violation.invariant}: {violation.description}"
                    for violation in violations[:MAX_FAILURES_SHOWN]
                )
                + "; run `catalyst doctor` and correct them first"
            )
        await self.emergency_stop.load_unfinished()  # before the first day has begun it is not loaded yet
        now = self.clock.now()
        async with self.current_day.latch_lock, self.store.tx("resume") as conn:
            for cycle in await cycles.recent(conn, 2):
                if cycle.halted_until is not None and now < cycle.halted_until:
                    until = cycle.halted_until.astimezone(NEW_YORK)
                    raise CommandRefused(
                        f"the cooldown ends at {until:%H:%M} New York time ({cycle.halt_reason}); resume after it"
                    )
            accepted = (
                await positions.accept_carried(conn, by=command.requested_by, at=now)
                if command.arguments.get("accept_carried")
                else []
            )
            cleared = await latches.clear_latches(conn, by=command.requested_by, at=now)
            await self.emergency_stop.cancel(conn, by=command.requested_by)
            today = await cycles.of_day(conn, trading_date(now))
            if today is not None:
                await cycles.resume(conn, today.cycle_id, at=now)
        for name in cleared:
            self.gate.reopen(name)
        self.emergency_stop.mark_finished()
        self.safe_mode.on_resumed(failed_before)
        await self.exits.ledger.refresh_unbooked()
        if today is not None and today.status is CycleStatus.MONITORING and self.current_day.running_session:
            await self.trading_day.set_idle_status()
        return {
            "cleared": cleared,
            "accepted_carried": accepted,
            "still_closed": sorted(self.gate.reasons),
            "reasons": dict(sorted(self.gate.reasons.items())),
        }

    async def _close(self, command: Command) -> CommandResult:
        """Request the exit of every open position of a symbol; before the recovery, of those that the rows show."""
        symbol = str(command.arguments["symbol"]).upper()
        recovered = await self._has_recovered()
        async with self.store.read() as conn:
            held = [
                position for position in await positions.open_positions(conn) if position.symbol == symbol
            ]
        if not held:
            unknown = "" if recovered else f" is known: {NOT_RECOVERED}, repeat it later"
            raise CommandRefused(f"no open position in {symbol}{unknown}; `catalyst positions` lists them")
        for position in held:
            await self.exits.request(
                position.position_id,
                reason=f"{CloseReason.MANUAL}: {symbol} closed by {command.requested_by}",
                purpose=Purpose.EXIT,
                by=command.requested_by,
                retry_now=True,
            )
        return {
            "closing": [position.position_id for position in held],
            "symbol": symbol,
            **(self._market_facts() if recovered else {"waits_for": NOT_RECOVERED}),
        }

    def _market_facts(self) -> CommandResult:
        """Return whether shares can be sold now, else when."""
        is_open = self.current_day.market_open
        return {
            "market_open": is_open,
            "sold_when": "now" if is_open else self.current_day.describe_next_open(),
        }

    async def _flatten(self, command: Command) -> CommandResult:
        """Forbid entries with a latch, exit everything and return the proof.

        While the market is closed, the exits wait for the open, also when a person resumes before it. Before the
        recovery they wait for it, as stored intents.
        """
        await self.current_day.end_entries(
            FLATTEN_LATCH,
            reason="flatten requested by the operator",
            by=command.requested_by,
            facts={"close_reason": CloseReason.MANUAL},
        )
        if not await self._has_recovered():
            return await self._request_flatten(command)
        proof = await self.flatten.run(
            CloseReason.MANUAL,
            by=command.requested_by,
            purpose=Purpose.FLATTEN,
            within=timedelta(seconds=60),
            cycle_id=self.current_day.cycle_id,
        )
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        return {
            **self._market_facts(),
            "held": [f"{position.quantity.normalize():f} {position.symbol}" for position in held],
            "flat": proof.proven,
            "positions": proof.broker_positions,
            "orders": proof.broker_orders,
            "unproven_reason": proof.unproven_reason,
        }

    async def _request_flatten(self, command: Command) -> CommandResult:
        """Store the exit of every position that the rows show; the latch lets the day exit what it finds later."""
        async with self.store.read() as conn:
            held = await positions.open_positions(conn)
        for position in held:
            await self.exits.request(
                position.position_id,
                reason=f"{CloseReason.MANUAL}: {position.symbol}",
                purpose=Purpose.FLATTEN,
                by=command.requested_by,
            )
        return {
            "held": [f"{position.quantity.normalize():f} {position.symbol}" for position in held],
            "flat": False,
            "waits_for": NOT_RECOVERED,
            "unproven_reason": NOT_RECOVERED,
        }

    async def _scan(self, command: Command) -> CommandResult:
        """Scan now, and trade if the command says so; return counts and planned symbols."""
        await self._require_recovered()
        if self.current_day.running_session is None or self.current_day.cycle_id is None:
            raise CommandRefused(
                "no scan: no trading day runs now; shares are traded again "
                + self.current_day.describe_next_open()
            )
        scan_result = await self.trading_day.scan(trade=bool(command.arguments.get("trade")))
        if scan_result is None:
            raise CommandRefused(
                "no scan: the cycle is closed or the market data could not be read; see `catalyst status` and the log"
            )
        return {"counts": scan_result.counts, "plans": [plan.symbol for plan in scan_result.plans]}

    async def _reconcile(self, command: Command) -> CommandResult:  # noqa: ARG002 - it takes no arguments
        """Reconcile until no discrepancy is suspected any more; return counts and confirmed discrepancies."""
        await self._require_recovered()
        result = await self.reconciler.run_until_settled("reconcile")
        if not result.complete:
            raise CommandRefused("the broker could not be read; run `catalyst check`")
        return {
            "orders_applied": result.orders_applied,
            "fills_booked": result.fills_booked,
            "discrepancies": list(result.discrepancies),
        }


def _describe_age(age: timedelta) -> str:
    """Return an age in its largest whole unit."""
    seconds = int(age.total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
