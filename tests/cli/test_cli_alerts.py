"""`catalyst test-alert`, `catalyst alerts` and `catalyst alerts ack`, as processes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli.shell import Shell

from catalyst.clock import ManualClock
from catalyst.store import alerts
from catalyst.store.pool import open_store
from tests.notify.mail_server import CERTIFICATE, PASSWORD, USER, run_mail_server

AT = datetime(2026, 4, 8, 14, 10, tzinfo=UTC)


def test_test_alert_sends_one_mail_of_each_severity(shell: Shell, tmp_path: Path) -> None:
    """A missing setting, a wrong password and a good server: each says what happened; no output holds the password."""
    assert "nobody receives alerts: set ENABLE_EMAIL_ALERTS" in shell.error_output("test-alert")
    shell.settings = {"ENABLE_EMAIL_ALERTS": "true", "ALERT_EMAIL_CRITICAL": "ann@example.com"}
    assert "SMTP_HOST is not set" in shell.error_output("test-alert", exit_code=78)
    folder = tmp_path / "mails"
    folder.mkdir()
    with run_mail_server(folder) as server:
        shell.settings |= {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(server.port),
            "SMTP_USERNAME": USER,
            "SMTP_PASSWORD": "not-the-app-password",
            "ALERT_EMAIL_WARNING": "ann@example.com",
            "SSL_CERT_FILE": str(CERTIFICATE),
        }
        refused = shell.run("test-alert", "--severity", "critical")
        assert refused.returncode == 1
        assert "need an app password" in refused.stdout
        assert "not-the-app-password" not in refused.stdout + refused.stderr
        shell.settings["SMTP_PASSWORD"] = PASSWORD
        sent = shell.run("test-alert")
        assert sent.returncode == 0, sent.stdout + sent.stderr
        assert [line.split() for line in sent.stdout.splitlines()] == [
            ["CRITICAL", "mail:critical+warning:", "sent"],
            ["WARNING", "mail:critical+warning:", "sent"],
            ["INFO", "nobody", "receives", "these"],
        ]
        assert [mail["Subject"] for mail in server.mails()] == [
            "[TEST] Catalyst Alert System Test (CRITICAL)",
            "[TEST] Catalyst Alert System Test (WARNING)",
        ]


def test_alerts_are_listed_and_acknowledged(traded_shell: Shell, postgres: Any, database: str) -> None:
    """`ack` takes numbers or --all, says what it did not find, and never acknowledges twice."""

    async def write() -> None:
        store = await open_store(database, ManualClock(AT))
        async with store.tx("alert") as conn:
            for symbol in ("AAPL", "MSFT", "XOM"):
                await alerts.raise_alert(
                    conn,
                    "NOT_FLAT",
                    f"20 {symbol}",
                    subject=symbol,
                    facts={},
                    at=AT,
                    deliver=symbol != "MSFT",
                )
            found = await alerts.waiting(conn, "url:critical", ["CRITICAL"], since=AT - timedelta(minutes=1))
            sent = [alert for alert in found if alert.message == "20 XOM"]
            channels = {"CRITICAL": frozenset({"url:critical"})}
            await alerts.record_sent(conn, sent, "url:critical", at=AT, channels_of=channels)
        await store.close()

    before = traded_shell.read_json("alerts")["alerts"]
    postgres.run(write)
    found = traded_shell.read_json("alerts", "--top", "3")["alerts"]
    assert [alert["message"] for alert in found] == ["20 XOM", "20 MSFT", "20 AAPL"]
    numbers = [str(alert["alert_id"]) for alert in found]
    assert traded_shell.read_json("alerts", "ack", numbers[0], "999", exit_code=1) == {
        "acknowledged": [int(numbers[0])],
        "not_changed": [999],
    }
    still_open = traded_shell.read_json("alerts", "--open")["alerts"]
    assert [alert["message"] for alert in still_open][:2] == ["20 MSFT", "20 AAPL"]
    assert "name the alerts by number" in traded_shell.error_output("alerts", "ack")
    done = traded_shell.read_json("alerts", "ack", "--all")
    assert len(done["acknowledged"]) == 2 + len(before)
    assert traded_shell.read_json("alerts", "--open") == {"alerts": []}
    text = traded_shell.run("alerts", "--top", "3").stdout
    assert "20 MSFT" in text
    assert text.count("sent by url:critical, acknowledged by") == 1  # XOM
    assert text.count("not sent, acknowledged by") == 2  # AAPL waits; nothing was ever to send MSFT
    assert "2026-04-08" in text or "04-08" in text


def test_failed_service_is_alerted_though_the_configuration_is_wrong(shell: Shell, tmp_path: Path) -> None:
    """`alert` needs no daemon and no database: the mail names the service, its exit code and the wrong key, once
    an hour. Without a recipient it says how to get one."""
    (shell.folder / "config.yaml").write_text("risk: {max_positionz: 5}\n")
    failed = ("alert", "--unit=catalyst.service", "--result=exit-code", "--status=78")
    assert "nobody receives alerts" in shell.error_output(*failed)
    folder = tmp_path / "mails"
    folder.mkdir()
    with run_mail_server(folder) as server:
        shell.settings = {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(server.port),
            "SMTP_USERNAME": USER,
            "SMTP_PASSWORD": PASSWORD,
            "SSL_CERT_FILE": str(CERTIFICATE),
            "ALERT_EMAIL_CRITICAL": "ann@example.com",
            "MAX_POSITIONS": "many",
        }
        sent = shell.run(*failed)
        assert (sent.returncode, sent.stdout) == (0, "mail:critical: sent\n"), sent.stderr
        again = shell.run(*failed)
        assert (again.returncode, again.stdout[:14]) == (0, "not sent again"), again.stderr
        [mail] = server.mails()
    assert mail["Subject"].startswith("[Catalyst CRITICAL] SERVICE_FAILED: catalyst.service failed on ")
    assert "(exit-code 78: the configuration is wrong)" in mail.get_content()
    assert "MAX_POSITIONS" in mail.get_content()
