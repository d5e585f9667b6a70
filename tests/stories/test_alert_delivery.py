"""Alerts reach people: by mail and messenger, once, in groups, again when nobody acknowledges them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from catalyst.doctor.database_checks import check_database
from catalyst.report.alert_delivery import describe_delivery
from catalyst.report.status import SystemStatus, read_status
from catalyst.store import alerts
from catalyst.store.alert_channels import DeliveryState, read_delivery
from tests.notify.mail_server import MailServer, run_mail_server, set_mail_environment
from tests.stories.scenario import Scenario, open_scenario, settings_for
from tests.waiting import run_loop_turns, wait_until

MAIL_ON: Final = {"autonomous_trading": True, "email_alerts": True}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with run_mail_server(tmp_path) as running:
        set_mail_environment(monkeypatch, running.port)
        yield running


async def raise_alert(
    scenario: Scenario, event: str, severity: str = alerts.CRITICAL, subject: str = ""
) -> None:
    assert scenario.components is not None
    async with scenario.components.store.tx("alert") as conn:
        await alerts.raise_alert(
            conn,
            event,
            f"{event} of {subject or 'the day'}",
            severity=severity,
            subject=subject,
            facts={},
            at=scenario.clock.now(),
        )


async def undelivered(scenario: Scenario) -> int:
    count: int = await scenario.conn.fetchval("SELECT count(*) FROM alerts WHERE delivered_at IS NULL")
    return count


async def advance_until_delivered(scenario: Scenario) -> None:
    """Advance the time in steps until no alert waits; a mail needs real time between two of them."""
    while await undelivered(scenario):
        await scenario.advance(seconds=1)
        await run_loop_turns()


async def test_each_severity_reaches_its_addresses_once(database: str, server: MailServer) -> None:
    """Critical alerts leave at once and take the waiting ones along; lower ones wait 30 s and share a mail."""
    async with open_scenario(database, features=MAIL_ON) as scenario:
        await raise_alert(scenario, "NOT_FLAT")
        started = scenario.clock.now()
        await advance_until_delivered(scenario)
        assert scenario.clock.now() - started < timedelta(minutes=1)
        await raise_alert(scenario, "DAILY_LOSS_WARNING", alerts.WARNING)
        await raise_alert(scenario, "DAY_REPORT", alerts.INFO)
        await advance_until_delivered(scenario)
        await scenario.advance(seconds=120)
        received = {(mail["X-Recipients"], mail["Subject"]) for mail in server.mails()}
        assert received == {
            ("ann@example.com", "[Catalyst CRITICAL] NOT_FLAT: NOT_FLAT of the day"),
            ("bob@example.com", "[Catalyst CRITICAL] NOT_FLAT: NOT_FLAT of the day"),
            (
                "bob@example.com",
                "[Catalyst WARNING] DAILY_LOSS_WARNING (and 1 more): DAILY_LOSS_WARNING of the day",
            ),
        }
        assert len(server.mails()) == 3
        assert "DAY_REPORT of the day" in server.mails()[-1].get_content()


async def test_alerts_wait_for_a_silent_mail_server_and_arrive_once(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and never answers delays no order; each alert of that time is delivered once later, and
    the alerts of a restarted daemon, too."""
    monkeypatch.setattr("catalyst.notify.mail.SEND_TIMEOUT_S", 0.5)  # instead of 15 real seconds
    connections: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _reader, writer: connections.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    set_mail_environment(monkeypatch, port)
    async with open_scenario(database, features=MAIL_ON) as scenario:
        await raise_alert(scenario, "NOT_FLAT", subject="AAPL")
        while not await scenario.conn.fetchval("SELECT count(*) FROM alerts WHERE last_error IS NOT NULL"):
            await scenario.advance(seconds=1)
            await run_loop_turns()
        assert connections
        await scenario.given_position("AAPL", 20)
        await raise_alert(scenario, "NOT_FLAT", subject="MSFT")
        silent.close()
        for writer in connections:
            writer.close()
        with run_mail_server(tmp_path, port=port) as server:
            await advance_until_delivered(scenario)
            await scenario.advance(seconds=60)
            texts = [
                mail.get_content() for mail in server.mails() if mail["X-Recipients"] == "ann@example.com"
            ]
            assert sum(text.count("NOT_FLAT of AAPL") for text in texts) == 1
            assert sum(text.count("NOT_FLAT of MSFT") for text in texts) == 1
            error = await scenario.conn.fetchval("SELECT last_error FROM alerts ORDER BY alert_id LIMIT 1")
            assert error is None


