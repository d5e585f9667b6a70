"""Bracket trial: `catalyst test-order` sends one bracket far from the market, shows its three legs and cancels it.

The order goes the way of every entry, with its row before the request: a crash at any point leaves an entry, which the
next start resolves and ends, and a fill is protected by its legs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import MarketData
from catalyst.clock import Clock
from catalyst.config.schema import Mode
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.trading_day.entry import EntryPlacement
from catalyst.domain.bracket_check import invalid_bracket_reason
from catalyst.domain.errors import BrokerError, UserError
from catalyst.domain.ids import ENTRY_ROLE, client_order_id
from catalyst.domain.order import TERMINAL, PositionSide, Purpose, side_for
from catalyst.domain.price import round_nearest
from catalyst.domain.report import Quote
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.store import orders
from catalyst.store.pool import Store

log = structlog.get_logger()

DISTANCE: Final = Decimal("0.1")  # of the price, from the market to the entry: it does not fill
STOP: Final = Decimal("0.02")  # of the entry
TARGET: Final = Decimal("0.06")  # of the market
MAX_SHARES: Final = 10
CANCEL_TIMEOUT: Final = timedelta(seconds=30)
POLL_INTERVAL: Final = timedelta(seconds=1)


class TrialRefused(UserError):
    """The test order cannot be sent now; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class TrialOrder:
    """What the operator asked for; a price that is None is chosen from the market."""

    symbol: str
    side: PositionSide
    quantity: int
    entry: Decimal | None
    stop: Decimal | None
    target: Decimal | None


@dataclass
class BracketTrial:
    """Sends a test order and cancels it."""

    store: Store
    market: MarketData
    submission: OrderSubmission
    entries: EntryPlacement
    clock: Clock
    mode: Mode

    async def run(self, trial: TrialOrder, *, by: str) -> dict[str, object]:
        """Send the bracket, read its legs, cancel it and wait for its end; return what was seen.

        Raises TrialRefused when an entry of the symbol is refused now, the prices are no valid bracket, or the broker
        rejects it.
        """
        if self.mode is Mode.LIVE:
            raise TrialRefused("test-order is for sim and paper: with real money it could fill")
        if not 1 <= trial.quantity <= MAX_SHARES:
            raise TrialRefused(f"test-order sends 1 to {MAX_SHARES} shares")
        if (refusal := await self.entries.refusal(trial.symbol)) is not None:
            raise TrialRefused(f"no entry is possible now: {refusal}")
        new = self._new_order(trial, await self._quote(trial.symbol))
        sent = await self.submission.place(new, note=f"test order of {by}")
        if sent.alpaca_order_id is None:
            raise TrialRefused(
                f"the order is {sent.status}: {sent.rejection_reason or 'its outcome is unknown'}"
            )
        async with self.store.read() as conn:
            legs = await orders.legs_of(conn, sent.order_id)
        log.info(
            "order_confirmed",
            order_id=sent.order_id,
            symbol=sent.symbol,
            order_class=sent.order_class,
            legs=len(legs),
            by=by,
        )
        shown = [_leg_facts(row) for row in (sent, *legs)]
        ended = await self._cancel(sent)
        return {
            "symbol": sent.symbol,
            "order_class": sent.order_class,
            "legs": shown,
            "status": ended.status,
            "filled": str(ended.filled_qty),
            "cancelled": ended.status in TERMINAL and not ended.filled_qty,
        }

    async def _quote(self, symbol: str) -> Quote:
        try:
            quote = (await self.market.quotes([symbol])).get(symbol)
        except BrokerError as error:
            raise TrialRefused(f"the quote cannot be read: {error}") from None
        if quote is None or quote.bid is None or quote.ask is None:
            raise TrialRefused(f"{symbol} has no two-sided quote")
        return quote

    def _new_order(self, trial: TrialOrder, quote: Quote) -> NewOrder:
        """Return the bracket with the missing prices filled in. Raises TrialRefused when the broker would reject it."""
        assert quote.bid is not None  # both checked by the caller
        assert quote.ask is not None
        sign = 1 if trial.side is PositionSide.LONG else -1
        near = quote.bid if trial.side is PositionSide.LONG else quote.ask
        far = quote.ask if trial.side is PositionSide.LONG else quote.bid
        entry = trial.entry or round_nearest(near * (1 - sign * DISTANCE))
        stop = trial.stop or round_nearest(entry * (1 - sign * STOP))
        target = trial.target or round_nearest(far * (1 + sign * TARGET))
        if (invalid := invalid_bracket_reason(trial.side, entry, stop, target, quote)) is not None:
            raise TrialRefused(invalid)
        base = f"test-order|{trial.symbol}|{self.clock.now().isoformat()}"
        return NewOrder(
            client_order_id=client_order_id(self.submission.installation, base, ENTRY_ROLE, 1),
            symbol=trial.symbol,
            purpose=Purpose.ENTRY,
            position_side=trial.side,
            side=side_for(trial.side, Purpose.ENTRY),
            quantity=Decimal(trial.quantity),
            order_type="limit",
            time_in_force="day",
            order_class="bracket",
            limit_price=entry,
            bracket_stop=stop,
            bracket_target=target,
            cycle_id=self.entries.current_day.begun_cycle_id,
            signal_id=base,
            epoch=self.submission.epoch,
        )

    async def _cancel(self, row: OrderRow) -> OrderRow:
        """Request the cancel and return the row once it is terminal, or as it is after the time limit.

        What still works then is cancelled by EntryExpiry, as every entry that does not fill.
        """
        await self.submission.cancel(row, "OPERATOR")
        deadline = self.clock.now() + CANCEL_TIMEOUT
        while True:
            async with self.store.read() as conn:
                row = await orders.get(conn, row.order_id)
            if row.status in TERMINAL or self.clock.now() >= deadline:
                return row
            await self.clock.sleep(POLL_INTERVAL)
            if row.alpaca_order_id is not None:
                await self.submission.refresh(row.alpaca_order_id, "poll")


def trial_of(arguments: Mapping[str, object]) -> TrialOrder:
    """Return the order that a command asks for. Raises KeyError or ValueError."""

    def price(name: str) -> Decimal | None:
        text = arguments.get(name)
        return None if text is None else Decimal(str(text))

    return TrialOrder(
        symbol=str(arguments["symbol"]).upper(),
        side=PositionSide(str(arguments["side"])),
        quantity=int(str(arguments["quantity"])),
        entry=price("entry"),
        stop=price("stop"),
        target=price("target"),
    )


def _leg_facts(row: OrderRow) -> dict[str, object]:
    price = row.stop_price if row.order_purpose is Purpose.STOP_LOSS else row.limit_price
    return {
        "order_id": row.order_id,
        "broker_id": row.alpaca_order_id,
        "purpose": row.order_purpose,
        "side": row.side,
        "type": row.order_type,
        "quantity": str(row.quantity),
        "price": None if price is None else str(price),
        "status": row.status,
    }
