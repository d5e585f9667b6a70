"""alpaca-py's REST client with the changes that orders need.

alpaca-py builds the URL, signs, serialises and sends. Added here: a timeout on every socket, no resend (its
loop repeats a POST after 429 and 504), no proxy or netrc from the environment, no redirect, and raw responses
whatever their status. The first request imports this module, in its own thread.
"""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from alpaca.common.rest import RESTClient
from requests.adapters import HTTPAdapter
from requests.exceptions import ReadTimeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from catalyst.broker.request import Endpoint, HttpResponse, RequestAttempt, Verb

CHUNK_BYTES: Final = 1 << 16
MAX_IDLE_S: Final = 20.0  # real seconds after which a kept connection may be dead


class _CurrentAttempt(threading.local):
    """The request attempt of this thread."""

    attempt: RequestAttempt | None = None


_current_attempt: Final = _CurrentAttempt()


class _PlainConnection(HTTPConnection):
    """A connection that marks the attempt as sent before the first byte of a request."""

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if _current_attempt.attempt is not None:
            _current_attempt.attempt.mark_sent()
        super().send(data)


class _TlsConnection(HTTPSConnection):
    """A TLS connection that marks the attempt as sent before the request, after the handshake."""

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if _current_attempt.attempt is not None:
            _current_attempt.attempt.mark_sent()
        super().send(data)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Opens the connections above. `max_retries` is 0, the default of requests."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}


class AlpacaSession(RESTClient):
    """The client of one thread: one session with a kept connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            base_url=endpoint.base_url, api_key=endpoint.key, secret_key=endpoint.secret, raw_data=True
        )
        self._user_agent = endpoint.user_agent
        self._retry = 0
        self._last_used = 0.0
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(pool_connections=1, pool_maxsize=1))

    def __repr__(self) -> str:
        return f"AlpacaSession({self._base_url!r})"

    def send(
        self,
        attempt: RequestAttempt,
        verb: Verb,
        version: str,
        path: str,
        data: Mapping[str, object] | str | None,
    ) -> HttpResponse:
        """Send one request once and return its response, whatever the status."""
        now = time.monotonic()  # noqa: TID251 - the age of a real socket
        # A request into a dead connection costs seconds of uncertainty; a handshake costs 50 ms.
        if now - self._last_used > MAX_IDLE_S:
            self._session.close()
        self._last_used = now
        _current_attempt.attempt = attempt
        try:
            sendable = dict(data) if isinstance(data, Mapping) else data
            return cast(HttpResponse, self._request(verb, path, sendable, api_version=version))
        finally:
            _current_attempt.attempt = None

    def close(self) -> None:
        self._session.close()

    def _get_default_headers(self) -> dict[str, str]:
        headers: dict[str, str] = super()._get_default_headers()
        headers["User-Agent"] = self._user_agent
        return headers

    def _one_request(  # type: ignore[override]  # the whole answer, not only a success's body
        self, method: str, url: str, opts: dict[str, Any], retry: int
    ) -> HttpResponse:
        del retry  # disables alpaca-py's own resending
        timeouts = (_current_attempt.attempt or RequestAttempt()).timeouts
        deadline = time.monotonic() + timeouts.total  # noqa: TID251 - bounds a real socket, not market time
        chunks = []
        with self._session.request(
            method, url, stream=True, timeout=(timeouts.connect, timeouts.read), **opts
        ) as response:
            for chunk in response.iter_content(CHUNK_BYTES):
                chunks.append(chunk)
                if time.monotonic() > deadline:  # noqa: TID251 - a peer that drips would hold the thread for ever
                    raise ReadTimeout(f"the response was not complete after {timeouts.total:g} s")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpResponse(response.status_code, b"".join(chunks), headers)
