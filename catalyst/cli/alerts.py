"""`catalyst alerts` and `catalyst test-alert`: what was raised, who acknowledged it, and whether messages arrive."""

import getpass
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, open_clock, query_store, read_settings, run_async
from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.domain.alert_message import SEVERITIES, AlertMessage, Severity
from catalyst.domain.errors import ConfigInvalid, UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from catalyst.store.alerts import Alert
    from catalyst.store.pool import Store

TEST_SUBJECT: Final = "[TEST] Catalyst Alert System Test"

app = typer.Typer(help="Show the latest alerts, or acknowledge them.", invoke_without_command=True)


@app.callback()
def alerts(
    context: typer.Context,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the latest alerts.")] = 20,
    open_only: Annotated[
        bool, typer.Option("--open", help="Only critical alerts that nobody acknowledged.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the latest alerts, newest first: whether they were sent, and who acknowledged them."""
    if context.invoked_subcommand is not None:
        return

    async def read(store: "Store", _settings: Settings) -> "list[Alert]":
        from catalyst.store import alerts as outbox

        async with store.read() as conn:
            return await outbox.recent(conn, top, unacknowledged=open_only)

    found = query_store(config, read)
    print_result({"alerts": found}, as_json, lambda: _render(found))


@app.command()
def ack(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="NUMBER...", help="The alerts' numbers.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Acknowledge all alerts.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Acknowledge alerts: a critical one is then not sent again."""
    if bool(numbers) is every:
        raise UserError("name the alerts by number, as `catalyst alerts` shows them, or write --all")

    async def write(store: "Store", settings: Settings) -> list[int]:
        from catalyst.store import alerts as outbox

        at = open_clock(settings).now()
        async with store.tx("acknowledge_alerts") as conn:
            return await outbox.acknowledge(conn, numbers, by=getpass.getuser(), at=at)

    done = query_store(config, write)
    unknown = sorted(set(numbers or ()) - set(done))
    lines = [f"{len(done)} acknowledged" + (f": {', '.join(map(str, done))}" if done else "")]
    lines += [f"not found, or acknowledged before: {', '.join(map(str, unknown))}"] if unknown else []
    print_result({"acknowledged": done, "not_changed": unknown}, as_json, lambda: lines)
    if unknown:
        raise typer.Exit(1)


def send_test_alert(
    severity: Annotated[
        str | None, typer.Option("--severity", help="CRITICAL, WARNING or INFO (default: each).")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a test message of each severity to its recipients; exit 1 unless every channel took it."""
    settings = read_settings(config)
    chosen = [each for each in SEVERITIES if severity is None or each == severity.upper()]
    if not chosen:
        raise UserError(f"{severity} is no severity: write CRITICAL, WARNING or INFO")
    results = run_async(lambda: _send_tests(settings, open_clock(settings), chosen))
    print_result({"sent": results}, as_json, lambda: [_result_line(result) for result in results])
    if any(result["error"] for result in results):
        raise typer.Exit(1)


async def _send_tests(
    settings: Settings, clock: Clock, severities: Sequence[Severity]
) -> list[dict[str, str | None]]:
    from catalyst.notify.channel import DeliveryFailed
    from catalyst.notify.configured import configured_channels

    configured = configured_channels(settings, clock)
    if configured.problems:
        raise ConfigInvalid("; ".join(configured.problems))
    channels = configured.channels
    if not channels:
        raise UserError(
            "nobody receives alerts: set ENABLE_EMAIL_ALERTS=true with SMTP_HOST and ALERT_EMAIL_CRITICAL, or an "
            "Apprise URL in ALERT_URL_CRITICAL"
        )
    results: list[dict[str, str | None]] = []
    for severity in severities:
        receivers = [channel for channel in channels if severity in channel.severities]
        if not receivers:
            results.append({"severity": severity, "channel": None, "error": None})
        for channel in receivers:
            sent_at = f"{clock.now():%Y-%m-%d %H:%M:%S} UTC"
            body = f"This is a test of {severity} alerts. Nothing is wrong.\nSent at {sent_at}.\n"
            error = None
            try:
                await channel.send(
                    AlertMessage(f"{TEST_SUBJECT} ({severity})", body),
                    f"test-{severity.lower()}-{clock.now().timestamp():.0f}",
                )
            except DeliveryFailed as failure:
                error = str(failure)
            results.append({"severity": severity, "channel": channel.name, "error": error})
    return results


def _result_line(result: dict[str, str | None]) -> str:
    if result["channel"] is None:
        return f"{result['severity']:<9} nobody receives these"
    return f"{result['severity']:<9} {result['channel']}: {result['error'] or 'sent'}"


def _render(found: "Sequence[Alert]") -> "Iterator[RenderableType]":
    """Render each alert in lines: what, the message, which wraps and is never cut, and what became of it."""
    from rich.padding import Padding
    from rich.text import Text

    from catalyst.report.terminal import new_york_datetime

    if not found:
        yield "no alerts"
        return
    styles = {"CRITICAL": "bold red", "WARNING": "yellow"}
    for alert in found:
        line = Text(f"{alert.alert_id:>5}  ")
        line.append(f"{alert.severity:<8}", style=styles.get(alert.severity, ""))
        line.append(f"  {new_york_datetime(alert.created_at)}  {alert.event}")
        yield line
        yield Padding(Text(alert.message), (0, 0, 0, 7))
        facts = [f"sent by {' and '.join(alert.sent_by)}" if alert.sent_by else "not sent"]
        facts += [f"{alert.repeats} times again"] if alert.repeats else []
        facts += [f"acknowledged by {alert.acknowledged_by}"] if alert.acknowledged_by else []
        yield Padding(Text(", ".join(facts), style="dim"), (0, 0, 1, 7))
    errors = {alert.last_error for alert in found if alert.last_error}
    yield from sorted(f"not sent: {error}" for error in errors)
