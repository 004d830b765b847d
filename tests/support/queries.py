"""A door that answers queries: a ledger and a store with phantoms in them, and who asks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from core.domain import Result, ResultKind
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import STUDY_ROOT_FIND
from node.door.scp import Door
from support.instances import T0, incoming, mr_slice

Row = dict[str, Any]


@dataclass
class QuerySite:
    """An open door, its ledger and its store."""

    settings: Settings
    ledger: Ledger
    store: Store
    door: Door

    def add(self, *datasets: Dataset, now: datetime = T0, **changes: Any) -> None:
        """File instances, with their bytes."""
        with self.ledger.write() as work:
            for dataset in datasets:
                key = f"instances/{dataset.SOPInstanceUID}.dcm"
                data = part10(dataset)
                self.store.put_bytes(key, data)
                number = str(dataset.get("InstanceNumber", ""))
                work.filing.file(
                    incoming(
                        dataset,
                        digest=f"{hash(dataset.SOPInstanceUID):064d}"[-64:],
                        store_key=key,
                        size=len(data),
                        number=number,
                        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
                        **changes,
                    ),
                    now,
                )

    def job(
        self,
        series: str,
        study: str,
        *,
        state: JobState = JobState.WAITING,
        results: tuple[tuple[ResultKind, Dataset], ...] = (),
        model: str = "brain",
        now: datetime = T0,
    ) -> str:
        """A job for a series, with what it made where it is done."""
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            new = NewJob(study, (series,), instances, "r", model, "1.0.0", "cpu", ())
            made = work.jobs.create(new, now)
        assert made is not None
        if state is JobState.WAITING:
            return made
        with self.ledger.write() as work:
            work.jobs.to_publish(now, timedelta(seconds=20))
        if state is JobState.QUEUED:
            return made
        with self.ledger.write() as work:
            assert work.jobs.claim(made, "w:1", now + timedelta(hours=1), now)
        if state is JobState.RUNNING:
            return made
        kept = []
        for number, (kind, dataset) in enumerate(results):
            data = part10(dataset)
            key = f"results/{made}/{number}.dcm"
            self.store.put_bytes(key, data)
            kept.append(
                Result(
                    kind,
                    key,
                    f"{number:064d}",
                    len(data),
                    str(dataset.SOPClassUID),
                    str(dataset.SOPInstanceUID),
                    str(dataset.SeriesInstanceUID),
                    attributes={
                        "Modality": str(dataset.Modality),
                        "SeriesNumber": "1001",
                        "SeriesDescription": "AI: Brain",
                        "InstanceNumber": "1",
                    },
                )
            )
        if kept:  # as workers do: what only the pages show stands beside the objects
            key = f"results/{made}/picture.png"
            self.store.put_bytes(key, b"a picture")
            kept.append(Result(ResultKind.PICTURE, key, f"{99:064d}", 9, "", "", ""))
        with self.ledger.write() as work:
            work.jobs.finish(made, "w:1", state, now, results=kept)
        return made


def part10(dataset: Dataset) -> bytes:
    """A file with the data set."""
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


@contextmanager
def query_site(settings: Settings, ledger: Ledger) -> Iterator[QuerySite]:
    """Open the door."""
    door = Door(settings)
    try:
        yield QuerySite(settings, ledger, Store(settings.store_url), door)
    finally:
        door.close(grace_seconds=1)


def study(number: int = 1, **attributes: Any) -> Dataset:
    """An image of a study of its own."""
    return mr_slice(
        1,
        StudyInstanceUID=f"1.2.{number}",
        SeriesInstanceUID=f"1.2.{number}.1",
        SOPInstanceUID=f"1.2.{number}.1.1",
        **attributes,
    )


def seg(number: int = 1) -> Dataset:
    """What a job made of the first study."""
    made = mr_slice(
        1,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4",
        StudyInstanceUID="1.2.1",
        SeriesInstanceUID="1.2.1.90",
        SOPInstanceUID=f"1.2.1.90.{number}",
        Modality="SEG",
    )
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


@contextmanager
def associated(
    port: int, *classes: str, calling: str = "VIEWER", **options: Any
) -> Iterator[Association]:
    """An association of pynetdicom."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    contexts = [build_context(uid, [ExplicitVRLittleEndian]) for uid in classes]
    association = ae.associate("127.0.0.1", port, contexts, ae_title="SENTINODE", **options)
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def identifier(level: str = "", **keys: Any) -> Dataset:
    """The Identifier of a request."""
    made = Dataset()
    if level:
        made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


def find(
    port: int,
    asked: Dataset,
    sop_class: str = STUDY_ROOT_FIND,
    *,
    calling: str = "VIEWER",
    **options: Any,
) -> tuple[list[Dataset], Dataset]:
    """C-FIND; the matches, and the last status."""
    with associated(port, sop_class, calling=calling, **options) as association:
        found: list[Dataset] = []
        status = Dataset()
        for status, match in association.send_c_find(asked, UID(sop_class)):
            if match is not None:
                match.pending = status.Status
                found.append(match)
        return found, status
