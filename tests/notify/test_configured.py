"""Channels of the environment: one wrong setting is named and costs only its own channel."""

import pytest

from catalyst.clock import SystemClock
from catalyst.config.schema import Config, Mode, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.notify.configured import configured_channels
from catalyst.notify.urls import split_urls

MAIL = {
    "SMTP_HOST": "mail.example.com",
    "SMTP_FROM": "catalyst@example.com",
    "ALERT_EMAIL_CRITICAL": "ann@example.com",
}


@pytest.mark.parametrize(
    ("changes", "channels", "problem"),
    [
        ({}, ["mail:critical"], None),
        ({"ALERT_EMAIL_WARNING": "ann@example.com"}, ["mail:critical+warning"], None),
        (
            {"ALERT_EMAIL_WARNING": "bob@"},
            ["mail:critical"],
            "ALERT_EMAIL_WARNING: 'bob@' is not a mail address",
        ),
        ({"ALERT_EMAIL_CRITICAL": "ann@[1.2.3"}, [], "'ann@[1.2.3' is not a mail address"),
        ({"ALERT_EMAIL_CRITICAL": ""}, [], "nobody receives mail"),
        ({"SMTP_FROM": "catalyst"}, [], "SMTP_FROM is not a mail address"),
        ({"SMTP_HOST": ""}, [], "SMTP_HOST is not set"),
        ({"SMTP_USERNAME": "ann"}, [], "set both SMTP_USERNAME and SMTP_PASSWORD"),
        ({"ALERT_URL_CRITICAL": "slack://[a/b"}, ["mail:critical"], "begins with slack:// is not one"),
        ({"ALERT_URL_INFO": "token-without-scheme"}, ["mail:critical"], "a URL without a scheme"),
        ({"ALERT_URL_INFO": "json://h/a", "SMTP_HOST": ""}, ["url:info"], "SMTP_HOST is not set"),
        ({"ALERT_URL_INFO": "json://h/a,json://h/b"}, ["mail:critical", "url:info", "url:info"], None),
    ],
)
def test_wrong_setting_costs_only_its_own_channel(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], channels: list[str], problem: str | None
) -> None:
    pytest.importorskip("apprise", reason="needs the extra `notify`")
    for name, value in {**MAIL, **changes}.items():
        monkeypatch.setenv(name, value)
    config = Config.model_validate({"features": {"email_alerts": True}})
    found = configured_channels(
        Settings(config, Environment(), Mode.SIM, SessionMode.SUPERVISED), SystemClock()
    )
    assert [channel.name.partition("#")[0] for channel in found.channels] == channels
    assert len({channel.name for channel in found.channels}) == len(channels)
    if problem is None:
        assert found.problems == []
    else:
        assert any(problem in each for each in found.problems), found.problems
        assert not any(each[-1:] == "b" and "slack" in each for each in found.problems)


def test_comma_inside_a_url_separates_nothing() -> None:
    text = "mailto://u:p@h?to=a@b.example,d@e.example, json://h/x ,"
    assert split_urls(text) == ["mailto://u:p@h?to=a@b.example,d@e.example", "json://h/x"]
