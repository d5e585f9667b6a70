"""Disks: the free space where the embedded database, the spool and the flat proofs lie."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalyst.config.settings import Settings

LOW_DISK_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk: a folder on it, what lies there, and its free bytes."""

    folder: Path
    purposes: tuple[str, ...]
    free: int


def used_disks(settings: Settings) -> Iterator[Disk]:
    """Yield each disk that holds the embedded database, the spool or the flat proofs, once."""
    folders = {"spool": settings.spool_dir, "flat proofs": settings.proofs_dir}
    if settings.env.database_url is None:
        folders = {"database": settings.data_dir, **folders}
    purposes: dict[int, list[str]] = {}
    places: dict[int, Path] = {}
    for purpose, folder in folders.items():
        place = _existing_part(folder)
        number = place.stat().st_dev
        purposes.setdefault(number, []).append(purpose)
        places.setdefault(number, place)
    for number, place in places.items():
        yield Disk(place, tuple(purposes[number]), shutil.disk_usage(place).free)


def _existing_part(folder: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists."""
    folder = folder.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
