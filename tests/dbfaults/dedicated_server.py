"""PostgreSQL server of one test, which the test can stop, restart and crash."""

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
class DedicatedServer:
    """A running server with durable commits."""

    running: embedded.EmbeddedPostgres

    @property
    def dsn(self) -> str:
        """Return the address of the server."""
        return self.running.dsn

    async def stop(self) -> None:
        """Stop the server and cut its clients."""
        await asyncio.to_thread(self._pg_ctl, "stop", "-m", "fast")

    async def start(self) -> None:
        """Start the server on its previous socket; without these options it would use /tmp."""
        options = f"-k {self.running.socket_dir} -c listen_addresses= -c unix_socket_permissions=0700"
        await asyncio.to_thread(
            self._pg_ctl, "start", "-l", f"{self.running.cluster}/server.log", "-o", options
        )

    async def restart(self, mode: str) -> None:
        """Restart the server in mode `fast` or `immediate` (as after a crash) with its previous options."""
        await asyncio.to_thread(self._pg_ctl, "restart", "-m", mode)

    def _pg_ctl(self, *verb: str) -> None:
        self._run_program("pg_ctl", *verb, "-D", str(self.running.cluster), "-w", "-s")

    async def create_standby(self, folder: Path) -> "Standby":
        """Create a standby server that replicates this one; the server's settings must allow a replication
        connection."""
        cluster, sockets = folder / "cluster", folder / "s"
        owner = pwd.getpwuid(self.running.cluster.stat().st_uid)
        for directory in (folder, sockets):
            directory.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                os.chown(directory, owner.pw_uid, owner.pw_gid)
        with (self.running.cluster / "pg_hba.conf").open("a") as rules:
            rules.write("local replication all peer map=catalyst\n")
        with (self.running.cluster / "pg_ident.conf").open("a") as names:
            names.write(f"catalyst {owner.pw_name} {embedded.USER}\n")
        await asyncio.to_thread(self._pg_ctl, "reload")
        target = ["-D", str(cluster), "-R", "-X", "stream", "-c", "fast"]
        source = ["-h", str(self.running.socket_dir), "-p", "5432", "-U", embedded.USER]
        await asyncio.to_thread(self._run_program, "pg_basebackup", *target, *source)
        standby = Standby(self, cluster, sockets)
        options = f"-k {sockets} -c listen_addresses= -c unix_socket_permissions=0700 -c port=5432"
        await asyncio.to_thread(
            self._run_program,
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
        return standby

    def _run_program(self, name: str, *arguments: str) -> None:
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

    def kill_backend(self, pid: int) -> None:
        """Send SIGKILL to a backend: every other session ends too, and the server runs crash recovery."""
        os.kill(pid, signal.SIGKILL)


@dataclass
class Standby:
    """Standby server of a primary."""

    primary: DedicatedServer
    cluster: Path
    sockets: Path

    @property
    def dsn(self) -> str:
        """Return one address of both servers; the client uses the one that accepts writes."""
        both = f"{self.primary.running.socket_dir},{self.sockets}"
        return self.primary.dsn.replace(quote(str(self.primary.running.socket_dir), safe="/"), both).replace(
            "port=5432", "port=5432,5432"
        )

    async def promote(self) -> None:
        """Make the standby the primary."""
        program = self.primary._run_program
        await asyncio.to_thread(program, "pg_ctl", "promote", "-D", str(self.cluster), "-w", "-s")

    async def stop(self) -> None:
        """Stop the standby."""
        program = self.primary._run_program
        await asyncio.to_thread(program, "pg_ctl", "stop", "-D", str(self.cluster), "-m", "fast", "-w", "-s")


@asynccontextmanager
async def open_dedicated_server(
    folder: Path | None = None, **settings: str
) -> AsyncIterator[DedicatedServer]:
    """Start a migrated server in `folder` or in a temporary one, with these PostgreSQL `settings`."""
    data_dir = folder or Path(tempfile.mkdtemp(prefix="catalyst-own-"))
    running = await asyncio.to_thread(embedded.start, data_dir, settings=settings)
    try:
        await migrate.migrate(running.dsn)
        yield DedicatedServer(running)
    finally:
        await asyncio.to_thread(running.stop)
        if folder is None:
            await asyncio.to_thread(embedded.remove_data_dir, data_dir)
            await asyncio.to_thread(shutil.rmtree, data_dir, ignore_errors=True)
