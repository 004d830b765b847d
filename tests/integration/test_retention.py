"""Retention: what is old goes, what is needed stays, and nothing dangles whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import generate_uid
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs
from support.instances import T0, association, incoming, mr_slice
from support.ledgers import new_ledger
from typer.testing import CliRunner

import cli
from cli.context import console
from core.domain import Finding, FindingKind, Result, ResultKind
from core.errors import IllegalMoveError, StoreError
from core.ledger import Ledger, Work
from core.ledger.evidence import Evidence
from core.ledger.jobs import NewJob
from core.ledger.kept import Kept
from core.lifecycle import EvidenceSource, JobState, Proof, RenditionState, TransferState
from core.modelspec import Code
from core.schema import (
    Base,
    CommitmentRow,
    InstanceRow,
    RenditionRow,
    ResultRow,
    SeriesRow,
    TransferRow,
)
from core.settings import Settings
from core.store import Store, instance_key
from node.filing.intake import Intake
from node.keeping import disk
from node.keeping.disk import DiskWatch, Level
from node.keeping.retention import Retention
from node.loop import beside
from node.spool.heads import ReceivedInstance
from node.spool.receiver import ReceiverSpool

DAY, HOUR, SECOND = timedelta(days=1), timedelta(hours=1), timedelta(seconds=1)
OLD, NEW = T0 - 40 * DAY, T0 - 5 * DAY
PEERS = [
    {"name": "mr1", "ae_title": "MR1"},
    {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11},
    {"name": "vna", "ae_title": "VNA", "host": "127.0.0.1", "port": 12, "commit": True},
]
SIZE = 1000


@dataclass
class World:
    """A ledger, a store and a clock that we turn."""

    ledger: Ledger
    make_settings: Callable[..., Settings]
    now: datetime = T0
    limits: dict[str, float] | None = None

    @property
    def settings(self) -> Settings:
        return self.make_settings(
            peers=PEERS, retention=self.limits or {}, ledger={"url": str(self.ledger.url)}
        )

    @property
    def store(self) -> Store:
        return Store(self.settings.store_url)

    def run(self, *, dry: bool = False, store: Store | None = None, **limits: float) -> Any:
        self.limits = limits or self.limits
        keeper = Retention(self.settings, self.ledger, store or self.store, lambda: self.now)
        return keeper.run(dry=dry)

    def run_with(self, limits: dict[str, float], *, dry: bool = False) -> Any:
        self.limits = limits
        return self.run(dry=dry)

    def file(self, at: datetime, series: str = "1.2.3.4", study: str = "1.2.3") -> str:
        """An image in store and ledger, in a series that is whole; its SOP Instance UID."""
        dataset = mr_slice(SeriesInstanceUID=series, StudyInstanceUID=study)
        uid = str(dataset.SOPInstanceUID)
        key = instance_key(study, series, uid, "d" * 64)
        self.store.put_bytes(key, bytes(SIZE))
        one = incoming(dataset, store_key=key, size=SIZE, received_at=at)
        with self.ledger.write() as work:
            work.filing.file(one, at)
            work.series.mark_whole(series, self.revision(work, series), "quiet", at)
        return uid

    @staticmethod
    def revision(work: Work, series: str) -> int:
        return int(session_of(work).get_one(SeriesRow, series).revision)

    def is_here(self, uid: str) -> bool:
        """Whether an image is in the store, which the ledger must know."""
        with self.ledger.read() as work:
            row = (
                session_of(work)
                .scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == uid))
                .one()
            )
        there = self.store.exists(row.store_key)
        assert there == (row.gone_at is None)
        return there

    def job(self, series: str = "1.2.3.4", study: str = "1.2.3") -> str:
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            job_id = work.jobs.create(
                NewJob(study, (series,), instances, "r", "m", "1.0.0", "cpu", ("pacs",)), self.now
            )
        assert job_id
        return job_id

    def finish(self, job_id: str, state: JobState = JobState.DONE) -> list[str]:
        """End a job with an SEG and an SR; their keys."""
        results, keys = [], []
        for number, kind in enumerate((ResultKind.SEG, ResultKind.SR)):
            key = f"results/{job_id}/w/{kind}.dcm"
            self.store.put_bytes(key, bytes(SIZE))
            keys.append(key)
            results.append(Result(kind, key, "0", SIZE, "1.2.840.1", f"2.25.{number}", "2.25.9"))
        code = Code(value="1", scheme="S", meaning="M")
        finding = Finding(1, "lesion", code, code, "2.25.7", kind=FindingKind.LESION)
        with self.ledger.write() as work:
            work.jobs.to_publish(self.now, 20 * SECOND)
            work.jobs.claim(job_id, "w", self.now + HOUR, self.now)
            work.jobs.finish(job_id, "w", state, self.now, results=results, findings=[finding])
        return keys

    def forward(self, to: str, series: str = "1.2.3.4", study: str = "1.2.3") -> int:
        with self.ledger.write() as work:
            instances = work.series.instances(series)
            return work.transfers.forward("f", study, instances, [to], self.now)

    def set(self, row: Any, **values: Any) -> None:
        with self.ledger.write() as work:
            session_of(work).execute(update(row).values(**values))


def session_of(work: Work) -> Any:
    return work.views._session


@pytest.fixture
def world(ledger: Ledger, make_settings: Callable[..., Settings]) -> World:
    return World(ledger, make_settings)


def test_old_images_go_and_new_ones_stay(world: World) -> None:
    old = world.file(OLD, "1.2.3.4", "1.2.3")
    new = world.file(NEW, "1.2.4.4", "1.2.4")
    would = world.run(dry=True, originals_days=30)
    assert (would.by_age.objects, would.by_age.size) == (1, SIZE)
    assert world.is_here(old)
    did = world.run()
    assert (did.by_age.objects, did.by_age.size, did.deleted) == (1, SIZE, 1)
    assert not world.is_here(old)
    assert world.is_here(new)
    folder = world.store.folder
    assert folder is not None
    assert [path.name for path in (folder / "instances").iterdir()] == ["1.2.4"]
    assert world.run().moved == 0


def test_without_limits_nothing_ever_goes(world: World) -> None:
    uid = world.file(T0 - 10_000 * DAY)
    assert world.run().moved == 0
    assert world.is_here(uid)


def test_a_series_goes_whole(world: World) -> None:
    old, late = world.file(OLD), world.file(NEW)
    assert world.run(originals_days=30).moved == 0
    assert world.is_here(old) and world.is_here(late)
    world.now += 30 * DAY
    assert world.run().by_age.objects == 2


def _receiving(world: World) -> Callable[[], None]:
    world.set(SeriesRow, state="receiving")
    return lambda: world.set(SeriesRow, state="whole")


def _conflict(world: World) -> Callable[[], None]:
    other = incoming(mr_slice(PatientID="OTHER"), received_at=OLD, digest="e" * 64)
    with world.ledger.write() as work:
        work.filing.file(other, OLD)
        work.series.mark_whole("1.2.3.4", 2, "quiet", OLD)

    def decide() -> None:
        with world.ledger.write() as work:
            work.conflicts.decide("1.2.3", True, "test", world.now)

    return decide


def _job(world: World) -> Callable[[], None]:
    job_id = world.job()

    def end() -> None:
        with world.ledger.write() as work:
            work.jobs.cancel(job_id, "test", world.now)

    return end


def _transfer(to: str, state: TransferState, proof: str, then: TransferState) -> Any:
    def begin(world: World) -> Callable[[], None]:
        assert world.forward(to) == 1
        world.set(TransferRow, state=state, proof=proof)
        return lambda: world.set(TransferRow, state=then, proof=Proof.STATUS)

    return begin


def _promise(world: World) -> Callable[[], None]:
    with world.ledger.write() as work:
        uids = [item.sop_instance_uid for item in work.series.instances("1.2.3.4")]
        assert work.commit_requests.promise(uids, T0) == set(uids)
    world.forward("vna")
    world.set(TransferRow, state=TransferState.SENT, proof=Proof.FOUND)
    # said so by a query, and no archive is responsible for it
    world.make_settings = _without_commit(world.make_settings)
    return lambda: world.set(TransferRow, state=TransferState.COMMITTED)


def _without_commit(make: Callable[..., Settings]) -> Callable[..., Settings]:
    def made(**sections: Any) -> Settings:
        peers = [{**peer, "commit": False} for peer in sections.pop("peers")]
        return make(peers=peers, **sections)

    return made


T = TransferState


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (_receiving, Kept.RECEIVING),
        (_conflict, Kept.CONFLICT),
        (_job, Kept.IN_USE),
        (_transfer("pacs", T.DUE, "", T.SENT), Kept.UNDELIVERED),
        (_transfer("pacs", T.SENDING, "", T.SENT), Kept.UNDELIVERED),
        (_transfer("pacs", T.PAUSED, "", T.SENT), Kept.UNDELIVERED),
        (_transfer("pacs", T.REFUSED, "", T.SENT), Kept.UNDELIVERED),
        (_transfer("pacs", T.FAILED, "", T.COMMITTED), Kept.UNDELIVERED),
        (_transfer("pacs", T.SENT, "", T.SENT), Kept.UNDELIVERED),
        (_transfer("vna", T.SENT, "", T.COMMITTED), Kept.UNCOMMITTED),
        (_transfer("vna", T.SENT, "found", T.COMMITTED), Kept.UNCOMMITTED),
        (_promise, Kept.PROMISED),
    ],
    ids=lambda item: item.name if isinstance(item, Kept) else None,
)
def test_what_is_needed_stays_until_it_is_not(
    ledger: Ledger,
    make_settings: Callable[..., Settings],
    begin: Callable[[World], Callable[[], None]],
    reason: Kept,
) -> None:
    world = World(ledger, make_settings)
    uid = world.file(OLD)
    end = begin(world)
    for limits in ({"max_store_gb": 1e-9}, {"originals_days": 30.0}):
        for dry in (True, False):
            report = world.run_with(limits, dry=dry)
            assert dict(report.kept) == {reason: 1}
            assert report.moved == 0
    assert world.is_here(uid)
    end()
    assert world.run().moved
    assert not world.is_here(uid)


def test_the_oldest_go_until_there_is_room(world: World) -> None:
    uids = [world.file(OLD + n * HOUR, f"1.2.{n}.4", f"1.2.{n}") for n in range(1, 6)]
    limit = 2.5 * SIZE / (1 << 30)
    would = world.run(dry=True, max_store_gb=limit)
    assert (would.by_space.objects, would.over) == (3, 0)
    assert world.run().by_space.objects == 3
    assert [world.is_here(uid) for uid in uids] == [False, False, False, True, True]


def test_a_dry_run_counts_once_what_goes_by_age_and_by_space(world: World) -> None:
    for n in range(1, 4):
        world.file(OLD if n == 1 else NEW + n * HOUR, f"1.2.{n}.4", f"1.2.{n}")
    limits = {"originals_days": 30, "max_store_gb": 1.5 * SIZE / (1 << 30)}
    would, did = world.run_with(limits, dry=True), world.run()
    assert (would.by_age.objects, would.by_space.objects) == (1, 1)
    assert (did.by_age.objects, did.by_space.objects) == (1, 1)


def test_a_store_that_is_too_full_is_told_once_with_the_reason(world: World) -> None:
    world.file(OLD)
    world.job()
    world.limits = {"max_store_gb": 1e-9}
    keeper = Retention(world.settings, world.ledger, world.store, lambda: T0)
    with capture_logs() as logs:
        keeper.step()
        keeper.step()
    (told,) = [line for line in logs if line["event"] == "store_over_limit"]
    assert told["kept"] == {Kept.IN_USE.value: 1}


class BrokenStore(Store):
    """Deletes nothing."""

    def delete(self, key: str) -> None:
        raise StoreError("away")


def test_a_crash_before_the_bytes_are_deleted_is_healed(world: World) -> None:
    world.file(OLD)
    with pytest.raises(StoreError):
        world.run(store=BrokenStore(world.settings.store_url), originals_days=30)
    with world.ledger.read() as work:
        assert work.retention.pending() == 1
        assert work.retention.holdings().originals == 0  # nobody uses them any more
    report = world.run()
    assert (report.deleted, report.by_age.objects) == (1, 0)
    with world.ledger.read() as work:
        assert work.retention.pending() == 0


def test_one_key_that_cannot_be_deleted_does_not_keep_the_others(world: World) -> None:
    uids = [world.file(OLD, f"1.2.{n}.4", f"1.2.{n}") for n in range(30)]

    class PartlyBroken(Store):
        def delete(self, key: str) -> None:
            if "/1.2.0/" in key:
                raise StoreError("no right to")
            super().delete(key)

    store = PartlyBroken(world.settings.store_url)
    for _ in range(3):
        with suppress(StoreError):
            world.run(store=store, originals_days=30)
    here = [
        world.store.exists(instance_key(f"1.2.{n}", f"1.2.{n}.4", uid, "d" * 64))
        for n, uid in enumerate(uids)
    ]
    assert here == [True] + [False] * 29


def test_a_key_that_can_never_be_deleted_lets_others_go_all_the_same(world: World) -> None:
    stuck = world.file(OLD)

    class StickyStore(Store):
        def delete(self, key: str) -> None:
            if stuck in key:
                raise StoreError(f"{key} cannot be deleted")
            super().delete(key)

    sticky = StickyStore(world.settings.store_url)
    with pytest.raises(StoreError, match="cannot be deleted"):
        world.run(store=sticky, originals_days=30)
    for number in range(3):
        uid = world.file(OLD, series=f"1.2.3.{number}")
        with pytest.raises(StoreError, match="cannot be deleted"):  # and it is told every time
            world.run(store=sticky, originals_days=30)
        world.now += HOUR
        with pytest.raises(StoreError, match="cannot be deleted"):
            world.run(store=sticky, originals_days=30)
        assert not world.is_here(uid)


class Arrivals:
    """Images that arrive through spool and intake, again and again."""

    def __init__(self, world: World, store: Store | None = None) -> None:
        self.world = world
        self._spool = ReceiverSpool(world.settings.spool, 0)
        self._intake = Intake(world.settings.spool, store or world.store, world.ledger)
        self._number = 0

    def arrive(self, dataset: Dataset, at: datetime) -> None:
        self._number += 1
        sender = association(f"a{self._number}")
        instance = ReceivedInstance(
            str(dataset.SOPClassUID),
            str(dataset.SOPInstanceUID),
            str(dataset.file_meta.TransferSyntaxUID),
            sender,
            at,
        )
        buffer = _encoded(dataset)
        self._spool.write(instance, 1, buffer)
        while self._intake.step():
            pass

    def whole(self) -> None:
        self.world.set(SeriesRow, state="whole")

    def close(self) -> None:
        self._intake.close()
        self._spool.close()


def _encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    bare = Dataset()
    bare.update(dataset)
    dcmwrite(buffer, bare, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _rows(world: World) -> list[InstanceRow]:
    with world.ledger.read() as work:
        return list(session_of(work).scalars(select(InstanceRow)))


@pytest.mark.parametrize("crashed", [False, True])
def test_a_removed_image_that_arrives_again_is_back(world: World, crashed: bool) -> None:
    dataset = mr_slice()
    arrivals = Arrivals(world)
    arrivals.arrive(dataset, OLD)
    arrivals.whole()
    store = BrokenStore(world.settings.store_url) if crashed else world.store
    with suppress(StoreError):
        world.run(store=store, originals_days=30)
    (row,) = _rows(world)
    assert row.gone_at is not None
    assert world.store.exists(row.store_key) == crashed
    arrivals.arrive(dataset, T0)
    arrivals.whole()
    assert world.run().moved == 0  # it counts as new, and nothing deletes it behind our back
    (row,) = _rows(world)
    assert row.gone_at is None
    assert world.store.get(row.store_key)[:132].endswith(b"DICM")
    world.now += 31 * DAY
    assert world.run().by_age.objects == 1
    arrivals.close()


def test_bytes_that_are_deleted_while_their_image_arrives_are_put_back(world: World) -> None:
    world.limits = {"originals_days": 30}

    class Interrupted(Store):
        def put_files(self, items: Any) -> None:
            super().put_files(items)
            if world.now == T0 + DAY:  # the first time; then it is what intake does about it
                world.now += DAY
                world.run()

    dataset = mr_slice()
    arrivals = Arrivals(world, Interrupted(world.settings.store_url))
    arrivals.arrive(dataset, OLD)
    arrivals.whole()
    with pytest.raises(StoreError):
        world.run(store=BrokenStore(world.settings.store_url))
    world.now = T0 + DAY  # let go, and still there when it is put
    arrivals.arrive(dataset, T0)
    assert world.now == T0 + 2 * DAY
    (row,) = _rows(world)
    assert row.gone_at is None
    assert world.store.exists(row.store_key)
    arrivals.close()


def test_arrivals_and_retention_at_the_same_moment_leave_nothing_dangling(world: World) -> None:
    datasets = [mr_slice(n, SeriesInstanceUID=f"1.2.3.{n}") for n in range(1, 5)]
    arrivals = Arrivals(world)
    world.limits = {"originals_days": 30}
    keepers = [Retention(world.settings, world.ledger, world.store, lambda: T0) for _ in range(2)]
    done = threading.Event()
    errors: list[BaseException] = []

    def keep(keeper: Retention) -> None:
        try:
            while not done.is_set():
                arrivals.whole()
                keeper.run()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=keep, args=(keeper,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            for dataset in datasets:
                arrivals.arrive(dataset, OLD)
                for row in _rows(world):
                    if row.gone_at is None:
                        _is_in_the_store(world, row)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not errors
    arrivals.close()
    world.run()
    for row in _rows(world):
        assert world.store.exists(row.store_key) == (row.gone_at is None)


def _is_in_the_store(world: World, row: InstanceRow) -> None:
    """Present by the ledger means present, unless it was let go meanwhile."""
    if world.store.exists(row.store_key):
        return
    (again,) = [item for item in _rows(world) if item.id == row.id]
    # either it went after we looked, or it came and went since
    assert again.gone_at is not None or world.store.exists(row.store_key)


def test_a_job_whose_images_are_gone_is_not_run_again_and_says_why(world: World) -> None:
    world.file(OLD)
    job_id = world.job()
    world.finish(job_id, JobState.FAILED)
    world.run(originals_days=30)
    with pytest.raises(IllegalMoveError, match="1 of the images"), world.ledger.write() as work:
        work.jobs.rerun(job_id, "test", T0)
    assert world.forward("pacs") == 0


def test_results_go_when_every_destination_has_them(world: World) -> None:
    world.file(OLD)
    world.now = OLD
    keys = world.finish(world.job())
    world.now = T0
    assert dict(world.run(results_days=30).kept) == {Kept.UNDELIVERED: 1}
    world.set(TransferRow, state=T.SENT, proof="")
    assert dict(world.run().kept) == {Kept.UNDELIVERED: 1}
    world.set(TransferRow, state=T.SENT, proof=Proof.STATUS)
    assert world.run().results.objects == 2
    assert not any(world.store.exists(key) for key in keys)


def test_a_refused_result_counts_as_delivered_when_what_replaces_it_is(world: World) -> None:
    world.file(OLD)
    world.now = OLD
    job_id = world.job()
    world.finish(job_id)
    world.set(TransferRow, state=T.SENT, proof=Proof.STATUS)
    with world.ledger.write() as work:
        session = session_of(work)
        first = session.scalars(select(TransferRow).order_by(TransferRow.id)).first()
        rendition = RenditionRow(
            result_id=first.result_id,
            job_id=job_id,
            sop_class_uid="1.2.840.2",
            queue="cpu",
            state=RenditionState.RUNNING,
            created_at=OLD,
        )
        other = ResultRow(
            job_id=job_id,
            kind="SEG",
            alternative_to=first.result_id,
            sop_class_uid="1.2.840.2",
            sop_instance_uid="2.25.77",
            series_instance_uid="2.25.78",
            store_key=f"results/{job_id}/w/other.dcm",
            digest="0",
            size=1,
            created_at=OLD,
        )
        session.add_all([rendition, other])
        session.flush()
        first.state, first.class_refused, first.rendition_id = T.REFUSED, True, rendition.id
        instead = TransferRow(
            result_id=other.id,
            job_id=job_id,
            study_instance_uid="1.2.3",
            destination="pacs",
            state=T.DUE,
            created_at=OLD,
        )
        session.add(instead)
        session.flush()
        instead_id = instead.id
    world.now = T0
    assert dict(world.run(results_days=30).kept) == {Kept.IN_USE: 1}
    world.set(RenditionRow, state=RenditionState.DONE)
    assert dict(world.run().kept) == {Kept.UNDELIVERED: 1}
    with world.ledger.write() as work:
        row = session_of(work).get_one(TransferRow, instead_id)
        row.state, row.proof = T.SENT, Proof.STATUS
    assert world.run().results.objects == 3
    with world.ledger.write() as work:
        assert work.transfers.send_again(job_id) == 0  # there is nothing left to send


def _count(world: World) -> dict[str, int]:
    with world.ledger.read() as work:
        session = session_of(work)
        return {
            table.name: session.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
        }


def _everything(world: World, study: str) -> None:
    """A study with something in every table."""
    series = f"{study}.4"
    for n in range(3):
        world.file(OLD + n * SECOND, series, study)
    other = mr_slice(PatientID="OTHER", StudyInstanceUID=study, SeriesInstanceUID=series)
    world.now = OLD
    job_id = world.job(series, study)
    world.finish(job_id)
    world.forward("vna", series, study)
    with world.ledger.write() as work:
        work.filing.file(incoming(other, received_at=OLD), OLD)
        work.conflicts.decide(study, True, "test", OLD)
        work.series.mark_whole(series, 4, "quiet", OLD)
        session = session_of(work)
        commitment = CommitmentRow(
            transaction_uid=generate_uid(), destination="vna", state="reported", created_at=OLD
        )
        session.add(commitment)
        session.flush()
        for row in session.scalars(
            select(TransferRow).where(TransferRow.study_instance_uid == study)
        ):
            row.state, row.proof, row.commitment_id = T.COMMITTED, "commitment", commitment.id
        work.evidence.note(Evidence(EvidenceSource.COUNT, study, OLD, study, series, count=4))
        work.commit_requests.note(f"{study}.77", "MR1", [("1.2", "1.2.3")], OLD)
        session.execute(text("UPDATE commitment_request SET state = 'sent'"))
    world.now = T0


def test_an_old_study_leaves_the_ledger_after_its_bytes(world: World) -> None:
    before = _count(world)
    _everything(world, "1.2.3")
    full = _count(world)
    used = {
        "study",
        "series",
        "instance",
        "job",
        "job_event",
        "job_instance",
        "job_series",
        "finding",
        "result",
        "transfer",
        "conflict",
        "evidence",
        "commitment",
        "commitment_request",
        "series_association",
    }
    assert all(full[name] for name in used)
    _everything(world, "1.2.4")
    world.set(SeriesRow, last_received_at=OLD)
    with world.ledger.write() as work:
        session_of(work).get_one(SeriesRow, "1.2.4.4").last_received_at = NEW
    world.limits = {"ledger_days": 30}
    would = world.run(dry=True)
    assert (would.studies, would.leaving) == (1, 0)
    first = world.run()
    assert (first.studies, first.leaving) == (0, 1)
    folder = world.store.folder
    assert folder is not None
    assert [path.name for path in (folder / "instances").iterdir()] == ["1.2.4"]
    assert len(list((folder / "results").iterdir())) == 1
    assert world.run().moved == 0  # an image may just be arriving
    world.now += 2 * HOUR
    assert world.run().studies == 1
    left = _count(world)
    with world.ledger.read() as work:
        studies = work.views.studies(10)
    assert [study.study_instance_uid for study in studies] == ["1.2.4"]
    world.now += 40 * DAY
    world.run()
    world.now += 2 * HOUR
    world.run()
    assert left != before
    assert {**_count(world), "association": 0} == {**before, "association": 0}


def test_a_study_with_anything_undelivered_stays_in_the_ledger(world: World) -> None:
    _everything(world, "1.2.3")
    with world.ledger.write() as work:
        row = session_of(work).scalars(select(TransferRow).limit(1)).one()
        row.state, row.proof = T.SENT, Proof.STATUS
        row.destination = "vna2"
    world.set(TransferRow, state=T.DUE)
    report = world.run(ledger_days=30)
    assert (report.leaving, dict(report.kept)) == (0, {Kept.UNDELIVERED: 1})
    assert len(_rows(world)) == 4


def test_an_image_of_a_study_that_was_forgotten_is_new(world: World) -> None:
    dataset = mr_slice()
    arrivals = Arrivals(world)
    arrivals.arrive(dataset, OLD)
    arrivals.whole()
    world.set(SeriesRow, last_received_at=OLD)
    with world.ledger.write() as work:
        session_of(work).execute(text("UPDATE study SET first_received_at = '2020-01-01 00:00'"))
    world.run(ledger_days=30)
    world.now += 2 * HOUR
    assert world.run().studies == 1
    arrivals.arrive(dataset, T0)
    (row,) = _rows(world)
    assert world.store.exists(row.store_key)
    arrivals.close()


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order: nothing needed goes, nothing dangles."""

    folder: Path
    make_settings: Callable[..., Settings]
    number = 0

    @initialize()
    def begin(self) -> None:
        Machine.number += 1
        place = self.folder / str(Machine.number)
        ledger = new_ledger(place / "ledger.db")

        def make(**sections: Any) -> Settings:
            return self.make_settings(storage={"data": str(place), "min_free_mb": 1}, **sections)

        self.world = World(ledger, make, limits={"originals_days": 30, "ledger_days": 60})
        self.datasets = [
            mr_slice(n, SeriesInstanceUID=f"1.2.3.{n}", rows=2, columns=2) for n in (1, 2)
        ]
        self.arrivals = Arrivals(self.world)

    @rule(which=st.integers(0, 1))
    def arrive(self, which: int) -> None:
        self.arrivals.arrive(self.datasets[which], self.world.now)

    @rule()
    def whole(self) -> None:
        self.arrivals.whole()

    @rule(days=st.sampled_from([1, 20, 31, 61]))
    def later(self, days: int) -> None:
        self.world.now += days * DAY

    @rule(to=st.sampled_from(["pacs", "vna"]), which=st.integers(1, 2))
    def forward(self, to: str, which: int) -> None:
        with self.world.ledger.read() as work:
            known = session_of(work).get(SeriesRow, f"1.2.3.{which}")
        if known is not None:
            self.world.forward(to, f"1.2.3.{which}")

    @rule(state=st.sampled_from([T.SENT, T.COMMITTED, T.REFUSED]), proved=st.booleans())
    def deliver(self, state: TransferState, proved: bool) -> None:
        with self.world.ledger.write() as work:
            rows = session_of(work).execute(
                select(TransferRow, InstanceRow)
                .join(InstanceRow, InstanceRow.id == TransferRow.instance_id)
                .where(InstanceRow.gone_at.is_(None), TransferRow.state != T.COMMITTED)
            )
            for row, _ in rows.all():
                row.state, row.proof = state, Proof.STATUS if proved else ""

    @rule()
    def promise(self) -> None:
        with self.world.ledger.write() as work:
            work.commit_requests.promise(
                [str(item.SOPInstanceUID) for item in self.datasets], self.world.now
            )

    @rule(crash=st.booleans())
    def retention(self, crash: bool) -> None:
        url = self.world.settings.store_url
        with suppress(StoreError):
            self.world.run(store=BrokenStore(url) if crash else Store(url))

    @invariant()
    def nothing_dangles(self) -> None:
        if not hasattr(self, "world"):
            return
        with self.world.ledger.read() as work:
            session = session_of(work)
            rows = list(session.scalars(select(InstanceRow)))
            transfers = list(session.scalars(select(TransferRow)))
        for row in rows:
            mine = [item for item in transfers if item.instance_id == row.id]
            if row.gone_at is None:
                assert self.world.store.exists(row.store_key)
            else:
                delivered = all(
                    item.state == T.COMMITTED
                    or (item.state == T.SENT and item.proof and item.destination != "vna")
                    for item in mine
                )
                assert delivered
                archived = any(item.state == T.COMMITTED for item in mine)
                assert row.promised_at is None or archived

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.arrivals.close()
            self.world.ledger.close()


