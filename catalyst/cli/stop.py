"""`catalyst stop --keep`: ends the daemon of this machine and leaves its positions under the broker's stops."""

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import ConfigOption, JsonOption, read_addresses, run_async
from catalyst.clock import SystemClock
from catalyst.domain.errors import UserError

TIMEOUT: Final = timedelta(seconds=60)  # real: another process ends
POLL_INTERVAL: Final = timedelta(seconds=0.2)


def stop(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep every position with its stop at the broker.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the daemon of this machine with --keep, as before an upgrade; the next start goes on. Sells nothing."""
    if not keep:
        raise UserError(
            "say what becomes of the positions: `catalyst stop --keep` leaves them under the broker's stops, "
            "`catalyst flatten` exits them"
        )
    settings = read_addresses(config).settings
    holders = running_daemons(settings.spool_dir)
    if not holders:
        raise UserError(f"no daemon of this machine holds a lock in {settings.spool_dir}")
    if len(holders) > 1:
        pids = ", ".join(f"{pid} ({path.name})" for path, pid in holders.items())
        raise UserError(f"several daemons run: {pids}; send SIGUSR1 to the one that shall end")
    [(path, pid)] = holders.items()
    _signal(pid)
    if not run_async(lambda: _wait_for_end(path, pid)):
        raise UserError(f"the daemon (process {pid}) has not ended after {TIMEOUT.seconds} s: see its log")
    line = f"the daemon (process {pid}) has ended, positions stay under their stops; systemd starts its service again"
    print_result({"pid": pid, "ended": True}, as_json, lambda: [line])


def running_daemons(folder: Path) -> dict[Path, int]:
    """Return the process that holds each lock of the folder."""
    from catalyst.daemon.flatten_alone import holder_of

    found = {path: holder_of(path) for path in sorted(folder.glob("*.lock"))}
    return {path: pid for path, pid in found.items() if pid is not None}


def _signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        pass  # it has ended meanwhile
    except PermissionError:
        raise UserError(
            f"the daemon (process {pid}) belongs to another user: repeat it as that user, or as root"
        ) from None


async def _wait_for_end(path: Path, pid: int) -> bool:
    """Return true once the process holds its lock no more, false after the time limit."""
    from catalyst.daemon.flatten_alone import holder_of

    clock = SystemClock()
    deadline = clock.now() + TIMEOUT
    while holder_of(path) == pid:
        if clock.now() >= deadline:
            return False
        await clock.sleep(POLL_INTERVAL)
    return True
