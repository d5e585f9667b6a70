"""Where a demo writes."""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from catalyst import embedded
from catalyst.domain.errors import UserError

FOLDER_PREFIX: Final = "catalyst-demo-"


def make_workspace(keep: Path | None) -> Path:
    """Where this run writes. Folders of earlier runs that nobody asked to keep are removed.

    Raises UserError when the folder to keep is in use or cannot be made.
    """
    try:
        if keep is not None:
            folder = keep.expanduser().resolve()
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UserError(f"--keep {keep} is not empty: name a new folder")
        else:
            _remove_earlier_workspaces()
            folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX)).resolve()
    except OSError as error:
        raise UserError(f"no folder for the demo ({error}): name one with --keep, or set TMPDIR") from None
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL never runs as root: its own user must reach its data in here
    return folder


def _remove_earlier_workspaces() -> None:
    """Remove what earlier demos of this user left, unless somebody is looking into it."""
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if old.is_symlink() or not old.is_dir() or old.stat().st_uid != os.geteuid():
            continue
        with suppress(embedded.EmbeddedUnavailable, OSError):
            embedded.remove_data_dir(old / "pg")
            shutil.rmtree(old)
