"""Each kind of default model from DICOM to SR, with tiny packages that the tests make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import phantoms, way
from support.packages import write_breast, write_chest
from support.phantoms import Phantom
from support.validators import tid1500reader

from core.alternatives import ALTERNATIVES, COMPREHENSIVE_3D_SR
from core.domain import FindingKind
from core.settings import Settings
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
