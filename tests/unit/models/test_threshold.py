"""The network that is none."""

import numpy as np
import torch
from support.packages import write_threshold

from core.modelspec import read_spec
from models.architectures.threshold import Threshold
from models.registry import load


def test_a_pixel_at_the_level_is_in_and_one_just_below_is_out():
    images = torch.tensor([[[[0.0, 1.499, 1.5, 2.0]]]])
    assert torch.sigmoid(Threshold(1.5)(images)).ge(0.5).flatten().tolist() == [0, 0, 1, 1]


def test_pooled_says_whether_any_pixel_reaches_it():
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 2, 3] = 2.0
    assert torch.sigmoid(Threshold(1.5, pooled=True)(images)).gt(0.5).flatten().tolist() == [0, 1]


def test_a_package_of_it_finds_what_is_bright(tmp_path):
    folder = write_threshold(tmp_path, "bright", level=100.0, preprocessing=())
    volume = np.zeros((3, 8, 8), np.float32)
    volume[1, 2:4, 2:4] = 100.0
    answer = load(read_spec(folder), device="cpu").predict(volume, (1.0, 1.0, 1.0))
    assert ((answer[0] >= 0.5) == (volume >= 100)).all()
