"""Proofs of being flat, as files: what a person can still read when every database is gone.

One JSON file a proof, written whole and on the disk before `write` returns, and never changed afterwards. It also
carries the journal's last hash, out of reach of whoever can rewrite the database.
"""

import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson
import structlog

from catalyst.domain.fault_points import FaultPoint, Moment, reach

log = structlog.get_logger()

WRITE_EFFECT: Final = "WRITE proof"


@dataclass
class FlatProofFiles:
    """The folder of one account. `head` is the journal's last hash that is known, for when it cannot be asked."""

    folder: Path
    account_id: str
    journal_head: Mapping[str, object] | None = None
    fault_point: FaultPoint | None = None

    def write(self, at: datetime, facts: Mapping[str, object]) -> Path | None:
        """Put one proof on the disk; None, and said aloud, when the disk will not have it."""
        path = self.folder / f"{self.account_id}.{at:%Y%m%dT%H%M%S.%f}Z.json"
        whole = {"account_id": self.account_id, "at": at.isoformat(), **facts}
        reach(self.fault_point, WRITE_EFFECT, Moment.BEFORE)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part")
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                rest = orjson.dumps(
                    whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str
                )
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
            finally:
                os.close(file)
            unfinished.replace(path)
            _fsync_folder(self.folder)
        except OSError as error:
            log.critical("proof_write_failed", path=str(path), error=str(error))
            return None
        reach(self.fault_point, WRITE_EFFECT, Moment.AFTER)
        return path


def journal_head_of(facts: Mapping[str, object], origin: str | None) -> Mapping[str, object] | None:
    """The journal's head that a proof wrote down, when it was of the journal that began with `origin`."""
    head = facts.get("journal")
    return head if isinstance(head, dict) and origin is not None and head.get("origin") == origin else None


def read_flat_proofs(folder: Path, account_id: str) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Every proof of an account, the oldest first; what is no JSON object comes as an empty one."""
    for path in sorted(folder.glob(f"{glob.escape(account_id)}.*.json")):
        try:
            facts = orjson.loads(path.read_bytes())
        except (OSError, ValueError):
            facts = None
        yield path, facts if isinstance(facts, dict) else {}


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
