"""Scan failures: says why nobody scans. A refusal that no retry changes closes the entry gate and raises an alert."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import AuthRefused
from catalyst.domain.session import NEW_YORK
from catalyst.store import alerts
from catalyst.store.pool import Store

log = structlog.get_logger()

MARKET_DATA: Final = "market_data"  # reason of the entry gate while the broker refuses our feed


@dataclass
class ScanFailures:
    """The failure of the last scan; none after a scan that succeeded."""

    store: Store
    gate: EntryGate
    current_day: CurrentDay
    clock: Clock
    config: CurrentConfig

    async def record(self, error: Exception) -> None:
        """Record that this scan, or its preparation, judged no symbol."""
        at = f"{self.clock.now().astimezone(NEW_YORK):%H:%M}"
        text = str(error) or type(error).__name__
        log.warning("scan_failed", error=text)
        self.current_day.set_scan_failure(f"scanning failed at {at} New York, no symbol was judged: {text}")
        if isinstance(error, AuthRefused):
            await self._refuse_market_data(error)

    def clear(self) -> None:
        """Record that a scan succeeded."""
        self.gate.reopen(MARKET_DATA)
        self.current_day.set_scan_failure(None)

    async def _refuse_market_data(self, error: AuthRefused) -> None:
        """Close the entry gate and alert: the keys or the data plan do not allow the feed."""
        feed = self.config.in_force.broker.feed
        why = f"the broker refuses market data of the feed {feed}: {error}"
        self.gate.close(MARKET_DATA, why)
        async with self.store.tx("market_data_refused") as conn:
            await alerts.raise_alert(
                conn,
                "MARKET_DATA_REFUSED",
                f"{why}; nobody scans: set broker.feed to a feed of your data plan, or correct the keys",
                subject=feed,
                facts={"feed": feed},
                at=self.clock.now(),
                window=timedelta(days=1),
            )
