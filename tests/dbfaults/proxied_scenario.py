"""Test scenario whose daemon reaches its database through a proxy; the test itself connects directly."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

from catalyst.domain.errors import DatabaseUnavailable
from catalyst.domain.fault_points import Moment
from catalyst.domain.rows import OrderRow
from tests.crash.fault_point import CrashAt
from tests.dbfaults.postgres_proxy import PostgresProxy, open_proxy
from tests.dbfaults.short_timeouts import SilenceTimeouts
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario


class LoseCommitResponse(CrashAt):
    """Fault point that loses the response to the commit of a given transaction."""

    proxy: PostgresProxy
    label: str = ""
    nth: int = 0
    triggered: bool = False
    _action_label: str = ""
    _action: Callable[[], object] | None = None

    def __call__(self, step: str, moment: Moment, /) -> None:
        super().__call__(step, moment)
        if step == self._action_label and moment is Moment.BEFORE and self._action is not None:
            action, self._action = self._action, None
            action()
        if step == self.label and moment is Moment.BEFORE and not self.triggered:
            self.nth -= 1
            if self.nth == 0:
                self.triggered = True
                self.proxy.lose_commit_response()

    def run_before(self, label: str, action: Callable[[], object]) -> None:
        """Run `action` before the next transaction `label` begins."""
        self._action_label, self._action = label, action

    def lose_response(self, label: str, nth: int = 1) -> None:
        """Lose the commit response of the `nth` transaction `label` from now; the commit itself is applied."""
        self.label, self.nth, self.triggered = label, nth, False


@asynccontextmanager
async def open_proxied_scenario(
    dsn: str, *, now: datetime | None = None, **sections: Facts
) -> AsyncIterator[tuple[Scenario, PostgresProxy, LoseCommitResponse]]:
    """Open a scenario whose daemon runs behind a proxy; its time-outs are short while the proxy is silent."""
    async with open_proxy(dsn) as proxy, open_scenario(dsn, now=now, started=False, **sections) as scenario:
        timeouts = SilenceTimeouts()

        def shorten_timeouts() -> None:
            assert scenario.components is not None
            timeouts.begin(scenario.components.store)

        proxy.on_silence, proxy.on_resume = shorten_timeouts, timeouts.end
        commit_loss = LoseCommitResponse()
        commit_loss.proxy = proxy
        scenario.crash_trigger = commit_loss
        scenario.dsn = proxy.dsn
        await scenario.start()
        try:
            yield scenario, proxy, commit_loss
        finally:
            timeouts.end()


async def submit_entry(scenario: Scenario, symbol: str, qty: int, **levels: str) -> OrderRow | None:
    """Submit an entry as the scan does; return None during a database outage."""
    try:
        return await scenario.submit_entry(symbol, qty, **{**ENTRY, **levels})
    except DatabaseUnavailable:
        return None


async def assert_sent_once(scenario: Scenario) -> None:
    """Check that no client order id was accepted twice and no position exceeded 20 shares."""
    logs = await scenario.admin("logs")
    ids = [order["client_order_id"] for order in logs["orders"]]
    assert len(ids) == len(set(ids))
    assert all(Decimal(0) <= Decimal(e["position_qty"]) <= 20 for e in logs["executions"])


async def wait_for_entry_gate(scenario: Scenario, *, within: float = 120) -> None:
    """Wait until the entry gate is open; fail after `within` seconds of market time."""
    assert scenario.components is not None
    elapsed = 0.0
    while not scenario.components.gate.is_open:
        assert elapsed < within, f"entry gate still closed: {scenario.components.gate.reasons}"
        await scenario.advance(seconds=2)
        elapsed += 2
