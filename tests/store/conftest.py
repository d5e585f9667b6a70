"""Fixtures of the store tests: a database with a started trading day."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from store.raw_rows import AT, RawRows

from catalyst.store.pool import Store


@pytest.fixture
async def raw_rows(store: Store) -> AsyncIterator[RawRows]:
    """Yield a connection that writes directly to a database with a started trading day."""
    async with store.read() as conn:
        raw_rows = RawRows(conn)
        await raw_rows.insert_day()
        yield raw_rows


@pytest.fixture
def later() -> datetime:
    """Return the time five minutes after the day's first rows."""
    return AT + timedelta(minutes=5)
