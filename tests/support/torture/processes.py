"""One process for each role of a node, so that each can be killed by its id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from core.processes import PARENT_VARIABLE

ROLES = ("scp", "intake", "dispatch", "send", "worker")
# The kernel ends a role when the thread that started it ends: so one thread starts them all.
_STARTER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class Process:
    """A program that is started, stopped, frozen and killed; its children with it."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._variables: dict[str, str] = {}
        self.wanted = False

    def start(self) -> None:
        """Start it."""
        self.wanted = True
        self._process = _STARTER.submit(self._start).result()

    def _start(self) -> subprocess.Popen[bytes]:
        # one thread for each library: the machine's cores belong to many processes
        quiet = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = {**os.environ, **quiet, PARENT_VARIABLE: str(os.getpid()), **self._variables}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @contextmanager
    def variable(self, name: str, value: str) -> Iterator[None]:
        """Start it with a variable of the environment while the block lasts."""
        self._variables[name] = value
        try:
            yield
        finally:
            del self._variables[name]

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """How it ended; negative: by that signal."""
        return None if self._process is None else self._process.poll()

    def freeze(self) -> None:
        """Stop it where it is, its children with it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> bool:
        """Kill it and its children with SIGKILL; returns whether all of them are dead."""
        self.wanted = False
        if self._process is None:
            return False
        family = self.children()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)
        psutil.wait_procs(family, timeout=10)
        return not self.alive and not any(_runs(item) for item in family)

    def kill_child(self) -> bool:
        """Kill the child that computes, and let its parent live; returns whether it is dead."""
        family = self.children()
        if not family:
            return False
        youngest = max(family, key=lambda item: item.create_time())
        with contextlib.suppress(psutil.NoSuchProcess):
            youngest.kill()
        self.thaw()
        psutil.wait_procs([youngest], timeout=10)
        return not _runs(youngest) and self.alive

    def end(self, grace_seconds: float = 30.0) -> None:
        """End it as a supervisor does; kill what stays."""
        self.wanted = False
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def children(self) -> list[psutil.Process]:
        """Its descendants that live now."""
        if not self.alive:
            return []
        try:
            return list(psutil.Process(self.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []


class Keeper(threading.Thread):
    """Starts again what ended by itself, as the supervisor would, and notes it."""

    def __init__(self, processes: Callable[[], list[Process]]) -> None:
        super().__init__(name="keeper", daemon=True)
        self._processes = processes
        self._over = threading.Event()
        self.deaths: list[str] = []

    def run(self) -> None:
        """Look ten times a second."""
        while not self._over.wait(0.1):
            for process in self._processes():
                if process.wanted and not process.alive:
                    time.sleep(0.3)
                    if process.wanted and not process.alive:  # nobody ended it meanwhile
                        self.deaths.append(f"{process.name} (status {process.exit_status})")
                        process.start()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def role_process(node: str, config: Path, role: str, log: Path) -> Process:
    """A role of a node, as `sentinode up` runs it."""
    command = [sys.executable, "-m", "cli", "--config", str(config), role]
    return Process(f"{node}/{role}", command, log)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
