"""Stream client whose real-time limits begin when the test says so: until then a slow machine cannot lose it."""

from dataclasses import replace
from typing import Any

from websockets.asyncio.client import ClientConnection

from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import Clock
from tests.waiting import LIMIT_S

SHORT_S = 0.05  # a limit that the test wants to be reached


class UnhurriedStream(AlpacaTradeUpdates):
    """Stream of the product; it pings every 50 ms and waits for pongs and acknowledgements without a limit."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        limits: dict[str, Any] = {"ping_interval": SHORT_S, "pong_timeout": None, "open_timeout": LIMIT_S}
        super().__init__(clock, **{**limits, **options})
        self._unlimited = self._limits

    async def _log_in(self, connection: ClientConnection) -> Any:
        self._connection = connection
        return await super()._log_in(connection)

    def limit_pongs(self) -> None:
        """From now on a ping of this connection without a pong is a loss; for a server that answers none."""
        self._connection.ping_timeout = SHORT_S

    def limit_acknowledgements(self) -> None:
        """From now on a probe without an acknowledgement is over soon; for a server that gives none."""
        self._limits = replace(self._limits, pong_timeout=SHORT_S)

    def remove_limits(self) -> None:
        """Wait for acknowledgements without a limit again."""
        self._limits = self._unlimited
