"""Cancel throttle: how often the cancel of one order may be requested."""

from datetime import UTC, datetime, timedelta

from catalyst.daemon.orders.cancel_throttle import CancelThrottle

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)


def test_cancel_is_allowed_again_after_the_interval() -> None:
    """Each order gets one request per three seconds; a refused attempt does not extend the pause."""
    throttle = CancelThrottle[int](timedelta(seconds=3))
    allowed = [
        (order_id, second)
        for second in range(8)
        for order_id in (1, 2)
        if (order_id == 1 or second >= 2) and throttle.acquire(order_id, NOW + timedelta(seconds=second))
    ]
    assert allowed == [(1, 0), (2, 2), (1, 3), (2, 5), (1, 6)]
