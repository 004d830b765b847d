"""The command line: help is quick, exit codes mean something, empty ledgers are no trouble."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.console import run
from support.instances import T0, incoming, mr_slice
from support.packages import write_spec

import cli
from cli.context import console
from core import __version__
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS, ERROR, USAGE = 2, 1, 2


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command and of every group, hidden ones too."""
    group = group or typer.main.get_command(cli.app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = sorted(commands())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a zoo that has the example's model."""
    write_spec(tmp_path / "zoo" / "mr-flair-glioma", name="mr-flair-glioma")
    (tmp_path / "zoo" / "mr-flair-glioma" / "weights.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("core.modelspec.BUILT_IN_ZOO", tmp_path / "zoo")
    monkeypatch.setenv("COLUMNS", "200")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def process(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_a_sentence(path: tuple[str, ...], folder: Path) -> None:
    code, out, _ = run(*path, "--help")
    assert code == 0
    assert "Usage: sentinode" in out
    group = typer.main.get_command(cli.app)
    for name in path:
        group = group.commands[name]  # type: ignore[attr-defined]
    assert group.help, path
    assert list(folder.iterdir()) == []  # help touches nothing


def test_every_option_is_explained() -> None:
    for path in COMMANDS:
        command: Any = typer.main.get_command(cli.app)
        for name in path:
            command = command.commands[name]
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, cli\n"
        "try:\n    cli.app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'pydicom', 'pynetdicom', 'highdicom', 'sqlalchemy',"
        " 'celery', 'scipy', 'matplotlib', 'models', 'workers'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_the_version_is_said() -> None:
    assert run("--version")[:2] == (0, f"sentinode {__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense"], ["show"], ["resolve", "1.2"], ["worklist", "x"]]
)
def test_a_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    code, _, err = run(*arguments)
    assert code == USAGE
    assert "Usage" in err


def test_init_writes_a_file_once(folder: Path) -> None:
    code, out, _ = run("init")
    assert code == 0
    assert "sentinode.toml written" in out
    path = folder / "sentinode.toml"
    path.write_text("# mine\n")
    code, _, err = run("init")
    assert code == ERROR
    assert "exists already" in err
    assert "--force" in err
    assert path.read_text() == "# mine\n"
    assert run("init", "--force")[0] == 0
    assert "[node]" in path.read_text()


def test_init_into_a_folder_that_is_not_there(folder: Path) -> None:
    code, _, err = run("init", "absent/sentinode.toml")
    assert code == ERROR
    assert "Error: absent/sentinode.toml cannot be written" in err
    assert "Traceback" not in err


def test_a_fault_in_the_settings_is_exit_code_2_and_every_fault_a_line(folder: Path) -> None:
    path = folder / "bad.toml"
    path.write_text("[node]\nport = 0\n[worker]\nbatch_size = 0\n")
    code, out, err = run("--config", str(path), "worklist")
    assert code == SETTINGS
    assert out == ""
    assert "2 fault(s)" in err
    assert "node.port" in err
    assert "worker.batch_size" in err
    assert "Correct the lines named above" in err
    assert run("--config", str(folder / "absent.toml"), "worklist")[0] == SETTINGS


def test_the_settings_file_may_be_named_by_a_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.toml").write_text("[node]\nport = 0\n")
    monkeypatch.setenv("SENTINODE_CONFIG", str(folder / "bad.toml"))
    assert run("worklist")[0] == SETTINGS


def test_check_of_a_fresh_settings_file_is_well(folder: Path) -> None:
    assert run("init")[0] == 0
    text = (folder / "sentinode.toml").read_text()
    # whatever disk these tests run on
    (folder / "sentinode.toml").write_text(text.replace("[storage]", "[storage]\nmin_free_mb = 0"))
    code, out, err = run("check")
    assert code == 0, out + err
    for what in ("settings", "disk", "store", "ledger", "broker", "mr-flair-glioma", "device"):
        assert what in out
    assert "0 peers, 1 routes" in out
    assert "not well" not in out


def test_check_says_what_is_not_well_and_exits_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 300)  # lines are not broken where a name is long
    (folder / "store").write_text("a file, no folder")
    (folder.parent / "zoo" / "mr-flair-glioma" / "weights.safetensors").unlink()
    (folder / "sentinode.toml").write_text(
        '[storage]\nstore = "store"\nmin_free_mb = 0\n'
        '[[peers]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\narchive = true'
    )
    code, out, _ = run("check")
    assert code == ERROR
    told = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    for what in ("store", "model mr-flair-glioma", "peer pacs"):
        assert "not well" in told[what], what
    assert "well" in told["ledger"] or "warning" in told["ledger"]


