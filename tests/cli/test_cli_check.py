"""`catalyst check`: data plan, disks and mail server, each with what to do."""

import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest
from stories.scenario import open_scenario
from typer.testing import CliRunner

from catalyst.cli import host_checks
from catalyst.cli.app import app
from catalyst.cli.check_result import CheckResult, CheckVerdict
from catalyst.cli.preflight import run_checks
from catalyst.clock import SystemClock
from catalyst.config.loader import load
from catalyst.config.settings import Environment, Settings
from catalyst.notify import mail
from tests.notify.mail_server import CERTIFICATE, run_mail_server

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 -- as shutil's own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder of a process without a variable of Catalyst."""
    for name in [name for name in os.environ if name.lower() in Environment.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_configuration_of_init_passes_the_check(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `init` writes passes every check; a feed outside the data plan then fails it, with the key to change, and
    refused keys are not called a silent broker."""
    async with open_scenario(database, started=False) as scenario:
        (folder / "given").write_text(f"DATABASE_URL={database}\n")
        assert CliRunner().invoke(app, ["init", "--mode", "sim", "--secrets", "given"]).exit_code == 0
        config = folder / "config.yaml"
        config.write_text(
            config.read_text().replace("broker:", f"broker:\n  simulator: {scenario.server.url}")
        )
        results = await run_checks(None)
        assert [result for result in results if result.verdict is CheckVerdict.FAIL] == []
        assert found(results, "feed").detail == "iex: included in the account's data plan"
        config.write_text(config.read_text().replace("feed: iex", "feed: sip"))
        await scenario.admin("data", {"recent_sip": False})
        feed = found(await run_checks(None), "feed")
        await scenario.inject_fault("unauthorized", route="/v2/account")
        broker = found(await run_checks(None), "broker")
    assert broker.verdict is CheckVerdict.FAIL
    assert "refuses the keys: 401" in broker.detail
    assert "ALPACA_SECRET_KEY" in broker.fix
    assert feed.verdict is CheckVerdict.FAIL
    assert feed.detail == "the account's data plan does not include sip"
    assert "broker.feed: iex" in feed.fix


def test_check_names_each_disk_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders on one disk are one line; a nearly full disk warns, a full one fails."""
    settings = load()
    (ample,) = host_checks.check_disks(settings)
    assert ample.detail.endswith(f"GiB free at {folder} (database, spool, flat proofs)")
    for free, verdict in ((900 << 20, CheckVerdict.WARN), (50 << 20, CheckVerdict.FAIL)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(1 << 40, 0, free))
        (low,) = host_checks.check_disks(settings)
        assert (low.verdict, low.fix) == (
            verdict, "free some space: the database stops when the disk is full",
        )  # fmt: skip
    other_disk = Path("/proc")
    config = load_text(folder, f"database: {{spool: {other_disk}, proofs: {folder}/proofs}}\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    details = [result.detail for result in host_checks.check_disks(load(config))]
    assert [detail.partition(" free at ")[2] for detail in details] == [
        "/proc (spool)",
        f"{folder} (flat proofs)",
    ]


async def test_check_probes_the_mail_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers with TLS passes and receives nothing; a closed and a silent port warn."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert await host_checks.check_mail_servers(load(), SystemClock()) == []
    with run_mail_server(folder) as server:
        (answer,) = await host_checks.check_mail_servers(
            mail_settings(monkeypatch, server.port), SystemClock()
        )
        assert (answer.verdict, answer.detail) == (CheckVerdict.OK, f"127.0.0.1:{server.port} answers")
        assert server.mails() == []
    (closed,) = await host_checks.check_mail_servers(mail_settings(monkeypatch, server.port), SystemClock())
    assert closed.verdict is CheckVerdict.WARN
    monkeypatch.setattr(mail, "PROBE_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = mail_settings(monkeypatch, silent.getsockname()[1])
        (blocked,) = await host_checks.check_mail_servers(settings, SystemClock())
    assert "many providers block port 25" in blocked.detail
    assert "2525" in blocked.detail


def mail_settings(monkeypatch: pytest.MonkeyPatch, port: int) -> Settings:
    """Return settings that mail critical alerts through that port of this machine."""
    for name, value in {
        "ENABLE_EMAIL_ALERTS": "true", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port),
        "SMTP_FROM": "catalyst@example.com", "ALERT_EMAIL_CRITICAL": "ann@example.com",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return load()


def load_text(folder: Path, text: str) -> Path:
    """Write config.yaml and return its path."""
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


def found(results: list[CheckResult], name: str) -> CheckResult:
    """Return the one result of that name."""
    (result,) = [result for result in results if result.name == name]
    return result
