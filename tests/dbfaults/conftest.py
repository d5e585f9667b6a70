"""Short real time-outs: a server that is silent costs a test tenths of a second, not ten."""

from collections.abc import Iterator

import pytest

from catalyst.store import dedicated, pool


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What waits for a silent server gives up soon."""
    monkeypatch.setattr(pool, "_ANSWER", 0.4)
    monkeypatch.setattr(pool, "_ACQUIRE", 0.3)
    monkeypatch.setattr(dedicated, "_BEAT", 0.3)
    yield
