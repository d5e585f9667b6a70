"""F098: the log's disk is full, or nobody reads it: trading goes on, and what is missing is counted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson

from catalyst.cli.log_writer import MOST, Lines


def test_f098_a_full_disk_for_the_log(tmp_path: Path) -> None:
    """Every line to a full device is dropped without a word; with room again the number of them is told."""
    with Path("/dev/full").open("w") as full:
        lines = Lines(full)
        for n in range(100):
            lines.write(f"line {n}\n")
        lines.flush()
        assert lines.dropped == 100
        whole = tmp_path / "log"
        with whole.open("w") as room:
            lines._target = room
            lines.write("there is room\nand more\n")
        assert whole.read_text().splitlines()[0] == "there is room"
        assert orjson.loads(whole.read_text().splitlines()[1])["count"] == 100
        assert lines.dropped == 0


def test_f098_a_reader_that_hangs() -> None:
    """A pipe that nobody empties takes no time: a bounded number of lines waits, the rest is counted; once somebody
    reads, whole lines come out in their order."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as target:
        lines = Lines(target)
        text = "x" * 999
        count = 3 * MOST // 1000
        for n in range(count):
            lines.write(f"{n:05} {text}\n")
        assert lines.dropped > 0
        assert lines._size <= MOST
        got = b""
        while lines._waiting:
            got += os.read(reading, 1 << 16)
            lines.flush()
        got += os.read(reading, 1 << 16)
    while more := os.read(reading, 1 << 16):
        got += more
    os.close(reading)
    told = got.decode().splitlines()
    numbers = [int(line[:5]) for line in told if not line.startswith("{")]
    assert numbers == list(range(len(numbers)))
    missing = sum(orjson.loads(line)["count"] for line in told if line.startswith("{"))
    assert len(numbers) + missing == count


def test_f098_the_program_itself_does_not_hang(tmp_path: Path) -> None:
    """A process that logs as the daemon does, its stdout a pipe that nobody reads: it comes to its end."""
    script = """
import structlog, sys
from catalyst.cli import logs
from catalyst.clock import SystemClock
from catalyst.config.loader import load
logs.configure(load(), SystemClock())
log = structlog.get_logger()
for n in range(3000):
    log.info("a_line", number=n, text="x" * 1000)
open(sys.argv[1], "w").write("done")
"""
    done = tmp_path / "done"
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", script, str(done)], stdout=writing)
    os.close(writing)
    deadline = time.monotonic() + 60
    while not done.exists():
        assert process.poll() is None or done.exists()
        assert time.monotonic() < deadline, "it waits for its reader"
        time.sleep(0.02)
    os.close(reading)
    process.wait()
