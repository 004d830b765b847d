"""Packages made by others, from stored DICOM series to SEG and SR, with what they found checked."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support import phantoms
from support.bundles import write_bundle, write_onnx, write_parts
from support.instances import T0, incoming
from support.packages import write_spec
from support.phantoms import Phantom

from core.ledger import Ledger
from core.ledger.jobs import NewJob
from core.lifecycle import JobState
from core.modelspec import find_specs
from core.settings import Settings
from core.store import Store
from models.packages.adding import add
from workers.inference import Models
from workers.pipeline import Pipeline


def pet() -> Phantom:
    return phantoms.pet(noise=20)


def suv(phantom: Phantom, value: float) -> float:
    """SUV by body weight, g/mL, of a value in Bq/mL."""
    assert phantom.suv_per_value is not None
    return value * phantom.suv_per_value


def ct_bundle(folder: Path, _: Phantom) -> Path:
    """Between the body's 30 and the lesion's 90 HU."""
    return add(
        write_bundle(folder / "b", "CT", low=0, high=120, level=0.5, inferer=WINDOWS),
        folder / "zoo",
        write_parts(folder / "parts.toml"),
    ).spec.folder


def pet_bundle(folder: Path, phantom: Phantom) -> Path:
    """It is given SUV, not Bq/mL: the level lies between the body's and the lesion's."""
    high = suv(phantom, 24_000)
    return add(
        write_bundle(folder / "b", "PET", low=0, high=high, level=0.5, inferer=WINDOWS),
        folder / "zoo",
        write_parts(folder / "parts.toml"),
    ).spec.folder


def pet_onnx(folder: Path, phantom: Phantom) -> Path:
    """An ONNX network in 3D, asked through our own windows."""
    file = write_onnx(folder / "net.onnx", 0.5, ends_in="Sigmoid", axes=5)
    highest = suv(phantom, 24_000)
    spec = write_spec(
        folder / "spec",
        name="onnx-pet",
        input={"modality": ["PT"], "kind": "volume"},
        preprocessing=[{"name": "standardise_suv", "params": {"highest": highest}}],
        network={"architecture": "onnx", "params": {"output": "sigmoid"}},
        window={"size": [4, 16, 16], "overlap": 0.5},
    )
    text = spec.read_text().replace("weights.safetensors", "model.onnx")
    spec.write_text(text.replace("0" * 64, hashlib.sha256(file.read_bytes()).hexdigest()))
    return add(file, folder / "zoo", spec).spec.folder


WINDOWS = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [16, 16, 16],
    "sw_batch_size": 4,
    "overlap": 0.25,
    "mode": "gaussian",
}
CASES: dict[str, tuple[Callable[[], Phantom], Callable[[Path, Phantom], Path], float]] = {
    "CT bundle": (phantoms.ct, ct_bundle, 0.8),
    "CT bundle, slices from left to right": (lambda: phantoms.ct("mirrored"), ct_bundle, 0.8),
    "PET bundle": (pet, pet_bundle, 0.8),
    "PET by ONNX": (pet, pet_onnx, 0.99),
}


@pytest.mark.parametrize("ledger_server", ["sqlite"])  # SQL is not what is tried
@pytest.mark.parametrize("case", CASES)
def test_from_stored_images_to_a_report(
    case: str, ledger: Ledger, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    make, install, least = CASES[case]
    phantom = make()
    package = install(tmp_path, phantom)
    settings = make_settings(
        models={"folders": [str(tmp_path / "zoo")]}, worker={"device": "cpu", "batch_size": 4}
    )
    store = Store(settings.store_url)
    job_id = filed(ledger, store, phantom.datasets, package.name, settings)
    Pipeline(settings, ledger, store, Models(settings)).run(job_id)
    with ledger.read() as work:
        life = work.views.job_life(job_id)
    assert life.job.state == JobState.DONE, life.job.reason
    made = {
        item.kind: pydicom.dcmread(io.BytesIO(store.get(item.store_key)))
        for item in life.results
        if item.kind in {"SEG", "SR"}
    }
    assert made["SR"].Modality == "SR"
    assert package.name in made["SR"].to_json()  # the algorithm is named
    found = outlined(made["SEG"], phantom)
    assert 2 * (found & phantom.mask).sum() / (found.sum() + phantom.mask.sum()) > least


def filed(
    ledger: Ledger, store: Store, datasets: list[Dataset], model: str, settings: Settings
) -> str:
    """File the series and make a job of it; its id."""
    with ledger.write() as work:
        for dataset in datasets:
            buffer = io.BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            data = buffer.getvalue()
            digest = hashlib.sha256(data).hexdigest()
            store.put_bytes(f"instances/{digest}", data)
            work.filing.file(incoming(dataset, digest=digest, store_key=f"instances/{digest}"), T0)
    series, study = (
        str(datasets[0][name].value) for name in ("SeriesInstanceUID", "StudyInstanceUID")
    )
    version = find_specs(settings.models.folders)[model].version
    with ledger.write() as work:
        job_id = work.jobs.create(
            NewJob(
                study_instance_uid=study,
                series_instance_uids=(series,),
                instances=tuple(work.series.instances(series)),
                model=model,
                model_version=version,
                queue="cpu",
                route="route",
                destinations=("pacs",),
            ),
            T0,
        )
        assert job_id is not None
        work.jobs.to_publish(T0, timedelta(seconds=20))
    return job_id


def outlined(seg: Dataset, phantom: Phantom) -> np.ndarray:
    """All segments of a SEG as bool (slices, rows, columns), in the order of the instances."""
    places = {str(item.SOPInstanceUID): at for at, item in enumerate(phantom.datasets)}
    found = np.zeros(phantom.mask.shape, bool)
    frames = seg.pixel_array if seg.NumberOfFrames > 1 else seg.pixel_array[None]
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        found[places[str(source.ReferencedSOPInstanceUID)]] |= frame > 0
    return found
