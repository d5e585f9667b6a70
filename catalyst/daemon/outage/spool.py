"""The paper beside the desk: what is done while the database is away is written here, before and after it is done.

One line is one JSON object with a checksum over itself and the line before it, and is on the disk before `write`
returns. A death in the middle of a line leaves a torn tail, which is told from a line by its checksum.
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

log = structlog.get_logger()

_CHECKSUM_SEED: Final = "catalyst"  # what the first line's checksum begins with


class SpoolEntryKind(StrEnum):
    """What a line says."""

    LATCH = "latch"  # entries are over: name, reason, by
    LEAVE = "leave"  # a symbol is to be left: symbol, reason, by
    CANCEL = "cancel"  # an order is about to be cancelled: symbol, broker_id
    SELL = "sell"  # an order is about to be sent: the whole order
    PROTECT = "protect"  # a stop and a target are about to be sent: the whole order
    RESPONSE = "response"  # what the broker said to it: client_order_id, outcome, text
    PROOF = "proof"  # what the broker showed at the end


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One step. `facts` are JSON values: quantities and times as text."""

    at: datetime
    kind: SpoolEntryKind
    facts: Mapping[str, object]

    def text(self, name: str) -> str:
        return str(self.facts.get(name) or "")


@dataclass(frozen=True, slots=True)
class SpoolContents:
    """What a spool holds: `key` names it for good, `broken` are the lines no checksum vouches for."""

    key: str
    entries: tuple[SpoolEntry, ...]
    corrupt_lines: tuple[bytes, ...]


class Spool:
    """The file of one account in one state directory. Nothing is opened or made before the first line."""

    def __init__(self, folder: Path, account_name: str, fault_point: FaultPoint | None = None) -> None:
        self.path = folder / f"{account_name}.spool"
        self._fault_point = fault_point

    @property
    def pending(self) -> bool:
        """True while there is something the tables have not been told."""
        return self.path.exists()

    def write(self, kind: SpoolEntryKind, at: datetime, **facts: object) -> bool:
        """Put one line on the disk; false, and said aloud, when the disk will not have it."""
        reach(self._fault_point, f"WRITE spool {kind}", Moment.BEFORE)
        try:
            self._append_entry({"at": at.isoformat(), "kind": kind, **facts})
        except OSError as error:
            log.critical("spool_write_failed", step=kind, path=str(self.path), error=str(error))
            return False
        reach(self._fault_point, f"WRITE spool {kind}", Moment.AFTER)
        return True

    def read(self) -> SpoolContents:
        """Every line, in order. Raises OSError when the file is not there."""
        whole = self.path.read_bytes()
        before, lines, broken = _CHECKSUM_SEED, [], []
        for raw in whole.split(b"\n"):
            if not raw:
                continue
            line = _parse_entry(raw, before)
            if line is None:
                broken.append(raw)
                continue
            lines.append(line)
            before = _stored_checksum(raw)
        key = hashlib.sha256(whole.split(b"\n", 1)[0]).hexdigest()[:32]
        return SpoolContents(key, tuple(lines), tuple(broken))

    def archive(self, key: str) -> Path:
        """Put the file aside, under its name for good. The tables have it all."""
        kept = self.path.with_name(f"{self.path.stem}.{key}.imported")
        reach(self._fault_point, "WRITE spool archive", Moment.BEFORE)
        self.path.replace(kept)
        _sync_folder(self.path.parent)
        reach(self._fault_point, "WRITE spool archive", Moment.AFTER)
        return kept

    def _append_entry(self, facts: Mapping[str, object]) -> None:
        fresh = not self.path.exists()
        if fresh:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        before, torn = self._read_tail()
        body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        line = body[:-1] + b',"sum":"' + _checksum(before, body).encode() + b'"}\n'
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            rest = (b"\n" if torn else b"") + line
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        if fresh:
            _sync_folder(self.path.parent)

    def _read_tail(self) -> tuple[str, bool]:
        """The checksum the next line goes on from, and whether the last one was torn."""
        if not self.path.exists():
            return _CHECKSUM_SEED, False
        whole = self.path.read_bytes()
        before = _CHECKSUM_SEED
        for raw in whole.split(b"\n"):
            if raw and _parse_entry(raw, before) is not None:
                before = _stored_checksum(raw)
        return before, not whole.endswith(b"\n") and bool(whole)


def _parse_entry(raw: bytes, before: str) -> SpoolEntry | None:
    """The line, when its checksum says that it is whole and follows the one before it."""
    try:
        facts = orjson.loads(raw)
        if not isinstance(facts, dict):
            return None
        stored_sum = facts.pop("sum", None)
        body = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        if stored_sum != _checksum(before, body):
            return None
        return SpoolEntry(datetime.fromisoformat(facts.pop("at")), SpoolEntryKind(facts.pop("kind")), facts)
    except (ValueError, KeyError, TypeError):
        return None


def _checksum(before: str, body: bytes) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


def _stored_checksum(raw: bytes) -> str:
    return str(orjson.loads(raw)["sum"])


def _sync_folder(folder: Path) -> None:
    """A new name is only then on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
