"""A defect of the monitoring is no reason to stop trading."""

from datetime import timedelta

import pytest

from catalyst.clock import ManualClock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.trading_state.entry_gate import SAFE_MODE, EntryGate
from tests.monitoring.sample_reading import NOW


@pytest.mark.parametrize(("loop", "enters_safe_mode"), [("monitoring", False), ("exits", True)])
async def test_failed_monitoring_is_restarted_and_stops_no_entries(loop: str, enters_safe_mode: bool) -> None:
    """Any loop runs again after a defect; only one that trades enters SAFE mode."""
    clock, starts = ManualClock(NOW), 0
    gate = EntryGate(clock, reasons={})

    async def fail() -> None:
        nonlocal starts
        starts += 1
        raise ValueError("a defect")

    async with Supervisor(gate, clock, ChangeSignal()).running({loop: fail}):
        await clock.advance(timedelta(seconds=3))
    assert starts == 2
    assert (SAFE_MODE in gate.reasons) is enters_safe_mode
