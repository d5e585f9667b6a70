"""Cancel turn: lets one position after the other cancel its protective orders, so that few shares are unprotected."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

# A cancel takes less than a second. After this time the next position begins, whatever the broker does.
MAX_TURN: Final = timedelta(seconds=5)


@dataclass
class CancelTurn:
    """The position whose protective orders are cancelled now, and since when."""

    _position_id: int | None = None
    _since: datetime | None = None

    def acquire(self, position_id: int, now: datetime) -> bool:
        """Return true when the position has the turn; it gets a turn that is free or older than MAX_TURN."""
        if self._position_id == position_id:
            return True
        if self._position_id is not None and self._since is not None and now - self._since < MAX_TURN:
            return False
        self._position_id, self._since = position_id, now
        return True

    def release(self, position_id: int) -> None:
        """End the turn of the position, when it has it."""
        if self._position_id == position_id:
            self._position_id = self._since = None
