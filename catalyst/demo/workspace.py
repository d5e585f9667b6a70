"""The folder into which a demo writes all its files."""

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
    """Create the folder of this run, and remove the temporary folders of earlier runs.

    Raises UserError when the folder `keep` is not empty or cannot be created.
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
        folder.chmod(
            0o711
        )  # PostgreSQL never runs as root: its own user must have access to its data in this folder
    return folder


def _remove_earlier_workspaces() -> None:
    """Remove the temporary folders of this user's earlier demos, except one whose database is in use."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.geteuid():
            continue
        with suppress(embedded.EmbeddedUnavailable, OSError):
            embedded.remove_data_dir(folder / "pg")
            shutil.rmtree(folder)
