"""Mail: sends messages to a mail server by SMTP.

Source: RFC 5321, RFC 3207 (STARTTLS), RFC 8314 (port 465 is TLS from the first byte), RFC 3834 (Auto-Submitted).
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

import aiosmtplib
import structlog

from catalyst.clock import Clock
from catalyst.domain.alert_message import AlertMessage, Severity
from catalyst.notify.channel import DeliveryFailed, Recipients, name_of

log = structlog.get_logger()

SEND_TIMEOUT_S: Final = 15  # real seconds for one message, from the connection to the last answer
PROBE_TIMEOUT_S: Final = 8.0  # real seconds for the connection, and for each answer
IMPLICIT_TLS_PORT: Final = 465
MAX_SUBJECT: Final = 160  # characters


@dataclass(frozen=True, slots=True)
class MailServer:
    """Address and login of the mail server. With `starttls` the connection must become encrypted before the login."""

    host: str
    port: int
    sender: str
    starttls: bool = True
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class MailChannel:
    """Sends alerts of some severities to some addresses."""

    server: MailServer
    recipients: Recipients
    clock: Clock

    @property
    def name(self) -> str:
        return name_of("mail", self.recipients.severities)

    @property
    def severities(self) -> frozenset[Severity]:
        return self.recipients.severities

    async def send(self, message: AlertMessage, message_id: str) -> None:
        """Send one mail to all addresses. Raises DeliveryFailed when no address was accepted."""
        server = self.server
        implicit_tls = server.port == IMPLICIT_TLS_PORT
        try:
            mail = self._compose(message, message_id)
            async with asyncio.timeout(SEND_TIMEOUT_S):  # noqa: TID251 -- a mail server knows no market clock
                refused, _ = await aiosmtplib.send(
                    mail,
                    hostname=server.host,
                    port=server.port,
                    username=server.username,
                    password=server.password,
                    use_tls=implicit_tls,
                    start_tls=server.starttls and not implicit_tls,
                    timeout=SEND_TIMEOUT_S,
                )
        except aiosmtplib.SMTPAuthenticationError as error:
            raise DeliveryFailed(
                f"the mail server {server.host} refused SMTP_USERNAME and SMTP_PASSWORD ({error.code}): Gmail and "
                "other providers need an app password, which you create in the account's security settings"
            ) from None
        except (aiosmtplib.SMTPException, ssl.SSLError, OSError, ValueError) as error:
            raise DeliveryFailed(f"the mail server {server.host}:{server.port}: {_reason(error)}") from None
        if refused:
            log.warning("mail_addresses_refused", channel=self.name, refused=len(refused))

    def _compose(self, message: AlertMessage, message_id: str) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self.server.sender
        mail["To"] = ", ".join(self.recipients.addresses)
        mail["Subject"] = one_line(message.subject)
        mail["Date"] = format_datetime(self.clock.now())
        mail["Message-ID"] = f"<{message_id}@catalyst>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.body)
        return mail


async def probe_server(server: MailServer) -> None:
    """Connect with TLS as a message would be sent, and send none. Raises DeliveryFailed, which names the reason."""
    implicit_tls = server.port == IMPLICIT_TLS_PORT
    client = aiosmtplib.SMTP(
        hostname=server.host,
        port=server.port,
        use_tls=implicit_tls,
        start_tls=server.starttls and not implicit_tls,
        timeout=PROBE_TIMEOUT_S,
    )
    try:
        async with client:
            await client.noop()
    except (aiosmtplib.SMTPException, ssl.SSLError, OSError, ValueError) as error:
        raise DeliveryFailed(f"the mail server {server.host}:{server.port}: {_reason(error)}") from None


def one_line(text: str) -> str:
    """Return the text as one printable line of a mail header, cut to its length."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= MAX_SUBJECT else line[: MAX_SUBJECT - 1] + "…"


def _reason(error: Exception) -> str:
    """Return why a message was not taken, and what to do where the cause is known."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return "it refused every address: " + "; ".join(str(each.message) for each in error.recipients)
    if isinstance(error, aiosmtplib.SMTPConnectTimeoutError):
        return (
            "no answer to the connection; many providers block port 25, and some 587 and 465: ask them, or use the "
            "port 2525 of a mail service"
        )
    if isinstance(error, TimeoutError):
        return f"no complete answer within {SEND_TIMEOUT_S} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return " ".join(str(error).split()) or type(error).__name__
