"""A whole site: two nodes on one ledger, store and broker, their doors, a PACS, a disk."""

from __future__ import annotations

import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.ledger import Ledger
from core.settings import Settings, load
from support.packages import write_threshold
from support.torture.book import Book
from support.torture.modality import Door
from support.torture.pacs import HarshPacs
from support.torture.patients import LEVEL
from support.torture.processes import ROLES, Keeper, Process, role_process
from support.torture.servers import Broker, Disk, Postgresql, Sql, Sqlite, redis_command

DELIVERY_TIMEOUT = 3.0
_DISK_MB = 384
MODALITIES = ("MR1", "MR2", "MR3")
MODEL = "bright"

CONFIG = """
[web]
enabled = false
[node]
host = "127.0.0.1"
port = {port}
dimse_timeout = 15
network_timeout = 15
[storage]
data = "{data}"
store = "{store}"
min_free_mb = 1
warn_free_mb = 1
[ledger]
url = "{ledger}"
[queue]
url = "{queue}"
republish_seconds = 3
[completeness]
quiet_seconds = 0.6
broken_quiet_seconds = 0.9
force_seconds = 20
[jobs]
lease_seconds = 3
retry_seconds = 0.3
[worker]
device = "cpu"
threads = 1
[models]
folders = ["{models}"]
[results]
picture = "never"
[delivery]
retry_seconds = 0.3
retry_max_seconds = 1.5
timeout = {timeout}
max_refusals = 50
[logs]
json_lines = true
{peers}
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
archive = true
[[routes]]
name = "torture"
model = "{model}"
[routes.match]
Modality = "MR"
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        return int(item.getsockname()[1])


@dataclass
class Node:
    """One node: its settings and a process for each role."""

    name: str
    settings: Settings
    roles: dict[str, Process]

    @property
    def port(self) -> int:
        """The door's port."""
        return self.settings.node.port

    @property
    def door_open(self) -> bool:
        """Whether the port is listened on."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def spooled(self) -> int:
        """How many images lie in its spool."""
        return sum(1 for item in self.settings.spool.glob("*/*/*.dcm") if item.is_file())


class Site:
    """Everything that is needed, started in order, and ended however the run ends."""

    def __init__(
        self,
        folder: Path,
        sql: Literal["sqlite", "postgresql"],
        broker: Literal["valkey", "redis"],
        redis_program: str = "",
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.disk = Disk(folder / "disk", _DISK_MB)
        self.pacs = HarshPacs(late_seconds=DELIVERY_TIMEOUT + 1.5)
        self.book = Book(folder / "acknowledged.jsonl")
        write_threshold(
            folder / "models", MODEL, level=LEVEL, preprocessing=(), input={"incomplete": "analyse"}
        )
        self.sql: Sql
        if sql == "sqlite":
            self.sql = Sqlite(self.disk.folder / "ledger.db")
        else:
            self.sql = Postgresql(folder / "pg")
        port = free_port()
        files = self.disk.folder / ("redis" if broker == "redis" else "a/broker")
        files.mkdir(parents=True)
        url = f"redis://127.0.0.1:{port}/0" if broker == "redis" else ""
        self.a = self._node("a", url)
        if broker == "redis":
            command = redis_command(redis_program, port, files)
            process = Process("redis", command, folder / "redis.log")
        else:
            from core.queue import broker_url

            url = broker_url(self.a.settings)
            config = folder / "a.toml"
            process = role_process("a", config, "broker", folder / "a-broker.log")
        self.broker = Broker(process, files, url)
        self.b = self._node("b", url)
        self.nodes = (self.a, self.b)
        ledger = Ledger(self.sql.url)
        ledger.upgrade()
        ledger.close()
        self.keeper = Keeper(self.processes)

    def _node(self, name: str, queue: str) -> Node:
        config = self.folder / f"{name}.toml"
        peers = "".join(
            f'[[peers]]\nname = "{title.lower()}"\nae_title = "{title}"\n' for title in MODALITIES
        )
        values = {
            "port": free_port(),
            "data": self.disk.folder / name,
            "store": self.disk.folder / "store",
            "ledger": self.sql.url,
            "queue": queue,
            "models": self.folder / "models",
            "timeout": DELIVERY_TIMEOUT,
            "peers": peers,
            "pacs_port": self.pacs.port,
            "model": MODEL,
        }
        config.write_text(CONFIG.format(**values), encoding="utf-8")
        roles = {
            role: role_process(name, config, role, self.folder / f"{name}-{role}.log")
            for role in ROLES
        }
        return Node(name, load(config), roles)

    def processes(self) -> list[Process]:
        """Every process of the site that a supervisor would keep running."""
        nodes = [process for node in self.nodes for process in node.roles.values()]
        return [self.broker.process, *nodes]

    def start(self) -> None:
        """Start broker and node a."""
        self.broker.process.start()
        for process in self.a.roles.values():
            process.start()
        wait_until(lambda: self.broker.answers and self.a.door_open, 90, "node a is ready")
        self.keeper.start()

    def doors(self) -> list[Door]:
        """The doors that a modality may send to now."""
        return [Door(n.name, n.port) for n in self.nodes if n.roles["scp"].wanted]

    def close(self, *, keep: bool) -> None:
        """End everything; with `keep` the files stay to be looked at."""
        if self.keeper.is_alive():
            self.keeper.end()
        for process in self.processes():
            process.kill()
        self.pacs.close()
        self.book.close()
        self.broker.close()
        self.sql.close()
        if keep and self.disk.real:
            self.disk.keep(self.folder / "disk-as-it-was")
        self.disk.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(what: object, seconds: float, message: str = "") -> bool:
    """Wait until `what()` is true; with a message, fail when it never is.

    Raises:
        TimeoutError: it did not come true, and there is a message.
    """
    assert callable(what)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.03)
    if message:
        raise TimeoutError(f"not within {seconds:g} s: {message}")
    return False
