"""One job from its id to what the ledger and the store hold, with a real model and ledger."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from sqlalchemy import update
from support.instances import T0, incoming, mr_slice
from support.packages import write_threshold

import workers.board
import workers.pipeline
from cli.phantom import PhantomStudy, write_phantom_study
from core import clock
from core.domain import Job, Result
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.ledger.views import JobLife
from core.lifecycle import JobState, TransferState
from core.modelspec import find_specs
from core.schema import InstanceRow
from core.settings import Settings
from core.store import Store
from models.architectures import build
from models.registry import LoadedModel
from models.weights import save_weights
from workers.board import Board, Watch
from workers.inference import Models
from workers.pipeline import Pipeline
from workers.results import gate
from workers.verdict import Verdicts

SMALL: dict[str, Any] = {"slices": 8, "shape": (64, 64), "series": ("FLAIR",), "lesions": 1}
SECOND = timedelta(seconds=1)


@dataclass
class Workshop:
    """A worker's pipeline with a ledger and a store of its own."""

    settings: Settings
    ledger: Ledger
    store: Store

    def file(self, datasets: list[Dataset]) -> None:
        with self.ledger.write() as work:
            for dataset in datasets:
                buffer = io.BytesIO()
                dataset.save_as(buffer, enforce_file_format=True)
                data = buffer.getvalue()
                digest = hashlib.sha256(data).hexdigest()
                key = f"instances/{digest}"
                self.store.put_bytes(key, data)
                work.filing.file(incoming(dataset, digest=digest, store_key=key), T0)

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(self.settings, self.ledger, self.store, Models(self.settings))

    def queue(self, series: str, model: str, now: datetime = T0, **changes: Any) -> str:
        """Make a job of everything that was filed of a series; its id."""
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            study = instances and work.views.studies()[0].study_instance_uid
            spec = find_specs(self.settings.models.folders)[model]
            values = {"route": "route", "destinations": ("pacs",)} | changes
            job_id = work.jobs.create(
                NewJob(
                    study_instance_uid=str(study),
                    series_instance_uids=(series,),
                    instances=instances,
                    model=model,
                    model_version=spec.version,
                    queue="cpu",
                    **values,
                ),
                now,
            )
            assert job_id is not None
            work.jobs.to_publish(now, 20 * SECOND)
        return job_id

    def life(self, job_id: str) -> JobLife:
        with self.ledger.read() as work:
            return work.views.job_life(job_id)

    def again(self) -> None:
        """Let what waits for its next attempt be published now."""
        with self.ledger.write() as work:
            work.jobs.to_publish(clock.now() + 600 * SECOND, 20 * SECOND)

    def run(self, series: str, model: str, now: datetime = T0) -> JobLife:
        """Make a job of everything that was filed of a series, and run it."""
        job_id = self.queue(series, model, now)
        self.pipeline.run(job_id)
        return self.life(job_id)

    def object(self, life: JobLife, kind: str) -> Dataset:
        result = next(item for item in life.results if item.kind == kind)
        return pydicom.dcmread(io.BytesIO(self.bytes_of(result)))

    def bytes_of(self, result: Result) -> bytes:
        return self.store.get(result.store_key)


WorkshopMaker = Callable[..., Workshop]


@pytest.fixture
def workshop(ledger: Ledger, make_settings: Callable[..., Settings], tmp_path: Path) -> Any:
    def make(jobs: dict[str, Any] | None = None, **results: Any) -> Workshop:
        settings = make_settings(
            models={"folders": [str(tmp_path / "zoo")]},
            results=results,
            worker={"device": "cpu", "batch_size": 4},
            jobs=jobs or {},
        )
        return Workshop(settings, ledger, Store(settings.store_url))

    return make


def series_of(study: PhantomStudy) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in study.files("FLAIR")]


def test_a_volume_becomes_objects_that_are_due(workshop: WorkshopMaker, tmp_path: Path) -> None:
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop()
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    life = made.run(str(datasets[0].SeriesInstanceUID), "bright")
    assert life.job.state == JobState.DONE, life.job.reason
    assert [result.kind for result in life.results] == ["SEG", "SR", "SC", "PICTURE"]
    assert sorted(item.kind for item, _ in life.transfers) == ["SC", "SEG", "SR"]
    assert {item.state for item, _ in life.transfers} == {TransferState.DUE}
    assert life.job.summary["images"] == life.job.summary["expected"] == 8
    assert {finding.segment for finding in life.findings} == set(range(1, 1 + len(life.findings)))
    assert len(made.object(life, "SEG").SegmentSequence) == len(life.findings)


