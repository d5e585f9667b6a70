"""Entry gate: the text of a failed invariant."""

from catalyst.clock import ManualClock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.supervisor import Supervisor
from catalyst.daemon.trading_state.entry_gate import MAX_REASON_CHARS, SAFE_MODE, EntryGate
from catalyst.domain.invariants import Invariant


async def test_safe_mode_reason_is_bounded_when_the_error_text_is_long(clock: ManualClock) -> None:
    """A loop that fails with a megabyte of text enters SAFE mode; the reason has the loop, the error and the
    beginning of the text."""
    gate = EntryGate(clock, reasons={})

    async def fail() -> None:
        raise ValueError("x" * 1_000_000)

    async with Supervisor(gate, clock, ChangeSignal()).running({"exits": fail}):
        await clock.wait_until_quiet()
    reason = gate.failed_invariants[Invariant.I23]
    assert reason.startswith("loop exits failed and was restarted: ValueError: xxx")
    assert len(reason) == MAX_REASON_CHARS
    assert len(gate.reasons[SAFE_MODE]) < MAX_REASON_CHARS + 100
