"""Short real-time time-outs, so that a silent database server costs a test less than a second."""

from collections.abc import Iterator

import pytest
import structlog

from catalyst.store import account_lock, pool


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use time-outs below one second for a server that is silent."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 0.8)
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(pool, "_CLOSE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(account_lock, "_PING_TIMEOUT_S", 0.5)


@pytest.fixture(autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """Log tracebacks without frames and locals: an outage logs many, and drawing them takes longer than the
    outage."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, plain])
    yield
    structlog.reset_defaults()


@pytest.fixture
def restart_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use time-outs of one to three seconds for a server that restarts: long enough for a busy machine."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 3.0)
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(pool, "_CLOSE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(account_lock, "_PING_TIMEOUT_S", 1.0)
