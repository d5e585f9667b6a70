"""Configured channels: the channels that the environment names."""

from pydantic import SecretStr

from catalyst.clock import Clock
from catalyst.config.settings import Environment, Settings
from catalyst.domain.alert_message import Severity
from catalyst.domain.errors import ConfigInvalid
from catalyst.notify.channel import Channel, group_recipients
from catalyst.notify.mail import MailChannel, MailServer
from catalyst.notify.urls import UrlChannel, check_urls


def configured_channels(settings: Settings, clock: Clock) -> list[Channel]:
    """Return the channels of the settings; none when no recipient is set.

    Mail is sent with features.email_alerts, URLs whenever they are set. Raises ConfigInvalid when a setting is missing.
    """
    env = settings.env
    channels: list[Channel] = []
    if settings.config.features.email_alerts:
        server = _mail_server(env)
        mails = group_recipients(
            _by_severity(env.alert_email_critical, env.alert_email_warning, env.alert_email_info)
        )
        if not mails:
            raise ConfigInvalid(
                "ENABLE_EMAIL_ALERTS is on and nobody receives mail: set ALERT_EMAIL_CRITICAL (and …_WARNING, …_INFO)"
            )
        channels += [MailChannel(server, recipients, clock) for recipients in mails]
    urls = group_recipients(
        _by_severity(*(None if url is None else url.get_secret_value() for url in _urls(env)))
    )
    for recipients in urls:
        check_urls(recipients)
        channels.append(UrlChannel(recipients))
    return channels


def _by_severity(critical: str | None, warning: str | None, info: str | None) -> dict[Severity, str | None]:
    return {"CRITICAL": critical, "WARNING": warning, "INFO": info}


def _urls(env: Environment) -> tuple[SecretStr | None, ...]:
    return env.alert_url_critical, env.alert_url_warning, env.alert_url_info


def _mail_server(env: Environment) -> MailServer:
    if env.smtp_host is None:
        raise ConfigInvalid("ENABLE_EMAIL_ALERTS is on and SMTP_HOST is not set: name your mail server")
    sender = env.smtp_from or env.smtp_username
    if sender is None or "@" not in sender:
        raise ConfigInvalid("SMTP_FROM is not a mail address: set the address from which alerts are sent")
    password = None if env.smtp_password is None else env.smtp_password.get_secret_value()
    if (env.smtp_username is None) is not (password is None):
        raise ConfigInvalid("set both SMTP_USERNAME and SMTP_PASSWORD, or neither")
    return MailServer(env.smtp_host, env.smtp_port, sender, env.smtp_tls, env.smtp_username, password)
