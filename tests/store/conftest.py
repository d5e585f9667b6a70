"""A database with a trading day begun, for the tests of the store."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from store.raw_rows import AT, RawRows

from catalyst.store.pool import Store


@pytest.fixture
async def raw_rows(store: Store) -> AsyncIterator[RawRows]:
    """A database with a day begun, and a connection to write to it directly."""
    async with store.read() as conn:
        raw_rows = RawRows(conn)
        await raw_rows.insert_day()
        yield raw_rows


@pytest.fixture
def later() -> datetime:
    """Five minutes after the day's first rows."""
    return AT + timedelta(minutes=5)
