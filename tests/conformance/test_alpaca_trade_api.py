"""A client other than alpaca-py works with the exchange from its own environment."""

import json
import subprocess
from pathlib import Path

import pytest

from catalyst.simulator.admin.audit import audit
from tests.conformance.exchange_thread import run_exchange

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-foreign" / "bin" / "python"
READY = ROOT / ".venv-foreign" / ".ready"  # stamp of a finished installation


@pytest.mark.skipif(not READY.exists(), reason="no .venv-foreign: `make foreign` makes it from its own lock")
def test_alpaca_trade_api_completes_a_session() -> None:
    """The session covers account, bracket, replacement, cancels, positions, closing, history, snapshots and
    both streams."""
    with run_exchange(legacy_fields=True, speed=20) as sim:
        environment = {
            "APCA_API_DATA_URL": sim.url,
            "NO_PROXY": "127.0.0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        session = subprocess.run(
            [PYTHON, "-W", "ignore", Path(__file__).with_name("alpaca_trade_api_session.py"), sim.url],
            capture_output=True,
            text=True,
            env=environment,
            timeout=180,
            check=False,
        )
        assert session.returncode == 0, session.stdout + session.stderr
        problems = sim.call_in_thread(lambda: audit(sim.exchange.state).problems)
        agents = sim.call_in_thread(lambda: {entry.user_agent for entry in sim.server.middleware.request_log})
    saw = json.loads(session.stdout.splitlines()[-1])
    assert {"new", "fill", "replaced", "canceled"} <= set(saw["updates"])
    assert saw["orders"] >= 6
    assert problems == []
    assert agents == {f"APCA-TRADE-SDK-PY/{saw['client']}"}


def test_alpaca_trade_api_lock_file_hashes_everything_and_names_no_host() -> None:
    """Like requirements.lock, the file pins every package by hash and names no source."""
    text = (ROOT / "requirements-foreign.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert any(line.startswith("alpaca-trade-api==") for line in pinned)
    assert all("==" in line for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)