async def test_failing_channel_is_shown_until_it_works_again(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status names the failing channel at once, the doctor after two minutes; a delivery ends both, and a daemon
    without channels says that nobody receives alerts."""
    with socket.socket() as closed:  # nothing listens there
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        set_mail_environment(monkeypatch, port)
        for name in ("ALERT_EMAIL_WARNING", "ALERT_EMAIL_INFO"):
            monkeypatch.delenv(name)
        async with open_scenario(database, features=MAIL_ON) as scenario:
            began = scenario.clock.now()
            await raise_alert(scenario, "NOT_FLAT")
            while not (await status_of(scenario)).problems:
                await scenario.advance(seconds=1)
                await run_loop_turns()
            [problem] = (await status_of(scenario)).problems
            assert problem.startswith("alert channel mail:critical fails since 10:15")
            assert f"127.0.0.1:{port}" in problem
            [channel] = [each for each in (await delivery_of(scenario)).channels if each.failing_since]
            assert channel.failing_since is not None
            assert channel.failing_since - began < timedelta(minutes=1)
            assert (await delivery_of(scenario)).waiting == 1
            assert await doctor_findings(scenario) == []
            await scenario.advance(seconds=130)
            assert await doctor_findings(scenario) == [("ALERTS_NOT_DELIVERED", "mail:critical")]
            closed.close()
            with run_mail_server(tmp_path, port=port):
                await advance_until_delivered(scenario)
            state = await delivery_of(scenario)
            assert (state.waiting, state.last_delivered_at) == (0, state.channels[0].last_delivered_at)
            assert (await status_of(scenario)).problems == ()
            assert await doctor_findings(scenario) == []
            await scenario.crash()
            scenario.settings = settings_for(
                scenario.server.url, database={"data_dir": str(scenario.settings.data_dir)}
            )
            await scenario.start()
            assert describe_delivery(await delivery_of(scenario)).startswith("nobody receives them")


async def status_of(scenario: Scenario) -> SystemStatus:
    assert scenario.components is not None
    async with scenario.components.store.read() as conn:
        return await read_status(conn, scenario.clock.now())


async def delivery_of(scenario: Scenario) -> DeliveryState:
    assert scenario.components is not None
    async with scenario.components.store.read() as conn:
        return await read_delivery(conn, scenario.clock.now())


async def doctor_findings(scenario: Scenario) -> list[tuple[str, object]]:
    assert scenario.components is not None
    async with scenario.components.store.read() as conn:
        issues = await check_database(conn, scenario.clock.now())
    return [(str(issue.kind), issue.facts["channel"]) for issue in issues]


async def test_alert_of_the_last_moment_is_sent_before_the_process_ends(
    database: str, server: MailServer
) -> None:
    async with open_scenario(database, features=MAIL_ON) as scenario:
        await raise_alert(scenario, "DAY_REPORT", alerts.INFO)
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.wait_for_exit()
        assert ["DAY_REPORT" in mail["Subject"] for mail in server.mails()] == [True]


async def test_critical_alert_is_repeated_until_somebody_acknowledges_it(
    database: str, server: MailServer
) -> None:
    """Three reminders at most, to everybody who receives alerts; an acknowledged alert is not repeated."""
    async with open_scenario(database, now=None, features=MAIL_ON) as scenario:
        await raise_alert(scenario, "NOT_FLAT", subject="AAPL")
        await raise_alert(scenario, "NOT_FLAT", subject="MSFT")
        await advance_until_delivered(scenario)
        first = len(server.mails())
        await scenario.advance(seconds=14 * 60)
        assert len(server.mails()) == first
        await scenario.conn.execute(
            "UPDATE alerts SET acknowledged_at = now(), acknowledged_by = 'ann' WHERE message LIKE '%MSFT'"
        )
        for _ in range(120):
            await scenario.advance(seconds=1)
            await run_loop_turns()
        await wait_until(lambda: len(server.mails()) == first + 2)
        reminders = server.mails()[first:]
        assert {mail["X-Recipients"] for mail in reminders} == {"ann@example.com", "bob@example.com"}
        for mail in reminders:
            assert "not acknowledged since 2026-" in mail["Subject"]
            assert "AAPL" in mail.get_content()
            assert "MSFT" not in mail.get_content()


@asynccontextmanager
async def webhook() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Receive posts of JSON; yield the Apprise URL and what was received."""
    received: list[dict[str, str]] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"json://127.0.0.1:{port}/hook", received
    finally:
        await runner.cleanup()


async def test_webhook_receives_critical_alerts_though_another_one_fails(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each URL is a channel of its own: one that fails neither repeats the message of the other nor holds it back,
    however many alerts wait for it; and the other one is reminded."""
    pytest.importorskip("apprise", reason="needs the extra `notify`")
    async with webhook() as (url, received):
        monkeypatch.setenv("ALERT_URL_CRITICAL", f"json://127.0.0.1:1/nobody,{url}")
        async with open_scenario(database) as scenario:
            await raise_alert(scenario, "DAY_REPORT", alerts.INFO)
            await scenario.conn.execute(
                """
                INSERT INTO alerts (severity, event, message, dedupe_key, created_at, next_attempt_at)
                SELECT 'CRITICAL', 'OLD', 'old', 'OLD:' || n, $1, $1 FROM generate_series(1, 250) n
                """,
                scenario.clock.now(),
            )
            await advance_until(scenario, lambda: len(received) == 2)
            await raise_alert(scenario, "NOT_FLAT")
            await advance_until(scenario, lambda: len(received) == 3)
            assert received[2]["title"] == "[Catalyst CRITICAL] NOT_FLAT: NOT_FLAT of the day"
            assert all("DAY_REPORT" not in each["message"] for each in received)
            assert await scenario.conn.fetchval("SELECT count(DISTINCT channel) FROM alert_deliveries") == 1
            await scenario.advance(seconds=16 * 60)
            await advance_until(
                scenario, lambda: any("not acknowledged" in each["title"] for each in received)
            )


async def advance_until(scenario: Scenario, condition: Callable[[], object]) -> None:
    """Advance the time in steps until the condition is true; a message needs real time between two of them."""
    while not condition():
        await scenario.advance(seconds=1)
        await run_loop_turns()
