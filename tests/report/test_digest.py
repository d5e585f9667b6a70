"""The digest of a day is the text that docs/alerts.md shows."""

import re
from datetime import timedelta
from pathlib import Path

from report.traded_day import CYCLE, OPEN, write_day

from catalyst.domain.cycle import CycleStatus
from catalyst.report.digest import digest_text, read_digest
from catalyst.store import cycles, flat_proofs
from catalyst.store.pool import Store

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
HASH = re.compile(r"hash [0-9a-f]{64}")


async def test_digest_is_the_text_of_the_page(store: Store) -> None:
    """Figures, proofs, issues, alerts, the journal's last hash and every trade of the day."""
    await write_day(store)
    at = OPEN.replace(hour=20, minute=2)
    async with store.tx("close") as conn:
        await cycles.advance(
            conn, CYCLE, from_status=CycleStatus.SCANNING, to_status=CycleStatus.CLOSED, at=at
        )
        for cause, before, left in (
            ("flatten", timedelta(minutes=11), "2 positions are open"),
            ("end of day", timedelta(minutes=2), "1 position is open"),
        ):
            await flat_proofs.put_flat_proof(
                conn, cycle_id=CYCLE, at=at - before, requested_by="schedule", cause=cause, flat=False, broker_orders=1,
                broker_positions=1, stored_orders=1, stored_positions=1, facts={"unproven_reason": left},
            )  # fmt: skip
        cycle = await cycles.get(conn, CYCLE)
        assert cycle is not None
        text = digest_text(await read_digest(conn, cycle, at))
    assert HASH.search(text)
    shown = HASH.sub("hash …", text)
    assert f"```text\n{shown}\n```" in PAGE.read_text(), shown
