"""Outline and class of one network as one analysis, and where it looked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from unit.workers.lesions.build import make_images, make_spec, make_volume

from core.domain import FindingKind
from core.modelspec import Code
from workers.lesions import concepts as c
from workers.lesions.both import NO_CLASS, NOTHING_OUTLINED, placed, with_classes
from workers.lesions.classify import classify
from workers.lesions.find import find_lesions

ANATOMY = Code(value="91723000", scheme="SCT", meaning="Anatomical Structure")
CLASSES = {
    "activation": "softmax",
    "labels": [
        {"channel": n, "name": name, "category": ANATOMY, "type": ANATOMY, "sought": n > 0}
        for n, name in enumerate(("normal", "disease"))
    ],
}
LUNGS = {"name": "Lung fields", "category": ANATOMY, "type": c.LUNG}
SHAPE = (1, 30, 40)
BOTH_LUNGS = (np.s_[:, 3:27, 4:16], np.s_[:, 3:27, 24:36])


def probabilities(*boxes: Any, shape: Any = SHAPE) -> Any:
    found = np.full((1, *shape), 0.1, np.float16)
    for box in boxes:
        found[0][box] = 0.9
    return found


def heat(row: int, column: int, shape: Any = SHAPE) -> Any:
    found = np.zeros(shape, np.float16)
    found[:, row, column] = 1
    return found


def both(
    labels: Any,
    pixels: Any,
    chance: float,
    activation: Any = None,
    stack: Any = None,
) -> Any:
    spec = make_spec(labels, classes=CLASSES)
    stack = stack or make_images(np.zeros(SHAPE))
    outlined = find_lesions([(stack, pixels)], spec, job_id="j")
    scores = np.repeat([[1 - chance], [chance]], len(stack.frames), axis=1)
    return with_classes(outlined, [(stack, scores)], spec, job_id="j", activations=[activation])


def readings(finding: Any) -> list[str]:
    return [reading.value.meaning for reading in finding.evaluations]


def oriented(*leads: str) -> Any:
    stack = make_images(np.zeros(SHAPE))
    stack.frames[0].dataset.PatientOrientation = list(leads)
    return stack


def test_anatomy_has_a_segment_and_is_no_finding() -> None:
    found = both([LUNGS], probabilities(*BOTH_LUNGS), 0.8)
    (disease,) = found.findings
    assert (disease.label, disease.number, disease.present) == ("disease", 1, True)
    assert disease.kind is FindingKind.CLASSIFICATION
    (lungs,) = found.structures
    assert (lungs.kind, lungs.label, lungs.segment) == (FindingKind.STRUCTURE, "Lung fields", 1)
    assert (lungs.category, lungs.type) == (ANATOMY, c.LUNG)
    assert found.lesions == ()
    (part,) = found.parts
    assert part.segments == (lungs,)
    assert np.count_nonzero(part.label_map == 1) == 2 * 24 * 12
    (area,) = lungs.measurements
    assert (area.concept, area.value, area.unit) == (c.AREA, 2 * 24 * 12, c.PIXELS)
    assert not any("differ" in remark for remark in found.remarks)


def test_lungs_that_were_not_found_are_said() -> None:
    found = both([LUNGS], probabilities(), 0.2)
    assert found.structures == ()
    assert "Lung fields: nothing was outlined." in found.remarks
    assert [(one.label, one.present) for one in found.findings] == [("disease", False)]


def test_lesions_and_classes_keep_numbers_and_uids_of_their_own() -> None:
    found = both(["lesion"], probabilities(np.s_[:, 2:6, 2:6], np.s_[:, 20:23, 30:33]), 0.9)
    told = [(one.number, one.label, one.segment) for one in found.findings]
    assert told == [(3, "disease", 0), (1, "lesion 1", 1), (2, "lesion 2", 2)]
    assert len({one.tracking_uid for one in found.findings}) == 3
    assert NO_CLASS not in found.remarks
    assert NOTHING_OUTLINED not in found.remarks


@pytest.mark.parametrize(
    ("boxes", "chance", "remark"),
    [((np.s_[:, 2:6, 2:6],), 0.1, NO_CLASS), ((), 0.9, NOTHING_OUTLINED), ((), 0.1, None)],
)
def test_where_the_answers_differ_a_remark_says_so(
    boxes: Any, chance: float, remark: str | None
) -> None:
    found = both(["lesion"], probabilities(*boxes), chance)
    said = [one for one in found.remarks if "differ" in one]
    assert said == ([remark] if remark else [])
    # absent lesions are still said to be absent
    assert any(one.number == 0 for one in found.findings) == (not boxes)


@pytest.mark.parametrize(
    ("place", "leads", "words"),
    [
        ((4, 6), ("L", "F"), ["Upper zone of lung", "Right"]),
        ((15, 30), ("L", "F"), ["Middle zone of lung", "Left"]),
        ((26, 30), ("R", "F"), ["Lower zone of lung", "Right"]),
        ((26, 6), (), ["Lower zone of lung", "Left half of the image"]),
        ((15, 20), ("L", "F"), ["Outside the outlined structure"]),
    ],
)
def test_the_place_is_a_zone_of_the_lung_and_a_side(place: Any, leads: Any, words: Any) -> None:
    found = both([LUNGS], probabilities(*BOTH_LUNGS), 0.8, heat(*place), oriented(*leads))
    assert readings(found.findings[0]) == words
    assert {one.concept for one in found.findings[0].evaluations} <= {
        c.ACTIVATION_PLACE,
        c.ACTIVATION_SIDE,
    }


def test_the_place_is_in_a_lesion_or_not() -> None:
    lesion = probabilities(np.s_[:, 2:6, 2:6])
    assert readings(both(["lesion"], lesion, 0.9, heat(3, 3)).findings[0]) == [c.IN_LESION.meaning]
    assert readings(both(["lesion"], lesion, 0.9, heat(9, 9)).findings[0]) == [c.OFF_LESION.meaning]


def test_a_map_is_of_one_class_only_and_a_volume_has_no_upper_third() -> None:
    spec = make_spec(("one", "other"), kind="classification")
    stack = make_images(np.zeros(SHAPE))
    scores = np.array([[0.9], [0.6]])
    found = classify([(stack, scores)], spec, job_id="j", activations=[heat(2, 30)])
    one, other = placed(found, [(stack, scores)]).findings
    assert readings(one) == ["Upper third of the image", "Right half of the image"]
    assert readings(other) == []
    volume = make_volume(np.zeros(SHAPE))
    found = classify([(volume, scores)], spec, job_id="j", activations=[heat(2, 30)])
    assert [readings(item) for item in placed(found, [(volume, scores)]).findings] == [[], []]


def test_anatomy_of_a_volume_is_measured_in_millilitres_beside_a_lesion() -> None:
    spec = make_spec([LUNGS, "lesion"])
    stack = make_volume(np.zeros((4, 30, 40)), (2.0, 1.0, 1.0))
    pixels = np.full((2, 4, 30, 40), 0.1, np.float16)
    pixels[0, :, 3:27, 4:16] = 0.8
    pixels[1, 1:3, 5:8, 5:8] = 0.9
    found = find_lesions([(stack, pixels)], spec, job_id="j")
    assert [one.label for one in found.findings] == ["lesion 1"]
    (lungs,) = found.structures
    assert lungs.segment == 2
    (volume,) = lungs.measurements
    assert volume.value == pytest.approx((4 * 24 * 12 - 2 * 9) * 2 / 1000)
