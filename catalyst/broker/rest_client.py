"""REST client: runs requests in threads, each with a time limit, and records whether each was sent.

A request that fails before its first byte reached the kernel cannot have happened; one that fails later may
have. `RequestAttempt` draws that line. It also forbids sending once the caller has abandoned the request, so
a thread delayed by a slow name server does not send an order half a minute later.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from catalyst.broker.port import Priority
from catalyst.broker.rate_limit import RateLimiter
from catalyst.broker.request import (
    DEFAULT_TIMEOUTS,
    Endpoint,
    HttpResponse,
    OnMalformed,
    Params,
    Permit,
    RequestAttempt,
    Timeouts,
    Verb,
)
from catalyst.clock import Clock, real_seconds
from catalyst.domain.errors import BrokerError, BrokerUnavailable, OutcomeUnknown
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.domain.latency import Latency

if TYPE_CHECKING:
    from catalyst.broker.alpaca_session import AlpacaSession

T = TypeVar("T")


_CLIENT_CLOSED_TEXT: Final = "the broker's client is closed"


class RestClient:
    """An endpoint, its rate limit, and its threads with one session each.

    Changes and reads have separate threads, so that hanging reads cannot delay an exit. `latencies` has the real
    seconds of each request, by verb and first part of the path, those without a response included.
    """

    def __init__(
        self,
        clock: Clock,
        endpoint: Endpoint,
        rate_limiter: RateLimiter,
        *,
        on_malformed: OnMalformed,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        threads: int = 4,
        fault_point: FaultPoint | None = None,
    ) -> None:
        self.rate_limiter = rate_limiter
        self._clock = clock
        self._endpoint = endpoint
        self._on_malformed = on_malformed
        self._timeouts = timeouts
        self._fault_point = fault_point
        self._read_threads = ThreadPoolExecutor(threads, thread_name_prefix="broker-read")
        self._change_threads = ThreadPoolExecutor(threads, thread_name_prefix="broker-change")
        self._thread_local = threading.local()
        self._sessions: list[AlpacaSession] = []
        self._sessions_lock = threading.Lock()
        self.latencies: dict[tuple[str, str], Latency] = {}

    async def read(
        self,
        path: str,
        params: Params | str | None,
        parse_response: Callable[[HttpResponse, OnMalformed], T],
        *,
        version: str = "v2",
        priority: Priority = Priority.ROUTINE,
        timeouts: Timeouts | None = None,
    ) -> T:
        """GET `path` and return what `parse_response` makes of the response, in the worker thread."""
        await self.rate_limiter.acquire(priority)
        attempt = RequestAttempt(timeouts or self._timeouts)
        return await self._run_in_thread(
            self._read_threads, attempt, "GET", version, path, params, parse_response
        )

    async def change(
        self,
        verb: Verb,
        path: str,
        body: Mapping[str, object] | None,
        parse_response: Callable[[HttpResponse, OnMalformed], T],
        *,
        priority: Priority,
        permit: Permit | None = None,
    ) -> T:
        """Send one change, once. Raises OutcomeUnknown when it was sent and no response decided it.

        `permit` is checked when the request's turn has come, which may be long after the call.
        """
        await self.rate_limiter.acquire(priority)
        if permit is not None:
            try:
                await permit.check()
            except BaseException:  # the limiter counts a request that is not sent as ended
                self.rate_limiter.record_response(None)
                raise
        return await self._run_in_thread(
            self._change_threads,
            RequestAttempt(self._timeouts, permit),
            verb,
            "v2",
            path,
            body,
            parse_response,
        )

    def close(self) -> None:
        """Drop requests that have not started, and idle sockets. A request in flight ends by its own time
        limit."""
        for threads in (self._read_threads, self._change_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        with self._sessions_lock:
            for session in self._sessions:
                session.close()

    async def _run_in_thread(
        self,
        threads: ThreadPoolExecutor,
        attempt: RequestAttempt,
        verb: Verb,
        version: str,
        path: str,
        data: Mapping[str, object] | str | None,
        parse_response: Callable[[HttpResponse, OnMalformed], T],
    ) -> T:
        malformed: list[tuple[str, object]] = []
        step = f"{verb} {path}"
        started = real_seconds()

        def perform() -> T:
            return self._send_and_parse(attempt, verb, version, path, data, parse_response, malformed)

        with self._clock.hold():
            reach(self._fault_point, step, Moment.BEFORE)
            try:
                running: Future[T] = threads.submit(perform)
            except RuntimeError as error:
                self.rate_limiter.record_response(None)
                raise BrokerUnavailable(_CLIENT_CLOSED_TEXT) from error
            waiting = asyncio.wrap_future(running)
            waiting.add_done_callback(lambda future: future.cancelled() or future.exception())
            try:
                await asyncio.wait({waiting}, timeout=attempt.timeouts.total)
            except asyncio.CancelledError:
                attempt.abandon()
                self._hold_until_done(waiting)
                raise
        self._record_latency(verb, path, real_seconds() - started)
        reach(self._fault_point, step, Moment.AFTER)
        if not waiting.done():
            not_sent = attempt.abandon()
            if running.cancel():  # it had not started; otherwise its thread records the end
                self.rate_limiter.record_response(None)
            raise _no_response_error(
                verb, path, f"no response within {attempt.timeouts.total:g} s", sent=not not_sent
            )
        if waiting.cancelled():  # it waited for a thread when the client was closed
            self.rate_limiter.record_response(None)
            raise BrokerUnavailable(_CLIENT_CLOSED_TEXT)
        for reason, raw in malformed:
            self._on_malformed(reason, raw)
        return waiting.result()

    def _record_latency(self, verb: Verb, path: str, seconds: float) -> None:
        # "/orders/ID", "/orders:by_client_order_id" and "/orders" are one resource: few, whatever the day trades.
        resource = path.lstrip("/").split("/", 1)[0].split(":", 1)[0]
        latency = self.latencies.get((verb, resource))
        if latency is None:
            latency = self.latencies[verb, resource] = Latency()
        latency.record(seconds)

    def _hold_until_done(self, waiting: "asyncio.Future[T]") -> None:
        """Keep the clock held for a request whose caller was cancelled: it is still in flight."""
        held = ExitStack()
        held.enter_context(self._clock.hold())
        waiting.add_done_callback(lambda _: held.close())

    def _send_and_parse(
        self,
        attempt: RequestAttempt,
        verb: Verb,
        version: str,
        path: str,
        data: Mapping[str, object] | str | None,
        parse_response: Callable[[HttpResponse, OnMalformed], T],
        malformed: list[tuple[str, object]],
    ) -> T:
        response = None
        try:
            response = self._thread_session().send(attempt, verb, version, path, data)
            return parse_response(response, lambda reason, raw: malformed.append((reason, raw)))
        except BrokerError:
            raise
        except Exception as error:  # for any error it matters only whether the request was sent
            raise _no_response_error(verb, path, _describe(error), sent=attempt.sent) from error
        finally:
            self.rate_limiter.record_response(response)

    def _thread_session(self) -> "AlpacaSession":
        session: AlpacaSession | None = getattr(self._thread_local, "session", None)
        if session is None:
            # Importing alpaca-py takes 0.2 s: only the first request needs it.
            from catalyst.broker import alpaca_session

            session = self._thread_local.session = alpaca_session.AlpacaSession(self._endpoint)
            with self._sessions_lock:
                self._sessions.append(session)
        return session


def _describe(error: BaseException) -> str:
    """Return the first cause of a failed request in a few words; requests wraps it in pools, URLs and addresses."""
    if not isinstance(error, OSError):  # no error of the network: requests derives its own from OSError
        return f"{type(error).__name__}: {error}"
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _no_response_error(verb: Verb, path: str, reason: str, *, sent: bool) -> BrokerError:
    """Return the error for a request without a response: unknown when it may have changed something."""
    text = f"{verb} {path}: {reason}"
    return OutcomeUnknown(text) if sent and verb != "GET" else BrokerUnavailable(text)
