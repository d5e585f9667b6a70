"""Spool file: which of its lines count after a crash or a damage."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalyst.daemon.outage.spool import Spool, SpoolEntryKind

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Return a spool with an exit order of 20 shares and its response."""
    spool = Spool(tmp_path, "account")
    assert spool.write(
        SpoolEntryKind.EXIT_ORDER, NOW, client_order_id="cat-1-z", symbol="AAPL", quantity="20"
    )
    assert spool.write(SpoolEntryKind.RESPONSE, NOW, client_order_id="cat-1-z", outcome="accepted", text="")
    return spool


def test_spool_returns_its_entries_in_the_order_written(spool: Spool) -> None:
    """Kind, time and facts of each entry are read as written."""
    contents = spool.read()
    assert [(entry.kind, entry.at) for entry in contents.entries] == [
        (SpoolEntryKind.EXIT_ORDER, NOW),
        (SpoolEntryKind.RESPONSE, NOW),
    ]
    assert contents.entries[0].facts == {"client_order_id": "cat-1-z", "symbol": "AAPL", "quantity": "20"}
    assert contents.damaged_entries == ()


@pytest.mark.parametrize(
    ("old", "new", "damaged"),
    [
        (b'"quantity":"20"', b'"quantity":"90"', 2),  # the line behind is no longer chained to it
        (b'"outcome":"accepted"', b'"outcome":"rejected"', 1),
    ],
)
def test_spool_line_is_damaged_when_a_fact_was_changed(
    spool: Spool, old: bytes, new: bytes, damaged: int
) -> None:
    """A line that is valid JSON and has another fact than its checksum says is no entry."""
    spool.path.write_bytes(spool.path.read_bytes().replace(old, new))
    contents = spool.read()
    assert len(contents.damaged_entries) == damaged
    assert new in contents.damaged_entries[0]
    assert all(new not in repr(entry.facts).encode() for entry in contents.entries)


def test_spool_line_is_damaged_when_a_line_before_it_is_missing(spool: Spool) -> None:
    """Each checksum covers the line before, so a removed line makes the next one invalid."""
    first, second = spool.path.read_bytes().splitlines(keepends=True)
    spool.path.write_bytes(second)
    assert spool.read().entries == ()
    spool.path.write_bytes(second + first)
    assert [entry.kind for entry in spool.read().entries] == [SpoolEntryKind.EXIT_ORDER]


def test_spool_continues_behind_a_torn_line(spool: Spool) -> None:
    """After a torn line the next entry begins on a line of its own and follows the last valid one."""
    spool.path.write_bytes(spool.path.read_bytes()[:-20])
    assert spool.write(SpoolEntryKind.CANCEL, NOW, symbol="AAPL", broker_id="b-1")
    contents = spool.read()
    assert [entry.kind for entry in contents.entries] == [SpoolEntryKind.EXIT_ORDER, SpoolEntryKind.CANCEL]
    assert len(contents.damaged_entries) == 1
