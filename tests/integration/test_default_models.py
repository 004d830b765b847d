"""Each kind of default model from DICOM to SR, with tiny packages that the tests make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from support import phantoms, way
from support.packages import write_breast, write_chest
from support.phantoms import Phantom
from support.phantoms_body import in_air
from support.validators import tid1500reader

from cli.phantom import write_phantom_study
from core.alternatives import ALTERNATIVES, COMPREHENSIVE_3D_SR
from core.domain import FindingKind
from core.errors import NotApplicableError
from core.settings import Settings
from models.domain import KINDS, Domain
from models.registry import LoadedModel, load
from models.training.domain import keep
from workers.asking import within_domain
from workers.images.build import build_stacks
from workers.results.lesser import lesser_sr

_FINDING, _SITE, _CATEGORY, _PLACE = "121071", "363698007", "276214006", "ACTIVATION_PLACE"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return make_settings(
        models={"folders": [str(tmp_path / "zoo")]},
        worker={"device": "cpu", "batch_size": 2, "threads": 1},
    )


@pytest.mark.parametrize("film", [phantoms.cr, phantoms.dx], ids=["CR", "DX"])
def test_a_chest_film_gets_lungs_classes_and_a_place(
    film: Callable[[], Phantom], settings: Settings, tmp_path: Path
) -> None:
    write_chest(tmp_path / "zoo")
    phantom = film()
    went = way.go(phantom.datasets, "chest", settings)
    (signs,) = went.analysis.findings
    assert (signs.kind, signs.label) == (FindingKind.CLASSIFICATION, "Signs of it")
    assert signs.probability is not None
    assert any("No signs" in remark for remark in went.analysis.remarks)
    (lungs,) = went.analysis.structures
    mask = went.analysis.parts[0].label_map == lungs.segment
    # what is bright: the disc, but for the threshold at its noisy edge
    assert np.count_nonzero(mask != phantom.mask) < 0.02 * np.count_nonzero(phantom.mask)
    (segment,) = went.object("SEG").SegmentSequence
    assert segment.SegmentLabel == "Lung fields"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lung"
    report = went.object("SR")
    of_class, of_lungs = way.groups(report)
    assert _FINDING in way.coded(of_class)
    assert way.coded(of_class)[_PLACE] in {"281392002", "281393007", "281394001", "OFF_STRUCTURE"}
    assert ("121401", "") not in way.numbers(of_class)
    assert _FINDING not in way.coded(of_lungs)
    assert way.coded(of_lungs)[_SITE] == "39607008"
    assert way.coded(of_lungs)[_CATEGORY] == "91723000"
    assert ("42798000", "") in way.numbers(of_lungs)
    read = tid1500reader(way.write(went, "SR", tmp_path))
    assert len(read["Measurements"]) == 2
    for other in ALTERNATIVES[COMPREHENSIVE_3D_SR]:
        assert "Lung" in str(lesser_sr(report, other))


def test_the_picture_of_a_chest_film_shows_the_lungs_and_the_map(
    settings: Settings, tmp_path: Path
) -> None:
    write_chest(tmp_path / "zoo")
    picture = way.go(phantoms.dx().datasets, "chest", settings).object("SC").pixel_array
    frame = picture.reshape(-1, *picture.shape[-3:])[0]
    blue = np.all(np.abs(frame.astype(int) - (80, 160, 255)) < 8, axis=-1)
    assert np.count_nonzero(blue) > 100


@pytest.mark.parametrize(
    ("keyword", "value", "refused"),
    [
        ("BodyPartExamined", "ABDOMEN", True),
        ("BodyPartExamined", "Thorax", False),
        ("BodyPartExamined", "", False),
        ("ViewPosition", "LL", True),
        ("ViewPosition", "AP", False),
    ],
)
def test_images_that_say_what_they_show_must_say_what_the_model_takes(
    keyword: str, value: str, refused: bool, settings: Settings, tmp_path: Path
) -> None:
    asks = {"body_part": ["CHEST", "THORAX"], "view": ["PA", "AP"]}
    write_chest(tmp_path / "zoo", input={"modality": ["CR"], "kind": "image", **asks})
    datasets = phantoms.cr().datasets
    setattr(datasets[0], keyword, value)
    if not refused:
        assert way.go(datasets, "chest", settings).analysis.findings
        return
    with pytest.raises(NotApplicableError, match=f"{keyword} .* the images say {value}"):
        way.go(datasets, "chest", settings)


def strange_when_dark(package: Path) -> None:
    """Give the package a domain that only bright images belong to."""
    figures = len(KINDS)
    inverse = np.zeros((figures, figures))
    inverse[2, 2] = figures  # the median of the grey levels, and nothing else
    mean = np.zeros(figures)
    keep(Domain(mean, inverse, 0.5), package)


def test_strange_images_among_others_are_left_out_and_alone_refused(
    settings: Settings, tmp_path: Path
) -> None:
    package = write_breast(
        tmp_path / "zoo", preprocessing=[{"name": "pad", "params": {"multiple": 8}}]
    )
    strange_when_dark(package)
    datasets = phantoms.us("grey", 3).datasets
    stored = datasets[0].pixel_array.copy()
    stored[:] = 0
    datasets[0].PixelData = stored.tobytes()
    with pytest.raises(NotApplicableError, match="none of the training images") as refused:
        datasets[0].PixelData = (stored + 90).tobytes()
        way.go(datasets, "breast", settings)
    assert "grey levels" in str(refused.value)
    stored[1:] = 90  # the first is as dark as those that it was trained on
    datasets[0].PixelData = stored.tobytes()
    went = way.go(datasets, "breast", settings)
    assert any("2 of 3 images look like none" in remark for remark in went.analysis.remarks)
    assert {one.key_image.index for one in went.analysis.findings if one.key_image} <= {0}
    assert not went.analysis.parts[0].label_map[1:].any()
    assert any("2 of 3 images" in text for text in way.texts(went.object("SR")))


@pytest.fixture(scope="module")
def brain() -> LoadedModel:
    return load("mr-flair-glioma", device="cpu")


def judge(brain: LoadedModel, datasets: list[Dataset]) -> None:
    (stack,) = build_stacks(datasets, brain.spec.input, max_voxels=10**9)
    ((_, inside),) = within_domain([stack], brain)
    assert inside.all()


def test_the_brain_model_takes_the_demo_phantom_unaltered(
    brain: LoadedModel, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path, series=("FLAIR",))
    judge(brain, [pydicom.dcmread(path) for path in study.files("FLAIR")])


@pytest.mark.parametrize("what", ["noise", "CT", "chest film"])
def test_the_brain_model_refuses_what_is_no_brain(what: str, brain: LoadedModel) -> None:
    where = phantoms.grid((12, 96, 96), (5.0, 1.8, 1.8))
    datasets = phantoms.mr(where=where).datasets
    rng = np.random.default_rng(4)
    film = np.kron(chest_film(), np.ones((4, 4)))
    body = in_air(phantoms.ct(where=where)) if what == "CT" else None
    for number, dataset in enumerate(datasets):
        drawn = {"noise": rng.uniform(0, 4000, (96, 96)), "chest film": film}.get(what)
        if body is not None:
            drawn = body.datasets[number].pixel_array
        assert drawn is not None
        dataset.PixelData = drawn.astype(np.uint16).tobytes()
    with pytest.raises(NotApplicableError, match="none of the training images"):
        judge(brain, datasets)


def chest_film() -> np.ndarray:
    """Two dark lungs in a bright chest that fills the film, 24 × 24."""
    rows, columns = np.indices((24, 24))
    film = np.full((24, 24), 3000.0)
    for middle in (7, 16):
        film[((rows - 11) / 8) ** 2 + ((columns - middle) / 3.5) ** 2 < 1] = 900
    return film + 100 * np.sin(rows)


@pytest.mark.parametrize("frames", [1, 3])
def test_a_breast_ultrasound_gets_lesions_and_classes(
    frames: int, settings: Settings, tmp_path: Path
) -> None:
    write_breast(tmp_path / "zoo")
    went = way.go(phantoms.us("RGB", frames).datasets, "breast", settings)
    kinds = [finding.kind for finding in went.analysis.findings]
    assert kinds[:2] == [FindingKind.CLASSIFICATION] * 2
    assert set(kinds[2:]) == {FindingKind.LESION}
    chances = [finding.probability for finding in went.analysis.findings[:2]]
    assert all(chance is not None for chance in chances)
    assert went.has("SEG") == bool(went.analysis.lesions)
    assert went.analysis.parts[0].activation is not None
    groups = way.groups(went.object("SR"))
    assert len(groups) == len(went.analysis.findings)
    assert sum(_PLACE in way.coded(group) for group in groups) <= 1
    assert went.summary["images"] == frames
