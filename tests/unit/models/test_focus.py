"""A region cut out: the same whatever the exposure, and put back where it was."""

from __future__ import annotations

import pytest
import torch

from core.modelspec import NetworkSpec
from models.answer import Answer
from models.architectures import build
from models.focus import boxes, crop, equalise, focus, local, uncrop, widen

ROWS, COLUMNS = 64, 96


def region() -> torch.Tensor:
    found = torch.zeros(2, 1, ROWS, COLUMNS)
    found[0, 0, 16:48, 24:72] = 1
    found[1, 0, 8:40, 40:88] = 1
    return found


def picture(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, ROWS, COLUMNS, generator=generator)


def test_a_box_lies_where_its_region_lies() -> None:
    found = boxes(region(), margin=0.0)
    # columns 24 to 72 of 96 are the middle half; rows 16 to 48 of 64 as well
    assert found[0].tolist() == pytest.approx([0, 0, 0.5, 0.5], abs=0.05)
    assert found[1].tolist() == pytest.approx([1 / 3, -0.25, 0.5, 0.5], abs=0.05)


def test_specks_do_not_widen_a_box_and_an_empty_region_is_the_whole_image() -> None:
    spotted = region()
    spotted[0, 0, 1, 1] = 1
    assert torch.allclose(boxes(spotted, 0.0)[0], boxes(region(), 0.0)[0], atol=0.05)
    assert boxes(torch.zeros(1, 1, ROWS, COLUMNS), 0.0)[0].tolist() == pytest.approx(
        [0, 0, 1, 1], abs=0.04
    )


def test_what_was_cut_out_goes_back_to_its_place() -> None:
    cut, inside, found = crop(region() * 7, region(), 64, margin=0.1)
    assert cut.shape == inside.shape == (2, 1, 64, 64)
    back = uncrop(inside, found, ROWS, COLUMNS)
    wrong = ((back > 0.5).float() - region()).abs().sum(dim=(1, 2, 3))
    assert (wrong < 0.08 * region().sum(dim=(1, 2, 3))).all()


@pytest.mark.parametrize("curve", [lambda v: v * 900 - 30, lambda v: v**3, lambda v: v.exp() / 5])
def test_no_exposure_curve_changes_what_is_seen(curve: object) -> None:
    seen, share, _ = focus(picture(), region(), 64, 0.04, 0.03)
    # the curve is applied to the crop's own pixels: interpolation does not commute with it
    cut, inside, _ = crop(picture(), region(), 64, 0.04)
    plain = equalise(cut, inside)
    assert torch.equal(equalise(curve(cut), inside), plain)  # type: ignore[operator]
    assert seen.shape == (2, 2, 64, 64)
    assert float(seen[:, 0][share[:, 0] > 0].abs().max()) <= 3**0.5 + 1e-5


def test_equalised_values_are_even_in_the_region() -> None:
    values = equalise(picture() ** 4, region())
    inside = values[region() > 0]
    assert float(inside.mean()) == pytest.approx(0, abs=0.08)
    assert float(inside.std()) == pytest.approx(1, abs=0.08)


def test_nothing_outside_the_region_is_seen() -> None:
    seen, share, _ = focus(picture(), region(), 64, 0.04, 0.03)
    assert torch.equal(seen * (1 - share), torch.zeros_like(seen))
    assert 0.7 < float(share.mean()) < 1
    loud = picture()
    loud[widen(region(), 0.1) == 0] = 99.0
    assert torch.allclose(focus(loud, region(), 64, 0.04, 0.03)[0], seen, atol=1e-5)


def test_a_large_shadow_is_gone_against_the_neighbourhood() -> None:
    slope = torch.linspace(0, 50, COLUMNS).expand(2, 1, ROWS, COLUMNS)
    everywhere = torch.ones(2, 1, ROWS, COLUMNS)
    flat = local(picture(), everywhere, 1 / 16)
    tilted = local(picture() + slope, everywhere, 1 / 16)
    middle = (slice(None), slice(None), slice(16, 48), slice(16, 80))
    assert abs(float(tilted[middle].mean())) < 0.2
    pair = torch.stack([flat[middle].flatten(), tilted[middle].flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.8


def test_widening_is_a_dilation() -> None:
    point = torch.zeros(1, 1, 50, 50)
    point[0, 0, 25, 25] = 1
    assert int(widen(point, 0.04).sum()) == 25
    assert torch.equal(widen(point, 0.0), point)


SEGMENTER = {
    "architecture": "multitask2d",
    "params": {"features": 4, "blocks": [1, 1], "norm": "batch"},
}
CLASSIFIER = {
    "architecture": "resnet",
    "params": {"in_channels": 2, "features": [4, 4, 8, 8], "blocks": [1, 1, 1, 1]},
}


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    params = {"segmenter": SEGMENTER, "classifier": CLASSIFIER, "size": 64, "coarse": 32}
    return build(NetworkSpec(architecture="cascade", params=params)).eval()


def test_a_cascade_outlines_classifies_and_says_where(network: torch.nn.Module) -> None:
    answer = network(picture())
    assert isinstance(answer, Answer)
    assert answer.pixels is not None
    assert answer.pixels.shape == (2, 1, ROWS, COLUMNS)
    assert answer.image is not None
    assert answer.image.shape == (2, 2)
    assert answer.where is not None
    assert answer.where.shape == (2, 1, ROWS, COLUMNS)
    assert float(answer.where.min()) >= 0


def test_the_classifier_of_a_cascade_sees_the_region_only(network: torch.nn.Module) -> None:
    images = picture()
    first = network(images, region())
    assert first.pixels is None
    loud = images.clone()
    far = widen(region(), 0.15) == 0
    loud[far] = -50.0
    second = network(loud, region())
    assert torch.allclose(first.image, second.image, atol=1e-4)
    inside = images.clone()
    inside[:, :, 20:30, 45:60] = 3.0
    assert not torch.allclose(network(inside, region()).image, first.image, atol=1e-4)
    # and where it looked lies in the region
    assert not first.where[far].any()
