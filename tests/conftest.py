"""Fixtures: a ledger on SQLite and on PostgreSQL, settings, a clean environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from pynetdicom.association import Association
from support.ledgers import new_ledger, sqlite_url
from support.postgresql import PostgresqlServer

from core import logs
from core.ledger import Ledger
from core.settings import LogSettings, Settings, load
from node.dimse.checkpoint import Checkpoint

# A busy machine is no fault of the code: time is not part of what these tests say.
hypothesis_settings.register_profile("sentinode", deadline=None)
# The same commit gets the same answer; where the search is random is everybody's own machine.
hypothesis_settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") == "true" else "sentinode")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SENTINODE_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging() -> None:
    logs.configure(LogSettings())


@pytest.fixture(autouse=True)
def _exact_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests ask for with pynetdicom's own associations is answered as well."""
    begin = Association.__init__

    def begin_exactly(association: Association, *arguments: Any, **more: Any) -> None:
        begin(association, *arguments, **more)
        association._reactor_checkpoint = Checkpoint(association)

    monkeypatch.setattr(Association, "__init__", begin_exactly)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    """A real PostgreSQL server."""
    server = PostgresqlServer(tmp_path_factory.mktemp("pg"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_server(request: pytest.FixtureRequest) -> str:
    """Each kind of server that a ledger may be on."""
    return str(request.param)


@pytest.fixture
def empty_url(ledger_server: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if ledger_server == "sqlite":
        yield sqlite_url(tmp_path / "ledger.db")
    else:
        with request.getfixturevalue("postgresql").empty() as url:
            yield url


@pytest.fixture
def ledger_url(ledger_server: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a ledger with its tables."""
    if ledger_server == "sqlite":
        new_ledger(tmp_path / "ledger.db").close()
        yield sqlite_url(tmp_path / "ledger.db")
    else:
        with request.getfixturevalue("postgresql").with_tables() as url:
            yield url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """A ledger with its tables, on each kind of server."""
    made = Ledger(ledger_url)
    yield made
    made.close()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings as a file would give them; sections as keyword arguments."""

    def make(**sections: Any) -> Settings:
        defaults: dict[str, Any] = {
            "node": {"host": "127.0.0.1"},
            "storage": {"data": str(tmp_path / "data"), "min_free_mb": 1},
            "peers": [{"name": "mr1", "ae_title": "MR1"}],
        }
        for name, values in sections.items():
            known = defaults.get(name)
            defaults[name] = {**known, **values} if isinstance(known, dict) else values
        return load(overrides=defaults)

    return make


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: side by side, a file is run by one process."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)
