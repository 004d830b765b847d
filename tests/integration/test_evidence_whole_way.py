"""From the modality's last message to a queued job: door, spool, intake, dispatcher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from support.instances import mr_slice
from support.peers import free_port, wait_for

from core.ledger import Ledger
from core.lifecycle import SeriesState
from core.modelspec import find_specs
from core.settings import Settings
from core.store import Store
from node.deciding.dispatch import Dispatcher
from node.dimse.contexts import PERFORMED_STEP
from node.door.scp import Door
from node.filing.intake import Intake
from node.loop import run

STUDY, SERIES = "1.2.3", "1.2.3.4"


class Node:
    """The node's roles in threads of this process, each in its own loop as in life."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.ledger = ledger
        self.published: list[tuple[float, str]] = []
        self.door = Door(settings)
        self.dispatcher = Dispatcher(
            settings,
            ledger,
            find_specs(()),
            lambda job, queue: self.published.append((time.monotonic(), job)),
        )
        intake = Intake(settings.spool, Store(settings.store_url), ledger)
        self._stop = threading.Event()
        steps = (intake.step, self.dispatcher.step)
        self._threads = [threading.Thread(target=run, args=(step, self._stop)) for step in steps]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.dispatcher.close()
        self.door.close(0.5)


@pytest.fixture
def node(make_settings: Callable[..., Settings], ledger: Ledger) -> Iterator[Node]:
    made = Node(
        make_settings(
            node={"port": free_port()},
            services={"mpps": True, "commitment": True},
            # so long that only evidence can have decided
            completeness={"quiet_seconds": 600, "force_seconds": 3600},
            routes=[{"name": "brain", "model": "mr-flair-glioma", "match": {"Modality": "MR"}}],
        ),
        ledger,
    )
    yield made
    made.close()


@pytest.fixture
def modality(node: Node) -> Iterator[Association]:
    ae = AE(ae_title="MR1")
    ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
    ae.add_requested_context(PERFORMED_STEP, ImplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.door.port, ae_title="SENTINODE")
    assert association.is_established
    yield association
    association.release()


def step_begins() -> Dataset:
    step = Dataset()
    scheduled = Dataset()
    scheduled.StudyInstanceUID = STUDY
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PerformedProcedureStepID = "P1"
    step.PerformedStationAETitle = "MR1"
    step.PerformedProcedureStepStartDate = "20260102"
    step.PerformedProcedureStepStartTime = "030405"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.Modality = "MR"
    step.PerformedSeriesSequence = []
    return step


def step_ends(images: list[Any]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = SERIES
    series.ReferencedImageSequence = []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        series.ReferencedImageSequence.append(reference)
    step = Dataset()
    step.PerformedProcedureStepStatus = "COMPLETED"
    step.PerformedSeriesSequence = [series]
    return step


@pytest.mark.parametrize("told", ["before the last image", "after it"])
def test_the_job_is_queued_while_the_association_is_still_open(
    node: Node, modality: Association, told: str
) -> None:
    images = [mr_slice(number) for number in range(1, 11)]
    begun = modality.send_n_create(step_begins(), PERFORMED_STEP, "1.7")
    assert begun[0].Status == 0x0000
    for image in images[:-1]:
        assert modality.send_c_store(image).Status == 0x0000

    def last_image() -> None:
        assert modality.send_c_store(images[-1]).Status == 0x0000

    def the_end() -> None:
        ended = modality.send_n_set(step_ends(images), PERFORMED_STEP, "1.7")
        assert ended[0].Status == 0x0000

    order = [the_end, last_image] if told == "before the last image" else [last_image, the_end]
    for act in order:
        act()
    answered = time.monotonic()
    wait_for(lambda: node.published, 30, "a job is queued")
    print(f"queued {node.published[0][0] - answered:.3f} s after the last answer")
    with node.ledger.read() as work:
        series = work.series.get(SERIES)
        job = work.views.job(node.published[0][1])
    assert series.state == SeriesState.WHOLE
    assert series.decided_by == "mpps"
    assert series.decision.startswith("10 of 10 images")
    assert (job.expected, job.sender) == (10, "MR1")
