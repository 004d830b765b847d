"""Unified Procedure Step as other systems use it: who orders, who performs, who watches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from core.ledger import Ledger
from core.lifecycle import JobState
from core.modelspec import find_specs
from core.settings import Settings
from core.workitems import Workitem
from node.deciding.workitems import WorkitemDesk
from node.dimse.contexts import UPS_EVENT, UPS_PULL, UPS_PUSH, UPS_WATCH
from node.sending.workitem_events import WorkitemTeller
from node.worklist.ups.service import UpsService
from support.instances import T0, incoming, mr_slice
from support.peers import free_port
from support.queries import QuerySite, associated

CLAIM = "2.25.777"
MR = "1.2.840.10008.5.1.4.1.1.4"


class Listener:
    """A subscriber: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, Dataset]] = []
        self.port = free_port()
        ae = AE(ae_title="WATCHER")
        context = build_context(UPS_EVENT)
        ae.add_supported_context(UPS_EVENT, context.transfer_syntax, scu_role=True, scp_role=True)
        self._server: Any = ae.start_server(
            ("127.0.0.1", self.port), block=False,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
        )  # fmt: skip

    def _on_report(self, event: Any) -> Any:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.told.append((uid, event.event_type, event.event_information))
        return 0x0000, None

    def states(self, uid: str) -> list[str]:
        return [
            str(said.ProcedureStepState) for of, kind, said in self.told if of == uid and kind == 1
        ]

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
        self._server = None


def workitem_sections(ledger_url: str, watcher_port: int) -> dict[str, Any]:
    """Settings: an analysis of ours and one of somebody else's can be ordered."""
    return {
        "node": {"port": free_port()},
        "ledger": {"url": ledger_url},
        "worklist": {"days": 365000},
        "delivery": {"retry_seconds": 1, "timeout": 10},
        "routes": [{"name": "brain", "model": "mr-flair-glioma", "match": {"Modality": "MR"}}],
        "workitems": [
            {"code": "BRAIN", "meaning": "Outline the brain's lesions", "route": "brain"},
            {"code": "READ", "scheme": "99RIS", "meaning": "Read it", "outside": True, "hours": 1},
        ],
        "peers": [
            {"name": "ris", "ae_title": "RIS", "worklist": True},
            {"name": "reader", "ae_title": "READER", "worklist": True},
            {"name": "viewer", "ae_title": "VIEWER", "query": True},
            {
                "name": "watcher", "ae_title": "WATCHER", "worklist": True,
                "host": "127.0.0.1", "port": watcher_port,
            },
        ],
    }  # fmt: skip


class Follower:
    """What the roles dispatch and send do."""

    def __init__(self, site: QuerySite) -> None:
        specs = find_specs(site.settings.models.folders)
        self.desk = WorkitemDesk(site.settings, site.ledger, specs)
        self.teller = WorkitemTeller(site.settings, site.ledger)

    def step(self) -> None:
        self.desk._looked_at = None
        self.desk.step()
        self.teller.step(wait_seconds=10)
        self.teller.step(wait_seconds=10)


