"""Log configuration: one event per line, as JSON or coloured text, with the market's time as `at`; secrets masked.

An outage is one line at its start and one a minute (`log_repeats`).
"""

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from catalyst.cli.log_repeats import RepeatLimit
from catalyst.cli.log_writer import LogWriter
from catalyst.clock import NEW_YORK, Clock
from catalyst.config.settings import Settings
from catalyst.domain.secret_mask import mask_value, may_contain_secret

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Mapping[str, Any] | str | bytes]

# Libraries that log every connection.
QUIET_LOGGERS: Final = ("apscheduler", "asyncio", "urllib3", "websockets", "aiohttp", "exchange_calendars")


def configure(settings: Settings, clock: Clock, stream: TextIO | None = None) -> None:
    """Write every event, ours and the libraries', as one line on `stream` (default: stdout) in the configured format.

    A stream that is full or that nobody reads never blocks the process: lines are dropped, and their number is logged.
    """
    stream = stream or sys.stdout
    out: Any = LogWriter(stream)
    level = logging.getLevelNamesMapping()[settings.config.log.level]
    form = settings.config.log.format
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    repeats = RepeatLimit(clock)
    own_processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        repeats,
    ]
    first_processors: list[Any] = [
        add_timestamp(clock, local=not as_json),
        structlog.processors.format_exc_info,  # before the mask: a traceback may quote a secret
        mask_event,
    ]
    last_processors: list[Any] = (
        [order_keys, to_json]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(
                pad_event_to=22, timestamp_key="at", exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*own_processors, *first_processors, *last_processors],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                *first_processors,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last_processors],
        )
    )
    handler.addFilter(repeats.filter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def add_timestamp(clock: Clock, *, local: bool) -> Processor:
    """Return a processor that adds `at`, the market's time: UTC for JSON, New York wall-clock time for text."""

    def add_at(_: Any, __: str, event: Event) -> Event:
        now = clock.now()
        event["at"] = (
            now.astimezone(NEW_YORK).strftime("%H:%M:%S") if local else now.isoformat(timespec="milliseconds")
        )
        return event

    return add_at


def mask_event(_: Any, __: str, event: Event) -> Event:
    """Replace each secret in every value of an event; the record of a library's event is dropped later."""
    texts = [value if isinstance(value, str) else str(value) for value in event.values()]
    if may_contain_secret("\n".join(texts)):
        for key, value in event.items():
            if not key.startswith("_"):
                event |= mask_value({key: value})
    return event


def order_keys(_: Any, __: str, event: Event) -> Mapping[str, Any]:
    """Put the time, the level and the event first, where a reader looks for them."""
    first = {name: event.pop(name) for name in ("at", "level", "event") if name in event}
    return first | dict(event)


def to_json(_: Any, __: str, event: Event) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
