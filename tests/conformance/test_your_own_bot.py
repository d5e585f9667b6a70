"""docs/your-own-bot.md: the tests run its commands and programs as they stand on the page."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import requests

from tests.waiting import LIMIT_S, pause_blocking

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-own-bot.md"
FOREIGN_READY = ROOT / ".venv-foreign" / ".ready"
NPM_CLIENTS = ROOT / ".npm-clients"  # programs run here, so that they find the packages
NODE_READY = NPM_CLIENTS / ".ready"
NO_CLIENTS = "the npm clients are not installed: `make clients` installs them where there is Node"


def code_blocks(heading: str, language: str) -> list[str]:
    """Return the code blocks of one language under a heading of the page."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the exchange with the page's command, with another port and fewer symbols; yield its port."""
    ready = tmp_path_factory.mktemp("sim") / "port"
    [start] = code_blocks("Start it", "sh")
    program, *words = shlex.split(start)
    assert program == "catalyst"
    ours = ["--port", "0", "--port-file", str(ready), "--symbols", "200", "--day", "2026-06-17"]
    sim = subprocess.Popen(
        [sys.executable, "-m", "catalyst", *words, *ours],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while not ready.exists():
            assert sim.poll() is None, sim.communicate()[0]
            pause_blocking()
        yield ready.read_text().strip()
    finally:
        sim.terminate()
        sim.communicate(timeout=LIMIT_S)


def run_script(command: list[str], script: str, port: str, *, folder: Path | None = None) -> str:
    """Run the script in a folder, require success, and return its output."""
    assert "8765" in script
    done = subprocess.run(
        command,
        input=script.replace("8765", port),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_examples_of_the_bot_page_succeed(port: str) -> None:
    """Account, clock, snapshots, bars, an order and its follow-ups each get a valid answer."""
    [script] = code_blocks("curl", "sh")
    answers = [json.loads(line) for line in run_script(["sh", "-eu"], script, port).splitlines() if line]
    assert len(answers) == len(re.findall(r"^ask ", script, re.MULTILINE))
    account, clock, snapshots, bars, order, found, orders, _, closed = answers
    assert float(account["cash"]) == 100_000
    assert clock["is_open"]
    assert set(snapshots) == {"AAPL", "MSFT"}
    assert len(bars["bars"]) == 3
    assert found["id"] == order["id"]
    assert order["id"] in {row["id"] for row in orders}
    assert isinstance(closed, list)


def test_python_example_of_the_bot_page_succeeds(port: str) -> None:
    """A bracket is bought over the wire, its exits work, and the stream sends each step."""
    script, _ = code_blocks("alpaca-py", "python")
    printed = run_script([sys.executable, "-"], script, port)
    assert re.search(r"^fill market buy filled$", printed, re.MULTILINE)
    assert re.search(r"^new limit sell new$", printed, re.MULTILINE)
    assert re.search(r"^AAPL 10 shares, 0 of them free$", printed, re.MULTILINE)


def test_data_and_news_example_of_the_bot_page_succeeds(port: str) -> None:
    """Bars and headlines are found by the market's own clock; a trade and a headline come over their streams."""
    _, script = code_blocks("alpaca-py", "python")
    printed = run_script([sys.executable, "-W", "ignore", "-"], script, port)
    assert re.search(r"^bars [23]\d$", printed, re.MULTILINE)
    assert re.search(r"^headlines [1-9]", printed, re.MULTILINE)
    assert re.search(r"^trade SPY \d", printed, re.MULTILINE)
    assert re.search(r"^news \S+ \S", printed, re.MULTILINE)


@pytest.mark.skipif(not FOREIGN_READY.exists(), reason="no .venv-foreign: `make foreign` makes it")
def test_alpaca_trade_api_example_of_the_bot_page_succeeds(port: str) -> None:
    """The older client trades and reads the bars of the market's day."""
    [script] = code_blocks("alpaca-trade-api", "python")
    printed = run_script([str(FOREIGN_READY.with_name("bin") / "python"), "-W", "ignore", "-"], script, port)
    assert re.search(r"^cash \d", printed, re.MULTILINE)
    assert re.search(r"^order QQQ (pending_new|new|filled)$", printed, re.MULTILINE)
    assert re.search(r"^bars [1-9]", printed, re.MULTILINE)


@pytest.mark.skipif(not NODE_READY.exists(), reason=NO_CLIENTS)
@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("JavaScript", (r"^fill market buy filled$", r"^new limit sell new$", r"symbol: 'MSFT'")),
        (
            "@master-chief/alpaca",
            (r"^trade SPY \d", r"^fill SPY filled$", r"^positions [1-9]", r"^open true$"),
        ),
    ],
)
def test_javascript_example_of_the_bot_page_succeeds(
    port: str, heading: str, expected: tuple[str, ...]
) -> None:
    """The program of each npm client prints its events and ends by itself."""
    [script] = code_blocks(heading, "js")
    node = shutil.which("node")
    assert node is not None
    printed = run_script([node, "--input-type=module", "-"], script, port, folder=NPM_CLIENTS)
    for pattern in expected:
        assert re.search(pattern, printed, re.MULTILINE), (pattern, printed)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_fault_examples_of_the_bot_page_succeed(port: str) -> None:
    """Each fault rule is accepted, all are listed and removed, and the audit is clean."""
    keys = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
    order = {"symbol": "SPY", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    requests.post(
        f"http://127.0.0.1:{port}/v2/orders", headers=keys, json=order, timeout=LIMIT_S
    ).raise_for_status()
    [script] = code_blocks("Inject faults", "sh")
    answers = [json.loads(line) for line in run_script(["sh", "-eu"], script, port).splitlines() if line]
    *_, faults, healed, request_log, audit = answers
    assert [fault["kind"] for fault in faults] == ["hang", "status", "partial", "stream_drop"]
    assert healed == []
    assert request_log["orders"]
    assert audit["clean"]
    assert requests.get(f"http://127.0.0.1:{port}/admin/faults", timeout=LIMIT_S).json() == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_clock_examples_of_the_bot_page_succeed(port: str) -> None:
    """The clock stops, steps 5 s, jumps to 15:30 and runs again."""
    [script] = code_blocks("Set its clock", "sh")
    answers = [json.loads(line) for line in run_script(["sh", "-eu"], script, port).splitlines() if line]
    assert [answer["speed"] for answer in answers] == [0, 0, 0, 10]
    times = [datetime.fromisoformat(answer["new_york"]) for answer in answers]
    assert (times[1] - times[0]).total_seconds() == pytest.approx(5, abs=0.001)
    assert f"{times[2]:%H:%M:%S}" == "15:30:00"
    assert times[3] >= times[2]


@pytest.mark.parametrize(
    ("heading", "checked"), [("JavaScript", "7eae4937076d0893"), ("@master-chief/alpaca", "ab56654498cc24e3")]
)
def test_javascript_example_of_the_bot_page_has_the_checked_hash(heading: str, checked: str) -> None:
    """The example was run in this wording; after a change run it again with `make clients` and update the hash."""
    [script] = code_blocks(heading, "js")
    assert hashlib.sha256(script.encode()).hexdigest()[:16] == checked
