"""The models in the box, from C-STORE to a report in the archive, on phantoms that look lifelike.

What the weights find on a phantom proves nothing about patients (their cards say what is known);
that the right pixels reach them, and their answer the report, it proves.
"""

from __future__ import annotations

import pydicom
import pytest
from support import lifelike, phantoms
from support.phantoms import Patient, Phantom, Study
from support.phantoms_body import in_air
from support.phantoms_day import Day, spend_day
from support.segments import dice_of
from support.validators import dciodvfy, tid1500reader

from core.domain import FindingKind
from core.lifecycle import JobState

pytestmark = pytest.mark.timeout(240)

CHEST = Study(seed=21, patient=Patient("Phantom^Chest", "PHANTOM-C"), accession_number="A-CHEST")
BREAST = Study(seed=22, patient=Patient("Phantom^Breast", "PHANTOM-U"), accession_number="A-BREAST")
BODY = Study(seed=23, patient=Patient("Phantom^Body", "PHANTOM-X"), accession_number="A-BODY")
ROUTES = {
    "mr-flair-glioma": ("MR",),
    "us-breast": ("US",),
    "cxr-tb": ("CR", "DX"),
    "pet-suv": ("PT",),
    "ct-density": ("CT",),
}
STRANGE = {
    "a disc on a film": "looks like none of the training images",
    "an abdomen by its header": "bodypartexamined",
}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    folder = tmp_path_factory.mktemp("box")
    made: dict[str, Phantom] = {
        "brain": lifelike.brain(folder / "brain"),
        "chest": lifelike.film(study=CHEST),
        "breast": lifelike.scan(study=BREAST),
        "breast without": lifelike.scan(2, lesion=False, study=BREAST),
        "PET": phantoms.pet(BODY),
        "CT": in_air(phantoms.ct("plain", BODY)),
        "a disc on a film": phantoms.dx(CHEST),
        "an abdomen by its header": phantoms.us("grey", 1, BREAST),
    }
    return spend_day(folder, made, {}, ROUTES)


def test_each_ends_as_it_should(day: Day) -> None:
    told = {name: (life.job.state, life.job.reason) for name, life in day.lives.items()}
    wanted = {
        name: JobState.NOT_APPLICABLE if name in STRANGE else JobState.DONE for name in day.lives
    }
    assert {name: state for name, (state, _) in told.items()} == wanted, told
    for name, words in STRANGE.items():
        assert words in told[name][1].lower()


def test_all_that_was_made_is_valid(day: Day) -> None:
    errors = {path.name: dciodvfy(path) for path in day.objects.values()}
    assert {name: found for name, found in errors.items() if found} == {}


@pytest.mark.parametrize("name", ["brain", "chest", "breast", "PET", "CT"])
def test_other_readers_find_what_was_measured(day: Day, name: str) -> None:
    (path,) = day.made(name, "SR")
    assert tid1500reader(path)["Measurements"]
    report = pydicom.dcmread(path)
    assert "not for clinical use" in str(report).lower()


@pytest.mark.parametrize(("name", "least"), [("brain", 0.5), ("chest", 0.9), ("breast", 0.8)])
def test_the_outline_lies_where_it_was_drawn(day: Day, name: str, least: float) -> None:
    (path,) = day.made(name, "SEG")
    assert dice_of(path, day.phantoms[name]) > least


@pytest.mark.parametrize("name", ["chest", "breast", "breast without"])
def test_the_class_has_a_probability_and_a_place(day: Day, name: str) -> None:
    found = [item for item in day.lives[name].findings if item.kind == FindingKind.CLASSIFICATION]
    assert found
    assert all(item.probability is not None and 0 < item.probability < 1 for item in found)
