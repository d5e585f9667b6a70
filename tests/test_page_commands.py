"""Each `sh` block of README and docs is run: here, by the program that its comment names, or not, for a reason."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from catalyst.config.loader import environment_without_catalyst
from tests.page_commands import ROOT, ShellBlock, pages, shell_blocks
from tests.try_install.record import (
    DEMO_FOLDER,
    PAGE,
    SERVICE_FOLDER,
    TESTS_FOLDER,
    recorded_commands,
    recorded_sizes,
    shown,
)
from tests.waiting import LIMIT_S, pause_blocking

TRY_INSTALL: Final = "make try-install"
MAX_NOT_RUN: Final = 10
BLOCKS: Final = [block for page in pages() for block in shell_blocks(page)]
RUN_HERE: Final = [block for block in BLOCKS if not block.run_by and not block.not_run]

# Commands that run until a signal, and the output with which they are ready.
SERVERS: Final = {"catalyst sim": "exchange  http", "catalyst run": '"recovered"'}


def test_each_shell_block_is_run_or_says_why_not() -> None:
    """At most ten commands of the pages are run by nothing, and whatever a comment names runs the block."""
    fences = sum(page.read_text().count("\n```sh\n") for page in pages())
    assert len(BLOCKS) == fences
    elsewhere = [block for block in BLOCKS if block.run_by]
    not_run = [command for block in BLOCKS if block.not_run for command in block.commands]
    print(
        f"{len(BLOCKS)} sh blocks: {len(RUN_HERE)} run here, {len(elsewhere)} by their own test or program;"
    )
    commands = sum(len(block.commands) for block in BLOCKS)
    print(f"{commands - len(not_run)} commands have something that runs them, {len(not_run)} have not")
    assert len(not_run) <= MAX_NOT_RUN
    for block in elsewhere:
        if block.run_by != TRY_INSTALL:
            assert f'code_blocks("{block.heading}", "sh")' in (ROOT / block.run_by).read_text(), block


needs_record = pytest.mark.skipif(
    not PAGE.exists(), reason=f"`{TRY_INSTALL}` has not written its first complete record"
)


@needs_record
@pytest.mark.parametrize("page", ["docs/install.md", "README.md"])
def test_record_of_the_install_run_has_the_commands_of_the_page(page: str) -> None:
    """docs/try-install.md, which `make try-install` writes, holds the page's commands as they stand now."""
    blocks = [block for block in BLOCKS if block.page == page]
    if page == "README.md":
        blocks = [block for block in blocks if block.run_by == TRY_INSTALL]
    commands = [(shown(command), block.not_run) for block in blocks for command in block.commands]
    recorded = recorded_commands(page)
    assert [command for command, _ in recorded] == [command for command, _ in commands], "run it again"
    for (command, result), (_, reason) in zip(recorded, commands, strict=True):
        assert result == reason or (not reason and result in ("0", "1")), command


@needs_record
def test_pages_state_the_measured_sizes() -> None:
    """README and docs/install.md state the disk space that the recorded run measured, to ten megabytes."""
    sizes = recorded_sizes()
    demo, tests = sizes[DEMO_FOLDER], sizes[TESTS_FOLDER] - sizes[DEMO_FOLDER]
    readme, install = (ROOT / "README.md").read_text(), (ROOT / "docs" / "install.md").read_text()
    assert f"takes {round(demo, -1)} MB" in readme
    assert f"adds what the tests need ({round(tests, -1)} MB" in readme
    assert f"takes {round(sizes[SERVICE_FOLDER], -1)} MB of disk" in install


@contextmanager
def own_network() -> Iterator[int]:
    """Yield a process whose network is a loopback that no other process uses."""
    set_up = "ip link set lo up && echo up && exec sleep infinity"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "/bin/sh", "-c", set_up]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


def end_server(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """End a process with SIGTERM; it must have ended or end with code 0."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0, log.read_text()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="a network of its own needs root and iproute2"
)
@pytest.mark.parametrize("block", RUN_HERE, ids=lambda block: f"{block.page}-{block.heading}")
def test_shell_block_runs_as_it_stands(block: ShellBlock, tmp_path: Path) -> None:
    """Each command starts in an empty folder with a loopback of its own; the servers end on SIGTERM with code 0."""
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    environment = environment_without_catalyst(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path / "share"))
    with ExitStack() as stack:
        network = stack.enter_context(own_network())
        for number, command in enumerate(block.commands):
            log = tmp_path / f"{number}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    ["nsenter", "--target", str(network), "--net", "/bin/sh", "-c", f"exec {command}"],
                    cwd=tmp_path,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            stack.callback(end_server, process, log)
            ready = next((text for name, text in SERVERS.items() if name in command), None)
            if ready is None:
                assert process.wait(LIMIT_S) == 0, log.read_text()
            while ready is not None and ready not in log.read_text():
                assert process.poll() is None, log.read_text()
                pause_blocking()
