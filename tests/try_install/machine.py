"""A new Debian in a folder: built by debootstrap, booted by its own systemd, and given commands.

Nothing of this machine is written into the project: the mirror is that of its apt, the package index that of its pip,
both read at run time. Only commands that fetch packages see the machine's network; all others have a loopback alone.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.systemd_day import isolation
from tests.waiting import pause_blocking

SUITE: Final = "bookworm"
_SCRIPTS: Final = Path("/usr/share/debootstrap/scripts")
COMMAND_LIMIT_S: Final = 1800
_FETCHES: Final = re.compile(r"\b(apt-get|pip|make|git)\b")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIP_NAMES: Final = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "cert",
    "constraint",
    "proxy",
)


def missing(suite: str) -> str | None:
    """Return why no Debian can be built and booted here; None when it can."""
    if (reason := isolation.missing()) is not None:
        return reason
    for program in ("debootstrap", "nsenter", "apt-get", "git"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if not (_SCRIPTS / suite).exists():
        return f"its debootstrap does not know the Debian {suite}"
    return None if mirror() else "apt of this machine knows no mirror of Debian"


def mirror() -> str | None:
    """Return the mirror from which this machine's apt reads Debian; None when it reads none."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in listed.splitlines():
        address, *names = line.split()
        if names == ["Debian", "Debian", "main"]:  # not Debian-Security
            return address
    return None


@dataclass
class Machine:
    """The new Debian. `root` is its file system, `log` gets the output of every command."""

    staging: Path
    pip: dict[str, str] = field(default_factory=dict)
    _init: int = 0  # process id of its systemd, as this machine sees it

    @property
    def root(self) -> Path:
        return self.staging / "root"

    @property
    def log(self) -> Path:
        return self.staging / "log"

    def run(self, command: str, user: str = "root") -> tuple[int, str]:
        """Run a command as a user in the home folder; return exit code and output."""
        home = "/root" if user == "root" else f"/home/{user}"
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--cgroup"]
        settings = [f"HOME={home}", f"USER={user}", f"PATH={_PATH}", "LANG=C.UTF-8", "TERM=dumb"]
        if _FETCHES.search(command):
            settings += [f"{name}={value}" for name, value in self.pip.items()]
        else:
            namespaces.append("--net")
        entered = ["nsenter", "--target", str(self._init), *namespaces, "--", "env", "-i", f"--chdir={home}"]
        identity = (
            [] if user == "root" else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        )
        done = subprocess.run(
            [*entered, *settings, *identity, "/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=COMMAND_LIMIT_S,
        )
        with self.log.open("a") as log:
            log.write(f"$ {command}\n{done.stdout}[{done.returncode}]\n")
        return done.returncode, done.stdout


@contextmanager
def new_machine(staging: Path, suite: str) -> Iterator[Machine]:
    """Build and boot the Debian in a folder; end all its processes afterwards."""
    machine = Machine(staging)
    address = mirror()
    assert address is not None, "missing() says so"
    # In a mount namespace of its own: what debootstrap mounts is gone when it ends.
    build = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "debootstrap",
        suite,
        str(machine.root),
        address,
    ]
    with machine.log.open("w") as log:
        subprocess.run(build, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    (machine.root / "etc" / "hostname").write_text("droplet\n")
    machine.pip, folders = pip_settings(machine.root)
    (staging / "folders").write_text("".join(f"{folder}\n" for folder in folders))
    boot = Path(shutil.copy(Path(__file__).parent / "boot.sh", staging / "boot.sh"))
    with isolation.own_group(staging.name) as group, (staging / "console").open("wb") as console:
        process = subprocess.Popen(
            isolation.isolated(group, boot, str(staging)),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        try:
            machine._init = _wait_for_init(process)
            while machine.run("systemctl is-active multi-user.target")[0]:
                assert process.poll() is None, (staging / "console").read_text()
                pause_blocking()
            yield machine
        finally:
            process.kill()
            process.wait()
            while any(file.read_text() for file in group.rglob("cgroup.procs")):
                pause_blocking()


def _wait_for_init(process: "subprocess.Popen[bytes]") -> int:
    """Return the process that is PID 1 of the new namespace."""
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            names = Path(f"/proc/{child}/comm")
            if names.exists() and names.read_text().strip() == "systemd":
                return child
        pause_blocking()
    raise AssertionError(f"the new namespace ended with code {process.returncode}")


def pip_settings(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Return the settings of this machine's pip as variables, and the folders they name; files are copied."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    folders: list[Path] = []
    for line in listed.splitlines():
        key, _, quoted = line.partition("=")
        name = key.rpartition(".")[2]
        if name not in _PIP_NAMES:
            continue
        words = []
        for word in str(ast.literal_eval(quoted)).split():
            path = Path(urlsplit(word).path)
            if path.is_file():
                copy = root / "srv" / "pip" / path.name
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(path, copy)
                word = f"/srv/pip/{path.name}"  # noqa: PLW2901
            elif path.is_dir() and urlsplit(word).scheme in ("", "file"):
                folders.append(path.parent if path.name == "simple" else path)
            words.append(word)
        settings[f"PIP_{name.replace('-', '_').upper()}"] = " ".join(words)
    return settings, sorted(set(folders))
