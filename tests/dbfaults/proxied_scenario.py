"""A trading desk whose daemon reaches its database through a proxy; the test itself looks past it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal

from catalyst.domain.fault_points import Moment
from catalyst.store.orders import OrderRow
from catalyst.store.pool import is_outage
from tests.crash.fault_point import Fate
from tests.dbfaults.postgres_proxy import Between, between
from tests.stories.scenario import ENTRY, Desk, Facts, open_desk


class Losing(Fate):
    """A witness that lets the answer to a step's COMMIT be lost."""

    proxy: Between
    label: str = ""
    nth: int = 0
    struck: bool = False
    _then: str = ""
    _do: Callable[[], object] | None = None

    def __call__(self, step: str, moment: Moment, /) -> None:
        super().__call__(step, moment)
        if step == self._then and moment is Moment.BEFORE and self._do is not None:
            do, self._do = self._do, None
            do()
        if step == self.label and moment is Moment.BEFORE and not self.struck:
            self.nth -= 1
            if self.nth == 0:
                self.struck = True
                self.proxy.loses_commit()

    def then(self, label: str, do: Callable[[], object]) -> None:
        """Do this as the next transaction `label` is about to begin."""
        self._then, self._do = label, do

    def loses(self, label: str, nth: int = 1) -> None:
        """The `nth` transaction `label` from now on is applied, and its answer lost."""
        self.label, self.nth, self.struck = label, nth, False


@asynccontextmanager
async def open_desk_behind(
    dsn: str, *, now: datetime | None = None, **sections: Facts
) -> AsyncIterator[tuple[Desk, Between, Losing]]:
    """The desk of the stories, its daemon running behind a proxy."""
    async with between(dsn) as proxy, open_desk(dsn, now=now, opened=False, **sections) as desk:
        fate = Losing()
        fate.proxy = proxy
        desk.fate = fate
        desk.dsn = proxy.dsn
        await desk.opens()
        yield desk, proxy, fate


async def enters(desk: Desk, symbol: str, qty: int, **levels: str) -> OrderRow | None:
    """Send an entry as a scan would, which takes a database that is away for what it is: no entry."""
    try:
        return await desk.enters(symbol, qty, **{**ENTRY, **levels})
    except Exception as error:
        if not is_outage(error):
            raise
    return None


async def sent_once(desk: Desk) -> None:
    """No client order id was accepted twice, and no signal bought twice."""
    ledger = await desk.admin("ledger")
    ids = [order["client_order_id"] for order in ledger["orders"]]
    assert len(ids) == len(set(ids))
    assert all(Decimal(0) <= Decimal(e["position_qty"]) <= 20 for e in ledger["executions"])


async def gate_opens(desk: Desk, *, within: float = 120) -> None:
    """Entries are possible again within `within` seconds of market time."""
    assert desk.parts is not None
    waited = 0.0
    while not desk.parts.gate.open:
        assert waited < within, f"still shut: {desk.parts.gate.reasons}"
        await desk.waits(seconds=2)
        waited += 2
