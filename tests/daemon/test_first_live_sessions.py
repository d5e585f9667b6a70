"""First live sessions: half the size in the first five, an approval for each trade in the first."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.clock import ManualClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config, Mode
from catalyst.daemon.trading_day.first_live_sessions import FirstLiveSessions
from catalyst.pipeline.risk_inputs import limits_of
from catalyst.store import cycles
from catalyst.store.pool import Store


@pytest.mark.parametrize(
    ("mode", "completed", "factor", "first"),
    [
        (Mode.LIVE, 0, "0.5", True),
        (Mode.LIVE, 4, "0.5", False),
        (Mode.LIVE, 5, "1", False),
        (Mode.PAPER, 0, "1", False),
        (Mode.SIM, 0, "1", False),
    ],
)
async def test_first_live_sessions_trade_half_the_size(
    store: Store, clock: ManualClock, mode: Mode, completed: int, factor: str, first: bool
) -> None:
    """Completed days of the account count, and today's does not."""
    async with store.tx("days") as conn:
        for number in range(completed + 1):
            day = clock.now().date() - timedelta(days=number)
            cycle, _ = await cycles.open_day(
                conn, cycle_id=f"{day:%Y%m%d}-093000", day=day, mode="supervised", max_positions=5,
                max_daily_loss=Decimal(2000), scan_frequency=0, start_equity=None, config_hash="hash", at=clock.now(),
            )  # fmt: skip
            await conn.execute(
                "UPDATE trading_cycles SET status = 'completed', end_time = start_time WHERE cycle_id = $1",
                cycle.cycle_id,
            )
    sessions = FirstLiveSessions(store, clock, CurrentConfig(Config()), mode)
    assert (await sessions.size_factor(), await sessions.is_first()) == (Decimal(factor), first)
    limits = limits_of(Config(), size_factor=await sessions.size_factor())
    assert limits.size_factor == Decimal(factor)
