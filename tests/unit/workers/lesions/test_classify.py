import numpy as np
import pytest
from unit.workers.lesions.build import make_images, make_spec, make_volume

from core.domain import FindingKind
from core.errors import ResultError
from workers.lesions import concepts as c
from workers.lesions.classify import classify

LABELS = ({"name": "normal", "sought": False}, {"name": "tumour"}, {"name": "bleed"})


def spec_of(labels=LABELS, **output):
    return make_spec(labels, kind="classification", **output)


def stack_of(frames, **more):
    return make_images(np.zeros((frames, 4, 5)), **more)


def told(analysis):
    return [(f.number, f.label, f.present, round(f.probability, 3)) for f in analysis.findings]


def test_with_sigmoid_each_class_is_present_for_itself():
    scores = np.array([[0.2, 0.0], [0.7, 0.5], [0.9, 0.7]])
    found = classify([(stack_of(2), scores)], spec_of(), job_id="j")
    assert told(found) == [(1, "bleed", True, 0.8), (2, "tumour", True, 0.6)]
    assert {f.kind for f in found.findings} == {FindingKind.CLASSIFICATION}
    assert [f.key_image.index for f in found.findings] == [0, 0]
    assert found.lesions == ()
    assert found.remarks == ("Probability of classes that are not sought: normal 0.10.",)
    (part,) = found.parts
    assert part.label_map.shape == (2, 4, 5)
    assert not part.label_map.any()
    assert part.findings == ()


def test_absent_classes_are_listed_after_the_present_with_their_probability():
    scores = np.array([[0.2], [0.6], [0.3]])
    found = classify([(stack_of(1), scores)], spec_of(), job_id="j")
    assert told(found) == [(1, "tumour", True, 0.6), (2, "bleed", False, 0.3)]


@pytest.mark.parametrize(
    ("scores", "present"),
    [
        ([0.1, 0.6, 0.3], ["tumour"]),
        ([0.6, 0.3, 0.1], []),  # the most probable is not sought
        ([0.2, 0.42, 0.38], ["tumour"]),
        ([0.3, 0.36, 0.34], []),  # the most probable is under the threshold
    ],
)
def test_with_softmax_only_the_most_probable_can_be_present(scores, present):
    spec = spec_of(activation="softmax", threshold=0.4)
    found = classify([(stack_of(1), np.array(scores)[:, None])], spec, job_id="j")
    assert [f.label for f in found.findings if f.present] == present
    assert len(found.findings) == 2


def test_all_stacks_make_one_answer_and_the_key_image_is_where_it_shows_most():
    answers = [
        (stack_of(2), np.array([[0, 0], [0.1, 0.3], [0.9, 0.2]])),
        (stack_of(1, multi=True, laterality="R"), np.array([[0], [0.8], [0.1]])),
    ]
    mean = classify(answers, spec_of(), job_id="j")
    assert [(f.label, f.present, f.probability) for f in mean.findings] == [
        ("tumour", False, pytest.approx(0.4)),
        ("bleed", False, pytest.approx(0.4)),
    ]
    most = classify(answers, spec_of(combine="max"), job_id="j")
    assert told(most) == [(1, "bleed", True, 0.9), (2, "tumour", True, 0.8)]
    bleed, tumour = most.findings
    assert (bleed.part, bleed.key_image.index, bleed.key_image.frame) == (0, 0, None)
    assert (tumour.part, tumour.key_image.index, tumour.key_image.frame) == (1, 0, 1)
    assert (bleed.laterality, tumour.laterality) == (None, c.RIGHT)


def test_slices_that_did_not_come_say_nothing():
    stack = make_volume(np.zeros((3, 4, 5)), missing=(1,), remarks=("2 of 3 images.",))
    scores = np.array([[0, 0, 0], [0.2, 1.0, 0.4], [0, 0, 0]])
    found = classify([(stack, scores)], spec_of(), job_id="j")
    assert found.findings[0].probability == pytest.approx(0.3)
    assert found.findings[0].key_image.index == 2
    assert found.remarks[0] == "2 of 3 images."


def test_where_the_classifier_looked_is_kept():
    activation = np.random.default_rng(0).random((1, 4, 5)).astype(np.float16)
    scores = np.zeros((3, 1))
    found = classify([(stack_of(1), scores)], spec_of(), job_id="j", activations=[activation])
    assert found.parts[0].activation is activation
    found = classify([(stack_of(1), scores)], spec_of(), job_id="j", activations=[None])
    assert found.parts[0].activation is None


def test_tracking_follows_from_the_job():
    answers = [(stack_of(1), np.zeros((3, 1)))]
    one, two = (classify(answers, spec_of(), job_id="j").findings for _ in range(2))
    assert one == two
    assert len({f.tracking_uid for f in one}) == 2
    assert classify(answers, spec_of(), job_id="k").findings[0].tracking_uid != one[0].tracking_uid


def test_what_does_not_fit_is_refused():
    stack = stack_of(2)
    with pytest.raises(ValueError, match="frames"):
        classify([(stack, np.zeros((3, 1)))], spec_of(), job_id="j")
    with pytest.raises(ValueError, match="classes"):
        classify([(stack, np.zeros((2, 2)))], spec_of(), job_id="j")
    with pytest.raises(ValueError, match="activation"):
        classify(
            [(stack, np.zeros((3, 2)))],
            spec_of(),
            job_id="j",
            activations=[np.zeros((1, 4, 5), np.float16)],
        )
    with pytest.raises(ValueError, match="no stack"):
        classify([], spec_of(), job_id="j")
    with pytest.raises(ResultError, match="not all numbers"):
        classify([(stack, np.full((3, 2), np.nan))], spec_of(), job_id="j")
