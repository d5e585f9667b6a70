"""Sessions of calls with clients that nobody here wrote; docs/your-own-bot.md has the table of their results."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from catalyst.simulator.admin.audit import audit
from tests.conformance.exchange_thread import run_exchange
from tests.conformance.test_your_own_bot import NO_CLIENTS, NODE_READY, NPM_CLIENTS, PAGE, ROOT, code_blocks

CLIENTS = ROOT / "tests" / "conformance" / "clients"
MCP_READY = ROOT / ".venv-clients" / ".ready"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"}
ROW = re.compile(r"^\| (.+?) \| (\d+) \| (\d+) \| (\d+)(?:: (.+?))? \|$", re.MULTILINE)

# Tools of the MCP server with arguments, the simulated ones and a few that are not; {order} is the placed order.
TOOLS: Mapping[str, dict[str, Any]] = {
    "get_account_info": {},
    "get_account_config": {},
    "get_account_activities": {},
    "get_portfolio_history": {"period": "1D", "timeframe": "5Min"},
    "get_clock": {},
    "get_calendar": {"start": "2026-06-15", "end": "2026-06-17"},
    "get_all_assets": {"status": "active"},
    "get_asset": {"symbol_or_asset_id": "AAPL"},
    "place_stock_order": {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "limit", "limit_price": "1",
                          "time_in_force": "day"},
    "get_orders": {"status": "all"},
    "get_order_by_id": {"order_id": "{order}"},
    "cancel_order_by_id": {"order_id": "{order}"},
    "cancel_all_orders": {},
    "get_all_positions": {},
    "close_all_positions": {"cancel_orders": True},
    "get_watchlists": {},
    "get_corporate_action_announcements": {"ca_types": "Dividend", "since": "2026-06-01", "until": "2026-06-17"},
    "get_stock_bars": {"symbols": "AAPL", "timeframe": "1Hour", "start": "2026-06-17", "end": "2026-06-17"},
    "get_stock_trades": {"symbols": "AAPL", "start": "2026-06-17", "end": "2026-06-17", "limit": 5},
    "get_stock_quotes": {"symbols": "AAPL", "start": "2026-06-17", "end": "2026-06-17", "limit": 5},
    "get_stock_latest_bar": {"symbols": "AAPL"},
    "get_stock_latest_quote": {"symbols": "AAPL"},
    "get_stock_latest_trade": {"symbols": "AAPL"},
    "get_stock_snapshot": {"symbols": "AAPL"},
    "get_news": {"symbols": "AAPL", "start": "2026-06-16", "end": "2026-06-17"},
    "get_most_active_stocks": {},
    "get_market_movers": {"market_type": "stocks"},
    "get_corporate_actions": {"symbols": "AAPL"},
    "get_locates": {},
    "get_option_contracts": {"underlying_symbols": "AAPL"},
}  # fmt: skip


def documented_results() -> dict[str, tuple[int, int, set[str]]]:
    """Return calls, calls without error and the names of the others, by client."""
    section = PAGE.read_text().split("## Which clients were tried\n")[1]
    return {
        client: (int(calls), int(fine), set(re.findall(r"`(\w+)`", why or "")))
        for client, calls, fine, _, why in ROW.findall(section)
    }


def compare(client: str, problems: Mapping[str, str]) -> None:
    """Compare the calls of a session with the row of the client."""
    name, (calls, fine, failing) = next(
        (name, row) for name, row in documented_results().items() if name.startswith(client)
    )
    found = {call: problem for call, problem in problems.items() if problem}
    assert found.keys() == failing, found
    assert (len(problems), len(problems) - len(found)) == (calls, fine), name


@pytest.mark.skipif(not NODE_READY.exists(), reason=NO_CLIENTS)
@pytest.mark.parametrize(
    ("client", "program"),
    [
        ("official TypeScript SDK", "official_session.mjs"),
        ("@master-chief/alpaca", "master_chief_session.mjs"),
    ],
)
def test_npm_client_completes_its_session(client: str, program: str) -> None:
    """Every call of what is simulated is answered and parsed; the others fail with a message. The audit is clean."""
    node = shutil.which("node")
    assert node is not None
    with run_exchange(speed=1) as sim:
        done = subprocess.run(
            [node, "--input-type=module", "-", sim.url.removeprefix("http://")],
            input=(CLIENTS / program).read_text(), capture_output=True, text=True, timeout=120, check=False,
            cwd=NPM_CLIENTS, env=ENVIRONMENT,
        )  # fmt: skip
        problems = sim.call_in_thread(lambda: audit(sim.exchange.state).problems)
    assert done.returncode == 0, done.stdout + done.stderr
    compare(client, dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")))
    assert problems == []


class McpSession:
    """A server for assistants on its standard input and output."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._sent = 0

    def request(self, method: str, **parameters: object) -> Any:
        """Send a request and return its result."""
        self._sent += 1
        self._write({"jsonrpc": "2.0", "id": self._sent, "method": method, "params": parameters})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") == self._sent:
                return answer["result"]
        raise AssertionError("the server ended")

    def open(self) -> None:
        """Open the session as the protocol wants it."""
        about = {"name": "tests", "version": "1"}
        self.request("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo=about)
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _write(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


@contextmanager
def mcp_session(url: str) -> Iterator[McpSession]:
    """Run the three lines of the page with the exchange's address, and open a session."""
    [wrapper] = code_blocks("alpaca-mcp-server", "python")
    code = wrapper.replace("http://127.0.0.1:8765", url)
    assert code != wrapper
    keys = {"ALPACA_API_KEY": "demo", "ALPACA_SECRET_KEY": "demo"}
    with subprocess.Popen(
        [str(MCP_READY.with_name("bin") / "python"), "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT | keys,
    ) as process:  # fmt: skip
        session = McpSession(process)
        try:
            session.open()
            yield session
        finally:
            process.kill()


@pytest.mark.skipif(
    not MCP_READY.exists(), reason="no .venv-clients: `make clients` makes it from its own lock"
)
def test_mcp_server_completes_its_session() -> None:
    """The page's three lines point the broker's MCP server at the exchange: its tools read, order, cancel and close."""
    problems: dict[str, str] = {}
    with run_exchange(speed=1) as sim, mcp_session(sim.url) as session:
        order = ""
        for name, arguments in TOOLS.items():
            asked = {key: order if value == "{order}" else value for key, value in arguments.items()}
            result = session.request("tools/call", name=name, arguments=asked)
            text = result["content"][0]["text"] if result["content"] else ""
            problems[name] = text or "error" if result.get("isError") else ""
            if name == "place_stock_order" and not problems[name]:
                order = json.loads(text)["data"]["id"]
        audit_problems = sim.call_in_thread(lambda: audit(sim.exchange.state).problems)
    compare("alpaca-mcp-server", problems)
    assert audit_problems == []


def test_lock_file_of_the_clients_hashes_everything_and_names_no_host() -> None:
    """Like the other lock files, it pins every package by hash and names no source; so does the npm one."""
    text = (ROOT / "requirements-clients.lock").read_text()
    assert "://" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert any(line.startswith("alpaca-mcp-server==") for line in pinned)
    assert all("==" in line for line in pinned)
    packages = json.loads((CLIENTS / "package-lock.json").read_text())["packages"]
    assert all("integrity" in package for path, package in packages.items() if path)
