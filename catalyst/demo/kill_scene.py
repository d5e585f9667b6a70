"""Kill scene of the demo: a SIGKILL during the first entry leaves unprotected shares, which the next daemon protects.

The exchange accepts the day's first entry, never answers, fills two fifths of it and stops; the stream sends no update.
Then the daemon is killed with SIGKILL and started again, and the market runs in real time. The new daemon must find the
order, cancel its rest and protect exactly the filled shares.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final

from catalyst.clock import Clock, ScaledClock
from catalyst.demo.exchange_admin import request_admin
from catalyst.domain.order import WORKING, Purpose
from catalyst.domain.protection import LIVE_STATUSES
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.report.formatting import quantity
from catalyst.store import orders, positions
from catalyst.store.pool import Connection

FILLED_FRACTION: Final = Decimal("0.4")  # the part of the entry that fills
REAL_TIME_SPEED: Final = 1.0
FILL_TIMEOUT: Final = timedelta(seconds=5)  # real time; after it the scene waits for the next entry
PROTECTION_TIMEOUT: Final = timedelta(seconds=90)  # real time; after it the scene has failed
HANG, SILENCE, PARTIAL, STALL = "kill-hang", "kill-silence", "kill-partial", "kill-stall"


@dataclass(frozen=True, slots=True)
class InterruptedOrder:
    """The entry order during which the daemon is killed."""

    client_order_id: str
    symbol: str
    filled_qty: Decimal
    quantity: Decimal


@dataclass
class KillScene:
    """One kill of the daemon, from the injected faults to the result. `result` is one sentence, empty until the end."""

    port: int
    clock: ScaledClock  # must drive the shared clock
    real_clock: Clock
    interrupted_order: InterruptedOrder | None = None
    result: str = ""
    passed: bool = True  # false: the filled shares were not protected exactly or not in time
    _hung_at: datetime | None = None
    _killed_at: datetime | None = None
    _attempts: int = field(default=0)

    @property
    def is_over(self) -> bool:
        return bool(self.result)

    async def arm(self) -> None:
        """Inject the faults for the next entry: no answer, no stream message, a partial fill."""
        self._attempts += 1
        self._hung_at = None
        for rule in (
            {"id": HANG, "kind": "hang", "method": "POST", "route": "/v2/orders"},
            {"id": SILENCE, "kind": "stream_drop", "role": "entry", "count": 0},
            {"id": PARTIAL, "kind": "partial", "role": "entry", "share": str(FILLED_FRACTION)},
        ):
            await request_admin(self.port, "faults", method="POST", body=rule)

    async def is_ready_to_kill(self) -> bool:
        """Return true once the entry is partly filled at the exchange and the daemon has received no report of it."""
        if self._hung_at is None:
            rules = await request_admin(self.port, "faults")
            if not any(rule["id"] == HANG and rule["fired"] for rule in rules):
                return False
            self._hung_at = self.real_clock.now()
        logs = await request_admin(self.port, "logs")
        self.interrupted_order = _find_interrupted_order(logs["orders"])
        if self.interrupted_order is None and self.real_clock.now() - self._hung_at > FILL_TIMEOUT:
            await self._remove_faults(HANG, SILENCE, PARTIAL)
            await self.arm()
        return self.interrupted_order is not None

    async def on_killed(self) -> str:
        """Slow the market to real time after the kill, and return the message about it."""
        assert self.interrupted_order is not None  # is_ready_to_kill() returned true
        self.clock.set_cap(REAL_TIME_SPEED)
        self._killed_at = self.real_clock.now()
        stall = {"id": STALL, "kind": "partial", "symbol": self.interrupted_order.symbol, "role": "entry"}
        await request_admin(self.port, "faults", method="POST", body={**stall, "share": str(FILLED_FRACTION)})
        await self._remove_faults(HANG, SILENCE, PARTIAL)
        return (
            f"kill -9: {quantity(self.interrupted_order.filled_qty)} of {quantity(self.interrupted_order.quantity)} "
            f"{self.interrupted_order.symbol} have filled, the daemon received no report, and the shares are "
            "unprotected; the daemon is started again, in real time"
        )

    async def check(self, conn: Connection) -> bool:
        """Return true once the shares are protected or the timeout has passed; then restore the market's speed."""
        assert self.interrupted_order is not None
        assert self._killed_at is not None
        entry = await orders.by_client_id(conn, self.interrupted_order.client_order_id)
        elapsed = self.real_clock.now() - self._killed_at
        if entry is not None and entry.position_id is not None:
            position = await positions.get(conn, entry.position_id)
            if position.protected_at is not None or position.quantity == 0:
                rows = await orders.of_position(conn, entry.position_id)
                self.result = await self._describe_result(position, rows, entry.attempts)
        if not self.result and elapsed > PROTECTION_TIMEOUT:
            self.passed = False
            self.result = f"kill -9: after {elapsed.total_seconds():.0f} s the shares are still unprotected"
        if self.result:
            await self._remove_faults(STALL)
            self.clock.set_cap(math.inf)
        return self.is_over

    async def _describe_result(self, position: PositionRow, rows: list[OrderRow], attempts: int) -> str:
        """Describe in one sentence the shares found, their protection and the unprotected time on both sides."""
        assert self.interrupted_order is not None
        symbol = self.interrupted_order.symbol
        exposure = (await request_admin(self.port, "unprotected")).get(symbol, {})
        unprotected_time = (
            f"unprotected {position.unprotected_seconds:.1f} s in the database, "
            f"{_longest_unprotected(exposure):.1f} s at the exchange"
        )
        attempts_text = "sent once" if attempts == 1 else f"sent {attempts} times"
        if position.quantity == 0:
            self.passed = position.entered_qty == self.interrupted_order.filled_qty
            return (
                f"kill -9: the new daemon found {quantity(position.entered_qty)} {symbol} ({attempts_text}) "
                "and exited them at once; "
                f"{unprotected_time}"
            )
        stop_qty = _protected_qty(rows, Purpose.STOP_LOSS)
        self.passed = attempts == 1 and stop_qty == position.quantity == self.interrupted_order.filled_qty
        return (
            f"kill -9: found {quantity(position.quantity)} {symbol} by its client order id ({attempts_text}), "
            f"cancelled the rest, a stop and a target for exactly {quantity(stop_qty)}; {unprotected_time}"
        )

    async def _remove_faults(self, *rules: str) -> None:
        for rule in rules:
            await request_admin(self.port, f"faults?id={rule}", method="DELETE")


def _find_interrupted_order(orders_at_exchange: list[dict[str, Any]]) -> InterruptedOrder | None:
    """Return the entry order that has filled exactly up to the injected fraction; None when there is none."""
    for order in orders_at_exchange:
        total, filled = Decimal(order["qty"] or 0), Decimal(order["filled_qty"])
        expected = (total * FILLED_FRACTION).to_integral_value(ROUND_FLOOR)
        if order["role"] == "entry" and order["status"] == "partially_filled" and filled == expected > 0:
            return InterruptedOrder(order["client_order_id"], order["symbol"], filled, total)
    return None


def _protected_qty(rows: list[OrderRow], purpose: Purpose) -> Decimal:
    """Return the shares of working exit orders of a purpose that are live at the broker."""
    live = [row for row in rows if row.status in WORKING and row.broker_status in LIVE_STATUSES]
    return sum((row.remaining for row in live if row.order_purpose is purpose), Decimal(0))


def _longest_unprotected(exposure: dict[str, str]) -> Decimal:
    return Decimal(exposure.get("longest_seconds", "0"))
