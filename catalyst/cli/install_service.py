"""`catalyst install-service`: the systemd units and their files; prints them, or writes them with --apply."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import JsonOption
from catalyst.domain.errors import UserError
from catalyst.installation import shipped_folder

SHIPPED_PROGRAM: Final = (
    "/opt/catalyst/bin/catalyst"  # named in the shipped files; replaced by the installed one
)
UNIT_FOLDER: Final = "/etc/systemd/system"

# Shipped files that are no units, and where they go.
TARGETS: Final = {
    "catalyst.sysusers": "/etc/sysusers.d/catalyst.conf",
    "catalyst.tmpfiles": "/etc/tmpfiles.d/catalyst.conf",
    "catalyst.journald.conf": "/etc/systemd/journald.conf.d/catalyst.conf",
    "catalyst.needrestart": "/etc/needrestart/conf.d/catalyst.conf",
    "catalyst.sh": "/usr/local/bin/catalyst",
}

CONFIGURE: Final = "configure: catalyst init, then catalyst check"
# The units that a new machine enables.
ENABLED: Final = ("catalyst.service", "catalyst-doctor.timer", "catalyst-backup.timer")

# The service cannot read these folders (ProtectHome, PrivateTmp).
HIDDEN_FOLDERS: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 -- refused, not used

# Run after the files are written: the user, the folders, the units.
COMMANDS: Final = (
    ("systemd-sysusers", "/etc/sysusers.d/catalyst.conf"),
    ("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/catalyst.conf"),
    ("systemctl", "daemon-reload"),
)


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """One file of the service: its path on the machine, its text and its mode."""

    path: str
    text: str
    mode: int

    def state_below(self, root: Path) -> str:
        """Return `new`, `changed` or `same`, compared with the file below `root`."""
        target = root / self.path.lstrip("/")
        if not target.is_file():
            return "new"
        return "same" if target.read_text() == self.text else "changed"


def install_service(
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the files, create the user and the folders. Needs root.")
    ] = False,
    program: Annotated[
        Path | None, typer.Option(help="The program that the units run (default: this one).")
    ] = None,
    root: Annotated[
        Path, typer.Option(help="Write below this folder and run nothing, to build an image.")
    ] = Path("/"),
    as_json: JsonOption = False,
) -> None:
    """Install the systemd service: show every file, or write it with --apply. Starts nothing."""
    path = str(program or Path(sys.prefix) / "bin" / "catalyst")
    files = service_files(path)
    states = {file.path: file.state_below(root) for file in files}
    if not apply:
        print_result({"files": states}, as_json, lambda: [_shown(file, states[file.path]) for file in files])
        typer.echo("nothing is written without --apply", err=True)
        return
    _require_usable(path)
    _write_files(files, root)
    lines = [f"{state:8} {target}" for target, state in states.items()]
    if root == Path("/"):
        _run_commands()
    else:
        lines += [f"run there: {' '.join(command)}" for command in COMMANDS]
    lines += [CONFIGURE, f"start it:  systemctl enable --now {' '.join(ENABLED)}"]
    print_result({"files": states}, as_json, lambda: lines)


def service_files(program: str) -> list[ServiceFile]:
    """Return every file of the service, for that program, in the order of their paths.

    Raises UserError for a path that a unit file cannot hold.
    """
    if not re.fullmatch(r"/[\w./+-]+", program, re.ASCII):
        raise UserError(
            f"{program} has characters that a unit cannot hold: install Catalyst into /opt/catalyst"
        )
    files = []
    for path in shipped_folder("systemd").iterdir():
        text = path.read_text(encoding="utf-8").replace(SHIPPED_PROGRAM, program)
        mode = 0o755 if path.suffix == ".sh" else 0o644
        files.append(ServiceFile(TARGETS.get(path.name, f"{UNIT_FOLDER}/{path.name}"), text, mode))
    return sorted(files, key=lambda file: file.path)


def _shown(file: ServiceFile, state: str) -> str:
    return f"# ---- {file.path} ({state}, mode {file.mode:04o})\n{file.text}"


def _require_usable(program: str) -> None:
    """Raise UserError when the service could not run the program."""
    hidden = next((folder for folder in HIDDEN_FOLDERS if Path(program).is_relative_to(folder)), None)
    if hidden is not None:
        raise UserError(
            f"the service cannot read {program}, because it sees nothing below {hidden}: install Catalyst into"
            " /opt/catalyst (docs/install.md), and run that one's install-service"
        )


def _write_files(files: list[ServiceFile], root: Path) -> None:
    """Write each file in one step; raise UserError when that is not permitted."""
    if root == Path("/") and os.geteuid() != 0:
        raise UserError("install-service --apply writes below /etc: run it as root (sudo)")
    try:
        for file in files:
            target = root / file.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.new")
            partial.write_text(file.text, encoding="utf-8")
            partial.chmod(file.mode)
            partial.replace(target)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from None


def _run_commands() -> None:
    """Create the user and the folders, and let systemd read the units. Raises UserError."""
    for command in COMMANDS:
        found = shutil.which(command[0])
        if found is None:
            raise UserError(
                f"there is no {command[0]}: the files are written, but this machine has no systemd"
            )
        done = subprocess.run([found, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")
