"""Account: cash, positions, fees and buying power, in exact decimals."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Final

from catalyst.simulator.exchange.positions import Position
from catalyst.simulator.rules.orders import Execution, OrderSide

MIN_MARGIN_EQUITY: Final = Decimal(2000)  # equity below which an account neither borrows nor shorts
CENT: Final = Decimal("0.01")

Marks = Callable[[str], Decimal | None]


@dataclass(slots=True)
class AccountConfiguration:
    """Settings of the account's configuration page."""

    no_shorting: bool = False
    suspend_trade: bool = False
    fractional_trading: bool = True
    max_margin_multiplier: str = "4"
    trade_confirm_email: str = "all"
    ptp_no_exception_entry: bool = False
    disable_overnight_trading: bool = False


@dataclass(slots=True)
class Account:
    """Money and shares of one customer."""

    id: str
    number: str
    created_at: datetime
    cash: Decimal
    deposits: Decimal
    realised: Decimal = Decimal(0)
    fees: Decimal = Decimal(0)  # paid
    accrued_reg: Decimal = Decimal(0)  # owed on sales, deducted from cash at the close
    accrued_taf: Decimal = Decimal(0)
    last_equity: Decimal = Decimal(0)
    last_maintenance: Decimal = Decimal(0)
    multiplier: int = 4
    trading_blocked: bool = False
    account_blocked: bool = False
    status: str = "ACTIVE"
    positions: dict[str, Position] = field(default_factory=dict)
    configuration: AccountConfiguration = field(default_factory=AccountConfiguration)

    @property
    def accrued_fees(self) -> Decimal:
        return sum(self.accrued_by_kind().values(), Decimal(0))

    def accrued_by_kind(self) -> dict[str, Decimal]:
        """Return the day's regulatory fees so far, each kind rounded up to a cent."""
        exact = {"REG": self.accrued_reg, "TAF": self.accrued_taf}
        return {kind: amount.quantize(CENT, ROUND_UP) for kind, amount in exact.items()}

    def qty(self, symbol: str) -> Decimal:
        position = self.positions.get(symbol)
        return position.qty if position else Decimal(0)

    def book_fill(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal) -> Decimal:
        """Book one execution into cash and position; return the signed position after it."""
        position = self.positions.setdefault(symbol, Position(symbol))
        self.realised += position.book_fill(side, qty, price)
        self.cash -= side.sign * qty * price
        if not position.qty:
            del self.positions[symbol]
        return position.qty

    def market_value(self, marks: Marks) -> tuple[Decimal, Decimal]:
        """Return the market value of the longs and of the shorts (the latter zero or negative)."""
        long = short = Decimal(0)
        for position in self.positions.values():
            value = position.qty * mark_price_of(position, marks)
            if value >= 0:
                long += value
            else:
                short += value
        return long, short

    def equity(self, marks: Marks) -> Decimal:
        long, short = self.market_value(marks)
        return self.cash + long + short

    def leverage(self, equity: Decimal) -> int:
        """Return the multiplier in force: none under the margin minimum, and never above the customer's cap."""
        if equity < MIN_MARGIN_EQUITY:
            return 1
        return min(self.multiplier, int(self.configuration.max_margin_multiplier))

    def buying_power(self, marks: Marks, reserved: Decimal) -> Decimal:
        """Return what new positions may cost: equity times leverage, less what is held and what is reserved."""
        long, short = self.market_value(marks)
        equity = self.cash + long + short
        return max(equity * self.leverage(equity) - long + short - reserved, Decimal(0))

    def margin_requirements(self, marks: Marks) -> tuple[Decimal, Decimal]:
        """Return the initial and maintenance requirement of all positions."""
        initial = maintenance = Decimal(0)
        for position in self.positions.values():
            price = mark_price_of(position, marks)
            needed = maintenance_requirement(position.qty, price)
            initial += max(abs(position.qty) * price / 2, needed)
            maintenance += needed
        return initial, maintenance


def mark_price_of(position: Position, marks: Marks) -> Decimal:
    """Return the price that values a position: the last trade, or its own cost while there is none."""
    price = marks(position.symbol)
    return position.average_cost if price is None else price


def maintenance_requirement(qty: Decimal, price: Decimal) -> Decimal:
    """Return the maintenance requirement of a position: Alpaca's table for stocks that are not leveraged
    funds."""
    shares = abs(qty)
    if qty >= 0:
        return shares * price * (Decimal(1) if price < Decimal("2.5") else Decimal("0.3"))
    if price < 5:
        return shares * max(Decimal("2.5"), price)
    return shares * max(Decimal(5), price * Decimal("0.3"))


def regulatory_fees(
    execution: Execution, sec: Decimal, taf: Decimal, cap: Decimal
) -> tuple[Decimal, Decimal]:
    """Return the exact regulatory fees of a sale: a rate on the proceeds, and a capped amount per share."""
    if execution.side is not OrderSide.SELL:
        return Decimal(0), Decimal(0)
    return execution.qty * execution.price * sec, min(execution.qty * taf, cap)
