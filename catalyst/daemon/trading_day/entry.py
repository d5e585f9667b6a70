"""Entry placement: checks the plans of a scan, sends or proposes their orders, and sends approved proposals."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import structlog

from catalyst.broker.port import Broker, MarketData
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import SessionMode
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.trading_day.first_live_sessions import FirstLiveSessions
from catalyst.daemon.trading_state.account_status import follow_account_status
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.bracket_check import invalid_bracket_reason
from catalyst.domain.errors import BrokerError, UserError
from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.pipeline.plan import Plan
from catalyst.store import candidates, orders, positions, proposals
from catalyst.store.pool import Store
from catalyst.store.proposals import Decision

log = structlog.get_logger()


class ProposalRefused(UserError):
    """The proposal cannot be approved or rejected now; the message gives the reason."""


@dataclass
class EntryPlacement:
    """Places entries: at once in autonomous mode, as proposals in supervised mode."""

    store: Store
    broker: Broker
    market: MarketData
    submission: OrderSubmission
    gate: EntryGate
    current_day: CurrentDay
    clock: Clock
    config: CurrentConfig
    mode: SessionMode
    first_sessions: FirstLiveSessions

    async def place(self, plan: Plan, *, scan_id: int, degraded: bool) -> None:
        """Check one plan and send its order; propose it in supervised mode, after a `degraded` scan, and in the first
        live session."""
        refusal = await self.refusal(plan.symbol)
        max_age_s = self.config.execution.signal_max_age_seconds
        if (self.clock.now() - plan.decided_at).total_seconds() > max_age_s:
            refusal = refusal or f"the signal is older than {max_age_s:g} s"
        if refusal is None:
            refusal = await self._bracket_refusal(plan.symbol, plan.side, plan.entry, plan.stop, plan.target)
        if refusal is not None:
            log.warning("entry_refused", symbol=plan.symbol, reason=refusal)
            await self._record_outcome(scan_id, plan.symbol, "refused")
            return
        rationale = (
            f"{plan.pattern or 'no pattern'}, composite {plan.composite:.3f}, risk ${plan.risk_amount}"
        )
        supervised = self.mode is SessionMode.SUPERVISED or degraded or await self.first_sessions.is_first()
        log.info(
            "trade_proposed" if supervised else "entry_submitted",
            symbol=plan.symbol,
            side=plan.side,
            qty=plan.quantity,
            entry=str(plan.entry),
            stop=str(plan.stop),
            target=str(plan.target),
            reason=rationale,
        )
        if supervised:
            await self.propose(plan, rationale)
        else:
            await self.submission.place(self._order_of(plan), note=rationale)
            await self._record_outcome(scan_id, plan.symbol, "ordered")

    async def _record_outcome(self, scan_id: int, symbol: str, status: str) -> None:
        """Set the status of a candidate of the scan."""
        async with self.store.statement("record_outcome") as conn:
            await candidates.set_status(conn, scan_id, symbol, status=status)

    def _order_of(self, plan: Plan) -> NewOrder:
        """Return the bracket order of a plan; a market order when it has no entry price."""
        return NewOrder(
            client_order_id=plan.client_order_id,
            symbol=plan.symbol,
            purpose=Purpose.ENTRY,
            position_side=plan.side,
            side=side_for(plan.side, Purpose.ENTRY),
            quantity=Decimal(plan.quantity),
            order_type="market" if plan.entry is None else "limit",
            time_in_force="day",
            order_class="bracket",
            limit_price=plan.entry,
            bracket_stop=plan.stop,
            bracket_target=plan.target,
            cycle_id=self.current_day.begun_cycle_id,
            signal_id=str(plan.signal_id),
            epoch=self.submission.epoch,
        )

    # -- checks before an entry

    async def refusal(self, symbol: str, *, released: int | None = None) -> str | None:
        """Return why an entry of the symbol is refused now; None when it may be sent.

        `released` is the id of a proposed order that is to be sent: it does not count as a working order.
        """
        if (gate_refusal := self.gate.refusal(symbol)) is not None:
            return gate_refusal
        session, now = self.current_day.session, self.clock.now()
        if (
            session is None
            or now < session.open
            or now >= session.flatten_at(self.config.session.flat_before_close_minutes)
        ):
            return "entries are not allowed at this time of day"
        async with self.store.read() as conn:
            working = await orders.working_of_symbol(conn, symbol)
            held = await positions.open_positions(conn)
            carried = [position for position in held if position.carried]
            accepted = await positions.accepted_carried(conn) if carried else frozenset()
        if any(row.order_id != released for row in working):
            return "the symbol has a working order"
        if any(position.symbol == symbol for position in held):
            return "the symbol has an open position"
        waiting = [position.symbol for position in carried if position.position_id not in accepted]
        if waiting and self.config.positions.close_all_at_market_close:
            return (
                f"positions of an earlier day are still held: {', '.join(waiting)}; `catalyst resume --accept-carried` "
                "allows entries beside them"
            )
        return None

    async def _bracket_refusal(
        self, symbol: str, side: PositionSide, entry: Decimal | None, stop: Decimal, target: Decimal
    ) -> str | None:
        """Return why a bracket is invalid at the current quote, None when it is valid.

        The check is needed because its levels come from an earlier quote.
        """
        try:
            quote = (await self.market.quotes([symbol])).get(symbol)
        except BrokerError as error:
            return f"the quote cannot be read: {error}"
        oldest = self.clock.now() - timedelta(seconds=self.config.execution.signal_max_age_seconds)
        if quote is None or quote.at < oldest:
            return "there is no fresh quote"
        return invalid_bracket_reason(side, entry, stop, target, quote)

    async def _buying_power_refusal(self, quantity: Decimal, price: Decimal) -> str | None:
        """Return why the account cannot buy `quantity` shares at `price` dollars; None when it can."""
        try:
            account = await self.broker.account()
        except BrokerError as error:
            return f"the account cannot be read: {error}"
        if (restriction := follow_account_status(self.gate, account)) is not None:
            return restriction
        cost = quantity * price
        return None if cost <= account.buying_power else f"the cost {cost} is more than the buying power"

    # -- proposals

    async def propose(self, plan: Plan, rationale: str) -> None:
        """Store the plan's order as `created`, with a proposal that a person can approve until it expires."""
        expires_at = self.clock.now() + timedelta(minutes=self.config.session.proposal_expires_minutes)
        ticket = {
            "symbol": plan.symbol,
            "side": plan.side,
            "quantity": plan.quantity,
            "entry": None if plan.entry is None else str(plan.entry),
            "stop": str(plan.stop),
            "target": str(plan.target),
            "risk": str(plan.risk_amount),
            "why": rationale,
        }
        now = self.clock.now()
        async with self.store.tx("proposal") as conn:
            order_id = await orders.insert(
                conn, self._order_of(plan), status=Status.CREATED, at=now, source="submit", note=rationale
            )
            row = await orders.get(conn, order_id)
            proposal_id = await proposals.put(
                conn,
                order_id=order_id,
                cycle_id=self.current_day.begun_cycle_id,
                security_id=row.security_id,
                ticket=ticket,
                at=now,
                expires_at=expires_at,
            )
        log.info(
            "proposal_created", proposal_id=proposal_id, symbol=plan.symbol, expires_at=expires_at.isoformat()
        )

    async def approve(self, proposal_id: int, *, by: str, quantity: int | None = None) -> OrderRow:
        """Check the proposal's order as an entry is checked, then release and send it; return its row.

        `quantity`: send fewer shares than proposed; more were never checked. Raises ProposalRefused when the entry is
        refused, or the proposal or its order is already decided.
        """
        now = self.clock.now()
        async with self.store.read() as conn:
            proposal = await proposals.get(conn, proposal_id)
        if proposal is None:
            raise _no_proposal(proposal_id)
        async with self.store.read() as conn:
            order = await orders.get(conn, proposal.order_id)
        shares = order.quantity if quantity is None else Decimal(quantity)
        if proposal.decision is None and not 0 < shares <= order.quantity:
            raise ProposalRefused(
                f"approve 1 to {order.quantity:f} shares: more were not checked by the limits"
            )
        refusal = await self._proposal_refusal(order)
        if refusal is not None and proposal.decision is None:
            raise ProposalRefused(f"no entry is possible now: {refusal}")
        fewer = None if shares == order.quantity else f"{shares:f} of {order.quantity:f} shares"
        async with self.store.tx("approve") as conn:  # approval and release in one transaction
            decided, is_new = await proposals.decide(
                conn, proposal_id, Decision.APPROVED, by=by, at=now, note=fewer
            )
            approved = is_new and decided.decision is Decision.APPROVED
            row = await orders.lock(conn, proposal.order_id)
            if approved and row.status is Status.CREATED:
                if fewer is not None:
                    await orders.set_unsent_quantity(
                        conn, row.order_id, shares, now, epoch=self.submission.epoch
                    )
                note = f"proposal {proposal_id} approved by {by}" + (f": {fewer}" if fewer else "")
                row = await self.submission.release(conn, row.order_id, by="operator", note=note)
        if not approved:
            raise ProposalRefused(f"proposal {proposal_id} is already {decided.decision}")
        if row.status is not Status.SUBMITTED:
            raise ProposalRefused(f"the order of proposal {proposal_id} is already {row.status}")
        log.info(
            "proposal_approved",
            proposal_id=proposal_id,
            symbol=row.symbol,
            order_id=row.order_id,
            qty=str(row.quantity),
            by=by,
        )
        return await self.submission.send(row)

    async def _proposal_refusal(self, order: OrderRow) -> str | None:
        """Return why a proposed order may not be sent now; None when it may."""
        refusal = await self.refusal(order.symbol, released=order.order_id)
        stop, target = order.bracket_stop, order.bracket_target
        if refusal is not None or stop is None or target is None:
            return refusal
        return await self._bracket_refusal(
            order.symbol, order.position_side, order.limit_price, stop, target
        ) or await self._buying_power_refusal(order.quantity, order.limit_price or max(stop, target))

    async def reject(self, proposal_id: int, *, by: str) -> None:
        """Decide against the proposal and cancel its order, which was not sent. Raises ProposalRefused."""
        now = self.clock.now()
        async with self.store.tx("reject") as conn:
            try:
                proposal, is_new = await proposals.decide(conn, proposal_id, Decision.REJECTED, by=by, at=now)
            except KeyError:
                raise _no_proposal(proposal_id) from None
            if not is_new:
                raise ProposalRefused(f"proposal {proposal_id} is already {proposal.decision}")
            if (await orders.lock(conn, proposal.order_id)).status is Status.CREATED:
                await orders.transition(
                    conn,
                    proposal.order_id,
                    from_status=Status.CREATED,
                    to_status=Status.CANCELLED,
                    at=now,
                    source="operator",
                    cancel_reason="OPERATOR",
                    note=f"proposal {proposal_id} rejected by {by}",
                    epoch=self.submission.epoch,
                )
        log.info("proposal_rejected", proposal_id=proposal_id, symbol=proposal.symbol, by=by)


def _no_proposal(proposal_id: int) -> ProposalRefused:
    return ProposalRefused(f"there is no proposal {proposal_id}; `catalyst status` lists the open ones")