class Desk:
    """A ledger, and the two that move workitems in it."""

    def __init__(self, chosen: Settings, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = T0
        specs = find_specs(chosen.models.folders)
        self.service = UpsService(chosen, lambda: ledger, lambda: self.now)
        self.desk = WorkitemDesk(chosen, ledger, specs, lambda: self.now)

    def order(self, uid: str = "1.9.1", made: Dataset | None = None, calling: str = "RIS") -> int:
        answer, _ = self.service.on_create(calling, UPS_PUSH, uid, made or order())
        return answer if isinstance(answer, int) else int(answer.Status)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += timedelta(seconds=1)
            self.desk.step()

    def file(self, number: int = 1, **attributes: str) -> None:
        """An image of the series that `order` lists."""
        given = {
            "StudyInstanceUID": "1.2.1",
            "SeriesInstanceUID": "1.2.1.1",
            "PatientID": "P1",
            **attributes,
        }
        uid = f"{given['SeriesInstanceUID']}.{number}"
        with self.ledger.write() as work:
            work.filing.file(incoming(mr_slice(number, SOPInstanceUID=uid, **given)), self.now)

    def item(self, uid: str = "1.9.1") -> Workitem:
        with self.ledger.read() as work:
            found = work.workitems.find(uid)
        assert found is not None
        return found

    def end(self, job_id: str, state: JobState) -> None:
        with self.ledger.write() as work:
            work.jobs.to_publish(self.now, timedelta(seconds=20))
        with self.ledger.write() as work:
            assert work.jobs.claim(job_id, "w:1", self.now + timedelta(hours=1), self.now)
        with self.ledger.write() as work:
            work.jobs.finish(job_id, "w:1", state, self.now, reason="it is broken")

    def act(self, uid: str, action: int, context: str = UPS_WATCH, **content: str) -> int:
        about = Dataset()
        about.ReceivingAE = "WATCHER"
        for keyword, value in content.items():
            setattr(about, keyword, value)
        answer, _ = self.service.on_action("RIS", context, uid, action, about)
        return answer if isinstance(answer, int) else int(answer.Status)

    def told(self) -> list[tuple[str, int, str]]:
        """What the subscriber is to be told, which is taken with this."""
        later = self.now + timedelta(seconds=1)
        with self.ledger.write() as work:
            due = work.subscriptions.claim("WATCHER", later, later, 1000)
            for event in due:
                work.subscriptions.told(event.id)
        states = [dict(event.content).get("00741000", {}).get("Value", [""])[0] for event in due]
        return [(event.uid, event.kind, said) for event, said in zip(due, states, strict=True)]


def order(code: str = "BRAIN", scheme: str = "99SENTINODE", **changes: Any) -> Dataset:
    """An analysis of the image of study 1."""
    made = Dataset()
    made.ProcedureStepState = "SCHEDULED"
    made.TransactionUID = ""
    made.ScheduledProcedureStepPriority = "HIGH"
    made.ProcedureStepLabel = "A look at the brain"
    made.WorklistLabel = "AI"
    made.PatientID, made.PatientName = "P1", "Doe^John"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, "as said"
    made.ScheduledWorkitemCodeSequence = [item]
    given = Dataset()
    given.TypeOfInstances = "DICOM"
    given.StudyInstanceUID, given.SeriesInstanceUID = "1.2.1", "1.2.1.1"
    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = MR, "1.2.1.1.1"
    given.ReferencedSOPSequence = [one]
    made.InputInformationSequence = [given]
    for keyword, value in changes.items():
        setattr(made, keyword, value)
    return made


def create(site: QuerySite, made: Dataset, uid: str = "1.9.1", calling: str = "RIS") -> Dataset:
    with associated(site.door.port, UPS_PUSH, calling=calling) as association:
        status, _ = association.send_n_create(made, UPS_PUSH, uid)
        return status


def get(site: QuerySite, uid: str, *tags: int) -> tuple[Dataset, Dataset | None]:
    with associated(site.door.port, UPS_PULL, calling="RIS") as association:
        status, found = association.send_n_get(list(tags), UPS_PUSH, uid, meta_uid=UPS_PULL)
        return status, found


def act(
    site: QuerySite,
    uid: str,
    action: int,
    calling: str = "READER",
    context: str = UPS_PULL,
    **content: Any,
) -> int:
    about = Dataset()
    for keyword, value in content.items():
        setattr(about, keyword, value)
    with associated(site.door.port, context, calling=calling) as association:
        # without content: pynetdicom would announce an empty data set, and send none
        given = about if len(about) else None
        status, _ = association.send_n_action(given, action, UPS_PUSH, uid, meta_uid=context)
        return int(status.Status)


def to_state(site: QuerySite, uid: str, state: str, claim: str = CLAIM, **more: Any) -> int:
    return act(site, uid, 1, ProcedureStepState=state, TransactionUID=claim, **more)


def put(site: QuerySite, uid: str, changes: Dataset, calling: str = "READER") -> int:
    with associated(site.door.port, UPS_PULL, calling=calling) as association:
        status, _ = association.send_n_set(changes, UPS_PUSH, uid, meta_uid=UPS_PULL)
        return int(status.Status)


def subscribe(site: QuerySite, uid: str, action: int = 3, **more: Any) -> int:
    content = {"ReceivingAE": "WATCHER", **({"DeletionLock": "FALSE"} if action == 3 else {})}
    return act(site, uid, action, "WATCHER", UPS_WATCH, **content, **more)
