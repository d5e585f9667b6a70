"""Short real time-outs: a server that is silent costs a test tenths of a second, not ten."""

from collections.abc import Iterator

import pytest
import structlog

from catalyst.store import account_lock, pool


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a silent server gives up soon."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 0.8)
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(account_lock, "_PING_TIMEOUT_S", 0.5)


@pytest.fixture(autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """An outage is told of with many tracebacks: drawn with frames and locals they cost more than the outage."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    yield
    structlog.reset_defaults()


@pytest.fixture
def restart_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that stop and start: shorter than in production, longer than a busy machine needs to answer."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 3.0)
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(account_lock, "_PING_TIMEOUT_S", 1.0)
