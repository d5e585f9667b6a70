"""Direct SQL writes for the tests of the database's own checks; no code of the daemon between."""

from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

from catalyst.store.pool import Connection

AT = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)
CYCLE = "20260408-091500"


class RawRows:
    """One connection with helpers that insert and update rows."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._ids = count(1)

    async def insert_day(self) -> None:
        """Insert a cycle, set epoch 1, and create the symbol AAPL as security 1."""
        await self.conn.execute(
            """
            INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                        start_time, updated_at, config_hash)
            VALUES ($1, '2026-04-08', 'supervised', 5, 2000, 1800, $2, $2, 'hash')
            """,
            CYCLE,
            AT,
        )
        await self.conn.execute("UPDATE daemon SET epoch = 1")
        assert await self.conn.fetchval("SELECT get_or_create_security('AAPL')") == 1

    async def insert_order(self, *, journaled: bool = True, **columns: Any) -> int:
        """Insert a new order of 100 AAPL and its journal row; `columns` overrides values. Return its id."""
        row = {
            "client_order_id": f"cat-{next(self._ids)}",
            "cycle_id": CYCLE,
            "security_id": 1,
            "order_purpose": "entry",
            "position_side": "long",
            "side": "buy",
            "order_type": "limit",
            "time_in_force": "day",
            "quantity": Decimal(100),
            "limit_price": Decimal("190.00"),
            "epoch": 1,
            "created_at": AT,
            "updated_at": AT,
            **columns,
        }
        names = ", ".join(row)
        values = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        async with self.conn.transaction():
            order_id = await self.conn.fetchval(
                f"INSERT INTO orders ({names}) VALUES ({values}) RETURNING order_id", *row.values()
            )
            if journaled:
                await self.insert_event(order_id, row.get("status", "created"))
        return order_id

    async def insert_event(self, order_id: int, status: str, kind: str = "transition") -> None:
        await self.conn.execute(
            "INSERT INTO order_events (order_id, at, source, kind, from_status, to_status)"
            " VALUES ($1, $2, 'submit', $3,"
            " (SELECT to_status FROM order_events WHERE order_id = $1 ORDER BY seq DESC LIMIT 1), $4)",
            order_id,
            AT,
            kind,
            status,
        )

    async def set_status(self, order_id: int, status: str, *, journaled: bool = True, **columns: Any) -> None:
        """Set the order's status and insert its journal row."""
        changes = {"status": status, **columns}
        assignments = ", ".join(f"{name} = ${n}" for n, name in enumerate(changes, start=2))
        async with self.conn.transaction():
            await self.conn.execute(
                f"UPDATE orders SET {assignments} WHERE order_id = $1", order_id, *changes.values()
            )
            if journaled:
                await self.insert_event(order_id, status)

    async def insert_fill(self, order_id: int, cum_qty: int, quantity: int, price: str = "190.00") -> None:
        await self.conn.execute(
            """
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, source)
            VALUES ($1, $2, $3, $4, $5, 'stream')
            """,
            order_id,
            Decimal(cum_qty),
            Decimal(quantity),
            Decimal(price),
            AT,
        )

    async def insert_position(
        self, quantity: int = 100, *, symbol: str = "AAPL", ordered: int | None = None
    ) -> int:
        """Insert a filled entry and its long position of `quantity` shares at 190.00. Return the position's
        id."""
        security_id = await self.conn.fetchval("SELECT get_or_create_security($1)", symbol)
        entry = await self.insert_order(security_id=security_id, quantity=Decimal(ordered or quantity))
        await self.set_status(entry, "submitted", submitted_at=AT)
        return await self.fill_entry(
            entry, security_id, quantity, "filled" if not ordered else "partial_fill"
        )

    async def fill_entry(self, entry: int, security_id: int, quantity: int, status: str) -> int:
        """Insert the first fill of `entry` and all resulting changes in one transaction."""
        async with self.conn.transaction():
            await self.insert_fill(entry, quantity, quantity)
            position_id = await self.conn.fetchval(
                """
                INSERT INTO positions (cycle_id, security_id, side, quantity, entered_qty, entry_price, cost,
                                       entry_time, updated_at)
                VALUES ($1, $2, 'long', $3, $3, 190, 190 * $3::numeric, $4, $4) RETURNING position_id
                """,
                CYCLE,
                security_id,
                Decimal(quantity),
                AT,
            )
            await self.set_status(entry, status, filled_qty=Decimal(quantity), position_id=position_id)
        return position_id

    async def insert_exit(self, position_id: int, **columns: Any) -> int:
        """Insert a market sell of 100 shares of the position; `columns` overrides values."""
        fields = {
            "order_purpose": "exit",
            "side": "sell",
            "order_type": "market",
            "limit_price": None,
            **columns,
        }
        return await self.insert_order(position_id=position_id, **fields)
