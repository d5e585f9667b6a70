"""Log of an outage: few lines, without the tracebacks of client libraries."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import asyncpg
import structlog
from structlog.testing import LogCapture

from catalyst.cli.log_repeats import RepeatLimit
from catalyst.clock import Clock, ManualClock
from catalyst.domain.errors import DatabaseUnavailable
from tests.dbfaults.proxied_scenario import open_proxied_scenario
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts


@contextmanager
def written_lines(clock: Clock) -> Iterator[list[Facts]]:
    """Collect the lines that the daemon's log would write."""
    capture = LogCapture()
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [structlog.processors.add_log_level, RepeatLimit(clock), capture]
    structlog.configure(processors=processors)
    try:
        yield capture.entries  # type: ignore[misc]  # structlog's own mapping type
    finally:
        processors[:] = before
        structlog.configure(processors=processors)


async def test_database_outage_of_two_minutes_writes_a_line_a_minute(database: str) -> None:
    """While the database refuses connections for two minutes each event is written at most three times, no line has
    a traceback, and the last one says how many were dropped."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        for symbol in ("AAPL", "MSFT"):
            await scenario.given_position(symbol, 20)
        with written_lines(scenario.clock) as lines:
            proxy.refuse_connections()
            await scenario.advance(seconds=125)
            outage = Counter(line["event"] for line in lines)
        assert 1 <= outage["database_outage"] <= 3
        assert 1 <= outage["lease_reacquire_failed"] <= 3
        assert len(lines) < 30
        assert not any("exc_info" in line for line in lines)
        assert sum(line.get("repeated", 0) for line in lines) > 200
        proxy.resume()
        await scenario.advance(seconds=30)


async def test_broker_outage_writes_a_line_a_minute(database: str) -> None:
    """While the broker answers every read with 503 each event is written at most three times in two minutes."""
    async with open_proxied_scenario(database) as (scenario, _, _):
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", status=503, count=0)
        with written_lines(scenario.clock) as lines:
            await scenario.advance(seconds=125)
        assert max(Counter(line["event"] for line in lines).values()) <= 3
        await scenario.clear_faults()


async def test_error_that_differs_only_in_its_numbers_is_a_repeat() -> None:
    """Seconds left and addresses of objects in an error's text make no new line; another symbol does."""
    clock = ManualClock(at("10:15"))
    log = structlog.get_logger()
    with written_lines(clock) as lines:
        for seconds in (37, 27, 17):
            for symbol in ("AAPL", "MSFT"):
                text = f"the next minute begins in {seconds} s <object at 0x7f{seconds}ab>"
                log.warning("position_read_failed", symbol=symbol, error=text)
        await clock.advance(timedelta(seconds=61))
        log.warning("position_read_failed", symbol="AAPL", error=text)
    assert [(line["symbol"], line.get("repeated")) for line in lines] == [
        ("AAPL", None),
        ("MSFT", None),
        ("AAPL", 2),
    ]


async def test_library_line_of_an_outage_has_no_traceback_and_is_not_repeated() -> None:
    """A library's line keeps its first sentence; within a minute it is written once, a defect with its traceback each
    time."""
    clock = ManualClock(at("10:15"))
    repeats = RepeatLimit(clock)

    def record(error: BaseException) -> logging.LogRecord:
        return logging.LogRecord(
            "asyncio", logging.ERROR, "", 0, "task failed", None, (type(error), error, None)
        )

    first = record(DatabaseUnavailable("no route\nTraceback of the driver"))
    assert repeats.filter(first)
    assert (first.getMessage(), first.exc_info) == ("task failed: DatabaseUnavailable: no route", None)
    assert not repeats.filter(record(DatabaseUnavailable("no route\nTraceback of the driver")))
    await clock.advance(timedelta(seconds=61))
    assert repeats.filter(record(DatabaseUnavailable("no route")))
    assert all(repeats.filter(record(KeyError("x"))) for _ in range(2))
    driver = record(
        asyncpg.ConnectionDoesNotExistError("connection was closed\nby the server")
    )  # of its pool
    assert repeats.filter(driver)
    assert driver.exc_info is None
    assert driver.getMessage() == "task failed: ConnectionDoesNotExistError: connection was closed"
