"""A node's web role on a real port, with people, tokens and images made by code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import generate_uid

from core import clock
from core.accounts import Role
from core.domain import Result, ResultKind
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.settings import Settings, load
from core.store import Store, instance_key
from node.web import passwords
from node.web.app import make_app
from node.web.passwords import TOKEN_PREFIX, digest_of, form_token, hash_password
from node.web.serve import Server
from support.instances import T0, incoming, mr_slice
from support.ledgers import new_ledger
from support.peers import free_port, wait_for

PASSWORD = "correct horse battery"
# As slow as it is meant to be, it would be most of the tests' time.
passwords._hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
_hashed: list[str] = []


def hashed() -> str:
    """The hash of `PASSWORD`; made once, for it is meant to be slow."""
    if not _hashed:
        _hashed.append(hash_password(PASSWORD, 8))
    return _hashed[0]


@dataclass
class Site:
    """A running web role.

    Attributes:
        tokens: secret of a token of each role.
    """

    settings: Settings
    ledger: Ledger
    store: Store
    app: Any
    base: str
    tokens: dict[Role, str] = field(default_factory=dict)

    def client(self, role: Role | None = Role.VIEWER, **options: Any) -> httpx.Client:
        """A program's client with a token of `role`; without one for None."""
        headers = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(
            base_url=self.base,
            headers=headers | options.pop("headers", {}),
            timeout=60,
            trust_env=False,
            **options,
        )

    @contextmanager
    def browser(self, role: Role = Role.VIEWER) -> Iterator[tuple[httpx.Client, str]]:
        """A client that signed in as the user named like `role`, and its form token."""
        with self.client(None) as client:
            answer = client.post("/sign-in", data={"name": role.value, "password": PASSWORD})
            assert answer.status_code == 303, answer.text
            assert answer.headers["location"] == "/"
            yield client, form_token(client.cookies["sentinode"])

    def add_images(
        self,
        count: int = 3,
        *,
        study: str = "1.2.3",
        series: str = "1.2.3.4",
        datasets: list[Dataset] | None = None,
        **attributes: Any,
    ) -> list[str]:
        """File images in store and ledger; their SOP Instance UIDs."""
        made = datasets or [
            mr_slice(
                number + 1,
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                SOPInstanceUID=f"{series}.{number + 1}",
                **attributes,
            )
            for number in range(count)
        ]
        uids = []
        with self.ledger.write() as work:
            for dataset in made:
                content = encoded(dataset)
                uid = str(dataset.SOPInstanceUID)
                digest = f"{len(content):064x}"
                key = instance_key(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, uid, digest)
                self.store.put_bytes(key, content)
                one = incoming(
                    dataset,
                    digest=digest,
                    store_key=key,
                    size=len(content),
                    transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
                )
                work.filing.file(one, T0)
                uids.append(uid)
        return uids

    def add_job(
        self,
        *,
        study: str = "1.2.3",
        series: str = "1.2.3.4",
        state: JobState | None = None,
        results: list[tuple[ResultKind, Dataset | bytes]] | None = None,
        reason: str = "",
    ) -> str:
        """Make a job of a series; with a state it is run and ended so."""
        now = clock.now()
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            new = NewJob(study, (series,), instances, "r", "m", "1.0.0", "cpu", ("pacs",))
            job_id = work.jobs.create(new, now)
        assert job_id is not None
        if state is None:
            return job_id
        with self.ledger.write() as work:
            work.jobs.to_publish(now, timedelta(seconds=20))
        with self.ledger.write() as work:
            assert work.jobs.claim(job_id, "w:1", now + timedelta(hours=1), now)
        made = []
        for kind, content in results or ():
            data = content if isinstance(content, bytes) else encoded(content)
            key = f"results/{job_id}/1/{kind}"
            self.store.put_bytes(key, data)
            about = {}
            if isinstance(content, Dataset):
                about = {
                    "sop_class_uid": str(content.SOPClassUID),
                    "sop_instance_uid": str(content.SOPInstanceUID),
                    "series_instance_uid": str(content.SeriesInstanceUID),
                }
            made.append(Result(kind, key, "0" * 64, len(data), **about))
        with self.ledger.write() as work:
            work.jobs.finish(job_id, "w:1", state, now, reason=reason, results=made)
        return job_id


def encoded(dataset: Dataset) -> bytes:
    """A data set as a Part 10 file."""
    made = BytesIO()
    dcmwrite(made, dataset, enforce_file_format=True)
    return made.getvalue()


def report(study: str = "1.2.3", **attributes: Any) -> Dataset:
    """A small report of ours."""
    dataset = mr_slice(1, StudyInstanceUID=study, **attributes)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.Modality = "SR"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesDescription = "Findings"
    return dataset


@contextmanager
def site(ledger: Ledger, make_settings: Callable[..., Settings], **sections: Any) -> Iterator[Site]:
    """Run the web role over `ledger`, with a user and a token of each role."""
    web = {"port": free_port(), **sections.pop("web", {})}
    peers = [
        {"name": "mr1", "ae_title": "MR1"},
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port()},
    ]
    sections = {"peers": peers, "ledger": {"url": url_of(ledger)}, **sections}
    with serving(make_settings(web=web, **sections), ledger) as made:
        yield made


@contextmanager
def serving(settings: Settings, ledger: Ledger) -> Iterator[Site]:
    """The web role of a node that is set up already; its users are added where they are not."""
    store = Store(settings.store_url)
    app = make_app(settings, ledger, store)
    scheme = "https" if settings.web.cert else "http"
    made = Site(settings, ledger, store, app, f"{scheme}://127.0.0.1:{settings.web.port}")
    with ledger.write() as work:
        for role in Role if not work.accounts.any() else ():
            work.accounts.add(role.value, role, hashed(), clock.now())
            secret = f"{TOKEN_PREFIX}{role}"
            work.accounts.add_token(role.value, "test", role, digest_of(secret), clock.now())
            made.tokens[role] = secret
    server, stop = Server(app, settings.web), threading.Event()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    try:
        with httpx.Client(trust_env=False, verify=False) as client:
            wait_for(lambda: _answers(client, made.base))
        yield made
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def site_of_its_own(folder: Path, **sections: Any) -> Iterator[Site]:
    """The same over an SQLite file in `folder`, for tests that share one."""
    ledger = new_ledger(folder / "ledger.db")

    def make(**others: Any) -> Settings:
        storage = {"data": str(folder / "data"), "min_free_mb": 1}
        return load(overrides={"storage": storage, "node": {"host": "127.0.0.1"}, **others})

    with site(ledger, make, **sections) as made:
        yield made
    ledger.close()


def url_of(ledger: Ledger) -> str:
    """The URL of a ledger, with its password."""
    return ledger.url.render_as_string(hide_password=False)


def _answers(client: httpx.Client, base: str) -> bool:
    try:
        return client.get(f"{base}/livez").status_code == 200
    except httpx.HTTPError:
        return False
