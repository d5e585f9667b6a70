"""`make systemd-day`: the installed units under a real systemd, which is PID 1 of namespaces of its own.

It needs root on Linux, with systemd and a cgroup2 hierarchy; elsewhere it says what is missing and exits with 0.
`isolate.sh` builds a root on which systemd can write nothing of this machine's; `story.py` runs inside.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from tests.systemd_day.isolation import isolated, missing, own_group
from tests.wheel_sources import SOURCES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_S = 1500
WHOLE_DAY_LIMIT_S = 3600
SHORT_SILENCE_S = 45  # longer than WatchdogSec
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
ExecStart=/opt/catalyst/bin/python -u /opt/day/story.py STORY_ARGUMENTS
Environment=SYSTEMD_UNIT_PATH=/etc/systemd/system:/opt/day/units
StandardOutput=append:/var/report/report
StandardError=append:/var/report/report
""",
    "catalyst-sim.service": """\
[Service]
User=catalyst
WorkingDirectory=/var/lib/catalyst
ExecStart=/opt/catalyst/bin/catalyst sim --generated 11 --start "2026-06-17 13:59:20" \
  --new-clock /var/lib/catalyst/clock --write-listings /var/lib/catalyst/listings.csv
""",
    "catalyst-day-sim.service": """\
[Service]
User=catalyst
WorkingDirectory=/var/lib/catalyst
ExecStart=/opt/catalyst/bin/catalyst sim --generated 11 --start "2026-06-17 07:59" \
  --new-clock /var/lib/catalyst/day-clock --write-listings /var/lib/catalyst/listings.csv
""",
}


def build_files(files: Path, story_arguments: list[str]) -> None:
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
        (units / name).write_text(text.replace("STORY_ARGUMENTS", " ".join(story_arguments)))
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


def run_isolated(staging: Path, group: Path, limit_s: float) -> int:
    """Run systemd in new namespaces and in its own cgroup; return its exit code. Every process ends with it."""
    script = Path(shutil.copy(HERE / "isolate.sh", staging / "isolate.sh"))
    command = isolated(group, script, str(staging))
    try:
        with (staging / "console").open("wb") as console:
            return subprocess.run(
                command,
                timeout=limit_s,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            ).returncode
    except subprocess.TimeoutExpired:
        return 124


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Return how long broker and database are silent, and whether a whole day is played; the defaults are short."""
    parser = argparse.ArgumentParser(prog="python -m tests.systemd_day")
    parser.add_argument("--broker-silence", type=int, default=SHORT_SILENCE_S, metavar="SECONDS")
    parser.add_argument("--database-silence", type=int, default=SHORT_SILENCE_S, metavar="SECONDS")
    parser.add_argument(
        "--whole-day", action="store_true", help="measure the memory of a whole day at the end"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the story; print its report and, after a failure, where its journal is."""
    options = parse_options(arguments)
    reason = missing()
    if reason is not None:
        print(f"systemd-day: skipped: {reason}")
        return 0
    story_arguments = [str(options.broker_silence), str(options.database_silence)]
    limit_s = LIMIT_S + options.broker_silence + options.database_silence
    if options.whole_day:
        story_arguments.append("whole-day")
        limit_s += WHOLE_DAY_LIMIT_S
    staging = Path(tempfile.mkdtemp(prefix="catalyst-systemd-day-"))
    for name in ("root", "files", "report"):
        (staging / name).mkdir()
    build_files(staging / "files", story_arguments)
    with own_group(staging.name) as group:
        code = run_isolated(staging, group, limit_s)
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
    sys.exit(main(sys.argv[1:]))
