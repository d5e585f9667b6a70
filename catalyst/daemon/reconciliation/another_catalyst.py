"""Another Catalyst on the account: forbids entries while there is evidence of one, and alerts once.

Evidence is an order with a Catalyst's id of another installation that works, or was changed within QUIET_TIME; or a
stream that the broker refuses because of another connection. The other's orders are external: they are stored, never
cancelled. Its shares are orphan shares here: in a symbol with an order of the other, none is sent for unexplained
shares until a person resumes after that order has ended, because the other protects or exits them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.ids import installation_of, is_of_another_catalyst
from catalyst.domain.report import OrderReport, is_working_report
from catalyst.domain.rows import OrderRow
from catalyst.store import alerts, ownership
from catalyst.store.pool import Store

log = structlog.get_logger()

GATE_REASON: Final = "another_catalyst"
# The other may be between two of its steps, such as a cancelled stop and its exit.
QUIET_TIME: Final = timedelta(minutes=5)
ALERT_WINDOW: Final = timedelta(days=1)
ORDER_WINDOW: Final = timedelta(days=14)  # older orders tell nothing of today's shares


@dataclass
class AnotherCatalyst:
    """Watches for another Catalyst. `installation` is ours."""

    store: Store
    gate: EntryGate
    clock: Clock
    installation: str
    _orders: str | None = None  # evidence by orders, as text
    _stream: str | None = None  # evidence by the stream, as text
    _alerted: set[str] = field(default_factory=set)
    _rows_loaded: bool = False  # the symbols of the other's stored orders, also those of a previous run

    async def watch_orders(
        self, reports: Sequence[OrderReport], rows: Iterable[OrderRow], *, complete: bool
    ) -> None:
        """Look for another's orders among `reports`; `rows` are the rows of these orders.

        Only a `complete` list, with the orders of earlier days that still work, ends the evidence.
        """
        own_ids = {row.client_order_id for row in rows if row.origin != "external"}
        now = self.clock.now()
        others = [
            report
            for report in reports
            if report.client_order_id not in own_ids  # an id of before has no installation
            and is_of_another_catalyst(report.client_order_id, self.installation)
            and any(_is_recent(order, now) for order in (report, *report.legs))
        ]
        if not others and not complete and self._rows_loaded:
            return
        symbols, known = {report.symbol for report in others}, self.gate.symbols
        if not self._rows_loaded or (complete and known.symbols(SymbolReason.ANOTHER_CATALYST)):
            async with self.store.read() as conn:
                symbols |= await ownership.symbols_of_another_catalyst(
                    conn, self.installation, since=now - ORDER_WINDOW, undecided=True
                )
            self._rows_loaded = True
        if not complete:
            symbols |= known.symbols(SymbolReason.ANOTHER_CATALYST)
        known.set_symbols(SymbolReason.ANOTHER_CATALYST, symbols)
        installations = sorted({installation_of(report.client_order_id) for report in others})
        self._orders = f"orders of installation {', '.join(installations)}" if others else None
        await self._apply()

    async def watch_stream(self, refusal: str | None) -> None:
        """Take the stream's refusal because of another connection as evidence; None ends it."""
        if refusal == self._stream:
            return
        self._stream = refusal
        await self._apply()

    async def _apply(self) -> None:
        """Close or reopen the entry gate; log and alert new evidence."""
        evidence = "; ".join(text for text in (self._orders, self._stream) if text is not None)
        if not evidence:
            self.gate.reopen(GATE_REASON)
            return
        self.gate.close(GATE_REASON, f"another Catalyst trades this account ({evidence})")
        if evidence in self._alerted:
            return
        log.critical("another_catalyst_found", evidence=evidence, installation=self.installation)
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                "ANOTHER_CATALYST",
                f"another Catalyst trades this account ({evidence}; this one is installation {self.installation}): no"
                " entries here, and its orders and shares are left to it. Stop one of the two. If the other no longer"
                f" runs, cancel its orders at the broker, wait {QUIET_TIME.seconds // 60} minutes and run"
                " `catalyst resume`: then its shares are treated as reconcile.orphans says",
                facts={"installation": self.installation, "evidence": evidence},
                at=self.clock.now(),
                window=ALERT_WINDOW,
            )
        self._alerted.add(evidence)


def _is_recent(order: OrderReport, now: datetime) -> bool:
    """Return true when the order works, or was changed within QUIET_TIME."""
    changed_at = order.updated_at or order.submitted_at
    return is_working_report(order) or (changed_at is not None and now - changed_at < QUIET_TIME)
