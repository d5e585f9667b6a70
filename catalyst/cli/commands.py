"""Commands to the daemon: each inserts a command row, waits for the daemon's answer in it and prints the answer."""

import getpass
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
    open_clock,
    open_migrated_store,
    read_settings,
    run_async,
)
from catalyst.clock import SystemClock
from catalyst.config.settings import Settings
from catalyst.domain.errors import UserError

ANSWER_TIMEOUT: Final = timedelta(seconds=30)
# A flatten may take a minute, a scan of the whole market some seconds.
LONG_ANSWER_TIMEOUT: Final = timedelta(seconds=150)

ProposalId = Annotated[int, typer.Argument(metavar="ID", help="The proposal's number in `catalyst status`.")]


class CommandUnanswered(UserError):
    """No daemon answered the command; the message says whether it may still be carried out."""


class DaemonRefused(UserError):
    """The daemon refused the command; the message holds its reason."""


def approve(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send the order of a proposed trade."""
    answer = send_command(config, "approve", {"proposal_id": proposal})
    print_result(
        answer, as_json, lambda: [f"order {answer['order_id']} {answer['symbol']}: {answer['status']}"]
    )


def reject(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Reject a proposed trade; its order is never sent."""
    answer = send_command(config, "reject", {"proposal_id": proposal})
    print_result(answer, as_json, lambda: [f"proposal {proposal} is rejected"])


def scan(
    trade: Annotated[
        bool,
        typer.Option("--trade", help="Also enter the selected trades, or propose them in supervised mode."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scan now; without --trade no order is sent."""
    answer = send_command(config, "scan", {"trade": trade}, timeout=LONG_ANSWER_TIMEOUT)
    print_result(answer, as_json, lambda: [_scan_line(answer)])


def close(
    symbol: Annotated[str, typer.Argument(help="The symbol of the position to exit.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Exit one position safely: cancel its stop and target, then close the shares with a market order."""
    answer = send_command(config, "close", {"symbol": symbol.upper()})
    print_result(
        answer, as_json, lambda: [f"exiting {answer['symbol']}; `catalyst positions` shows when it is closed"]
    )


def halt(
    reason: Annotated[
        str, typer.Option(help="The reason, stored with the halt.")
    ] = "requested by the operator",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop all entries; open positions stay protected. `resume` allows entries again."""
    answer = send_command(config, "halt", {"reason": reason})
    print_result(
        answer, as_json, lambda: [f"halted: {answer['reason']}; `catalyst resume` allows entries again"]
    )


def resume(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Allow entries again after a halt, a flatten, an emergency stop or SAFE mode."""
    answer = send_command(config, "resume", {})
    print_result(answer, as_json, lambda: _resume_lines(answer))


def flatten(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel every order, exit every position, verify at the broker; no entry is made until `resume`."""
    if not yes and not as_json:
        typer.confirm("Cancel every order and exit every position now?", abort=True)
    answer = send_command(config, "flatten", {}, timeout=LONG_ANSWER_TIMEOUT)
    flat = bool(answer.get("flat"))
    print_result(
        answer,
        as_json,
        lambda: [
            "flat: no order, no position; `catalyst resume` allows entries again"
            if flat
            else f"NOT proven flat: {answer.get('missing')}; check `catalyst status` and the broker's own app"
        ],
    )
    if not flat:
        raise typer.Exit(2)


def send_command(
    config: ConfigOption, kind: str, arguments: Mapping[str, object], *, timeout: timedelta = ANSWER_TIMEOUT
) -> Mapping[str, object]:
    """Send a command to the daemon and return its answer.

    Raises DaemonRefused with the daemon's reason, CommandUnanswered when no daemon answered within `timeout`.
    """
    settings = read_settings(config)
    with database_dsn(settings, create=False) as dsn:
        return run_async(lambda: _insert_and_wait(settings, dsn, kind, arguments, timeout))


async def _insert_and_wait(
    settings: Settings, dsn: str, kind: str, arguments: Mapping[str, object], max_wait: timedelta
) -> Mapping[str, object]:
    from catalyst.store import commands, daemon_epoch, reporting_queries

    market = open_clock(settings)  # for the rows' timestamps; the timeout is real time
    async with open_migrated_store(dsn, SystemClock()) as store:
        async with store.read() as conn:
            account = (await daemon_epoch.current(conn)).account_id
            alive = account is not None and await reporting_queries.is_account_locked(conn, account)
        if not alive:
            raise CommandUnanswered(f"no daemon is running to {kind}: start it with `catalyst run`")
        async with store.tx("command") as conn:
            command_id = await commands.put(conn, kind, arguments, by=f"cli:{_user_name()}", at=market.now())
        answered = await commands.wait(store, command_id, max_wait=max_wait)
        if not answered.answered:
            async with store.tx("withdraw") as conn:
                withdrawn = await commands.withdraw(
                    conn,
                    command_id,
                    reason="the sender stopped waiting before the daemon took it",
                    at=market.now(),
                )
            raise CommandUnanswered(
                "the daemon did not take the command in time: it is withdrawn and will not be carried out; try again"
                if withdrawn
                else "the daemon took the command and has not answered yet: check `catalyst status`"
            )
    result = answered.result or {}
    if not answered.ok:
        raise DaemonRefused(f"the daemon refused: {result.get('error') or result}")
    return result


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"


def _scan_line(answer: Mapping[str, object]) -> str:
    from catalyst.report.formatting import describe_funnel

    counts, plans = answer.get("counts"), answer.get("plans")
    steps = describe_funnel(counts) if isinstance(counts, dict) else ""
    chosen = ", ".join(map(str, plans)) if isinstance(plans, list) and plans else "nothing to trade"
    return f"{steps}: {chosen}"


def _resume_lines(answer: Mapping[str, object]) -> list[str]:
    cleared, still_closed = answer.get("cleared"), answer.get("still_closed")
    lines = [
        f"cleared: {', '.join(map(str, cleared))}"
        if isinstance(cleared, list) and cleared
        else "no latch was set"
    ]
    if isinstance(still_closed, list) and still_closed:
        lines.append(f"the entry gate stays closed: {', '.join(map(str, still_closed))}")
    return lines
