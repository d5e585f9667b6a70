"""Mail to a real server with TLS and login, and what each refusal says."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalyst.clock import SystemClock
from catalyst.domain.alert_message import AlertMessage
from catalyst.notify.channel import DeliveryFailed, Recipients
from catalyst.notify.mail import MailChannel
from catalyst.notify.mail import MailServer as ServerAddress
from tests.notify.mail_server import CERTIFICATE, PASSWORD, USER, MailServer, run_mail_server

MESSAGE = AlertMessage(
    "[Catalyst CRITICAL] NOT_FLAT: 20 AAPL\nBcc: thief@example.com", "20 AAPL are held – é\n"
)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with run_mail_server(tmp_path) as running:
        yield running


def _channel(
    server: MailServer, *addresses: str, password: str = PASSWORD, starttls: bool = True
) -> MailChannel:
    address = ServerAddress("127.0.0.1", server.port, "catalyst@example.com", starttls, USER, password)
    recipients = Recipients(frozenset({"CRITICAL", "WARNING"}), addresses or ("ann@example.com",))
    return MailChannel(address, recipients, SystemClock())


async def test_mail_arrives_through_tls_and_login(server: MailServer) -> None:
    """Every address receives it; a line break in an alert adds no header."""
    channel = _channel(server, "ann@example.com", "bob@example.com")
    await channel.send(MESSAGE, "id-1")
    [mail] = server.mails()
    assert mail["X-Recipients"] == "ann@example.com,bob@example.com"
    assert mail["Subject"] == "[Catalyst CRITICAL] NOT_FLAT: 20 AAPL Bcc: thief@example.com"
    assert mail["Bcc"] is None
    assert (mail["Message-ID"], mail["Auto-Submitted"]) == ("<id-1@catalyst>", "auto-generated")
    assert mail.get_content().splitlines() == MESSAGE.body.splitlines()
    assert channel.name == "mail:critical+warning"
    assert PASSWORD not in repr(channel)


async def test_mail_arrives_where_only_some_addresses_are_refused(server: MailServer) -> None:
    await _channel(server, "ann@example.com", "bob@refused.example").send(MESSAGE, "id-1")
    assert [mail["X-Recipients"] for mail in server.mails()] == ["ann@example.com"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("password", "need an app password"),
        ("recipients", "it refused every address: no such user"),
        ("certificate", "its certificate is not trusted (self-signed certificate)"),
        ("no_tls", "Try connecting via TLS"),
        ("no_server", "Connect call failed"),
    ],
)
async def test_refusal_says_what_to_do(
    server: MailServer, monkeypatch: pytest.MonkeyPatch, change: str, says: str
) -> None:
    channel = _channel(server)
    if change == "password":
        channel = _channel(server, password="wrong-password")
    elif change == "recipients":
        channel = _channel(server, "ann@refused.example")
    elif change == "certificate":
        monkeypatch.delenv("SSL_CERT_FILE")
    elif change == "no_tls":
        channel = _channel(server, starttls=False)
    else:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        channel = replace(channel, server=replace(channel.server, port=port))
    with pytest.raises(DeliveryFailed) as failed:
        await channel.send(MESSAGE, "id-1")
    assert says in str(failed.value)
    assert "password" not in str(failed.value).replace("app password", "")
    assert server.mails() == []
