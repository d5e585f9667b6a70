"""The demo's other processes: each with a log, a leash, and an environment without anything of the operator's."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalyst.config.loader import environment_without_ours
from catalyst.domain.errors import UserError

LAST_LINES: Final = 12
ENDS_WITHIN: Final = 15.0  # real seconds for a child to end by itself


class PartDied(UserError):
    """A child ended that should not have; the message has its last words."""


@dataclass
class Part:
    """A child process, its log, and the leash it ends with."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def tell(self, number: signal.Signals) -> None:
        if self.code is None:
            self.process.send_signal(number)

    async def ended(self, within: float) -> None:
        """The process is gone; killed when it did not end by itself."""
        try:
            await asyncio.to_thread(self.process.wait, within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LAST_LINES:])


def begin(name: str, arguments: Sequence[str], folder: Path, settings: Mapping[str, str]) -> Part:
    """Start a child in `folder`, out of reach of the terminal's Ctrl-C and of our settings; one that is started
    again goes on in its log."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [environment_without_ours().get("PYTHONPATH")])])
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "catalyst", *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment_without_ours(PYTHONPATH=path, PYTHONUNBUFFERED="1", **settings),
            start_new_session=True,
        )
    return Part(name, process, log)


def obituary(part: Part) -> str:
    ended = "did not become ready" if part.code is None else f"ended with code {part.code}"
    return f"the {part.name} {ended}; the last lines of {part.log}:\n{part.last_words() or '(nothing)'}"
