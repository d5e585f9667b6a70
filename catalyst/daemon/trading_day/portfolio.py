"""Portfolio: the held positions, the working entries and the account's limits, as the risk stage reads them."""

from collections.abc import Mapping
from decimal import Decimal

from catalyst.broker.port import Broker
from catalyst.daemon.trading_state.account_status import follow_account_status
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.order import Purpose, Status
from catalyst.domain.rows import OrderRow
from catalyst.pipeline.risk_inputs import AccountState, HeldPosition, Portfolio, WorkingEntry
from catalyst.store import orders, positions
from catalyst.store.pool import Store


async def read_portfolio(
    store: Store,
    broker: Broker,
    gate: EntryGate,
    *,
    cycle_id: str,
    start_equity: Decimal | None,
    sectors: Mapping[str, str],
    size_factor: Decimal = Decimal(1),
) -> tuple[Portfolio, AccountState]:
    """Return held positions and working entries, and the account's limits; dollars. Raises BrokerError.

    `start_equity` is the equity at the start of the day; without it the broker's last equity counts. A closed entry
    gate becomes the account's restriction. `sectors` maps symbol to sector; `size_factor`: see AccountState.
    """
    async with store.read() as conn:
        held = await positions.open_positions(conn)
        working = [row for row in await orders.working(conn) if row.order_purpose is Purpose.ENTRY]
        day_result = await positions.day_result(conn, cycle_id)
    report = await broker.account()
    follow_account_status(gate, report)
    portfolio = Portfolio(
        tuple(
            HeldPosition(
                position.symbol, position.side, position.quantity, position.entry_price, position.stop_loss,
                sectors.get(position.symbol, "unknown"), position.last_price,
            )
            for position in held
        ),
        tuple(
            WorkingEntry(
                row.symbol, row.position_side, row.remaining, _highest_price(row),
                sectors.get(row.symbol, "unknown"), in_buying_power=row.status is not Status.CREATED,
            )
            for row in working
        ),
    )  # fmt: skip
    start_of_day_equity = start_equity or report.last_equity
    gate_reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(gate.reasons.items()))
    account = AccountState(
        equity=report.equity,
        start_of_day_equity=start_of_day_equity,
        buying_power=report.buying_power,
        day_pnl=day_result,
        shorting_enabled=report.shorting_enabled,
        restriction=gate_reasons
        or (None if report.can_open_positions else f"the account is {report.status}"),
        size_factor=size_factor,
    )
    return portfolio, account


def _highest_price(row: OrderRow) -> Decimal:
    """Return the highest price that an entry may cost: its limit; of a market entry the higher of stop and target."""
    zero = Decimal(0)
    return row.limit_price or max(row.bracket_stop or zero, row.bracket_target or zero)