def test_an_empty_ledger_is_an_empty_worklist(folder: Path) -> None:
    assert run("worklist", "--json")[:2] == (0, "")
    code, out, _ = run("worklist")
    assert code == 0
    assert "Worklist" in out
    assert run("conflicts")[:2] == (0, "No identity conflicts.\n")
    assert run("conflicts", "--json")[:2] == (0, "")
    assert run("study", "--json")[:2] == (0, "")
    assert (folder / "data" / "ledger.db").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "abc"], "no job begins with 'abc'"),
        (["retry", "abc"], "no job begins with 'abc'"),
        (["resolve", "1.2.3", "--release"], "study 1.2.3 has no identity conflict"),
        (["resolve", "1.2.3", "--cancel"], "study 1.2.3 has no identity conflict"),
        (["study", "1.2.3"], "no study 1.2.3"),
        (["worklist", "--state", "asleep"], "asleep"),
        (["echo", "nobody"], "no peer is called 'nobody'"),
        (["echo", "PACS@127.0.0.1:1"], "PACS@127.0.0.1:1"),
        (["echo", "PACS@127.0.0.1:many"], "not an address"),
        (["send", "nobody"], "no peer is called 'nobody'"),
        (["up", "--roles", "cook"], "no such role: cook"),
        (["health", "cook"], "no such role: cook"),
        (["models", "evaluate", "nobody", "."], "no model 'nobody'"),
        (["train", "absent.toml"], "absent.toml: there is no such file"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_done_is_told_in_a_line_and_exits_1(
    arguments: list[str], words: str
) -> None:
    code, _, err = run(*arguments)
    assert code == ERROR
    assert words in err
    assert err.startswith("Error: ")
    assert "Traceback" not in err


def test_a_job_is_shown_to_people_and_programs(folder: Path) -> None:
    ledger = Ledger(f"sqlite:///{folder / 'data' / 'ledger.db'}")
    ledger.upgrade()
    with ledger.write() as work:
        work.filing.file(incoming(mr_slice(SeriesDescription="[red]FLAIR")), T0)
        instances = tuple(work.series.instances("1.2.3.4"))
        new = NewJob("1.2.3", ("1.2.3.4",), instances, "r", "m", "1.0.0", "cpu", ("pacs",))
        job_id = work.jobs.create(new, T0)
    assert job_id
    listed = json.loads(run("worklist", "--json")[1])
    assert (listed["id"], listed["state"], listed["model"]) == (job_id, "waiting", "m")
    shown = json.loads(run("show", job_id[:6], "--json")[1])
    assert shown["job"]["id"] == job_id
    assert [event["state"] for event in shown["events"]] == ["waiting"]
    for command in (["show", job_id], ["worklist"], ["study"]):
        code, out, _ = run(*command)
        assert code == 0
        assert "waiting" in out or command == ["study"]
    assert "[red]FLAIR" in run("study")[1]  # a description is text, never markup
    code, _, err = run("retry", job_id)
    assert code == ERROR
    assert "will run by itself" in err
    with ledger.write() as work:
        work.jobs.to_publish(T0, T0 - T0)
        work.jobs.claim(job_id, "w:1", T0, T0)
        work.jobs.finish(job_id, "w:1", JobState.FAILED, T0, reason="why it failed")
    assert "why it failed" in run("show", job_id)[1]
    code, out, _ = run("retry", job_id)
    assert (code, "was made from the input" in out) == (0, True)
    assert run("worklist", "--state", "failed", "--json")[1].count("\n") == 1
    assert len(run("worklist", "--json")[1].splitlines()) == 2
    ledger.close()


def test_jobs_are_cancelled_by_id_or_by_study_all_or_none(folder: Path) -> None:
    ledger = Ledger(f"sqlite:///{folder / 'data' / 'ledger.db'}")
    ledger.upgrade()
    with ledger.write() as work:
        work.filing.file(incoming(mr_slice()), T0)
        instances = tuple(work.series.instances("1.2.3.4"))
        jobs = [
            work.jobs.create(
                NewJob("1.2.3", ("1.2.3.4",), instances, route, "m", "1.0.0", "cpu", ("pacs",)), T0
            )
            for route in ("a", "b", "c")
        ]
    first, *others = [str(job) for job in jobs]
    code, _, err = run("cancel", first, "nonsense")
    assert (code, "no job begins" in err) == (ERROR, True)
    assert [json.loads(run("show", job, "--json")[1])["job"]["state"] for job in jobs if job] == [
        "waiting"
    ] * 3
    assert run("cancel", first)[:2] == (0, f"cancelled: 1 job(s): {first[:8]}\n")
    code, _, err = run("cancel", first)
    assert (code, "is cancelled: there is nothing to cancel" in err) == (ERROR, True)
    code, out, _ = run("cancel", "--study", "1.2.3")
    assert (code, "2 job(s)" in out) == (0, True)
    assert all("cancelled" in run("show", job)[1] for job in others)
    assert run("cancel")[0] == ERROR
    ledger.close()


def test_the_tables_are_brought_up_and_told(folder: Path) -> None:
    head = Ledger.head()
    assert run("db", "current")[:2] == (0, f"tables: none, newest: {head}\n")
    assert run("db", "upgrade")[:2] == (0, f"ledger: none → {head}\n")
    assert run("db", "upgrade")[:2] == (0, f"ledger: {head} → {head}\n")


def test_models_are_listed(folder: Path) -> None:
    assert "mr-flair-glioma" in run("models", "list")[1]
    (line,) = run("models", "list", "--json")[1].splitlines()
    assert json.loads(line)["name"] == "mr-flair-glioma"


def test_as_a_process_it_says_the_same(tmp_path: Path) -> None:
    done = process("show", "abc", folder=tmp_path)
    assert done.returncode == ERROR
    assert done.stderr.startswith("Error: no job begins with 'abc'")
    (tmp_path / "sentinode.toml").write_text("[node]\nport = 0\n")
    assert process("worklist", folder=tmp_path).returncode == SETTINGS


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    """`sentinode worklist --json | head -1`, where head ends first."""
    running = subprocess.Popen(
        [sys.executable, "-m", "cli", "models", "list"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    told = running.stderr.read()
    running.stderr.close()
    assert running.wait(60) == ERROR
    assert told == ""


def test_what_a_command_writes_is_for_the_owner_alone(tmp_path: Path) -> None:
    config = tmp_path / "sentinode.toml"
    config.write_text(f'[storage]\ndata = "{tmp_path / "data"}"\n')
    command = [sys.executable, "-m", "cli", "--config", str(config), "worklist"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    made = [tmp_path / "data", tmp_path / "data" / "ledger.db"]
    assert all(item.stat().st_mode & 0o077 == 0 for item in made)