def test_what_does_not_pass_the_gate_is_kept_and_not_sent(
    workshop: WorkshopMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop()
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    read = gate.read_seg

    def one_voxel_off(seg: Dataset, stack: Any) -> Any:
        return np.roll(read(seg, stack), 1, axis=2)

    monkeypatch.setattr(gate, "read_seg", one_voxel_off)
    life = made.run(str(datasets[0].SeriesInstanceUID), "bright")
    assert life.job.state == JobState.FAILED
    assert "mask differs" in life.job.reason
    assert "kept" in life.job.remedy
    assert life.transfers == ()
    assert made.object(life, "SEG").Modality == "SEG"


def test_a_late_image_makes_a_second_analysis_that_succeeds_the_first(
    workshop: WorkshopMaker, tmp_path: Path
) -> None:
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop(iocm=True)
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    series = str(datasets[0].SeriesInstanceUID)
    made.file(datasets[:-1])
    first = made.run(series, "bright")
    assert first.job.state == JobState.DONE, first.job.reason
    assert "REJECTION" not in [result.kind for result in first.results]
    made.file(datasets[-1:])
    second = made.run(series, "bright", T0 + SECOND)
    assert second.job.state == JobState.DONE, second.job.reason
    assert second.job.summary["revision"] == 2
    report = made.object(second, "SR")
    assert report.SeriesDescription.endswith("(revision 2)")
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    earlier = made.object(first, "SR").SOPInstanceUID
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == earlier
    rejection = made.object(second, "REJECTION")
    assert rejection.ConceptNameCodeSequence[0].CodeValue == "113001"


def test_a_volume_with_a_slice_missing(workshop: WorkshopMaker, tmp_path: Path) -> None:
    write_threshold(tmp_path / "zoo", "whole-only")
    write_threshold(tmp_path / "zoo", "any", input={"incomplete": "analyse"})
    made = workshop()
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    series = str(datasets[0].SeriesInstanceUID)
    made.file([dataset for index, dataset in enumerate(datasets) if index != 4])
    refused = made.run(series, "whole-only")
    assert refused.job.state == JobState.NOT_APPLICABLE
    assert "missing" in refused.job.reason
    life = made.run(series, "any", T0 + SECOND)
    assert life.job.state == JobState.DONE, life.job.reason
    assert "7 of 8 images" in " ".join(life.job.summary["remarks"])
    result = next(item for item in life.results if item.kind == "SR")
    assert b"7 of 8 images" in made.bytes_of(result)


def test_a_decompression_bomb_is_refused_unread(workshop: WorkshopMaker, tmp_path: Path) -> None:
    write_threshold(tmp_path / "zoo", "images", kind="image")
    made = workshop()
    bomb = mr_slice(1)
    bomb.Rows = bomb.Columns = 65535
    made.file([bomb])
    life = made.run("1.2.3.4", "images")
    assert life.job.state == JobState.NOT_APPLICABLE
    assert "4,294,836,225" in life.job.reason


def test_a_classifier_says_how_sure_it_is_and_where_it_looked(
    workshop: WorkshopMaker, tmp_path: Path
) -> None:
    code = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
    folder = write_threshold(
        tmp_path / "zoo",
        "class",
        kind="image",
        output={
            "kind": "classification",
            "activation": "softmax",
            "labels": [
                {"channel": 0, "name": "none", "category": code, "type": code, "sought": False},
                {"channel": 1, "name": "lesion", "category": code, "type": code},
            ],
        },
        network={"architecture": "cnn", "params": {"rows": 64, "columns": 64, "out_channels": 2}},
    )
    spec = find_specs((tmp_path / "zoo",))["class"]
    torch.manual_seed(1)
    checksum = save_weights(build(spec.network), folder / "weights.safetensors")
    text = (folder / "model.toml").read_text().replace(spec.weights.sha256, checksum)
    (folder / "model.toml").write_text(text)
    made = workshop()
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    life = made.run(str(datasets[0].SeriesInstanceUID), "class")
    assert life.job.state == JobState.DONE, life.job.reason
    assert [result.kind for result in life.results] == ["SR", "SC", "PICTURE", "HEAT"]
    (finding,) = life.findings
    assert finding.probability is not None
    assert 0 < finding.probability < 1
    assert finding.segment == 0
    content = str(made.object(life, "SR"))
    assert "Probability" in content


def test_nothing_found_makes_a_report_that_says_so(workshop: WorkshopMaker, tmp_path: Path) -> None:
    write_threshold(tmp_path / "zoo", "blind", level=1e6)
    made = workshop(picture="findings")
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    life = made.run(str(datasets[0].SeriesInstanceUID), "blind")
    assert life.job.state == JobState.DONE, life.job.reason
    assert [result.kind for result in life.results] == ["SR", "PICTURE"]
    assert [finding.present for finding in life.findings] == [False]
    assert isinstance(life.job, Job)


def test_the_third_analysis_voids_the_objects_of_both_before(
    workshop: WorkshopMaker, tmp_path: Path
) -> None:
    """Also where the second one's own rejection never arrived."""
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop(iocm=True)
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    series = str(datasets[0].SeriesInstanceUID)
    lives = []
    for number, batch in enumerate((datasets[:-2], datasets[-2:-1], datasets[-1:])):
        made.file(batch)
        lives.append(made.run(series, "bright", T0 + number * SECOND))
    rejection = made.object(lives[2], "REJECTION")
    rejected = {
        reference.ReferencedSOPInstanceUID
        for study in rejection.CurrentRequestedProcedureEvidenceSequence
        for item in study.ReferencedSeriesSequence
        for reference in item.ReferencedSOPSequence
    }
    assert rejected == {
        result.sop_instance_uid
        for life in lives[:2]
        for result in life.results
        if result.kind in {"SEG", "SR", "SC"}
    }


@pytest.mark.parametrize(("zone", "hour"), [("Asia/Tokyo", "12"), ("Europe/Berlin", "04")])
def test_dates_are_those_of_the_hospital_s_clocks(
    workshop: WorkshopMaker, tmp_path: Path, zone: str, hour: str
) -> None:
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop(timezone=zone)
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    for dataset in datasets:
        dataset.pop("TimezoneOffsetFromUTC", None)
    made.file(datasets)
    life = made.run(str(datasets[0].SeriesInstanceUID), "bright")
    assert made.object(life, "SR").ContentTime.startswith(hour)  # T0 is 03:04 UTC


@pytest.fixture
def bright(workshop: WorkshopMaker, tmp_path: Path) -> tuple[Workshop, str]:
    """A workshop with a model and a series of eight slices; its UID."""
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop()
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    return made, str(datasets[0].SeriesInstanceUID)


def _short_of_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception, times: int
) -> list[tuple[int, str]]:
    """The model's memory runs out so often; batch size and device of each try."""
    tries: list[tuple[int, str]] = []
    predict = LoadedModel.predict

    def ask(self: LoadedModel, *args: Any, **options: Any) -> Any:
        tries.append((options["batch_size"], self.device.type))
        if len(tries) <= times:
            raise error
        return predict(self, *args, **options)

    monkeypatch.setattr(LoadedModel, "predict", ask)
    return tries


