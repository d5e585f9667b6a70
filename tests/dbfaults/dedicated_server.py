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
from urllib.parse import quote

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
        self._program("pg_ctl", *verb, "-D", str(self.running.cluster), "-w", "-s")

    async def standby(self, folder: Path) -> "Standby":
        """A second server beside it that follows it, and may be promoted. Its settings have to allow for one."""
        cluster, sockets = folder / "cluster", folder / "s"
        owner = pwd.getpwuid(self.running.cluster.stat().st_uid)
        for made in (folder, sockets):
            made.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                os.chown(made, owner.pw_uid, owner.pw_gid)
        with (self.running.cluster / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all peer map=catalyst\n")
        with (self.running.cluster / "pg_ident.conf").open("a") as names:
            names.write(f"catalyst {owner.pw_name} {embedded.USER}\n")
        await asyncio.to_thread(self._control, "reload")
        copying = ["-D", str(cluster), "-R", "-X", "stream", "-c", "fast"]
        where = ["-h", str(self.running.socket_dir), "-p", "5432", "-U", embedded.USER]
        await asyncio.to_thread(self._program, "pg_basebackup", *copying, *where)
        second = Standby(self, cluster, sockets)
        options = f"-k {sockets} -c listen_addresses= -c unix_socket_permissions=0700 -c port=5432"
        await asyncio.to_thread(
            self._program,
            "pg_ctl",
            "start",
            "-D",
            str(cluster),
            "-w",
            "-s",
            "-l",
            f"{folder}/log",
            "-o",
            options,
        )
        return second

    def _program(self, name: str, *arguments: str) -> None:
        owner = pwd.getpwuid(self.running.cluster.stat().st_uid)
        root = os.geteuid() == 0
        subprocess.run(
            [str(self.running.binaries / name), *arguments],
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


@dataclass
class Standby:
    """A server that follows another one."""

    leader: OwnServer
    cluster: Path
    sockets: Path

    @property
    def dsn(self) -> str:
        """Both servers in one address: whichever writes is the one that is meant."""
        both = f"{self.leader.running.socket_dir},{self.sockets}"
        return self.leader.dsn.replace(quote(str(self.leader.running.socket_dir), safe="/"), both).replace(
            "port=5432", "port=5432,5432"
        )

    async def promotes(self) -> None:
        """It takes over."""
        program = self.leader._program
        await asyncio.to_thread(program, "pg_ctl", "promote", "-D", str(self.cluster), "-w", "-s")

    async def stops(self) -> None:
        program = self.leader._program
        await asyncio.to_thread(program, "pg_ctl", "stop", "-D", str(self.cluster), "-m", "fast", "-w", "-s")


@asynccontextmanager
async def own_server(folder: Path | None = None, **settings: str) -> AsyncIterator[OwnServer]:
    """A migrated server of its own, in `folder` or in a temporary one, under PostgreSQL's `settings`."""
    made = folder or Path(tempfile.mkdtemp(prefix="catalyst-own-"))
    running = await asyncio.to_thread(embedded.start, made, settings=settings)
    try:
        await migrate.migrate(running.dsn)
        yield OwnServer(running)
    finally:
        await asyncio.to_thread(running.stop)
        if folder is None:
            await asyncio.to_thread(embedded.remove, made)
            await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)
