"""Installation file: keeps the installation id of an account outside the database, beside its spool.

A lost database, or a backup of before the first start, would otherwise get a new id, and our own orders and shares
would count as another Catalyst's.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from catalyst.domain.errors import UserError
from catalyst.domain.ids import is_installation
from catalyst.file_owner import give_to_folder_owner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class InstallationFile:
    """The file of one account; the database's own id is the judge where it has one."""

    path: Path

    @classmethod
    def of_account(cls, folder: Path, account: str) -> "InstallationFile":
        """Return the file of an account in the folder of the spools."""
        return cls(folder / f"{account}.installation")

    def read(self) -> str | None:
        """Return the stored id; None without a file. Raises UserError when the file cannot be read or holds no id."""
        try:
            text = self.path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path} cannot be read ({error}): it tells our orders from others"
            ) from None
        if not is_installation(text):
            raise UserError(
                f"{self.path} holds no installation id of 6 hexadecimal digits: restore it, or delete it when the"
                " account has no order and no share of Catalyst"
            )
        return text

    def write(self, installation: str) -> None:
        """Store the id, complete and on disk before this returns; log a disk error."""
        part_path = self.path.with_suffix(".installation-part")
        try:
            if self.path.exists() and self.path.read_text(encoding="utf-8").strip() == installation:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with part_path.open("w", encoding="utf-8") as file:
                give_to_folder_owner(file.fileno(), self.path.parent)
                file.write(f"{installation}\n")
                file.flush()
                os.fsync(file.fileno())
            part_path.replace(self.path)
            handle = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            log.critical("installation_file_failed", path=str(self.path), error=str(error))
