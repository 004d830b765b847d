"""The supervisor with real, small child processes: restarted when they die, none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.peers import wait_for

from core.errors import SentinodeError
from node.supervisor import ROLES, Supervisor, role_command

REPOSITORY = Path(__file__).resolve().parents[2]
# A role as they all are: it asks to end with its parent, then works until it is told to stop.
ROLE = """
import pathlib, signal, sys, time
from core.processes import die_with_parent
die_with_parent()
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "mortal":
    sys.exit(3)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """The arguments of a role that is "well", "deaf" (to SIGTERM) or "mortal" (dies at once)."""
    script = tmp_path / "role.py"
    script.write_text(ROLE)

    def command(role: str, kind: str = "well") -> list[str]:
        return [sys.executable, str(script), str(tmp_path / f"{role}.ready"), kind]

    return command


@pytest.fixture(autouse=True)
def _find_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def supervisor(tmp_path: Path, command: Callable[..., list[str]]) -> Iterator[Supervisor]:
    made = Supervisor(["send", "intake"], command, tmp_path / "run")
    yield made
    made.end(0.1)


def ready(tmp_path: Path, *roles: str) -> None:
    for role in roles:
        wait_for((tmp_path / f"{role}.ready").exists, 20, f"{role} is ready")


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_every_role_runs_and_none_stays_behind(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start()
    ready(tmp_path, "intake", "send")
    pids = supervisor.alive()
    assert set(pids) == {"intake", "send"}
    for role, pid in pids.items():
        assert (tmp_path / "run" / f"{role}.pid").read_text() == f"{pid}\n"
    supervisor.end(10)
    assert all(gone(pid) for pid in pids.values())
    assert supervisor.alive() == {}
    assert pids_of(tmp_path) == []


def test_a_role_may_have_several_processes(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    processes = {"intake": 3}
    supervisor = Supervisor(["intake", "send"], command, tmp_path / "run", processes)
    supervisor.start()
    try:
        before = supervisor.alive()
        assert set(before) == {"intake", "intake-2", "intake-3", "send"}
        for name, pid in before.items():
            assert (tmp_path / "run" / f"{name}.pid").read_text() == f"{pid}\n"
        os.kill(before["intake-2"], signal.SIGKILL)

        def again() -> bool:
            supervisor.tend()
            pid = supervisor.alive().get("intake-2")
            return pid is not None and pid != before["intake-2"]

        wait_for(again, 60, "the second one runs again")
        after = supervisor.alive()
        assert {name for name in before if after[name] != before[name]} == {"intake-2"}
    finally:
        supervisor.end(10)
    assert all(gone(pid) for pid in after.values())
    assert pids_of(tmp_path) == []


def test_a_role_that_dies_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start()
    ready(tmp_path, "intake", "send")
    before = supervisor.alive()
    (tmp_path / "intake.ready").unlink()
    os.kill(before["intake"], signal.SIGKILL)

    def again() -> bool:
        supervisor.tend()
        return (tmp_path / "intake.ready").exists()

    wait_for(again, 20, "intake runs again")
    after = supervisor.alive()
    assert after["intake"] != before["intake"]
    assert after["send"] == before["send"]
    assert (tmp_path / "run" / "intake.pid").read_text() == f"{after['intake']}\n"


def test_a_role_that_dies_at_once_waits_longer_each_time(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    starts: list[float] = []

    def mortal(role: str) -> list[str]:
        starts.append(time.monotonic())
        return command(role, "mortal")

    supervisor = Supervisor(["intake"], mortal, tmp_path / "run")
    supervisor.start()
    try:
        wait_for(lambda: supervisor.tend() or len(starts) >= 3, 20, "it was started three times")
    finally:
        supervisor.end(1)
    # 0.5 s after the first death, 1 s after the second
    assert starts[1] - starts[0] >= 0.5
    assert starts[2] - starts[1] >= 1.0


def test_a_role_that_does_not_end_is_killed(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    supervisor = Supervisor(["intake"], lambda role: command(role, "deaf"), tmp_path / "run")
    supervisor.start()
    ready(tmp_path, "intake")
    (pid,) = supervisor.alive().values()
    began = time.monotonic()
    supervisor.end(0.5)
    assert 0.4 < time.monotonic() - began < 10
    assert gone(pid)


def test_the_broker_begins_first_and_ends_last(
    tmp_path: Path, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    ended: list[str] = []

    def watched(role: str) -> list[str]:
        started.append(role)
        return command(role)

    supervisor = Supervisor(ROLES, watched, tmp_path / "run")
    supervisor.start()
    try:
        assert started[0] == "broker"
        assert started[-1] == "scp"  # the door opens when the house is ready
        ready(tmp_path, *ROLES)
        pids = supervisor.alive()
        real = subprocess.Popen.send_signal

        def watched_signal(process: subprocess.Popen[bytes], number: int) -> None:
            if process.pid == pids["broker"]:
                others = [pid for role, pid in pids.items() if role != "broker"]
                ended.append("broker" if all(gone(pid) for pid in others) else "too early")
            real(process, number)

        monkeypatch.setattr(subprocess.Popen, "send_signal", watched_signal)
    finally:
        supervisor.end(10)
    assert ended == ["broker"]


def test_when_a_role_cannot_be_started_none_stays_behind(
    tmp_path: Path, command: Callable[..., list[str]]
) -> None:
    def broken(role: str) -> list[str]:
        return command(role) if role == "intake" else [str(tmp_path / "no-such-program")]

    supervisor = Supervisor(["intake", "send"], broken, tmp_path / "run")
    before = {child.pid for child in psutil.Process().children()}
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        with pytest.raises(OSError, match="no-such-program"):
            supervisor.run(5)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    left = [
        child
        for child in psutil.Process().children()
        if child.pid not in before and child.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == []


def test_a_role_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SentinodeError, match="no such role: cook") as caught:
        Supervisor(["scp", "cook"], lambda role: [role], tmp_path)
    assert "broker, intake" in caught.value.remedy


def run_supervisor(tmp_path: Path, kind: str = "well") -> subprocess.Popen[bytes]:
    """A supervisor of two roles in a process of its own."""
    script = tmp_path / "up.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            from node.supervisor import Supervisor

            folder = Path({str(tmp_path)!r})

            def command(role):
                ready = str(folder / f"{{role}}.ready")
                return [sys.executable, str(folder / "role.py"), ready, {kind!r}]

            Supervisor(["intake", "send"], command, folder / "run").run(grace_seconds=5)
            """
        )
    )
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True)


def pids_of(tmp_path: Path) -> list[int]:
    return [int(path.read_text()) for path in (tmp_path / "run").glob("*.pid")]


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_every_role(tmp_path: Path, how: signal.Signals) -> None:
    process = run_supervisor(tmp_path)
    ready(tmp_path, "intake", "send")
    pids = pids_of(tmp_path)
    assert len(pids) == 2
    process.send_signal(how)
    assert process.wait(20) == 0
    assert all(gone(pid) for pid in pids)
    assert pids_of(tmp_path) == []


@pytest.mark.usefixtures("command")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a kill")
def test_killed_it_leaves_no_role_behind(tmp_path: Path) -> None:
    process = run_supervisor(tmp_path)
    ready(tmp_path, "intake", "send")
    pids = pids_of(tmp_path)
    process.kill()
    process.wait(20)
    wait_for(lambda: all(gone(pid) for pid in pids), 20, "its roles have ended")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a kill")
def test_a_role_whose_parent_is_gone_before_it_asks_ends_itself(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    environment = {**os.environ, "SENTINODE_PARENT_PID": "1"}  # not our process id
    process = subprocess.Popen(command("intake"), env=environment)
    assert process.wait(20) == -signal.SIGTERM
    assert not (tmp_path / "intake.ready").exists()


def test_a_role_by_itself_outlives_who_started_it(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """`sentinode scp &` at a terminal, or a container: nobody supervises, nothing is asked for."""
    process = subprocess.Popen(command("intake"))
    try:
        ready(tmp_path, "intake")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)


def test_a_role_is_this_very_installation(tmp_path: Path) -> None:
    config = tmp_path / "s.toml"
    assert role_command("scp", config) == [
        sys.executable, "-m", "cli", "--config", str(config), "scp",
    ]  # fmt: skip
    assert role_command("send", None) == [sys.executable, "-m", "cli", "send"]
