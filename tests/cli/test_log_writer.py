"""F098: the log's disk is full, or nobody reads it: trading goes on, and what is missing is counted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from catalyst.cli.log_writer import MAX_BUFFERED_BYTES, LogWriter


@pytest.mark.promise("F098")
def test_log_writer_drops_and_counts_lines_when_the_disk_is_full(tmp_path: Path) -> None:
    """Every line to a full device is dropped without a word; with room again the number of them is told."""
    with Path("/dev/full").open("w") as full:
        lines = LogWriter(full)
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


@pytest.mark.promise("F098")
def test_log_writer_buffers_a_bounded_amount_when_the_reader_hangs() -> None:
    """A pipe that nobody empties takes no time: a bounded number of lines waits, the rest is counted; once somebody
    reads, whole lines come out in their order."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as target:
        lines = LogWriter(target)
        text = "x" * 999
        count = 3 * MAX_BUFFERED_BYTES // 1000
        for n in range(count):
            lines.write(f"{n:05} {text}\n")
        assert lines.dropped > 0
        assert lines._buffered_bytes <= MAX_BUFFERED_BYTES
        got = b""
        while lines._buffer:
            got += os.read(reading, 1 << 16)
            lines.flush()
        got += os.read(reading, 1 << 16)
    while more := os.read(reading, 1 << 16):
        got += more
    os.close(reading)
    lines_read = got.decode().splitlines()
    numbers = [int(line[:5]) for line in lines_read if not line.startswith("{")]
    assert numbers == list(range(len(numbers)))
    missing = sum(orjson.loads(line)["count"] for line in lines_read if line.startswith("{"))
    assert len(numbers) + missing == count


@pytest.mark.promise("F098")
def test_process_finishes_when_nobody_reads_its_log(tmp_path: Path) -> None:
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
