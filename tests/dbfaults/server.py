"""A PostgreSQL of a test's own, which can be restarted, killed and starved."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from catalyst import embedded
from catalyst.store import migrate


@dataclass
class OwnServer:
    """A running server; what is committed on it is on the disk."""

    running: embedded.EmbeddedPostgres

    @property
    def dsn(self) -> str:
        return self.running.dsn

    async def stops(self) -> None:
        """The server ends; its clients are cut."""
        await asyncio.to_thread(self._control, "stop", "-m", "fast")

    async def starts(self) -> None:
        """The server is there again, on the socket it had: without a word of it, it would take /tmp."""
        options = f"-k {self.running.socket_dir} -c listen_addresses= -c unix_socket_permissions=0700"
        await asyncio.to_thread(
            self._control, "start", "-l", f"{self.running.cluster}/server.log", "-o", options
        )

    async def restarts(self, mode: str) -> None:
        """The server ends, fast or immediately as from a crash, and starts with the options it had."""
        await asyncio.to_thread(self._control, "restart", "-m", mode)

    def _control(self, *verb: str) -> None:
        cluster = self.running.cluster
        owner = pwd.getpwuid(cluster.stat().st_uid)
        root = os.geteuid() == 0
        subprocess.run(
            [str(self.running.binaries / "pg_ctl"), *verb, "-D", str(cluster), "-w", "-s"],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=owner.pw_name if root else None,
            group=owner.pw_gid if root else None,
            extra_groups=[] if root else None,
        )

    def kills(self, pid: int) -> None:
        """SIGKILL to a backend: every other session ends too, and the server recovers as from a crash."""
        os.kill(pid, signal.SIGKILL)


@asynccontextmanager
async def own_server(folder: Path | None = None) -> AsyncIterator[OwnServer]:
    """A migrated server of its own, in `folder` or in a temporary one."""
    made = folder or Path(tempfile.mkdtemp(prefix="catalyst-own-"))
    running = await asyncio.to_thread(embedded.start, made)
    try:
        await migrate.migrate(running.dsn)
        yield OwnServer(running)
    finally:
        await asyncio.to_thread(running.stop)
        if folder is None:
            await asyncio.to_thread(embedded.remove, made)
            await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)
