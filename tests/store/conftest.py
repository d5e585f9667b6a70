"""A database with a trading day begun, for the tests of the store."""

from collections.abc import AsyncIterator

import pytest

from catalyst.store.pool import Store
from store.book import Book


@pytest.fixture
async def book(store: Store) -> AsyncIterator[Book]:
    """A database with a day begun, and a connection to write to it directly."""
    async with store.read() as conn:
        book = Book(conn)
        await book.day()
        yield book
