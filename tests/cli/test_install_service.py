"""`catalyst install-service` and the files of `systemd/`: systemd accepts the units and rates them as safe."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from catalyst.cli.install_service import service_files
from catalyst.daemon.shutdown import ExitCode
from tests.cli.shell import Shell

MAX_EXPOSURE = 1.5
HARDENED = (
    "catalyst.service",
    "catalyst-doctor.service",
    "catalyst-backup.service",
    "catalyst-alert@.service",
)

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Write the units, as installed for a program that exists, into a folder."""
    folder = tmp_path / "units"
    folder.mkdir()
    for file in service_files(str(Path(sys.executable).resolve())):
        if "/systemd/system/" in file.path:
            (folder / Path(file.path).name).write_text(file.text)
    return folder


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False
    )


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the settings of a unit file, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@needs_systemd
def test_units_pass_systemd_analyze_verify(units: Path) -> None:
    """systemd reads every unit without a remark."""
    done = analyze("verify", "--man=no", *(str(path) for path in sorted(units.iterdir())))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", HARDENED)
def test_exposure_of_each_service_is_low(units: Path, unit: str) -> None:
    """systemd rates the exposure of each service at 1.5 or below."""
    done = analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(units / unit))
    print(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_service_restarts_except_for_codes_that_need_a_person(units: Path) -> None:
    """The unit excludes exactly the daemon's codes of a locked account and a wrong configuration, and gives the
    flatten more time than its limit."""
    unit = settings(units / "catalyst.service")
    assert unit["Restart"] == ["always"]
    assert {int(code) for code in unit["RestartPreventExitStatus"][0].split()} == {
        ExitCode.LOCKED,
        ExitCode.CONFIG,
    }
    assert int(unit["TimeoutStopSec"][0]) > 60
    assert unit["OnFailure"] == ["catalyst-alert@%n.service"]
    assert unit["KillSignal"] == ["SIGTERM"]


def test_services_have_one_hardening(units: Path) -> None:
    """Every service has the hardening, the user, the folders and the secrets of the daemon's."""
    texts = {name: (units / name).read_text() for name in HARDENED}
    hardening = {text[text.index("# Hardening") :].split("\n[Install]")[0].strip() for text in texts.values()}
    identity = {text[text.index("User=") : text.index("MemoryMax=")] for text in texts.values()}
    assert (len(hardening), len(identity)) == (1, 1)


def test_install_service_writes_the_files_it_prints(shell: Shell, tmp_path: Path) -> None:
    """Without --apply nothing is written; with it each printed file is there, and a second run finds it unchanged."""
    root, program = tmp_path / "root", "/srv/trading/bin/catalyst"
    command = ("install-service", "--program", program, "--root", str(root))
    printed = shell.run(*command)
    assert (printed.returncode, root.exists()) == (0, False), printed.stderr
    assert "nothing is written" in printed.stderr
    first = shell.read_json(*command, "--apply")["files"]
    assert set(first.values()) == {"new"}
    for path in first:
        written = root / path.lstrip("/")
        assert written.read_text() in printed.stdout
        assert "/opt/catalyst/bin" not in written.read_text()
        assert stat.S_IMODE(written.stat().st_mode) == (0o755 if path.startswith("/usr/local/bin") else 0o644)
    assert f"ExecStart={program} run" in (root / "etc/systemd/system/catalyst.service").read_text()
    (root / "etc/sysusers.d/catalyst.conf").write_text("edited\n")
    second = shell.read_json(*command)["files"]
    assert second == dict.fromkeys(first, "same") | {"/etc/sysusers.d/catalyst.conf": "changed"}


def test_install_service_refuses_a_program_that_the_service_cannot_read(shell: Shell, tmp_path: Path) -> None:
    """A program in a home or a temporary folder, or with a name that a unit cannot hold, is refused; so is a folder
    that cannot be written."""
    for program in ("/home/me/.venv/bin/catalyst", "/tmp/catalyst/bin/catalyst"):
        error = shell.error_output(
            "install-service", "--apply", "--program", program, "--root", str(tmp_path / "a")
        )
        assert "cannot read" in error
        assert "/opt/catalyst" in error
    assert "a unit cannot hold" in shell.error_output(
        "install-service", "--program", "/opt/my $bots/catalyst"
    )
    (tmp_path / "file").write_text("")
    error = shell.error_output(
        "install-service", "--apply", "--program", "/opt/c/bin/catalyst", "--root", str(tmp_path / "file")
    )
    assert "cannot be written" in error


def test_install_service_needs_root_to_write(shell: Shell) -> None:
    """An ordinary user gets one sentence that says to use sudo."""
    as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    program = [*as_user, sys.executable, "-m", "catalyst", "install-service", "--apply"]
    program += ["--program", "/opt/catalyst/bin/catalyst"]
    environment = shell.environment | {"HOME": "/"}
    readable = [*as_user, sys.executable, "-c", "import catalyst"]
    if subprocess.run(readable, cwd="/", env=environment, capture_output=True, check=False).returncode:
        pytest.skip("an ordinary user cannot read this checkout")
    done = subprocess.run(program, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "run it as root (sudo)" in done.stderr) == (1, True), done.stderr
