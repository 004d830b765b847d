"""Analysing again what is here: present routes and model versions, held against old series."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from support.instances import T0, incoming, mr_slice
from support.packages import write_spec

from core.domain import RouteDecision
from core.ledger import Ledger
from core.ledger.backlog import LastJob
from core.lifecycle import JobState
from core.modelspec import find_specs
from core.settings import Settings
from node.deciding.priority import LOW
from node.fetching.again import Again, Choice, Done, Selection, Step
from node.fetching.criteria import Span
from node.fetching.journal import Journal
from node.fetching.stopping import StoppedError
from node.fetching.throttle import Pace, Throttle

JANUARY = Span(date(2024, 1, 1), date(2024, 1, 31))


class Hospital:
    """A ledger with old series, and a model of which newer versions come."""

    def __init__(self, ledger: Ledger, settings: Settings, folder: Path) -> None:
        self.ledger, self.settings, self.folder = ledger, settings, folder

    def series(self, number: int, day: str, part: str = "BRAIN", modality: str = "MR") -> str:
        uid = f"1.2.{number}.1"
        image = mr_slice(
            StudyInstanceUID=f"1.2.{number}",
            SeriesInstanceUID=uid,
            SOPInstanceUID=f"{uid}.1",
            StudyDate=day,
            Modality=modality,
            BodyPartExamined=part,
        )
        with self.ledger.write() as work:
            work.filing.file(incoming(image, digest=f"{number:064}"), T0)
            (facts,) = work.facts.of([uid])
            assert work.series.mark_whole(uid, facts.revision, "test", T0)
            work.series.explain(uid, facts.revision, [RouteDecision("r", False, "then")])
        return uid

    def install(self, version: str) -> None:
        write_spec(self.folder / "brain", name="brain", version=version)

    def again(
        self, *, span: Span = JANUARY, stop: threading.Event | None = None, **wanted: object
    ) -> Again:
        specs = find_specs(self.settings.models.folders)
        chosen = Selection(span, **wanted)  # type: ignore[arg-type]
        return Again(self.settings, self.ledger, specs, chosen, stop or threading.Event())

    def run(self, name: str = "order", limit: int = 0, **wanted: object) -> Done:
        again = self.again(**wanted)  # type: ignore[arg-type]
        throttle = Throttle(self.settings, self.ledger, Pace(1e9, 1000), threading.Event())
        with Journal(self.settings, name) as journal:
            return again.run(throttle, journal, "test", limit)

    def last(self, series: str) -> LastJob | None:
        with self.ledger.read() as work:
            return work.backlog.last_job(series, "brain")

    def finish(self, state: JobState = JobState.DONE) -> None:
        """Let a worker end every job that waits."""
        with self.ledger.write() as work:
            for job in work.jobs.to_publish(T0 + timedelta(days=9999), timedelta(seconds=20)):
                assert work.jobs.claim(job.id, "w", T0 + timedelta(days=10000), T0)
                work.jobs.finish(job.id, "w", state, T0, reason="test")


@pytest.fixture
def hospital(ledger: Ledger, make_settings: Callable[..., Settings], tmp_path: Path) -> Hospital:
    folder = tmp_path / "zoo"
    write_spec(folder / "brain", name="brain", version="1.0.0")
    (folder / "brain" / "weights.safetensors").write_bytes(b"weights")
    settings = make_settings(
        models={"folders": [str(folder)]},
        routes=[
            {"name": "brain", "model": "brain", "match": {"Modality": "MR"}, "priority": "stat"},
            {"name": "pass-on", "forward": ["mr1"]},
        ],
        peers=[{"name": "mr1", "ae_title": "MR1", "host": "127.0.0.1", "port": 104}],
    )
    settings.spool.mkdir(parents=True)
    return Hospital(ledger, settings, folder)


def test_old_series_get_the_routes_and_versions_of_today(hospital: Hospital) -> None:
    brain = hospital.series(1, "20240110")
    hospital.series(2, "20240111", modality="CT")
    early, late = hospital.series(3, "20231231"), hospital.series(4, "20240201")
    done = hospital.run()
    assert (done.looked, done.made, done.over) == (2, 1, True)
    job = hospital.last(brain)
    assert job is not None and job.state is JobState.WAITING
    assert hospital.last(early) is None and hospital.last(late) is None
    with hospital.ledger.read() as work:
        life = work.views.job_life(job.id)
    assert life.job.priority == LOW  # whatever the route says: today's patients go first
    assert life.events[0].actor == "test"

    assert hospital.run().left == {"its job is open": 1}
    hospital.finish()
    assert hospital.run().left == {"analysed by the present version": 1}
    assert hospital.last(brain) == LastJob(job.id, JobState.DONE, "brain", "1.0.0")

    hospital.install("2.0.0")
    assert hospital.run().made == 1
    newer = hospital.last(brain)
    assert newer is not None and (newer.model_version, newer.state) == ("2.0.0", JobState.WAITING)
    with hospital.ledger.read() as work:
        assert work.views.job(newer.id).priority == LOW


def test_again_goes_on_where_it_was(hospital: Hospital) -> None:
    uids = [hospital.series(number, f"202401{number:02d}") for number in (1, 2, 3, 4)]
    assert hospital.run().made == 4
    hospital.finish()
    first = hospital.run(again=True, limit=3)
    assert (first.made, first.over) == (3, False)
    hospital.finish()
    second = hospital.run(again=True)
    assert (second.made, second.over) == (1, True)
    assert second.left == {"made by an earlier call": 3}
    hospital.finish()
    jobs = [hospital.last(uid) for uid in uids]
    assert all(job is not None and job.state is JobState.DONE for job in jobs)
    assert hospital.run(again=True).made == 4  # an order of its own


def test_failed_ones_are_left_to_again(hospital: Hospital) -> None:
    hospital.series(1, "20240101")
    hospital.run()
    hospital.finish(JobState.FAILED)
    assert hospital.run().left == {"its job is failed": 1}
    assert hospital.run(again=True).made == 1


def test_only_what_is_named(hospital: Hospital) -> None:
    hospital.series(1, "20240101", part="HEAD")
    knee = hospital.series(2, "20240102", part="KNEE")

    def chosen(**wanted: object) -> list[tuple[str, Step]]:
        plan = hospital.again(**wanted).plan()  # type: ignore[arg-type]
        return [(choice.series.series_instance_uid, choice.step) for choice in plan]

    assert chosen(body_parts=("KN*",)) == [(knee, Step.NEW)]
    assert chosen(modalities=("CT",)) == []
    assert chosen(routes=("pass-on",)) == []  # it has no model
    assert len(chosen(routes=("brain",))) == 2
    assert hospital.last(knee) is None  # a plan makes nothing


def test_what_cannot_be_analysed_is_left(hospital: Hospital) -> None:
    gone = hospital.series(1, "20240101")
    with hospital.ledger.write() as work:
        (instance,) = work.series.instances(gone)
        from sqlalchemy import text

        work.backlog._session.execute(
            text("UPDATE instance SET gone_at = received_at WHERE id = :id"), {"id": instance.id}
        )
    assert hospital.run(again=True).left == {"its images were removed; fetch it again": 1}


def test_pages_hold_every_series_once(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.fetching.again._PAGE", 2)
    uids = {hospital.series(number, f"202401{10 + number % 2}") for number in range(1, 8)}
    found: list[Choice] = list(hospital.again().plan())
    assert {item.series.series_instance_uid for item in found} == uids
    assert len(found) == len(uids)
    days = [item.series.study_date for item in found]
    assert days == sorted(days, reverse=True)


def test_it_stops_when_it_is_told(hospital: Hospital) -> None:
    hospital.series(1, "20240101")
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        list(hospital.again(stop=stop).plan())
