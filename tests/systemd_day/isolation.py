"""An isolated systemd: PID 1 of new namespaces, with a control group and a root of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CGROUP_ROOTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
NAMESPACES = ("--mount", "--propagation", "private", "--pid", "--ipc", "--uts", "--net", "--cgroup")


def missing() -> str | None:
    """Return why systemd cannot run here; None when it can."""
    if not sys.platform.startswith("linux"):
        return "this is not Linux"
    if os.geteuid() != 0:
        return "it needs root, to create namespaces and mounts"
    for program in ("unshare", "setpriv", "systemctl", "mount", "pivot_root"):
        if shutil.which(program) is None:
            return f"there is no {program}"
    if not Path("/lib/systemd/systemd").exists():
        return "there is no /lib/systemd/systemd"
    if cgroup_root() is None:
        return "there is no writable cgroup2 hierarchy"
    probe = ["unshare", *NAMESPACES, "--fork", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"namespaces cannot be created: {done.stderr.strip()}" if done.returncode else None


def cgroup_root() -> Path | None:
    """Return the root of the cgroup2 hierarchy, when groups can be created in it."""
    for root in CGROUP_ROOTS:
        if (root / "cgroup.controllers").exists() and os.access(root / "cgroup.procs", os.W_OK):
            return root
    return None


@contextmanager
def own_group(name: str) -> Iterator[Path]:
    """Create a control group; remove it and those that systemd created in it when every process has ended."""
    root = cgroup_root()
    assert root is not None, "missing() says so"
    group = root / name
    group.mkdir()
    try:
        yield group
    finally:
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()


def isolated(group: Path, script: Path, *arguments: str) -> list[str]:
    """Return the command that runs a script as PID 1 of new namespaces, in the control group.

    The script gets the arguments and then the mount namespace that it must not be in. Every process ends with it.
    """
    unshare = f"setpriv --pdeathsig KILL unshare {' '.join(NAMESPACES)} --fork --kill-child"
    start = f'echo $$ > "$0/cgroup.procs"; exec {unshare} /bin/sh "$@"'
    outside = str(Path("/proc/self/ns/mnt").readlink())
    return ["/bin/sh", "-c", start, str(group), str(script), *arguments, outside]
