"""A trading desk whose daemon reaches its database through a proxy; the test itself looks past it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

from catalyst.domain.fault_points import Moment
from catalyst.store.orders import OrderRow
from catalyst.store.pool import is_outage
from tests.crash.fault_point import CrashAt
from tests.dbfaults.postgres_proxy import PostgresProxy, open_proxy
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario


class LoseCommitResponse(CrashAt):
    """A witness that lets the answer to a step's COMMIT be lost."""

    proxy: PostgresProxy
    label: str = ""
    nth: int = 0
    triggered: bool = False
    _action_label: str = ""
    _action: Callable[[], object] | None = None

    def __call__(self, step: str, moment: Moment, /) -> None:
        super().__call__(step, moment)
        if step == self._action_label and moment is Moment.BEFORE and self._action is not None:
            do, self._action = self._action, None
            do()
        if step == self.label and moment is Moment.BEFORE and not self.triggered:
            self.nth -= 1
            if self.nth == 0:
                self.triggered = True
                self.proxy.lose_commit_response()

    def run_before(self, label: str, action: Callable[[], object]) -> None:
        """Do this as the next transaction `label` is about to begin."""
        self._action_label, self._action = label, action

    def lose_response(self, label: str, nth: int = 1) -> None:
        """The `nth` transaction `label` from now on is applied, and its answer lost."""
        self.label, self.nth, self.triggered = label, nth, False


@asynccontextmanager
async def open_proxied_scenario(
    dsn: str, *, now: datetime | None = None, **sections: Facts
) -> AsyncIterator[tuple[Scenario, PostgresProxy, LoseCommitResponse]]:
    """The desk of the stories, its daemon running behind a proxy."""
    async with open_proxy(dsn) as proxy, open_scenario(dsn, now=now, started=False, **sections) as scenario:
        commit_loss = LoseCommitResponse()
        commit_loss.proxy = proxy
        scenario.crash_trigger = commit_loss
        scenario.dsn = proxy.dsn
        await scenario.start()
        yield scenario, proxy, commit_loss


async def submit_entry(scenario: Scenario, symbol: str, qty: int, **levels: str) -> OrderRow | None:
    """Send an entry as a scan would, which takes a database that is away for what it is: no entry."""
    try:
        return await scenario.submit_entry(symbol, qty, **{**ENTRY, **levels})
    except Exception as error:
        if not is_outage(error):
            raise
    return None


async def assert_sent_once(scenario: Scenario) -> None:
    """No client order id was accepted twice, and no signal bought twice."""
    ledger = await scenario.admin("logs")
    ids = [order["client_order_id"] for order in ledger["orders"]]
    assert len(ids) == len(set(ids))
    assert all(Decimal(0) <= Decimal(e["position_qty"]) <= 20 for e in ledger["executions"])


async def wait_for_entry_gate(scenario: Scenario, *, within: float = 120) -> None:
    """Entries are possible again within `within` seconds of market time."""
    assert scenario.components is not None
    waited = 0.0
    while not scenario.components.gate.is_open:
        assert waited < within, f"still shut: {scenario.components.gate.reasons}"
        await scenario.advance(seconds=2)
        waited += 2
