"""Configured channels: the channels that the environment names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from catalyst.clock import Clock
from catalyst.config.settings import Environment, Settings
from catalyst.domain.alert_message import Severity
from catalyst.notify.channel import Channel, Recipients, severities_of
from catalyst.notify.mail import MailChannel, MailServer
from catalyst.notify.urls import UrlChannel, problem_of, split_urls

_ADDRESS: Final = re.compile(r"[^@\s,;<>\"\[\]]+@[A-Za-z0-9.-]*[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class ConfiguredChannels:
    """The channels that can be used, and a sentence for each setting that is wrong. One wrong setting costs only its
    own channel."""

    channels: list[Channel] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def configured_channels(settings: Settings, clock: Clock) -> ConfiguredChannels:
    """Return the channels of the settings. Mail is sent with features.email_alerts, URLs whenever they are set."""
    env, found = settings.env, ConfiguredChannels()
    if settings.config.features.email_alerts:
        _add_mail(found, env, clock)
    _add_urls(found, env)
    return found


def _add_mail(found: ConfiguredChannels, env: Environment, clock: Clock) -> None:
    addresses: dict[Severity, list[str]] = {}
    for name, severity, text in _mail_settings(env):
        for address in filter(None, (part.strip() for part in (text or "").split(","))):
            if _ADDRESS.fullmatch(address):
                addresses.setdefault(severity, []).append(address)
            else:
                found.problems.append(f"{name}: {address!r} is not a mail address")
    server = _mail_server(env)
    if isinstance(server, str):
        found.problems.append(server)
        return
    if not addresses and not found.problems:
        found.problems.append(
            "ENABLE_EMAIL_ALERTS is on and nobody receives mail: set ALERT_EMAIL_CRITICAL (and …_WARNING, …_INFO)"
        )
    groups: dict[frozenset[Severity], list[str]] = {}
    for address, severities in severities_of(addresses).items():
        groups.setdefault(severities, []).append(address)
    found.channels.extend(
        MailChannel(server, Recipients(severities, tuple(group)), clock)
        for severities, group in groups.items()
    )


def _add_urls(found: ConfiguredChannels, env: Environment) -> None:
    urls: dict[Severity, list[str]] = {}
    for name, severity, text in _url_settings(env):
        for url in split_urls(text or ""):
            problem = problem_of(url)
            if problem is None:
                urls.setdefault(severity, []).append(url)
            else:
                found.problems.append(f"{name}: {problem}")
    found.channels.extend(UrlChannel(url, severities) for url, severities in severities_of(urls).items())


def _mail_settings(env: Environment) -> Iterator[tuple[str, Severity, str | None]]:
    yield "ALERT_EMAIL_CRITICAL", "CRITICAL", env.alert_email_critical
    yield "ALERT_EMAIL_WARNING", "WARNING", env.alert_email_warning
    yield "ALERT_EMAIL_INFO", "INFO", env.alert_email_info


def _url_settings(env: Environment) -> Iterator[tuple[str, Severity, str | None]]:
    texts = [
        None if url is None else url.get_secret_value()
        for url in (env.alert_url_critical, env.alert_url_warning, env.alert_url_info)
    ]
    yield "ALERT_URL_CRITICAL", "CRITICAL", texts[0]
    yield "ALERT_URL_WARNING", "WARNING", texts[1]
    yield "ALERT_URL_INFO", "INFO", texts[2]


def _mail_server(env: Environment) -> MailServer | str:
    """Return the mail server, or what is wrong with its settings."""
    if env.smtp_host is None:
        return "ENABLE_EMAIL_ALERTS is on and SMTP_HOST is not set: name your mail server"
    sender = env.smtp_from or env.smtp_username
    if sender is None or not _ADDRESS.fullmatch(sender):
        return "SMTP_FROM is not a mail address: set the address from which alerts are sent"
    password = None if env.smtp_password is None else env.smtp_password.get_secret_value()
    if (env.smtp_username is None) is not (password is None):
        return "set both SMTP_USERNAME and SMTP_PASSWORD, or neither"
    return MailServer(env.smtp_host, env.smtp_port, sender, env.smtp_tls, env.smtp_username, password)
