"""A client that is not alpaca-py, in an environment of its own, believes the exchange."""

import json
import subprocess
from pathlib import Path

import pytest

from catalyst.simulator.admin.audit import audit
from tests.conformance.exchange_thread import open_house

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-foreign" / "bin" / "python"
READY = ROOT / ".venv-foreign" / ".ready"  # the stamp of a finished installation


@pytest.mark.skipif(not READY.exists(), reason="no .venv-foreign: `make foreign` makes it from its own lock")
def test_alpaca_trade_api_trades_a_session() -> None:
    """Account, bracket, replacement, cancels, positions, closing, history, snapshots and both streams."""
    with open_house(legacy_fields=True, speed=20) as house:
        environment = {
            "APCA_API_DATA_URL": house.url,
            "NO_PROXY": "127.0.0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        session = subprocess.run(
            [PYTHON, "-W", "ignore", Path(__file__).with_name("foreign_session.py"), house.url],
            capture_output=True,
            text=True,
            env=environment,
            timeout=180,
            check=False,
        )
        assert session.returncode == 0, session.stdout + session.stderr
        problems = house.within(lambda: audit(house.exchange).problems)
        agents = house.within(lambda: {entry.user_agent for entry in house.server.transport.ledger})
    saw = json.loads(session.stdout.splitlines()[-1])
    assert {"new", "fill", "replaced", "canceled"} <= set(saw["updates"])
    assert saw["orders"] >= 6
    assert problems == []
    assert agents == {f"APCA-TRADE-SDK-PY/{saw['client']}"}


def test_the_foreign_lock_names_no_host_and_hashes_everything() -> None:
    """As requirements.lock: every package pinned by hash, nothing about where it came from."""
    text = (ROOT / "requirements-foreign.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert any(line.startswith("alpaca-trade-api==") for line in pinned)
    assert all("==" in line for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)
