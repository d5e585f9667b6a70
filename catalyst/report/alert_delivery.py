"""Delivery of alerts in words: what `catalyst status` and the doctor say about it."""

from collections.abc import Iterator
from typing import Final

from catalyst.domain.session import NEW_YORK
from catalyst.report.formatting import new_york_time
from catalyst.store.alert_channels import DeliveryState

NOBODY: Final = "nobody receives them: docs/alerts.md says how, `catalyst test-alert` tries it"


def describe_delivery(state: DeliveryState) -> str:
    """Describe in one sentence who receives alerts, the last delivery and what waits."""
    if not state.channels:
        return NOBODY
    last = state.last_delivered_at
    parts = [
        "none delivered yet"
        if last is None
        else f"last delivered {last.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York"
    ]
    if state.oldest_waiting_at is not None:
        parts.append(f"{state.waiting} waiting since {new_york_time(state.oldest_waiting_at)}")
    return f"by {', '.join(each.channel for each in state.channels)}; {', '.join(parts)}"


def delivery_problems(state: DeliveryState) -> Iterator[str]:
    """Yield a sentence for each channel that fails, with its last error."""
    for each in state.channels:
        if each.failing_since is not None:
            yield f"alert channel {each.channel} fails since {new_york_time(each.failing_since)}: {each.last_error}"
