"""Waiting for another process, thread or socket, in real time.

The condition ends the wait, so a slow machine only takes longer. The limit fails a test whose condition never comes.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 120.0  # real seconds; reached only on failure


async def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true; raise TimeoutError after LIMIT_S."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await pause()


async def pause() -> None:
    """Wait a moment between two looks at something that is no event of this loop."""
    await asyncio.sleep(0.002)


def pause_blocking() -> None:
    """Wait a moment between two looks at another process, in a test without an event loop."""
    time.sleep(0.02)


async def run_loop_turns(turns: int = 100) -> None:
    """Let every task that can run do so, `turns` times; no time has to pass."""
    for _ in range(turns):
        await asyncio.sleep(0)
