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
from catalyst.demo.exchange_admin import ask
from catalyst.domain.order import WORKING, Purpose
from catalyst.domain.protection import LIVE_WORDS
from catalyst.report.formatting import quantity
from catalyst.store import orders, positions
from catalyst.store.pool import Connection

SHARE: Final = Decimal("0.4")  # of the entry that fills
REAL_TIME: Final = 1.0
FILLS_WITHIN: Final = timedelta(seconds=5)  # real; else the scene waits for the next entry
PROTECTED_WITHIN: Final = timedelta(seconds=90)  # real; else it has failed
HANG, SILENCE, PARTIAL, STALL = "kill-hang", "kill-silence", "kill-partial", "kill-stall"


@dataclass(frozen=True, slots=True)
class Victim:
    """The order the daemon died over."""

    client_order_id: str
    symbol: str
    filled: Decimal
    of: Decimal


@dataclass
class KillScene:
    """One death, from the trap to the sentence about it. `sentence` is empty until it is over."""

    port: int
    clock: ScaledClock  # one that drives
    real: Clock
    victim: Victim | None = None
    sentence: str = ""
    held: bool = True  # false: the shares were not protected as they should have been
    _hung_at: datetime | None = None
    _died_at: datetime | None = None
    _tries: int = field(default=0)

    @property
    def over(self) -> bool:
        return bool(self.sentence)

    async def arm(self) -> None:
        """Set the trap for the next entry."""
        self._tries += 1
        self._hung_at = None
        for rule in (
            {"id": HANG, "kind": "hang", "method": "POST", "route": "/v2/orders"},
            {"id": SILENCE, "kind": "stream_drop", "role": "entry", "count": 0},
            {"id": PARTIAL, "kind": "partial", "role": "entry", "share": str(SHARE)},
        ):
            await ask(self.port, "faults", method="POST", body=rule)

    async def ripe(self) -> bool:
        """True at the moment to kill: the order is at the exchange, part of it has filled, nobody was told."""
        if self._hung_at is None:
            rules = await ask(self.port, "faults")
            if not any(rule["id"] == HANG and rule["fired"] for rule in rules):
                return False
            self._hung_at = self.real.now()
        ledger = await ask(self.port, "ledger")
        self.victim = _victim(ledger["orders"])
        if self.victim is None and self.real.now() - self._hung_at > FILLS_WITHIN:
            await self._lift(HANG, SILENCE, PARTIAL)
            await self.arm()
        return self.victim is not None

    async def died(self) -> str:
        """The daemon has just been killed: the market slows to real time. What to tell the spectator."""
        assert self.victim is not None  # it was ripe
        self.clock.cap(REAL_TIME)
        self._died_at = self.real.now()
        stall = {"id": STALL, "kind": "partial", "symbol": self.victim.symbol, "role": "entry"}
        await ask(self.port, "faults", method="POST", body={**stall, "share": str(SHARE)})
        await self._lift(HANG, SILENCE, PARTIAL)
        return (
            f"kill -9: {quantity(self.victim.filled)} of {quantity(self.victim.of)} {self.victim.symbol} have "
            "filled, the daemon never heard of it, and nothing protects them; it is started again, in real time"
        )

    async def look(self, conn: Connection) -> bool:
        """True when the scene has just ended; the market runs at its own pace again."""
        assert self.victim is not None
        assert self._died_at is not None
        entry = await orders.by_client_id(conn, self.victim.client_order_id)
        gone = self.real.now() - self._died_at
        if entry is not None and entry.position_id is not None:
            position = await positions.get(conn, entry.position_id)
            if position.protected_at is not None or position.quantity == 0:
                rows = await orders.of_position(conn, entry.position_id)
                self.sentence = await self._tell(position, rows, entry.attempts)
        if not self.sentence and gone > PROTECTED_WITHIN:
            self.held = False
            self.sentence = f"kill -9: after {gone.total_seconds():.0f} s the shares are still unprotected"
        if self.sentence:
            await self._lift(STALL)
            self.clock.cap(math.inf)
        return self.over

    async def _tell(self, position: positions.PositionRow, rows: list[orders.OrderRow], attempts: int) -> str:
        """One sentence: what was found, what protects it, how long it was bare by both books."""
        assert self.victim is not None
        symbol = self.victim.symbol
        exposure = (await ask(self.port, "exposure")).get(symbol, {})
        bare = (
            f"naked {position.naked_seconds:.1f} s by the tables, {_longest(exposure):.1f} s by the exchange"
        )
        asked = "asked once" if attempts == 1 else f"sent {attempts} times"
        if position.quantity == 0:
            self.held = position.entered_qty == self.victim.filled
            return f"kill -9: adopted {quantity(position.entered_qty)} {symbol} ({asked}), left them at once; {bare}"
        stop = _covered(rows, Purpose.STOP_LOSS)
        self.held = attempts == 1 and stop == position.quantity == self.victim.filled
        return (
            f"kill -9: found {quantity(position.quantity)} {symbol} by its own id ({asked}), cancelled the rest, "
            f"a stop and a target for exactly {quantity(stop)}; {bare}"
        )

    async def _lift(self, *rules: str) -> None:
        for rule in rules:
            await ask(self.port, f"faults?id={rule}", method="DELETE")


def _victim(seen: list[dict[str, Any]]) -> Victim | None:
    """The entry that has filled as far as the trap lets it."""
    for order in seen:
        total, filled = Decimal(order["qty"] or 0), Decimal(order["filled_qty"])
        most = (total * SHARE).to_integral_value(ROUND_FLOOR)
        if order["role"] == "entry" and order["status"] == "partially_filled" and filled == most > 0:
            return Victim(order["client_order_id"], order["symbol"], filled, total)
    return None


def _covered(rows: list[orders.OrderRow], purpose: Purpose) -> Decimal:
    """Shares under working exits of a purpose, in the broker's words alive."""
    live = [row for row in rows if row.status in WORKING and row.broker_status in LIVE_WORDS]
    return sum((row.remaining for row in live if row.order_purpose is purpose), Decimal(0))


def _longest(exposure: dict[str, str]) -> Decimal:
    return Decimal(exposure.get("longest_seconds", "0"))