ON_SQLITE = pytest.mark.parametrize("ledger_server", ["sqlite"])
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
)


@ON_SQLITE
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_ran_out_is_known_by_every_name(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    made, series = bright
    _short_of_memory(monkeypatch, error, 1)
    job_id = made.queue(series, "bright")
    assert made.pipeline.run_next("cpu") == JobState.WAITING
    assert made.life(job_id).job.strain == 1


@ON_SQLITE
def test_memory_that_ran_out_is_tried_with_less(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, series = bright
    tries = _short_of_memory(monkeypatch, OUT_OF_MEMORY[0], 2)
    job_id = made.queue(series, "bright")
    seen = []
    for _ in range(3):
        made.pipeline.run_next("cpu")
        job = made.life(job_id).job
        seen.append((job.state, job.strain))
        made.again()
    assert seen == [(JobState.WAITING, 1), (JobState.WAITING, 2), (JobState.DONE, 2)]
    assert tries == [(4, "cpu"), (1, "cpu"), (1, "cpu")]
    assert made.life(job_id).job.deaths == 0


@ON_SQLITE
def test_memory_that_never_does_ends_with_a_reason(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, series = bright
    _short_of_memory(monkeypatch, torch.OutOfMemoryError("all is full"), 99)
    job_id = made.queue(series, "bright")
    for _ in range(5):
        made.pipeline.run_next("cpu")
        made.again()
    job = made.life(job_id).job
    assert (job.state, job.attempt) == (JobState.FAILED, 3)
    assert "all is full" in job.reason
    assert "memory" in job.remedy


@ON_SQLITE
def test_an_unknown_runtime_error_is_no_lack_of_memory(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, series = bright
    _short_of_memory(monkeypatch, RuntimeError("the network is wrong"), 1)
    job_id = made.queue(series, "bright")
    made.pipeline.run_next("cpu")
    job = made.life(job_id).job
    assert (job.state, job.strain) == (JobState.WAITING, 0)
    assert "the network is wrong" in job.reason


def test_a_cancelled_job_stops_at_the_next_batch_and_writes_nothing(
    workshop: WorkshopMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_threshold(tmp_path / "zoo", "bright")
    made = workshop({"lease_seconds": 0.6})
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    job_id = made.queue(str(datasets[0].SeriesInstanceUID), "bright")
    batches = 0
    segment = LoadedModel._segment

    def slowly(self: LoadedModel, *args: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 1:
            with made.ledger.write() as work:
                work.jobs.cancel(job_id, "somebody", clock.now())
            time.sleep(3)  # many heartbeats
        return segment(self, *args)

    monkeypatch.setattr(LoadedModel, "_segment", slowly)
    assert made.pipeline.run_next("cpu") is None
    life = made.life(job_id)
    assert batches == 1  # of two
    assert life.job.state == JobState.CANCELLED
    assert (life.findings, life.results, life.transfers) == ((), (), ())


@ON_SQLITE
@pytest.mark.parametrize("by_model", [True, False])
def test_a_job_that_takes_too_long_fails_at_the_next_batch(
    workshop: WorkshopMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_model: bool
) -> None:
    limits = {"limits": {"seconds": 0.01}} if by_model else {}
    write_threshold(tmp_path / "zoo", "slow", **limits)
    made = workshop({"time_limit_seconds": 3600 if by_model else 0.01})
    datasets = series_of(write_phantom_study(tmp_path / "study", **SMALL))
    made.file(datasets)
    segment = LoadedModel._segment
    batches = []

    def slowly(self: LoadedModel, *args: Any) -> Any:
        batches.append(1)
        time.sleep(0.05)
        return segment(self, *args)

    monkeypatch.setattr(LoadedModel, "_segment", slowly)
    life = made.run(str(datasets[0].SeriesInstanceUID), "slow")
    assert life.job.state == JobState.FAILED
    assert life.job.reason == "it took longer than 0.01 s"
    assert "[limits]" in life.job.remedy
    assert len(batches) <= 1


def test_what_the_ledger_does_not_take_fails_the_job(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a verdict it would look like a worker's death, twice: quarantine."""
    made, series = bright
    make = workers.pipeline.make_objects
    monkeypatch.setattr(workers.pipeline, "make_objects", lambda *args: make(*args) * 2)
    monkeypatch.setattr(workers.pipeline, "check_objects", lambda *_: None)
    job_id = made.queue(series, "bright")
    assert made.pipeline.run_next("cpu") == JobState.FAILED
    job = made.life(job_id).job
    assert "does not take" in job.reason
    assert job.deaths == 0


@ON_SQLITE
@pytest.mark.parametrize("well", [True, False])
def test_writing_down_what_came_out_is_not_limited(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch, well: bool
) -> None:
    """While the ledger is away the parent does not end a child that has done its work."""
    made, series = bright
    board, ended = Board(), threading.Event()
    monkeypatch.setattr(workers.board.os, "kill", lambda *_: ended.set())
    if not well:
        _short_of_memory(monkeypatch, RuntimeError("the network is wrong"), 1)
    job_id = made.queue(series, "bright")
    write = Verdicts._write_patiently

    def away_for_a_while(self: Verdicts, *args: Any) -> None:
        note = board.read()
        assert note is not None
        # as long as the ledger is away, the limit passes
        board.note(replace(note, ends_at=None if note.ends_at is None else 0.0))
        assert not ended.wait(0.5)
        write(self, *args)

    monkeypatch.setattr(Verdicts, "_write_patiently", away_for_a_while)
    Watch(board, grace=0.0, poll_seconds=0.05).start()
    pipeline = Pipeline(made.settings, made.ledger, made.store, Models(made.settings), board)
    assert pipeline.run(job_id) == (JobState.DONE if well else JobState.WAITING)


@ON_SQLITE
def test_bytes_that_are_gone_end_the_job_after_some_tries(bright: tuple[Workshop, str]) -> None:
    made, series = bright
    job_id = made.queue(series, "bright")
    with made.ledger.read() as work:
        made.store.delete(work.jobs.instances_of(job_id)[3].store_key)
    seen = []
    for _ in range(3):
        seen.append(made.pipeline.run_next("cpu"))
        made.again()
    assert seen == [JobState.WAITING, JobState.WAITING, JobState.FAILED]
    job = made.life(job_id).job
    assert "not in the store any more" in job.reason
    assert "Send the study again" in job.remedy


@ON_SQLITE
def test_a_store_that_is_away_is_waited_for(bright: tuple[Workshop, str], tmp_path: Path) -> None:
    """As when a network disk is not mounted: the folder is there, and empty."""
    made, series = bright
    job_id = made.queue(series, "bright")
    folder = made.store.folder
    assert folder is not None
    folder.rename(tmp_path / "away")
    for there in (False, True, False, True, False):
        folder.mkdir(exist_ok=True) if there else None
        assert made.pipeline.run_next("cpu") == JobState.WAITING
        made.again()
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert made.pipeline.run_next("cpu") == JobState.DONE
    assert made.life(job_id).job.attempt == 6


def test_two_routes_with_one_model_send_one_set_of_objects(
    bright: tuple[Workshop, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, series = bright
    analyses = []
    analyse = workers.pipeline.analyse
    monkeypatch.setattr(
        workers.pipeline, "analyse", lambda *a, **k: (analyses.append(1), analyse(*a, **k))[1]
    )
    first = made.queue(series, "bright", route="a", destinations=("pacs", "archive"))
    second = made.queue(series, "bright", route="b", destinations=("archive", "cloud"))
    pipeline = made.pipeline
    assert pipeline.run_next("cpu") == JobState.DONE
    assert pipeline.run_next("cpu") == JobState.DONE
    assert len(analyses) == 1
    lives = [made.life(first), made.life(second)]
    assert [life.job.state for life in lives] == [JobState.DONE] * 2
    (copy,) = (life.job for life in lives if life.job.same_as)
    assert copy.same_as in {first, second}
    assert lives[0].findings == lives[1].findings
    transfers = {
        (item.sop_instance_uid, item.destination) for life in lives for item, _ in life.transfers
    }
    uids = {uid for uid, _ in transfers}
    assert len(uids) == 3  # SEG, SR, SC
    assert transfers == {(uid, to) for uid in uids for to in ("pacs", "archive", "cloud")}
    # asked for once more, it is computed, as another object
    with made.ledger.write() as work:
        again = work.jobs.rerun(copy.id, "somebody", clock.now())
        work.jobs.to_publish(clock.now(), 20 * SECOND)
    assert pipeline.run_next("cpu") == JobState.DONE
    assert len(analyses) == 2
    assert not {item.sop_instance_uid for item in made.life(again).results} & uids


@ON_SQLITE
def test_other_settings_make_other_objects(
    bright: tuple[Workshop, str], workshop: WorkshopMaker
) -> None:
    made, series = bright
    made.queue(series, "bright", route="a")
    assert made.pipeline.run_next("cpu") == JobState.DONE
    second = made.queue(series, "bright", route="b")
    workshop(picture="never").pipeline.run_next("cpu")
    job = made.life(second).job
    assert (job.state, job.same_as) == (JobState.DONE, None)


def test_an_incomplete_series_says_how_many_images_are_missing(
    bright: tuple[Workshop, str],
) -> None:
    made, series = bright
    job_id = made.queue(series, "bright", expected=20)
    made.pipeline.run_next("cpu")
    life = made.life(job_id)
    assert life.job.state == JobState.DONE, life.job.reason
    remark = "8 of 20 images had come: the series is incomplete."
    assert remark in life.job.summary["remarks"]
    assert life.job.summary["announced"] == 20
    report = next(item for item in life.results if item.kind == "SR")
    assert remark.encode() in made.bytes_of(report)
    whole = made.queue(series, "bright", route="b", expected=8)
    made.pipeline.run_next("cpu")
    assert made.life(whole).job.same_as is None  # what it says is not the same
    assert made.life(whole).job.summary["remarks"] == []


@ON_SQLITE
def test_images_that_retention_removed_are_not_waited_for(bright: tuple[Workshop, str]) -> None:
    made, series = bright
    job_id = made.queue(series, "bright")
    with made.ledger.engine.begin() as connection:
        connection.execute(update(InstanceRow).values(gone_at=T0))
    assert made.pipeline.run_next("cpu") == JobState.FAILED
    assert "8 of its images were removed" in made.life(job_id).job.reason
