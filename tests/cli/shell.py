"""The command line as a person uses it: a process, its output, its exit code."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalyst.config.loader import environment_without_catalyst

TIMEOUT_S = 300.0  # real seconds; a machine may be busy, and nothing here is a measure of speed


@dataclass
class Shell:
    """Runs commands in a folder of its own, with none of the machine's settings."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        ours = {
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "share"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "COLUMNS": "200",
        }
        return environment_without_catalyst(**ours, **self.settings)

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """A command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "catalyst", *arguments],
            cwd=self.folder,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=TIMEOUT_S,
        )

    def read_json(self, *arguments: str, exit_code: int = 0) -> Any:
        """What a command prints with --json."""
        done = self.run(*arguments, "--json")
        assert done.returncode == exit_code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def error_output(self, *arguments: str, exit_code: int = 1) -> str:
        """The one sentence on stderr of a command that fails."""
        done = self.run(*arguments)
        assert done.returncode == exit_code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("catalyst: ")
        return done.stderr

    def start_process(
        self, name: str, *arguments: str, pipe_stdin: bool = False
    ) -> "subprocess.Popen[bytes]":
        """A process that goes on; its output is in `<name>.log`."""
        with (self.folder / f"{name}.log").open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "catalyst", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE if pipe_stdin else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return once `done()` is true; another process makes it so, in real time."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def processes_using(folder: Path) -> list[str]:
    """Command lines of running processes that mention a folder, this one apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or not is_running(int(entry.name)):
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found
