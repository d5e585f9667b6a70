"""run_on_signal: the loop of every component that waits for a change."""

import asyncio
from datetime import timedelta

import pytest

from catalyst.clock import ManualClock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import run_on_signal


async def test_loop_runs_step_after_change_or_pause(clock: ManualClock) -> None:
    """The pause is of the step's result; a change ends it; a change during a step is not lost; an error ends all."""
    signal = ChangeSignal()
    began = clock.now()
    steps: list[float] = []

    async def step() -> int:
        steps.append((clock.now() - began).total_seconds())
        if len(steps) == 3:
            signal.notify()  # during the step
        if len(steps) == 5:
            raise ValueError("the fifth")
        return len(steps) * 10

    loop = asyncio.create_task(run_on_signal(signal, clock, step, lambda seconds: timedelta(seconds=seconds)))
    await clock.advance(timedelta(seconds=9))
    assert steps == [0]
    await clock.advance(timedelta(seconds=3))
    assert steps == [0, 10]  # after the pause of the first result
    signal.notify()
    await clock.advance(timedelta(seconds=1))
    assert steps == [0, 10, 12, 12]  # at once after the change, and again after the one during the third step
    await clock.advance(timedelta(seconds=60))
    assert steps == [0, 10, 12, 12, 52]
    with pytest.raises(ValueError, match="the fifth"):
        await loop
