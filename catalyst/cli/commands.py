"""Orders to the daemon: each leaves a row, waits for the daemon's answer in it, and prints the answer."""

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
LONG_ANSWER_TIMEOUT: Final = timedelta(
    seconds=150
)  # a flatten may take a minute, a scan of a whole market some seconds

ProposalId = Annotated[int, typer.Argument(metavar="ID", help="The proposal's number in `catalyst status`.")]


class CommandUnanswered(UserError):
    """No daemon answered; the message says what has become of the order."""


class DaemonRefused(UserError):
    """The daemon would not do it; the message is its own."""


def approve(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Send the order of a proposed trade."""
    answer = send_command(config, "approve", {"proposal_id": proposal})
    print_result(
        answer, as_json, lambda: [f"order {answer['order_id']} {answer['symbol']}: {answer['status']}"]
    )


def reject(proposal: ProposalId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Refuse a proposed trade; its order is never sent."""
    answer = send_command(config, "reject", {"proposal_id": proposal})
    print_result(answer, as_json, lambda: [f"proposal {proposal} is rejected"])


def scan(
    trade: Annotated[
        bool, typer.Option("--trade", help="The whole pass: also enter what survives, or propose it.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Scan now; without --trade nothing is ordered."""
    answer = send_command(config, "scan", {"trade": trade}, timeout=LONG_ANSWER_TIMEOUT)
    print_result(answer, as_json, lambda: [_scan_line(answer)])


def close(
    symbol: Annotated[str, typer.Argument(help="What to leave.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave one position by the safe exit: its legs are cancelled, then what is held is sold."""
    answer = send_command(config, "close", {"symbol": symbol.upper()})
    print_result(
        answer, as_json, lambda: [f"leaving {answer['symbol']}; `catalyst positions` shows when it is done"]
    )


def halt(
    reason: Annotated[str, typer.Option(help="Why; kept in the record.")] = "the operator halted",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open nothing any more; what is held stays protected. `resume` ends it."""
    answer = send_command(config, "halt", {"reason": reason})
    print_result(answer, as_json, lambda: [f"halted: {answer['reason']}; `catalyst resume` ends it"])


def resume(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End a halt, or the latch of an emergency stop or a flatten."""
    answer = send_command(config, "resume", {})
    print_result(answer, as_json, lambda: _resume_lines(answer))


def flatten(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel every order, leave every position, verify at the broker; nothing is entered until `resume`."""
    if not yes and not as_json:
        typer.confirm("Cancel every order and leave every position now?", abort=True)
    answer = send_command(config, "flatten", {}, timeout=LONG_ANSWER_TIMEOUT)
    flat = bool(answer.get("flat"))
    print_result(
        answer,
        as_json,
        lambda: [
            "flat: no order, no position; `catalyst resume` reopens"
            if flat
            else f"NOT proven flat: {answer.get('missing')}; look at `catalyst status`, and at the broker's own app"
        ],
    )
    if not flat:
        raise typer.Exit(2)


def send_command(
    config: ConfigOption, kind: str, arguments: Mapping[str, object], *, timeout: timedelta = ANSWER_TIMEOUT
) -> Mapping[str, object]:
    """The daemon's answer. Raises Refused with its words, Unanswered when nobody took the order."""
    settings = read_settings(config)
    with database_dsn(settings, create=False) as dsn:
        return run_async(lambda: _insert_and_wait(settings, dsn, kind, arguments, timeout))


async def _insert_and_wait(
    settings: Settings, dsn: str, kind: str, arguments: Mapping[str, object], timeout: timedelta
) -> Mapping[str, object]:
    from catalyst.store import commands, daemon_epoch, reporting_queries

    market = open_clock(settings)  # what the rows are stamped with; how long a person waits is real time
    async with open_migrated_store(dsn, SystemClock()) as store:
        async with store.read() as conn:
            account = (await daemon_epoch.current(conn)).account_id
            alive = account is not None and await reporting_queries.is_account_locked(conn, account)
        if not alive:
            raise CommandUnanswered(
                f"no daemon is running, so nobody can {kind}: start it with `catalyst run`"
            )
        async with store.tx("command") as conn:
            command_id = await commands.put(conn, kind, arguments, by=f"cli:{_user_name()}", at=market.now())
        answered = await commands.wait(store, command_id, max_wait=timeout)
        if not answered.answered:
            async with store.tx("withdraw") as conn:
                gone = await commands.withdraw(conn, command_id, reason="nobody waited", at=market.now())
            raise CommandUnanswered(
                "the daemon did not take the order in time; it is withdrawn and will not be carried out"
                if gone
                else "the daemon took the order and has not answered yet: look at `catalyst status`"
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
    counts, plans = answer.get("counts"), answer.get("plans")
    steps = (
        " → ".join(f"{name} {count}" for name, count in counts.items()) if isinstance(counts, dict) else ""
    )
    chosen = ", ".join(map(str, plans)) if isinstance(plans, list) and plans else "nothing to trade"
    return f"{steps}: {chosen}"


def _resume_lines(answer: Mapping[str, object]) -> list[str]:
    cleared, shut = answer.get("cleared"), answer.get("still_closed")
    lines = [
        f"cleared: {', '.join(map(str, cleared))}"
        if isinstance(cleared, list) and cleared
        else "no latch was set"
    ]
    if isinstance(shut, list) and shut:
        lines.append(f"entries still wait for: {', '.join(map(str, shut))}")
    return lines
