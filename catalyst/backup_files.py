"""Backups as files: their names, the day of each, and which of them are old enough to be deleted.

A backup is named `catalyst-20261130T060000Z.dump`, with `.age` or `.gpg` behind it when it is encrypted. A backup with
another name before the time (`pre-upgrade-...`) is never deleted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DAILY: Final = "catalyst"  # the name of the backups that are deleted when they are old
_NAME: Final = re.compile(r"(?P<label>[a-z0-9-]+)-(?P<at>\d{8}T\d{6}Z)\.dump(?:\.age|\.gpg)?")
_TIME: Final = "%Y%m%dT%H%M%SZ"
LABEL: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One finished backup. `at` is the UTC time when it was begun."""

    path: Path
    label: str
    at: datetime


def backup_name(label: str, at: datetime) -> str:
    """Return the file name of an unencrypted backup."""
    return f"{label}-{at.astimezone(UTC):{_TIME}}.dump"


def backups_in(folder: Path) -> list[BackupFile]:
    """Return every finished backup of a folder, oldest first; none when there is no folder. Raises OSError."""
    if not folder.exists():
        return []
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()]
    files = [
        BackupFile(path, match["label"], datetime.strptime(match["at"], _TIME).replace(tzinfo=UTC))
        for path, match in found
        if match is not None
    ]
    return sorted(files, key=lambda file: (file.at, file.path))


def expired_backups(files: Iterable[BackupFile], *, keep_days: int) -> list[BackupFile]:
    """Return the daily backups to delete: all but those of the last day, and the newest of each of the days before it.

    `keep_days` counts days that have a backup, so a machine that was off for a week loses none.
    """
    daily = sorted((file for file in files if file.label == DAILY), key=lambda file: file.at, reverse=True)
    days = list(dict.fromkeys(file.at.date() for file in daily))
    newest = {file.at.date(): file for file in reversed(daily)}
    kept = set(days[:keep_days])
    return [
        file
        for file in daily
        if file.at.date() not in kept or (file.at.date() != days[0] and newest[file.at.date()] is not file)
    ]
