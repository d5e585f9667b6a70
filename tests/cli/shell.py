"""Runs the command line as processes, and returns their output and exit codes."""

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
from tests.waiting import pause_blocking

TIMEOUT_S = 300.0  # real seconds; generous, because the machine may be busy


@dataclass
class Shell:
    """Runs commands in a separate folder, without any settings of the machine."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        base = {
            "HOME": str(self.folder),
            "XDG_DATA_HOME": str(self.folder / "share"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "COLUMNS": "200",
        }
        return environment_without_catalyst(**base, **self.settings)

    def run(self, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end and return the completed process."""
        return self.run_python("-m", "catalyst", *arguments, **extra)

    def run_python(self, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """Run Python to its end, as a command would run, and return the completed process."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment | extra,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=TIMEOUT_S,
        )

    def read_json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Run a command with --json and return the parsed output."""
        completed = self.run(*arguments, "--json")
        assert completed.returncode == exit_code, completed.stderr + completed.stdout
        return json.loads(completed.stdout)

    def error_output(self, *arguments: str, exit_code: int = 1) -> str:
        """Run a command that must fail with one sentence on stderr, and return the sentence."""
        completed = self.run(*arguments)
        assert completed.returncode == exit_code, completed.stderr + completed.stdout
        assert "Traceback" not in completed.stderr
        assert completed.stderr.startswith("catalyst: ")
        return completed.stderr

    def start_process(
        self, name: str, *arguments: str, pipe_stdin: bool = False
    ) -> "subprocess.Popen[bytes]":
        """Start a process in the background; its output goes to `<name>.log`."""
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


def wait_until(condition: Callable[[], object], description: str) -> None:
    """Wait until `condition()` is true, in real time; fail after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {description}"
        pause_blocking()


def is_running(pid: int) -> bool:
    """Return true while the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def processes_using(folder: Path) -> list[str]:
    """Return the command lines of other running processes that mention a folder."""
    commands = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or not is_running(int(entry.name)):
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            commands.append(line)
    return commands
