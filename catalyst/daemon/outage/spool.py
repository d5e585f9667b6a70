"""Spool: a write-ahead file of the actions during a database outage, written before and after each action.

Each line is a JSON object with a checksum over itself and the checksum of the line before; `write` returns after its
fsync. A crash in the middle of a line leaves a torn tail, which its checksum reveals.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson
import structlog

from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.domain.secret_mask import mask_value
from catalyst.file_owner import give_to_folder_owner

log = structlog.get_logger()

_CHECKSUM_SEED: Final = "catalyst"  # stands for the checksum before the first line


class SpoolEntryKind(StrEnum):
    """Kind of a spool entry. The comments give its meaning and its facts."""

    LATCH = "latch"  # the entry gate is closed by a latch: name, reason, by, until
    EXIT_BEGIN = "exit_begin"  # the exit of a symbol begins: symbol, reason, by, purpose
    CANCEL = "cancel"  # an order is about to be cancelled: symbol, broker_id
    EXIT_ORDER = "exit_order"  # an exit order is about to be sent: the whole order
    PROTECT = "protect"  # a stop and a target are about to be sent: the whole order
    RESPONSE = "response"  # the broker's response to an order: client_order_id, outcome, text
    PROOF = "proof"  # the orders and positions that the broker showed at the end


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One entry, with UTC time. `facts` are JSON values: quantities and times as text."""

    at: datetime
    kind: SpoolEntryKind
    facts: Mapping[str, object]

    def text(self, name: str) -> str:
        """Return a fact as text; empty when it is missing."""
        return str(self.facts.get(name) or "")


@dataclass(frozen=True, slots=True)
class SpoolContents:
    """The content of a spool. `key`: its permanent name, a hash of its first line. `damaged_entries`: lines whose
    checksum is wrong or missing."""

    key: str
    entries: tuple[SpoolEntry, ...]
    damaged_entries: tuple[bytes, ...]


class Spool:
    """The spool file of one account in one state directory. The first write creates it."""

    def __init__(self, folder: Path, account_name: str, fault_point: FaultPoint | None = None) -> None:
        self.path = folder / f"{account_name}.spool"
        self._fault_point = fault_point

    @property
    def pending(self) -> bool:
        """True while the spool waits for its import."""
        return self.path.exists()

    def write(self, kind: SpoolEntryKind, at: datetime, **facts: object) -> bool:
        """Append one entry and fsync it; log the error and return false when the disk refuses it."""
        reach(self._fault_point, f"WRITE spool {kind}", Moment.BEFORE)
        try:
            self._append_entry({"at": at.isoformat(), "kind": kind, **facts})
        except OSError as error:
            log.critical("spool_write_failed", step=kind, path=str(self.path), error=str(error))
            return False
        reach(self._fault_point, f"WRITE spool {kind}", Moment.AFTER)
        return True

    def read(self) -> SpoolContents:
        """Return all entries in order. Raises OSError when the file does not exist."""
        data = self.path.read_bytes()
        previous_sum, entries, damaged_entries = _CHECKSUM_SEED, [], []
        for line in data.split(b"\n"):
            if not line:
                continue
            entry = _parse_entry(line, previous_sum)
            if entry is None:
                damaged_entries.append(line)
                continue
            entries.append(entry)
            previous_sum = _stored_checksum(line)
        key = hashlib.sha256(data.split(b"\n", 1)[0]).hexdigest()[:32]
        return SpoolContents(key, tuple(entries), tuple(damaged_entries))

    def archive(self, key: str) -> Path:
        """Rename the imported file to its permanent name and return the new path."""
        archive_path = self.path.with_name(f"{self.path.stem}.{key}.imported")
        reach(self._fault_point, "WRITE spool archive", Moment.BEFORE)
        self.path.replace(archive_path)
        _sync_folder(self.path.parent)
        reach(self._fault_point, "WRITE spool archive", Moment.AFTER)
        return archive_path

    def _append_entry(self, facts: Mapping[str, object]) -> None:
        is_new = not self.path.exists()
        if is_new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        previous_sum, is_torn = self._read_tail()
        body = orjson.dumps(mask_value(facts), option=orjson.OPT_SORT_KEYS)
        line = body[:-1] + b',"sum":"' + _checksum(previous_sum, body).encode() + b'"}\n'
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            give_to_folder_owner(fd, self.path.parent)
            unwritten = (b"\n" if is_torn else b"") + line
            while unwritten:
                unwritten = unwritten[os.write(fd, unwritten) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        if is_new:
            _sync_folder(self.path.parent)

    def _read_tail(self) -> tuple[str, bool]:
        """Return the checksum before the next line, and whether the last line is torn."""
        if not self.path.exists():
            return _CHECKSUM_SEED, False
        data = self.path.read_bytes()
        previous_sum = _CHECKSUM_SEED
        for line in data.split(b"\n"):
            if line and _parse_entry(line, previous_sum) is not None:
                previous_sum = _stored_checksum(line)
        return previous_sum, not data.endswith(b"\n") and bool(data)


def _parse_entry(line: bytes, previous_sum: str) -> SpoolEntry | None:
    """Return the entry of a line; None when its checksum does not match it and the line before."""
    try:
        facts = orjson.loads(line)
        if not isinstance(facts, dict):
            return None
        stored_sum = facts.pop("sum", None)
        body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        if stored_sum != _checksum(previous_sum, body):
            return None
        return SpoolEntry(datetime.fromisoformat(facts.pop("at")), SpoolEntryKind(facts.pop("kind")), facts)
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(previous_sum: str, body: bytes) -> str:
    return hashlib.sha256(previous_sum.encode() + body).hexdigest()


def _stored_checksum(line: bytes) -> str:
    return str(orjson.loads(line)["sum"])


def _sync_folder(folder: Path) -> None:
    """Fsync the folder: a new file name is durable only after that."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
