"""One job from its id to what the ledger and the store hold, with a real model and ledger."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset
from support.instances import T0, incoming, mr_slice
from support.packages import write_threshold

from cli.phantom import PhantomStudy, write_phantom_study
from core.domain import Job, Result
from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.ledger.views import JobLife
from core.lifecycle import JobState, TransferState
from core.modelspec import find_specs
from core.settings import Settings
from core.store import Store
from models.architectures import build
from models.weights import save_weights
from workers.inference import Models
from workers.pipeline import Pipeline
from workers.results import gate

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

    def run(self, series: str, model: str, now: datetime = T0) -> JobLife:
        """Make a job of everything that was filed of a series, and run it."""
        with self.ledger.write() as work:
            instances = tuple(work.series.instances(series))
            study = work.series.get(series).study_instance_uid
            spec = find_specs(self.settings.models.folders)[model]
            new = NewJob(
                study, (series,), instances, "route", model, spec.version, "cpu", ("pacs",)
            )
            job_id = work.jobs.create(new, now)
            assert job_id is not None
            work.jobs.to_publish(now, 20 * SECOND)
        Pipeline(self.settings, self.ledger, self.store, Models(self.settings)).run(job_id)
        with self.ledger.read() as work:
            return work.views.job_life(job_id)

    def object(self, life: JobLife, kind: str) -> Dataset:
        result = next(item for item in life.results if item.kind == kind)
        return pydicom.dcmread(io.BytesIO(self.bytes_of(result)))

    def bytes_of(self, result: Result) -> bytes:
        return self.store.get(result.store_key)


WorkshopMaker = Callable[..., Workshop]


@pytest.fixture
def workshop(ledger: Ledger, make_settings: Callable[..., Settings], tmp_path: Path) -> Any:
    def make(**results: Any) -> Workshop:
        settings = make_settings(
            models={"folders": [str(tmp_path / "zoo")]}, results=results, worker={"device": "cpu"}
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
    assert sorted(item.result.kind for item, _ in life.transfers) == ["SC", "SEG", "SR"]
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
    assert [result.kind for result in life.results] == ["SR", "SC", "PICTURE"]
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
