"""The scene no daemon should fear: shares are held that nothing protects, and the process is dead.

The exchange takes the day's first entry, never answers, fills two fifths of it and stalls; the stream is silent.
Then the daemon is killed with SIGKILL. From there on the market runs at the pace of the real clock, and nobody
helps: the next daemon has to find the order, cancel its rest and protect exactly what filled.
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
from catalyst.report.formatting import quantity
from catalyst.store import orders, positions
from catalyst.store.pool import Connection

FILLED_FRACTION: Final = Decimal("0.4")  # of the entry that fills
REAL_TIME_SPEED: Final = 1.0
FILL_TIMEOUT: Final = timedelta(seconds=5)  # real; else the scene waits for the next entry
PROTECTION_TIMEOUT: Final = timedelta(seconds=90)  # real; else it has failed
HANG, SILENCE, PARTIAL, STALL = "kill-hang", "kill-silence", "kill-partial", "kill-stall"


@dataclass(frozen=True, slots=True)
class InterruptedOrder:
    """The order the daemon died over."""

    client_order_id: str
    symbol: str
    filled_qty: Decimal
    quantity: Decimal


@dataclass
class KillScene:
    """One death, from the trap to the sentence about it. `sentence` is empty until it is over."""

    port: int
    clock: ScaledClock  # one that drives
    real_clock: Clock
    interrupted_order: InterruptedOrder | None = None
    result: str = ""
    passed: bool = True  # false: the shares were not protected as they should have been
    _hung_at: datetime | None = None
    _killed_at: datetime | None = None
    _attempts: int = field(default=0)

    @property
    def is_over(self) -> bool:
        return bool(self.result)

    async def arm(self) -> None:
        """Set the trap for the next entry."""
        self._attempts += 1
        self._hung_at = None
        for rule in (
            {"id": HANG, "kind": "hang", "method": "POST", "route": "/v2/orders"},
            {"id": SILENCE, "kind": "stream_drop", "role": "entry", "count": 0},
            {"id": PARTIAL, "kind": "partial", "role": "entry", "share": str(FILLED_FRACTION)},
        ):
            await request_admin(self.port, "faults", method="POST", body=rule)

    async def is_ready_to_kill(self) -> bool:
        """True at the moment to kill: the order is at the exchange, part of it has filled, nobody was told."""
        if self._hung_at is None:
            rules = await request_admin(self.port, "faults")
            if not any(rule["id"] == HANG and rule["fired"] for rule in rules):
                return False
            self._hung_at = self.real_clock.now()
        ledger = await request_admin(self.port, "logs")
        self.interrupted_order = _find_interrupted_order(ledger["orders"])
        if self.interrupted_order is None and self.real_clock.now() - self._hung_at > FILL_TIMEOUT:
            await self._remove_faults(HANG, SILENCE, PARTIAL)
            await self.arm()
        return self.interrupted_order is not None

    async def on_killed(self) -> str:
        """The daemon has just been killed: the market slows to real time. What to tell the spectator."""
        assert self.interrupted_order is not None  # it was ripe
        self.clock.set_cap(REAL_TIME_SPEED)
        self._killed_at = self.real_clock.now()
        stall = {"id": STALL, "kind": "partial", "symbol": self.interrupted_order.symbol, "role": "entry"}
        await request_admin(self.port, "faults", method="POST", body={**stall, "share": str(FILLED_FRACTION)})
        await self._remove_faults(HANG, SILENCE, PARTIAL)
        return (
            f"kill -9: {quantity(self.interrupted_order.filled_qty)} of {quantity(self.interrupted_order.quantity)} {self.interrupted_order.symbol} have "
            "filled, the daemon never heard of it, and nothing protects them; it is started again, in real time"
        )

    async def check(self, conn: Connection) -> bool:
        """True when the scene has just ended; the market runs at its own pace again."""
        assert self.interrupted_order is not None
        assert self._killed_at is not None
        entry = await orders.by_client_id(conn, self.interrupted_order.client_order_id)
        gone = self.real_clock.now() - self._killed_at
        if entry is not None and entry.position_id is not None:
            position = await positions.get(conn, entry.position_id)
            if position.protected_at is not None or position.quantity == 0:
                rows = await orders.of_position(conn, entry.position_id)
                self.result = await self._describe_result(position, rows, entry.attempts)
        if not self.result and gone > PROTECTION_TIMEOUT:
            self.passed = False
            self.result = f"kill -9: after {gone.total_seconds():.0f} s the shares are still unprotected"
        if self.result:
            await self._remove_faults(STALL)
            self.clock.set_cap(math.inf)
        return self.is_over

    async def _describe_result(
        self, position: positions.PositionRow, rows: list[orders.OrderRow], attempts: int
    ) -> str:
        """One sentence: what was found, what protects it, how long it was bare by both books."""
        assert self.interrupted_order is not None
        symbol = self.interrupted_order.symbol
        exposure = (await request_admin(self.port, "unprotected")).get(symbol, {})
        bare = f"naked {position.unprotected_seconds:.1f} s by the tables, {_longest_unprotected(exposure):.1f} s by the exchange"
        asked = "asked once" if attempts == 1 else f"sent {attempts} times"
        if position.quantity == 0:
            self.passed = position.entered_qty == self.interrupted_order.filled_qty
            return f"kill -9: adopted {quantity(position.entered_qty)} {symbol} ({asked}), left them at once; {bare}"
        stop = _protected_qty(rows, Purpose.STOP_LOSS)
        self.passed = attempts == 1 and stop == position.quantity == self.interrupted_order.filled_qty
        return (
            f"kill -9: found {quantity(position.quantity)} {symbol} by its own id ({asked}), cancelled the rest, "
            f"a stop and a target for exactly {quantity(stop)}; {bare}"
        )

    async def _remove_faults(self, *rules: str) -> None:
        for rule in rules:
            await request_admin(self.port, f"faults?id={rule}", method="DELETE")


def _find_interrupted_order(orders_at_exchange: list[dict[str, Any]]) -> InterruptedOrder | None:
    """The entry that has filled as far as the trap lets it."""
    for order in orders_at_exchange:
        total, filled = Decimal(order["qty"] or 0), Decimal(order["filled_qty"])
        most = (total * FILLED_FRACTION).to_integral_value(ROUND_FLOOR)
        if order["role"] == "entry" and order["status"] == "partially_filled" and filled == most > 0:
            return InterruptedOrder(order["client_order_id"], order["symbol"], filled, total)
    return None


def _protected_qty(rows: list[orders.OrderRow], purpose: Purpose) -> Decimal:
    """Shares under working exits of a purpose, in the broker's words alive."""
    live = [row for row in rows if row.status in WORKING and row.broker_status in LIVE_STATUSES]
    return sum((row.remaining for row in live if row.order_purpose is purpose), Decimal(0))


def _longest_unprotected(exposure: dict[str, str]) -> Decimal:
    return Decimal(exposure.get("longest_seconds", "0"))
