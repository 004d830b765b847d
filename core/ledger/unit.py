"""The engine and the unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
)
from sqlalchemy.orm import Session

from core.errors import LedgerError, LedgerValueError
from core.ledger.accounts import Accounts, SignInThrottle
from core.ledger.backlog import Backlog
from core.ledger.browse import Browse
from core.ledger.browse_figures import BrowseFigures
from core.ledger.browse_study import BrowseStudy
from core.ledger.changes import ChangesRead
from core.ledger.circuits import Circuits
from core.ledger.commit_requests import CommitRequests
from core.ledger.commitments import Commitments
from core.ledger.conflicts import Conflicts
from core.ledger.evidence import EvidenceBook
from core.ledger.facts import Facts
from core.ledger.filing import Filing
from core.ledger.forgetting import Forgetting
from core.ledger.holdings import Holdings
from core.ledger.jobs import Jobs
from core.ledger.meters import Meters
from core.ledger.moments import Moments
from core.ledger.notices import Notices
from core.ledger.proofs import Proofs
from core.ledger.queries import Queries
from core.ledger.refusals import Refusals
from core.ledger.renditions import Renditions
from core.ledger.retention import Retention
from core.ledger.series import SeriesQueries
from core.ledger.subscriptions import Subscriptions
from core.ledger.transfer_list import TransferList
from core.ledger.transfers import Transfers
from core.ledger.views import Views
from core.ledger.watermarks import Watermarks
from core.ledger.workitems import Workitems

_MIGRATIONS = Path(__file__).resolve().parents[2] / "alembic"
_SQLITE_BUSY_MS = 30_000


@dataclass(frozen=True, slots=True)
class Work:
    """One transaction, and all that can be asked or done in it."""

    filing: Filing
    series: SeriesQueries
    facts: Facts
    evidence: EvidenceBook
    conflicts: Conflicts
    jobs: Jobs
    transfers: Transfers
    refusals: Refusals
    renditions: Renditions
    circuits: Circuits
    proofs: Proofs
    commitments: Commitments
    views: Views
    watermarks: Watermarks
    retention: Retention
    forgetting: Forgetting
    commit_requests: CommitRequests
    moments: Moments
    queries: Queries
    accounts: Accounts
    throttle: SignInThrottle
    browse: Browse
    study_page: BrowseStudy
    figures: BrowseFigures
    changes: ChangesRead
    transfer_list: TransferList
    holdings: Holdings
    meters: Meters
    notices: Notices
    backlog: Backlog
    workitems: Workitems
    subscriptions: Subscriptions


class Ledger:
    """The SQL database behind one URL.

    Raises:
        LedgerError: the URL is none.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            if parsed.drivername in {"postgresql", "postgres"}:
                parsed = parsed.set(drivername="postgresql+psycopg")
            options: dict[str, Any] = {"pool_pre_ping": True}
            if parsed.get_backend_name() == "postgresql":
                # a server that is switched off answers nothing: do not wait for it for hours
                quiet = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
                connect = {"connect_timeout": 5, **quiet}
                options["connect_args"] = {
                    key: value for key, value in connect.items() if key not in parsed.query
                }
            if parsed.get_backend_name() == "sqlite":
                if parsed.database:
                    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
                options = {"connect_args": {"timeout": _SQLITE_BUSY_MS / 1000}}
            # parameters hold patients' names: never in a message
            self.engine: Engine = create_engine(parsed, hide_parameters=True, **options)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise LedgerError(f"ledger.url is not usable: {error}") from error
        self.url = parsed
        if self.engine.dialect.name == "sqlite":
            _prepare_sqlite(self.engine)
        self._reading = self.engine.execution_options(read_only=True)

    @contextmanager
    def write(self) -> Iterator[Work]:
        """A transaction that may write.

        Raises:
            LedgerError: the database is away or refuses; nothing was changed.
        """
        with self._transaction(self.engine) as work:
            yield work

    @contextmanager
    def read(self) -> Iterator[Work]:
        """A transaction that only reads.

        Raises:
            LedgerError: the database is away.
        """
        with self._transaction(self._reading) as work:
            yield work

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Work]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                jobs, transfers, refusals = Jobs(session), Transfers(session), Refusals(session)
                proofs, retention = Proofs(session), Retention(session)
                yield Work(
                    filing=Filing(session),
                    series=SeriesQueries(session),
                    facts=Facts(session),
                    evidence=EvidenceBook(session),
                    conflicts=Conflicts(session, jobs),
                    jobs=jobs,
                    transfers=transfers,
                    refusals=refusals,
                    renditions=Renditions(session, transfers, refusals),
                    circuits=Circuits(session),
                    proofs=proofs,
                    commitments=Commitments(session, proofs),
                    views=Views(session),
                    watermarks=Watermarks(session),
                    retention=retention,
                    forgetting=Forgetting(session, retention),
                    commit_requests=CommitRequests(session),
                    moments=Moments(session),
                    queries=Queries(session),
                    accounts=Accounts(session),
                    throttle=SignInThrottle(session),
                    changes=ChangesRead(session),
                    transfer_list=TransferList(session),
                    holdings=Holdings(session),
                    meters=Meters(session),
                    notices=Notices(session),
                    backlog=Backlog(session),
                    workitems=Workitems(session),
                    subscriptions=Subscriptions(session),
                    browse=Browse(session),
                    study_page=BrowseStudy(session),
                    figures=BrowseFigures(session),
                )
        except (DataError, IntegrityError) as error:
            raise LedgerValueError(f"the ledger does not take a value: {error.orig}") from error
        except DBAPIError as error:
            raise LedgerError(f"the ledger refused or is away: {error.orig}") from error

    def upgrade(self) -> None:
        """Bring the tables to the newest revision.

        Raises:
            LedgerError: the database is away, or a migration failed.
        """
        try:
            with self.engine.connect() as connection:
                _foreign_keys(connection, enforced=False)
                try:
                    with connection.begin():
                        command.upgrade(_alembic_config(connection), "head")
                        _check_foreign_keys(connection)
                finally:
                    _foreign_keys(connection, enforced=True)
        except DBAPIError as error:
            raise LedgerError(f"the ledger cannot be upgraded: {error.orig}") from error

    def revision(self) -> str | None:
        """The revision of the tables, or None when there are none.

        Raises:
            LedgerError: the database is away.
        """
        try:
            with self.engine.connect() as connection:
                return MigrationContext.configure(connection).get_current_revision()
        except DBAPIError as error:
            raise LedgerError(f"the ledger is away: {error.orig}") from error

    @staticmethod
    def head() -> str | None:
        """The newest revision that this version of the software knows."""
        return ScriptDirectory(str(_MIGRATIONS)).get_current_head()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _alembic_config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _foreign_keys(connection: Connection, *, enforced: bool) -> None:
    """Let SQLite copy a table and drop the old one, as https://sqlite.org/lang_altertable.html
    describes; it cannot be switched inside a transaction."""
    if connection.dialect.name == "sqlite":
        cursor = connection.connection.cursor()
        cursor.execute(f"PRAGMA foreign_keys={'ON' if enforced else 'OFF'}")
        cursor.close()


def _check_foreign_keys(connection: Connection) -> None:
    """What was not looked at while tables were copied."""
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise LedgerError(f"after the upgrade {len(broken)} references lead nowhere; undone")


def _prepare_sqlite(engine: Engine) -> None:
    """WAL, durable commits, and transactions that take the write lock when they begin.

    A transaction that begins as reader and writes later fails at once when another process
    wrote in between (SQLITE_BUSY_SNAPSHOT), whatever the timeout.
    """

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
