"""F098: with a full log disk or a reader that hangs the process continues, and dropped lines are counted."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from catalyst.cli.log_writer import MAX_BUFFERED_BYTES, LogWriter
from tests.waiting import pause_blocking


@pytest.mark.promise("F098")
def test_log_writer_drops_and_counts_lines_when_the_disk_is_full(tmp_path: Path) -> None:
    """Every line to a full device is dropped without an error; their number is written once there is room again."""
    with Path("/dev/full").open("w") as full:
        writer = LogWriter(full)
        for n in range(100):
            writer.write(f"line {n}\n")
        writer.flush()
        assert writer.dropped == 100
        log_file = tmp_path / "log"
        with log_file.open("w") as room:
            writer._target = room
            writer.write("there is room\nand more\n")
        assert log_file.read_text().splitlines()[0] == "there is room"
        assert orjson.loads(log_file.read_text().splitlines()[1])["count"] == 100
        assert writer.dropped == 0


@pytest.mark.promise("F098")
def test_log_writer_buffers_a_bounded_amount_when_the_reader_hangs() -> None:
    """Writing to a pipe without a reader does not block: a bounded number of lines is buffered, the others are counted.
    When the pipe is read, complete lines come out in order."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as target:
        writer = LogWriter(target)
        text = "x" * 999
        count = 3 * MAX_BUFFERED_BYTES // 1000
        for n in range(count):
            writer.write(f"{n:05} {text}\n")
        assert writer.dropped > 0
        assert writer._buffered_bytes <= MAX_BUFFERED_BYTES
        received = b""
        while writer._buffer:
            received += os.read(reading, 1 << 16)
            writer.flush()
        received += os.read(reading, 1 << 16)
    while chunk := os.read(reading, 1 << 16):
        received += chunk
    os.close(reading)
    lines_read = received.decode().splitlines()
    numbers = [int(line[:5]) for line in lines_read if not line.startswith("{")]
    assert numbers == list(range(len(numbers)))
    missing = sum(orjson.loads(line)["count"] for line in lines_read if line.startswith("{"))
    assert len(numbers) + missing == count


@pytest.mark.promise("F098")
def test_process_finishes_when_nobody_reads_its_log(tmp_path: Path) -> None:
    """A process that logs like the daemon to a pipe without a reader runs to its end."""
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
    try:
        while not done.exists():  # a process that waits for its reader never writes it
            assert process.poll() is None or done.exists()
            pause_blocking()
    finally:
        os.close(reading)
        process.kill()
        process.wait()
