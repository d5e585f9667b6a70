"""`make minimum-machine`: finds the smallest memory in which the demo's day passes on one core, without swap.

The demo runs in control groups of one core and less and less memory: exchange, daemon, PostgreSQL and display
together, so a service alone needs less. A day that takes more than fifteen minutes has failed: then there is too little
memory for the program's own files, which are read again and again. It needs root on Linux; elsewhere it says what is
missing and exits with 0.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CGROUPS: Final = Path("/sys/fs/cgroup")
STEP_MB: Final = 128
MOST_MB: Final = 2048
LIMIT_S: Final = 900
_V1: Final = {"memory": "memory.limit_in_bytes", "swap": "memory.memsw.limit_in_bytes"}
_V2: Final = {"memory": "memory.max", "swap": "memory.swap.max"}


@dataclass(frozen=True, slots=True)
class Result:
    """One run of the demo: whether it passed, its seconds, and the last lines of its output."""

    passed: bool
    seconds: float
    last_lines: str


def missing() -> str | None:
    """Return why the groups cannot be created; None when they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "it needs root on Linux, to create control groups"
    has_v1 = (CGROUPS / "memory" / _V1["memory"]).exists() and (CGROUPS / "cpuset" / "cpuset.cpus").exists()
    has_v2 = {"cpuset", "memory"} <= set(_controllers())
    return None if has_v1 or has_v2 else "there is no hierarchy with the controllers `memory` and `cpuset`"


def _controllers() -> list[str]:
    file = CGROUPS / "cgroup.subtree_control"
    return file.read_text().split() if file.exists() else []


@contextmanager
def limited_groups(memory_mb: int) -> Iterator[list[Path]]:
    """Yield the `cgroup.procs` files of groups with one core, that much memory and no swap."""
    name, limit = f"catalyst-minimum-{os.getpid()}", str(memory_mb << 20)
    with ExitStack() as stack:

        def group(parent: Path, settings: dict[str, str]) -> Path:
            folder = parent / name
            folder.mkdir()
            stack.callback(folder.rmdir)
            for file, value in settings.items():
                if (folder / file).exists():  # without swap accounting there is no limit of it
                    (folder / file).write_text(value)
            return folder / "cgroup.procs"

        one_core = {"cpuset.cpus": str(min(os.sched_getaffinity(0))), "cpuset.mems": "0"}
        if (CGROUPS / "memory").is_dir():
            yield [
                group(CGROUPS / "memory", {_V1["memory"]: limit, _V1["swap"]: limit}),
                group(CGROUPS / "cpuset", one_core),
            ]
        else:
            yield [group(CGROUPS, one_core | {_V2["memory"]: limit, _V2["swap"]: "0"})]


def run_demo(memory_mb: int) -> Result:
    """Run the demo in that much memory."""
    with limited_groups(memory_mb) as files:
        enter = "".join(f"echo $$ > {file}; " for file in files)
        command = [
            "/bin/sh",
            "-c",
            f'{enter}exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "catalyst",
            "demo",
            "--plain",
        ]
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                code: int | None = process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                seconds = time.monotonic() - began
                _kill_all(files)
                process.wait()
            log.seek(0)
            lines = log.read().splitlines()[-3:]
    reason = [f"not over after {LIMIT_S} s"] if code is None else []
    return Result(code == 0, seconds, "\n".join([*lines, *reason]))


def _kill_all(files: list[Path]) -> None:
    """End every process of the groups, also children that outlived the demo."""
    while pids := {int(pid) for file in files for pid in file.read_text().split()}:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def main() -> int:
    """Halve the range until one step is left; print every run and the smallest memory that passed."""
    if (reason := missing()) is not None:
        print(f"minimum-machine: skipped: {reason}")
        return 0
    fails, passes = 0, MOST_MB // STEP_MB + 1  # in steps
    while passes - fails > 1:
        steps = (fails + passes) // 2
        result = run_demo(steps * STEP_MB)
        print(
            f"{steps * STEP_MB:>5} MB  {'passed' if result.passed else 'FAILED'}  {result.seconds:.0f} s",
            flush=True,
        )
        if result.passed:
            passes = steps
        else:
            fails = steps
            print(result.last_lines, flush=True)
    if passes * STEP_MB > MOST_MB:
        print(f"minimum-machine: the demo does not pass in {MOST_MB} MB")
        return 1
    print(f"the demo's day passes on one core in {passes * STEP_MB} MB, and fails in {fails * STEP_MB} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
