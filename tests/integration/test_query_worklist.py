"""Modality Worklist: every job as a Scheduled Procedure Step, for those who may see it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from support.instances import T0
from support.peers import DCMTK_ENVIRONMENT, free_port, require_program
from support.queries import QuerySite, find, identifier, query_site, study

from core.ledger import Ledger
from core.lifecycle import JobState
from core.settings import Settings
from node.dimse.contexts import WORKLIST_FIND
from node.worklist.service import QueryService

PEERS: list[dict[str, Any]] = [
    {"name": "ris", "ae_title": "RIS", "worklist": True},
    {"name": "viewer", "ae_title": "VIEWER", "query": True},
]
DAY = timedelta(days=1)


@pytest.fixture
def site(
    make_settings: Callable[..., Settings],
    ledger: Ledger,
    ledger_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[QuerySite]:
    settings = make_settings(
        node={"port": free_port()},
        ledger={"url": ledger_url},
        results={"timezone": "Asia/Tokyo"},
        worklist={"days": 2},
        peers=PEERS,
    )
    monkeypatch.setattr(QueryService, "__init__", _at(T0 + timedelta(hours=1)))
    with query_site(settings, ledger) as opened:
        opened.add(
            study(1, PatientID="P1", PatientName="Doe^John", RequestedProcedureID="RP1"),
            study(2, PatientID="P2", PatientName="Roe^Jane", Modality="CT"),
            study(3, PatientID="P3", PatientName="Old^Work"),
            study(4, PatientID="P4", PatientName="Old^Open"),
        )
        opened.job("1.2.2.1", "1.2.2", state=JobState.DONE, model="lung", now=T0 - DAY)
        opened.job("1.2.3.1", "1.2.3", state=JobState.DONE, now=T0 - 9 * DAY)
        opened.job("1.2.4.1", "1.2.4", state=JobState.RUNNING, now=T0 - 9 * DAY)
        # the last, or publishing the others would publish it too
        opened.job("1.2.1.1", "1.2.1")
        yield opened


def _at(moment: Any) -> Any:
    init = QueryService.__init__

    def make(self: QueryService, settings: Settings) -> None:
        init(self, settings, lambda: moment)

    return make


def steps(site: QuerySite, calling: str = "RIS", **keys: Any) -> tuple[list[Dataset], Dataset]:
    """Ask for steps; keys of the step begin with `step_`."""
    step = Dataset()
    for keyword in (
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "Modality",
        "ScheduledProcedureStepDescription",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepStatus",
    ):
        setattr(step, keyword, keys.pop(f"step_{keyword}", ""))
    asked = identifier(**{"PatientID": "", "PatientName": "", "StudyInstanceUID": "", **keys})
    asked.ScheduledProcedureStepSequence = [step]
    return find(site.door.port, asked, WORKLIST_FIND, calling=calling)


def patients(site: QuerySite, **keys: Any) -> list[str]:
    found, status = steps(site, **keys)
    assert status.Status == 0x0000, status
    return [item.PatientID for item in found]


def test_a_job_is_a_step(site: QuerySite) -> None:
    (found,), _ = steps(
        site,
        PatientID="P1",
        AccessionNumber="",
        RequestedProcedureID="",
        RequestedProcedurePriority="",
        RequestedProcedureDescription="",
        PregnancyStatus=None,
        ReferencedStudySequence=None,
    )
    assert found.pending == 0xFF00
    assert (found.PatientName, found.AccessionNumber) == ("Doe^John", "A1")
    assert (found.RequestedProcedureID, found.RequestedProcedurePriority) == ("RP1", "ROUTINE")
    assert found.StudyInstanceUID == "1.2.1"
    assert found.PregnancyStatus is None
    assert not found.ReferencedStudySequence
    (step,) = found.ScheduledProcedureStepSequence
    assert step.ScheduledStationAETitle == "SENTINODE"
    # T0 is 03:04:05 UTC; dates are those of results.timezone
    assert step.ScheduledProcedureStepStartDate == "20260102"
    assert step.ScheduledProcedureStepStartTime == "120405"
    assert step.Modality == "MR"
    assert step.ScheduledProcedureStepDescription == "brain 1.0.0"
    assert step.ScheduledProcedureStepStatus == "SCHEDULED"
    assert len(step.ScheduledProcedureStepID) == 16


def test_open_steps_and_recent_ones_are_listed(site: QuerySite) -> None:
    assert patients(site) == ["P1", "P2", "P4"]
    assert patients(site, PatientID="P3") == []
    assert patients(site, PatientID="P4") == ["P4"]
    assert patients(site, PatientName="*o*") == ["P1", "P2", "P4"]


def test_matching_of_steps(site: QuerySite) -> None:
    (first,), _ = steps(site, PatientID="P1")
    number = first.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    for keys, wanted in [
        ({"Modality": "CT"}, ["P2"]),
        ({"ScheduledProcedureStepStatus": "COMPLETED"}, ["P2"]),
        ({"ScheduledProcedureStepStatus": "ST*"}, ["P4"]),
        ({"ScheduledProcedureStepDescription": "brain*"}, ["P1", "P4"]),
        ({"ScheduledProcedureStepID": number}, ["P1"]),
        ({"ScheduledStationAETitle": "SENTINODE"}, ["P1", "P2", "P4"]),
        ({"ScheduledStationAETitle": "CT7"}, []),
        ({"ScheduledProcedureStepStartDate": "20260102"}, ["P1"]),
        ({"ScheduledProcedureStepStartDate": "20260101-"}, ["P1", "P2"]),
        ({"ScheduledProcedureStepStartDate": "-20260101"}, ["P2", "P4"]),
        ({"ScheduledProcedureStepStartTime": "12"}, ["P1", "P2", "P4"]),
        # one period from the first moment to the last, not the same hours of each day
        (
            {
                "ScheduledProcedureStepStartDate": "20260101-20260102",
                "ScheduledProcedureStepStartTime": "1300-1200",
            },
            [],
        ),
        (
            {
                "ScheduledProcedureStepStartDate": "20260101-20260102",
                "ScheduledProcedureStepStartTime": "1200-1100",
            },
            ["P2"],
        ),
    ]:
        assert patients(site, **{f"step_{key}": value for key, value in keys.items()}) == wanted, (
            keys
        )


def test_refusals(site: QuerySite) -> None:
    # a scanner, or a viewer, is offered nothing
    found, status = steps(site, calling="VIEWER")
    assert (found, status.Status) == ([], 0x0124)
    # and who may see steps may not query studies
    found, status = find(site.door.port, identifier("STUDY", StudyInstanceUID=""), calling="RIS")
    assert (found, status.Status) == ([], 0x0124)
    found, status = steps(site, step_ScheduledProcedureStepID="*a" * 20)
    assert (status.Status, int(status.OffendingElement)) == (0xA900, 0x00400009)


def test_dcmtk(site: QuerySite) -> None:
    program = require_program("findscu", "/usr/bin")
    asked = subprocess.run(
        [
            *(program, "-W", "-aet", "RIS", "-aec", "SENTINODE", "127.0.0.1"),
            *(str(site.door.port), "-k", "PatientName=doe*", "-k", "PatientID"),
            *("-k", "(0040,0100)[0].Modality=MR"),
            *("-k", "(0040,0100)[0].ScheduledProcedureStepDescription"),
        ],
        env=DCMTK_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    told = asked.stdout + asked.stderr
    assert told.count("brain 1.0.0") == 1
