"""Requests off the event loop, each with a bound, and each able to say whether it had left.

A request that fails before its first byte was handed to the kernel cannot have happened; one that fails after
it may have. `Attempt` draws that line, and also forbids a departure once nobody waits for it any more, so a
thread held up by a slow name server does not send an order half a minute after it was given up.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, TypeVar

from catalyst.broker.port import Priority
from catalyst.broker.rate_limit import RateBudget
from catalyst.broker.request import DEFAULT, Answer, Attempt, Bounds, Door, Params, Permit, Spoil, Verb
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerError, BrokerUnavailable, OutcomeUnknown
from catalyst.domain.fault_points import Moment, Witness, tell

if TYPE_CHECKING:
    from catalyst.broker.alpaca_session import Client

T = TypeVar("T")


_CLOSED: Final = "the broker's client is closed"


class Wire:
    """A door, its request budget, and the threads that carry requests there: one session a thread.

    Changes and reads have threads of their own, so that a broker that lets reads hang cannot delay an exit.
    """

    def __init__(
        self,
        clock: Clock,
        door: Door,
        budget: RateBudget,
        *,
        on_garbled: Spoil,
        bounds: Bounds = DEFAULT,
        threads: int = 4,
        witness: Witness | None = None,
    ) -> None:
        self.budget = budget
        self._clock = clock
        self._door = door
        self._on_garbled = on_garbled
        self._bounds = bounds
        self._witness = witness
        self._reads = ThreadPoolExecutor(threads, thread_name_prefix="broker-read")
        self._changes = ThreadPoolExecutor(threads, thread_name_prefix="broker-change")
        self._mine = threading.local()
        self._clients: list[Client] = []
        self._clients_lock = threading.Lock()

    async def read(
        self,
        path: str,
        params: Params | str | None,
        digest: Callable[[Answer, Spoil], T],
        *,
        version: str = "v2",
        priority: Priority = Priority.ROUTINE,
        bounds: Bounds | None = None,
    ) -> T:
        """GET `path` and return what `digest` makes of the answer, made in the worker thread."""
        await self.budget.take(priority)
        attempt = Attempt(bounds or self._bounds)
        return await self._carry(self._reads, attempt, "GET", version, path, params, digest)

    async def change(
        self,
        verb: Verb,
        path: str,
        body: Mapping[str, object] | None,
        digest: Callable[[Answer, Spoil], T],
        *,
        priority: Priority,
        permit: Permit | None = None,
    ) -> T:
        """Send one change, once. Raises OutcomeUnknown when it had left and no answer settled it.

        `permit` is asked when the request's turn has come, for that may be long after it was wanted.
        """
        await self.budget.take(priority)
        if permit is not None:
            try:
                await permit.ask()
            except BaseException:
                self.budget.heard(None)
                raise
        return await self._carry(self._changes, Attempt(self._bounds, permit), verb, "v2", path, body, digest)

    def close(self) -> None:
        """Drop what has not started, and every idle socket. A request on its way ends by its own bound."""
        for threads in (self._reads, self._changes):
            threads.shutdown(wait=False, cancel_futures=True)
        with self._clients_lock:
            for client in self._clients:
                client.close()

    async def _carry(
        self,
        threads: ThreadPoolExecutor,
        attempt: Attempt,
        verb: Verb,
        version: str,
        path: str,
        data: Mapping[str, object] | str | None,
        digest: Callable[[Answer, Spoil], T],
    ) -> T:
        spoiled: list[tuple[str, object]] = []
        step = f"{verb} {path}"

        def perform() -> T:
            return self._perform(attempt, verb, version, path, data, digest, spoiled)

        with self._clock.hold():
            tell(self._witness, step, Moment.BEFORE)
            try:
                running: Future[T] = threads.submit(perform)
            except RuntimeError as error:
                self.budget.heard(None)
                raise BrokerUnavailable(_CLOSED) from error
            waiting = asyncio.wrap_future(running)
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            try:
                await asyncio.wait({waiting}, timeout=attempt.bounds.total)
            except asyncio.CancelledError:
                attempt.abandon()
                self._hold_until_done(waiting)
                raise
        tell(self._witness, step, Moment.AFTER)
        if not waiting.done():
            never = attempt.abandon()
            if running.cancel():  # it had not started; else its thread books the end
                self.budget.heard(None)
            raise _silence(verb, path, f"no answer within {attempt.bounds.total:g} s", left=not never)
        if waiting.cancelled():  # it was waiting for a thread when the client was closed
            self.budget.heard(None)
            raise BrokerUnavailable(_CLOSED)
        for reason, raw in spoiled:
            self._on_garbled(reason, raw)
        return waiting.result()

    def _hold_until_done(self, waiting: "asyncio.Future[T]") -> None:
        """Keep the clock held for a request whose caller was cancelled: it is still an effect in flight."""
        held = ExitStack()
        held.enter_context(self._clock.hold())
        waiting.add_done_callback(lambda _: held.close())

    def _perform(
        self,
        attempt: Attempt,
        verb: Verb,
        version: str,
        path: str,
        data: Mapping[str, object] | str | None,
        digest: Callable[[Answer, Spoil], T],
        spoiled: list[tuple[str, object]],
    ) -> T:
        answer = None
        try:
            answer = self._client().ask(attempt, verb, version, path, data)
            return digest(answer, lambda reason, raw: spoiled.append((reason, raw)))
        except BrokerError:
            raise
        except Exception as error:  # whatever broke, the only question is whether the request had left
            raise _silence(verb, path, f"{type(error).__name__}: {error}", left=attempt.left) from error
        finally:
            self.budget.heard(answer)

    def _client(self) -> "Client":
        mine: Client | None = getattr(self._mine, "client", None)
        if mine is None:
            from catalyst.broker import (
                alpaca_session,  # alpaca-py: 0.2 s that nobody pays before the first call
            )

            mine = self._mine.client = alpaca_session.Client(self._door)
            with self._clients_lock:
                self._clients.append(mine)
        return mine


def _silence(verb: Verb, path: str, why: str, *, left: bool) -> BrokerError:
    """The error for a request without an answer: unknown when it may have changed something."""
    text = f"{verb} {path}: {why}"
    return OutcomeUnknown(text) if left and verb != "GET" else BrokerUnavailable(text)
