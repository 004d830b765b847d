"""Training straight from DICOM: series, and what was drawn into them as SEG."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from support import packages, phantoms, way
from support.packages import write_config
from support.phantoms import Phantom, Study
from typer.testing import CliRunner

from cli import app
from core.errors import TrainingError
from core.modelspec import Code, InputSpec, StepSpec
from core.settings import Settings
from workers.collecting import Collected, collect

VOLUMES = InputSpec(modality=("MR",), kind="volume")
LESION = Code(value="52988006", scheme="SCT", meaning="Lesion")
BLOB = {"sided": False}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Phantom]]:
    """Three patients' MR, and a SEG for each that finds what is bright."""
    from core.settings import load

    folder = tmp_path_factory.mktemp("drawn")
    packages.write_threshold(folder / "zoo", "bright", level=3.0, label=BLOB)
    settings = load(
        overrides={
            "models": {"folders": [str(folder / "zoo")]},
            "worker": {"device": "cpu", "threads": 1},
            "storage": {"data": str(folder / "data")},
        }
    )
    made = []
    for seed in (41, 42, 43):
        study = Study(seed=seed, patient=phantoms.Patient(f"Drawn^{seed}", f"DRAWN-{seed}"))
        phantom = phantoms.mr("", study, noise=60)
        phantom.write(folder / "dicom" / str(seed))
        went = way.go(phantoms.mr("", study, noise=60).datasets, "bright", settings)
        went.object("SEG").save_as(folder / "dicom" / str(seed) / "drawn.dcm")
        made.append(phantom)
    return folder / "dicom", made


def gathered(source: Path, target: Path, steps: tuple[StepSpec, ...] = ()) -> Collected:
    return collect(source, target, VOLUMES, steps, [LESION], max_voxels=10**9)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_images_and_masks_are_those_that_the_worker_shows(
    drawn: tuple[Path, list[Phantom]], tmp_path: Path
) -> None:
    source, made = drawn
    found = gathered(source, tmp_path / "out")
    slices = made[0].mask.shape[0]
    assert (found.series, found.patients, found.images) == (3, 3, 3 * slices)
    assert found.left_out == {}
    rows = lines(tmp_path / "out")
    assert len({row["group"] for row in rows}) == 3
    content = (tmp_path / "out" / "index.csv").read_text()
    assert not any(word in content for word in ("DRAWN", "Drawn"))
    overlap = both = 0
    volume = np.stack([np.asarray(Image.open(tmp_path / "out" / row["image"])) for row in rows])
    assert volume.dtype == np.float32
    for row in rows:
        mask = np.zeros(volume.shape[1:], dtype=bool)
        if row["mask"]:
            mask = np.asarray(Image.open(tmp_path / "out" / row["mask"])) > 0
        image = np.asarray(Image.open(tmp_path / "out" / row["image"]))
        if mask.any():  # what was drawn is what is bright there
            assert image[mask].mean() > image[~mask].mean() + 300
        overlap += int(mask.sum())
        both += int((mask & (image > 600)).sum())
    assert both > 0.99 * overlap
    assert overlap == pytest.approx(sum(int(item.mask.sum()) for item in made), rel=0.02)


def test_they_lie_at_the_spacing_that_the_model_sees(
    drawn: tuple[Path, list[Phantom]], tmp_path: Path
) -> None:
    source, made = drawn
    step = StepSpec(name="resample_in_plane", params={"spacing": 2.0})
    gathered(source, tmp_path / "out", (step,))
    row = lines(tmp_path / "out")[0]
    image = Image.open(tmp_path / "out" / row["image"])
    dataset = made[0].datasets[0]
    wanted = [round(dataset.Rows * float(dataset.PixelSpacing[0]) / 2.0)]
    assert image.size[1] in wanted
    assert image.size != (dataset.Columns, dataset.Rows)


def test_the_newest_segmentation_counts_and_what_cannot_be_used_is_told(
    drawn: tuple[Path, list[Phantom]], tmp_path: Path
) -> None:
    source = tmp_path / "dicom"
    shutil.copytree(drawn[0], source)
    corrected = pydicom.dcmread(source / "41" / "drawn.dcm")
    corrected.SOPInstanceUID = f"{corrected.SOPInstanceUID}.1"
    corrected.file_meta.MediaStorageSOPInstanceUID = corrected.SOPInstanceUID
    corrected.ContentDate = "20990101"
    corrected.PixelData = bytes(len(corrected.PixelData))  # the reader took it all away
    corrected.save_as(source / "41" / "a-corrected.dcm")
    shutil.rmtree(source / "42")
    (source / "42").mkdir()
    shutil.copy(drawn[0] / "42" / "drawn.dcm", source / "42" / "drawn.dcm")
    (source / "notes.txt").write_text("nothing of DICOM")
    found = gathered(source, tmp_path / "out")
    assert found.series == 2
    assert sorted(found.left_out) == [
        "a SEG of images that are not there, or not of a modality of [input]",
        "a file that is no DICOM",
    ]
    groups: dict[str, int] = {}
    for row in lines(tmp_path / "out"):
        groups[row["group"]] = groups.get(row["group"], 0) + bool(row["mask"])
    assert sorted(count > 0 for count in groups.values()) == [False, True]


def test_without_a_segmentation_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    phantoms.mr().write(tmp_path / "dicom")
    with pytest.raises(TrainingError, match="no series with a SEG"):
        gathered(tmp_path / "dicom", tmp_path / "out")


def test_a_segmentation_of_other_images_is_left_out_with_its_reason(
    drawn: tuple[Path, list[Phantom]], tmp_path: Path
) -> None:
    source = tmp_path / "dicom"
    shutil.copytree(drawn[0], source)
    for path in sorted((source / "43").glob("0*.dcm"))[::2]:
        path.unlink()
    found = gathered(source, tmp_path / "out")
    assert found.series == 2
    assert len(found.left_out) == 1


def test_train_takes_the_folder_as_it_is(
    drawn: tuple[Path, list[Phantom]],
    tmp_path: Path,
    make_settings: Callable[..., Settings],
) -> None:
    config = write_config(
        tmp_path / "own.toml",
        drawn[0],
        training={"epochs": 1, "batch_size": 4},
        data={"monitor": 0.3, "size": 64},
    )
    result = CliRunner().invoke(app, ["train", str(config), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "3 series and 3 patients" in result.output
    assert (tmp_path / "run/package/tiny/model.toml").exists()
    again = CliRunner().invoke(
        app, ["train", str(config), "--out", str(tmp_path / "run"), "--resume"]
    )
    assert again.exit_code == 0, again.output
