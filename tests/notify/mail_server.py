"""A real mail server as its own process: TLS, login, one file per mail received."""

import argparse
import asyncio
import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, Final

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

ROOT: Final = Path(__file__).parents[2]
CERTIFICATE: Final = Path(__file__).with_name("localhost.pem")
USER, PASSWORD = "trader@example.com", "app-password-of-the-test"


@dataclass
class MailServer:
    """The server process as its tests see it."""

    port: int
    folder: Path

    def mails(self) -> list[EmailMessage]:
        """Return the mails that the server has accepted, oldest first."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            fields = json.loads(path.read_text())
            mail = message_from_bytes(fields["data"].encode(), policy=default)
            assert isinstance(mail, EmailMessage)
            mail["X-Recipients"] = ",".join(fields["to"])
            found.append(mail)
        return found


@contextmanager
def run_mail_server(folder: Path, *, port: int = 0, implicit_tls: bool = False) -> Iterator[MailServer]:
    """Run the server until the block ends; `port` 0 takes a free one."""
    command = [sys.executable, "-m", "tests.notify.mail_server", str(folder.absolute()), str(port)]
    process = subprocess.Popen(
        [*command, *(["--implicit-tls"] if implicit_tls else [])],
        cwd=ROOT,  # a test may work in another folder
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield MailServer(int(process.stdout.readline()), folder)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def set_mail_environment(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Set the variables of an operator who receives critical alerts, and a second one who receives all."""
    for name, value in {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SMTP_USERNAME": USER,
        "SMTP_PASSWORD": PASSWORD,
        "ALERT_EMAIL_CRITICAL": "ann@example.com, bob@example.com",
        "ALERT_EMAIL_WARNING": "bob@example.com",
        "ALERT_EMAIL_INFO": "bob@example.com",
        "SSL_CERT_FILE": str(CERTIFICATE),
    }.items():
        monkeypatch.setenv(name, value)


class _Mailbox:
    """Writes each accepted mail to a file; refuses recipients of the domain `refused.example`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_RCPT(  # the name is aiosmtpd's
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.endswith("@refused.example"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self._count += 1
        text = json.dumps({"to": envelope.rcpt_tos, "data": envelope.content.decode()})
        path = self._folder / f"{self._count:04}.part"
        path.write_text(text)
        path.rename(path.with_suffix(".json"))
        return "250 OK"


def _authenticate(
    _server: Any, _session: Session, _envelope: Envelope, _mechanism: str, login: Any
) -> AuthResult:
    right = isinstance(login, LoginPassword) and (login.login, login.password) == (
        USER.encode(),
        PASSWORD.encode(),
    )
    return AuthResult(success=right, handled=False)


def main() -> None:
    """Serve until SIGTERM; the first line of the output is the port."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--implicit-tls", action="store_true")
    args = parser.parse_args()
    asyncio.run(_serve(args.folder, args.port, implicit_tls=args.implicit_tls))


async def _serve(folder: Path, port: int, *, implicit_tls: bool) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    mailbox, loop, stopped = _Mailbox(folder), asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)

    def new_session() -> SMTP:
        return SMTP(
            mailbox,
            authenticator=_authenticate,
            auth_required=True,
            auth_require_tls=not implicit_tls,
            require_starttls=not implicit_tls,
            tls_context=None if implicit_tls else context,
        )

    server = await loop.create_server(
        new_session, "127.0.0.1", port, ssl=context if implicit_tls else None, start_serving=True
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    main()
