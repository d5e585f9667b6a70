"""Whose orders and shares are: by the row of the order or of its parent, and the installation in its id."""

from datetime import timedelta
from decimal import Decimal

from store.raw_rows import AT, CYCLE, RawRows

from catalyst.domain.order import PositionSide
from catalyst.store import orphans, ownership

OURS, ANOTHERS = "abcdef", "123456"


async def insert_commands(raw_rows: RawRows, *, resumed_at: timedelta) -> None:
    """Insert a resume that the daemon carried out at AT plus this time."""
    await raw_rows.conn.execute(
        "INSERT INTO commands (kind, requested_at, requested_by, taken_at, answered_at, ok)"
        " VALUES ('resume', $1, 'trader', $1, $1, true)",
        AT + resumed_at,
    )


async def test_oversold_shares_and_their_cover_are_ours(raw_rows: RawRows) -> None:
    """The cover of oversold shares counts in the net of our fills; the exit of shares that we did not buy does not,
    and neither does an order of a person. An order with an id of ours counts, even if it was stored as external."""
    position_id = await raw_rows.insert_position()
    await orphans.record(
        raw_rows.conn, "AAPL", PositionSide.SHORT, Decimal(5), at=AT, cycle_id=CYCLE, position_id=position_id,
        cost=Decimal(950),
    )  # fmt: skip
    await orphans.record(raw_rows.conn, "AAPL", PositionSide.LONG, Decimal(7), at=AT)
    orphan_exit = {"origin": "orphan", "order_purpose": "exit", "cycle_id": None, "quantity": Decimal(5)}
    await raw_rows.insert_order(**orphan_exit, position_side="short", side="buy", alpaca_order_id="cover")
    await raw_rows.insert_order(
        **orphan_exit, position_side="long", side="sell", alpaca_order_id="unexplained"
    )
    external = {"origin": "external", "cycle_id": None}
    await raw_rows.insert_order(**external, client_order_id="person", alpaca_order_id="person")
    await raw_rows.insert_order(
        **external, client_order_id=f"cat-{OURS}-x", alpaca_order_id="lost", side="sell", order_purpose="exit"
    )
    sides = await ownership.own_sides(raw_rows.conn, OURS, ["AAPL"], since=AT)
    assert sides == {"cover": ("AAPL", 1), "lost": ("AAPL", -1)}
    ids = ["cover", "unexplained", "person", "lost"]
    assert await ownership.external_ids(raw_rows.conn, OURS, ids) == {"person"}


async def test_symbol_of_another_catalyst_is_undecided_until_a_resume_after_its_orders(
    raw_rows: RawRows,
) -> None:
    """A working order of another installation, or one of before without an installation, holds its symbol; a resume
    releases it only after the order has ended. Orders of ours and of a person hold none."""
    external = {"origin": "external", "cycle_id": None}
    for client_order_id, broker_id in (
        (f"cat-{ANOTHERS}-e", "another"), (f"cat-{OURS}-e", "ours"), ("person", "person"),
    ):  # fmt: skip
        await raw_rows.insert_order(**external, client_order_id=client_order_id, alpaca_order_id=broker_id)
    found = [
        await ownership.is_of_another_catalyst(raw_rows.conn, OURS, broker_id)
        for broker_id in ("another", "ours", "person")
    ]
    assert found == [True, False, False]
    assert await undecided(raw_rows) == {"AAPL"}
    await insert_commands(raw_rows, resumed_at=timedelta(minutes=1))
    assert await undecided(raw_rows) == {"AAPL"}
    await raw_rows.conn.execute(
        "UPDATE orders SET closed_at = $1 WHERE alpaca_order_id = 'another'", AT + timedelta(minutes=2)
    )
    assert await undecided(raw_rows) == {"AAPL"}
    await insert_commands(raw_rows, resumed_at=timedelta(minutes=3))
    assert await undecided(raw_rows) == set()
    symbols = await ownership.symbols_of_another_catalyst(raw_rows.conn, OURS, since=AT)
    assert symbols == {"AAPL"}


async def undecided(raw_rows: RawRows) -> set[str]:
    """Return the symbols that wait for a person."""
    return await ownership.symbols_of_another_catalyst(raw_rows.conn, OURS, since=AT, undecided=True)
