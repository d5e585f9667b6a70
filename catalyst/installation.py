"""Installation: the program's version, and where the files that belong to it lie."""

from pathlib import Path
from typing import Final

VERSION: Final = "0.1.0"

_PACKAGE: Final = Path(__file__).resolve().parent


def shipped_folder(name: str) -> Path:
    """Return the folder `migrations`, `monitoring` or `systemd`: in a wheel inside the package, in a checkout beside
    it."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name
