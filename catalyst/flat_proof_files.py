"""Flat proofs as files, which a person can read even when the database is lost.

Each proof is one JSON file. It is complete and fsynced when `write` returns, and never changed afterwards. It also
holds the journal's last hash, so that a rewritten database is detected.
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
from catalyst.domain.secret_mask import mask_value
from catalyst.file_owner import give_to_folder_owner

log = structlog.get_logger()

WRITE_EFFECT: Final = "WRITE proof"


@dataclass
class FlatProofFiles:
    """The flat proofs of one account. `journal_head` caches the journal's last hash for a database outage."""

    folder: Path
    account_id: str
    journal_head: Mapping[str, object] | None = None
    fault_point: FaultPoint | None = None

    def cache_journal_head(self, head: Mapping[str, object]) -> None:
        """Store the journal's last hash for a proof during a database outage."""
        self.journal_head = head

    def write(self, at: datetime, facts: Mapping[str, object]) -> Path | None:
        """Write one proof and return its path; on a disk error log it and return None."""
        path = self.folder / f"{self.account_id}.{at:%Y%m%dT%H%M%S.%f}Z.json"
        proof = mask_value({"account_id": self.account_id, "at": at.isoformat(), **facts})
        reach(self.fault_point, WRITE_EFFECT, Moment.BEFORE)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part_path = path.with_suffix(".part")
            file = os.open(part_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                give_to_folder_owner(file, self.folder)
                remaining = orjson.dumps(
                    proof, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str
                )
                while remaining:
                    remaining = remaining[os.write(file, remaining) :]
                os.fsync(file)
            finally:
                os.close(file)
            part_path.replace(path)
            _fsync_folder(self.folder)
        except OSError as error:
            log.critical("proof_write_failed", path=str(path), error=str(error))
            return None
        reach(self.fault_point, WRITE_EFFECT, Moment.AFTER)
        return path


def journal_head_of(facts: Mapping[str, object], origin: str | None) -> Mapping[str, object] | None:
    """Return the journal head stored in a proof; None when the proof belongs to a journal with another origin."""
    head = facts.get("journal")
    return head if isinstance(head, dict) and origin is not None and head.get("origin") == origin else None


def written_at(facts: Mapping[str, object]) -> datetime | None:
    """Return when a proof was written; None when it does not say."""
    try:
        return datetime.fromisoformat(str(facts.get("at")))
    except ValueError:
        return None


def read_flat_proofs(folder: Path, account_id: str) -> Iterator[tuple[Path, Mapping[str, object]]]:
    """Yield path and content of every proof of an account, oldest first; an unreadable proof gives an empty mapping."""
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