def test_in_any_order(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    Machine.folder, Machine.make_settings = tmp_path, staticmethod(make_settings)
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=12,
            stateful_step_count=14,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_an_error_of_retention_ends_its_role() -> None:
    stop = threading.Event()

    def broken() -> int:
        raise IllegalMoveError("no")

    with pytest.raises(IllegalMoveError), beside(broken, stop, 0.01):
        assert stop.wait(30)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk whose free space we set, in MB."""
    found = SimpleNamespace(free=10_000)

    def statvfs(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=found.free, f_frsize=1 << 20, f_blocks=20_000)

    monkeypatch.setattr(os, "statvfs", statvfs)
    return found


def test_a_disk_is_told_once_when_it_changes(
    space: SimpleNamespace, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(storage={"min_free_mb": 1000, "warn_free_mb": 5000})
    now = [T0]
    watch = DiskWatch(settings, lambda: now[0])

    def look(free: int) -> list[str]:
        space.free = free
        now[0] += timedelta(minutes=5)
        with capture_logs() as logs:
            watch.step()
        return [line["event"] for line in logs]

    assert look(10_000) == []
    assert look(4_900) == ["disk_low"]
    assert look(5_010) == []  # about at the mark: not told again and again
    assert look(4_990) == []
    assert look(900) == ["disk_full"]
    assert look(2_000) == ["disk_low"]
    assert look(6_000) == ["disk_well"]


def test_how_long_the_room_lasts_is_told(
    space: SimpleNamespace, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(storage={"min_free_mb": 1000, "warn_free_mb": 5000})
    now = [T0]
    watch = DiskWatch(settings, lambda: now[0])
    space.free = 5500
    watch.step()
    now[0] += timedelta(minutes=30)
    space.free = 4500
    with capture_logs() as logs:
        watch.step()
    (told,) = logs
    assert told["full_in_hours"] == pytest.approx(1.8)  # 3500 MB at 1000 MB in half an hour


def test_images_leave_room_for_the_ledger(
    space: SimpleNamespace, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(storage={"min_free_mb": 1000, "warn_free_mb": 5000})
    space.free = 600
    assert disk.disks(settings)[0].level == Level.FULL
    watch = DiskWatch(settings)
    watch.step()  # the door refuses; what was taken is still filed
    space.free = 400
    with pytest.raises(StoreError, match="400 MB free"):
        watch.step()


def test_the_command_lists_then_removes(
    tmp_path: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 300)
    config = tmp_path / "sentinode.toml"
    config.write_text("[storage]\nmin_free_mb = 1\n[retention]\noriginals_days = 30\n")
    ledger = new_ledger(tmp_path / "data" / "ledger.db")
    world = World(ledger, make_settings)
    uid = world.file(OLD)
    before = os.umask(0o022)
    try:
        call = CliRunner().invoke
        assert "Would be removed" in call(cli.app, ["retention"]).stdout
        assert world.is_here(uid)
        assert "would remove 1 image(s)" in call(cli.app, ["worklist"]).stdout
        checked = call(cli.app, ["check"]).stdout
        assert "would remove 1 image(s)" in checked
        assert "free for spool, store, ledger" in checked
        assert "images, by age" in call(cli.app, ["retention", "--run"]).stdout
    finally:
        os.umask(before)
    assert not world.is_here(uid)
    ledger.close()
