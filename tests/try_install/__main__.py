"""`make try-install`: runs every command of docs/install.md, and the demos of README, in a new Debian 12.

It needs root on Linux, debootstrap and a Debian mirror; elsewhere it says what is missing and exits with 0. It writes
docs/try-install.md. The commands are those of the pages. What no page can hold is done here: the address of the
repository, a broker without an account, a later release, and recorded bars. `--suite` tries another Debian, and then
writes no page.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.page_commands import ROOT, ShellBlock, shell_blocks
from tests.try_install.machine import SUITE, Machine, missing, new_machine
from tests.try_install.record import DEMO_FOLDER, OWN, SERVICE_FOLDER, TESTS_FOLDER, Row, write_page
from tests.try_install.recorded_bars import write_recording

RUNNER: Final = "make try-install"
INSTALL: Final = ROOT / "docs" / "install.md"
README: Final = ROOT / "README.md"
PLACEHOLDER: Final = "<this repository>"
REPOSITORY: Final = "/srv/catalyst.git"
USER: Final = "visitor"
FOLLOW_S: Final = 5  # the reader then presses Ctrl-C
# The doctor ends with 1 after warnings: no alert channel is set.
EXPECTED_CODES: Final = {"catalyst doctor --pretty": 1}
_GIT: Final = ("git", "-c", "user.name=Catalyst", "-c", "user.email=catalyst@localhost")


@dataclass
class Reader:
    """Follows a page on the machine: types its commands, as a user, in the folder to which they lead."""

    machine: Machine
    user: str = "root"
    folder: str = "."
    rows: list[Row] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # MB of disk, by what takes them

    def read(self, block: ShellBlock) -> None:
        """Run each command of a block, or note why it is not run."""
        for command in block.commands:
            if block.not_run:
                self.rows.append(Row(block.page, command, None, 0.0, block.not_run))
                continue
            if command == "catalyst check":
                self.start_exchange()
            if command.startswith("git -C catalyst pull"):
                release_later_version(self.machine.root)
            if "--recorded" in command:
                write_recording(self.machine.root / "home" / self.user / self.folder)
            self.type(command, block.page)
            if command.startswith("/opt/catalyst/bin/pip"):
                self.measure(SERVICE_FOLDER, "/opt/catalyst")
            if " && cd " in command:
                self.folder = command.rpartition(" && cd ")[2]

    def type(self, command: str, page: str = OWN) -> None:
        """Run one command, print its result and keep it."""
        typed = command.replace(PLACEHOLDER, REPOSITORY)
        if "--follow" in command:
            typed = f"timeout --signal=INT {FOLLOW_S} {command} || [ $? = 124 ]"
        began = time.monotonic()
        code, output = self.machine.run(f"cd {self.folder} && {{ {typed}\n}}", self.user)
        expected = EXPECTED_CODES.get(command, 0)
        row = Row(page, command, code, time.monotonic() - began, is_expected=code == expected)
        self.rows.append(row)
        print(f"{code:>4} {row.seconds:>7.1f} s  {command.splitlines()[0]}", flush=True)
        if not row.passed:
            print(output[-3000:], flush=True)

    def start_exchange(self) -> None:
        """Let the service trade at an exchange of that machine, which has no way to Alpaca."""
        self.type("sed -i 's/^  mode: paper /  mode: sim /' /etc/catalyst/config.yaml")
        self.type("cp -al /opt/catalyst /opt/exchange")
        self.type("systemd-run --quiet --unit=exchange /opt/exchange/bin/python -m catalyst sim --start now")
        self.type("until journalctl --unit=exchange | grep -q 'exchange  http'; do sleep 1; done")

    def measure(self, what: str, folder: str) -> None:
        """Keep the disk space that a folder takes now."""
        command = f"cd {self.folder} && du --summarize --block-size=1MB {folder}"
        code, output = self.machine.run(command, self.user)
        assert code == 0, output
        self.sizes[what] = int(output.split()[0])


def main() -> int:
    """Run the pages; print each command with its exit code and seconds, and write the record."""
    parser = argparse.ArgumentParser(prog=RUNNER)
    parser.add_argument("--suite", default=SUITE, help="the Debian to install")
    suite = parser.parse_args().suite
    if (reason := missing(suite)) is not None:
        print(f"try-install: skipped: {reason}")
        return 0
    staging = Path(tempfile.mkdtemp(prefix="catalyst-try-install-"))
    began = time.monotonic()
    with new_machine(staging, suite) as machine:
        print(
            f"a new Debian ({suite}) runs after {time.monotonic() - began:.0f} s; log: {machine.log}",
            flush=True,
        )
        write_repository(machine.root)
        root = Reader(machine)
        for block in shell_blocks(INSTALL):
            root.read(block)
        root.type(f"useradd --create-home --shell /bin/bash {USER}")
        root.type("apt-get install --yes make")
        visitor = Reader(machine, USER, rows=root.rows, sizes=root.sizes)
        for block in shell_blocks(README):
            if block.run_by == RUNNER:
                visitor.read(block)
        visitor.measure(DEMO_FOLDER, ".venv")
        visitor.type("make dev")
        visitor.measure(TESTS_FOLDER, ".venv")
    rows = root.rows
    minutes = (time.monotonic() - began) / 60
    failed = sum(not row.passed for row in rows)
    print(f"{len(rows)} commands, {failed} failed; {minutes:.1f} minutes, the new Debian included")
    if failed:
        print(f"try-install: FAILED; log: {staging / 'log'}")
        return 1
    if suite == SUITE:
        write_page(rows, minutes, root.sizes)
    shutil.rmtree(staging)
    return 0


def write_repository(root: Path) -> None:
    """Write the checkout, as its tracked files are now, as a repository that can be cloned."""
    with tempfile.TemporaryDirectory(prefix="catalyst-repository-") as folder:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        for command in (
            ["git", "init", "--quiet", "--initial-branch=main"],
            ["git", "add", "--all"],
            [*_GIT, "commit", "--quiet", "--message=Release"],
            ["git", "clone", "--quiet", "--bare", folder, str(root / REPOSITORY.lstrip("/"))],
        ):
            subprocess.run(command, cwd=folder, check=True)
    (root / "etc" / "gitconfig").write_text("[safe]\n\tdirectory = *\n")


def release_later_version(root: Path) -> None:
    """Commit a later version to the repository."""
    with tempfile.TemporaryDirectory(prefix="catalyst-release-") as folder:
        subprocess.run(["git", "clone", "--quiet", str(root / REPOSITORY.lstrip("/")), folder], check=True)
        source = Path(folder) / "catalyst" / "installation.py"
        source.write_text(source.read_text().replace('VERSION: Final = "', 'VERSION: Final = "9.'))
        for command in (["commit", "--quiet", "--all", "--message=Release"], ["push", "--quiet"]):
            subprocess.run([*_GIT, *command], cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
