"""`make systemd-day`: the installed units under a real systemd, which is PID 1 of namespaces of its own.

It needs root on Linux, with systemd and a cgroup2 hierarchy; elsewhere it says what is missing and exits with 0.
`isolate.sh` builds a root on which systemd can write nothing of this machine's; `story.py` runs inside.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from tests.wheel_sources import SOURCES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_S = 1500
CGROUP_ROOTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
UNIT_FOLDERS = (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))

# Units of the machine's systemd that the story needs; no other one exists inside.
SYSTEM_UNITS = (
    "basic.target", "sysinit.target", "sockets.target", "timers.target", "paths.target", "slices.target",
    "shutdown.target", "umount.target", "final.target", "multi-user.target", "network-online.target",
    "network.target", "time-sync.target", "exit.target", "systemd-exit.service", "systemd-journald.service",
    "systemd-journald.socket", "systemd-journald-dev-log.socket",
)  # fmt: skip

OWN_UNITS = {
    "day.target": "[Unit]\nRequires=basic.target day.service\nWants=systemd-journald.service\nAfter=basic.target\n",
    "day.service": """\
[Unit]
After=basic.target systemd-journald.service
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=exec
ExecStart=/opt/catalyst/bin/python -u /opt/day/story.py
Environment=SYSTEMD_UNIT_PATH=/etc/systemd/system:/opt/day/units
StandardOutput=append:/var/report/report
StandardError=append:/var/report/report
""",
    "catalyst-sim.service": """\
[Service]
User=catalyst
WorkingDirectory=/var/lib/catalyst
ExecStart=/opt/catalyst/bin/catalyst sim --generated 11 --start 13:59:20 --new-clock /var/lib/catalyst/clock \
  --write-listings /var/lib/catalyst/listings.csv
""",
}


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
    probe = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"namespaces cannot be created: {done.stderr.strip()}" if done.returncode else None


def cgroup_root() -> Path | None:
    """Return the root of the cgroup2 hierarchy, when groups can be created in it."""
    for root in CGROUP_ROOTS:
        if (root / "cgroup.controllers").exists() and os.access(root / "cgroup.procs", os.W_OK):
            return root
    return None


def build_files(files: Path) -> None:
    """Write what is copied into the root: the program from its wheel, units, the story and a bare /etc."""
    with tempfile.TemporaryDirectory(prefix="catalyst-wheel-") as folder:
        source = Path(folder) / "source"
        source.mkdir()
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
        ]
        subprocess.run([*command, "--wheel-dir", folder, str(source)], check=True, cwd=folder)
        (wheel,) = Path(folder).glob("*.whl")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = files / "catalyst" / "lib" / version / "site-packages"
        packages.mkdir(parents=True)
        zipfile.ZipFile(wheel).extractall(packages)
    (packages / "dependencies.pth").write_text("/opt/packages\n")
    programs = files / "catalyst" / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(f"/opt/python/bin/{version}")
    (programs / "catalyst").write_text(
        "#!/opt/catalyst/bin/python\nfrom catalyst.__main__ import main\nmain()\n"
    )
    (programs / "catalyst").chmod(0o755)
    (files / "catalyst" / "pyvenv.cfg").write_text(
        "home = /opt/python/bin\ninclude-system-site-packages = false\n"
    )
    units = files / "units"
    units.mkdir()
    shipped = next(folder for folder in UNIT_FOLDERS if folder.is_dir())
    for name in SYSTEM_UNITS:
        if (shipped / name).exists():
            shutil.copy(shipped / name, units / name)
    for name, text in OWN_UNITS.items():
        (units / name).write_text(text)
    for folder in ("etc/systemd/system", "etc/ld.so.conf.d"):
        (files / folder).mkdir(parents=True)
    (files / "etc" / "ld.so.conf.d" / "python.conf").write_text("/opt/python/lib\n")
    shutil.copy(HERE / "story.py", files / "story.py")
    dependency = find_spec("asyncpg")
    assert dependency is not None
    assert dependency.origin is not None
    (files / "paths").write_text(
        f"base_python='{Path(sys.base_prefix).resolve()}'\npackages='{Path(dependency.origin).parents[1]}'\n"
    )


def run_isolated(staging: Path, group: Path) -> int:
    """Run systemd in new namespaces and in its own cgroup; return its exit code. Every process ends with it."""
    shutil.copy(HERE / "isolate.sh", staging / "isolate.sh")
    parent = Path("/proc/self/ns/mnt").readlink()
    namespaces = "--mount --propagation private --pid --ipc --uts --net --cgroup"
    unshare = f"setpriv --pdeathsig KILL unshare {namespaces} --fork --kill-child"
    script = f'echo $$ > "$0/cgroup.procs"; exec {unshare} /bin/sh "$1/isolate.sh" "$1" "$2"'
    command = ["/bin/sh", "-c", script, str(group), str(staging), str(parent)]
    try:
        with (staging / "console").open("wb") as console:
            return subprocess.run(
                command,
                timeout=LIMIT_S,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            ).returncode
    except subprocess.TimeoutExpired:
        return 124


def remove_groups(group: Path) -> None:
    """Remove the cgroup and those that systemd created in it."""
    for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()
    group.rmdir()


def main() -> int:
    """Run the story; print its report and, after a failure, where its journal is."""
    reason = missing()
    root = cgroup_root()
    if reason is not None or root is None:
        print(f"systemd-day: skipped: {reason}")
        return 0
    staging = Path(tempfile.mkdtemp(prefix="catalyst-systemd-day-"))
    for name in ("root", "files", "report"):
        (staging / name).mkdir()
    build_files(staging / "files")
    group = root / staging.name
    group.mkdir()
    try:
        code = run_isolated(staging, group)
    finally:
        remove_groups(group)
    report = staging / "report" / "report"
    print(report.read_text() if report.exists() else (staging / "console").read_text())
    passed = code == 0 and report.exists() and report.read_text().rstrip().endswith("PASSED")
    (
        staging / "root"
    ).rmdir()  # fails when a mount of the other namespace were visible here: nothing is removed then
    if passed:
        shutil.rmtree(staging)
    else:
        print(f"systemd-day: FAILED with code {code}; journal and console: {staging}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
