"""Class activation maps: where in an image a classifier found its class.

The map is Grad-CAM (Selvaraju et al. 2017, equations 1 and 2): the last convolution's features,
each channel weighted by the mean gradient of the class's logit with respect to it, summed, what
is negative left out. A network that reads its classes elsewhere marks the module that they are
read from (`class_features = True`). The mean says which features speak for the class, not at which
place: of two places that look alike it lights both, even where dense layers behind (`cnn`) weigh
them differently. The product place by place, without the mean (HiResCAM, Draelos and Carin 2020),
knows the difference, but behind max pooling it breaks into speckles; on a small trained `cnn`
it was no better placed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from models.answer import Answer, as_answer
from models.architectures.ensemble import Ensemble


class _Features:
    """The output of the last convolution that still has places, as the start of a graph."""

    def __init__(self) -> None:
        self.last: torch.Tensor | None = None

    def keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Start a new graph here, so that only what follows the last one is differentiated."""
        if min(output.shape[-2:]) < 2:
            return output
        self.last = output.detach().requires_grad_(True)
        # a copy, because the next layer may work in place, which a graph's start does not allow
        return self.last.clone()


@contextmanager
def _hooked(network: nn.Module) -> Iterator[_Features]:
    features = _Features()
    modules = list(network.modules())
    marked = [module for module in modules if getattr(module, "class_features", False)]
    chosen = marked or [module for module in modules if isinstance(module, nn.Conv2d)]
    handles = [module.register_forward_hook(features.keep) for module in chosen]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def classify_with_maps(
    network: nn.Module,
    images: torch.Tensor,
    channels: Sequence[int],
    of: torch.Tensor | None = None,
) -> tuple[torch.Tensor | Answer, torch.Tensor | None]:
    """Ask a classifier, and where it looked.

    Args:
        network: in evaluation mode, on the device of `images`; nothing in it is changed.
        images: (batch, channels, rows, columns), the network's input.
        channels: the classes to choose from: each image's map is of the one with the highest
            logit.
        of: (batch,) the class of each image's map instead, for a member of an ensemble.

    Returns:
        What the network gives, logits (batch, classes) or an `Answer`, and maps (batch, 1, rows,
        columns), float32, 0 and more, in no particular unit: the network's own (`Answer.where`)
        if it says so itself. No maps where the network has no convolution with more than one
        place.
    """
    if isinstance(network, Ensemble):
        return _of_members(network, images, channels)
    with torch.enable_grad(), _hooked(network) as features:
        given: torch.Tensor | Answer = network(images)
        answer = as_answer(given)
        if answer.where is not None:
            return _detached(given), answer.where.detach()
        logits = answer.image
        fits = logits is not None and max(channels, default=0) < logits.shape[1]
        if features.last is None or logits is None or not logits.requires_grad or not fits:
            return _detached(given), None
        among = torch.as_tensor(list(channels), device=logits.device)
        values = logits[:, among].amax(dim=1) if of is None else logits.gather(1, of[:, None])
        highest = values.sum()  # the images do not depend on each other
        (gradient,) = torch.autograd.grad(highest, features.last)
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    maps = functional.relu((weights * features.last.detach().float()).sum(dim=1, keepdim=True))
    maps = functional.interpolate(
        maps, size=images.shape[-2:], mode="bilinear", align_corners=False
    )
    return _detached(given), maps


def _of_members(
    network: Ensemble, images: torch.Tensor, channels: Sequence[int]
) -> tuple[torch.Tensor | Answer, torch.Tensor | None]:
    """The mean of the members' maps, each scaled to 1, of the class that all say together."""
    with torch.no_grad():
        given: torch.Tensor | Answer = network(images)
    answer = as_answer(given)
    if answer.where is not None:
        return given, answer.where
    logits = answer.image
    if logits is None or max(channels, default=0) >= logits.shape[1]:
        return given, None
    among = torch.as_tensor(list(channels), device=logits.device)
    of = among[logits[:, among].argmax(dim=1)]
    maps = [classify_with_maps(member, images, channels, of)[1] for member in network.members]
    known = [scaled(found) for found in maps if found is not None]
    return given, torch.stack(known).mean(dim=0) if known else None


def _detached(given: torch.Tensor | Answer) -> torch.Tensor | Answer:
    if isinstance(given, torch.Tensor):
        return given.detach()
    pixels, image = given.pixels, given.image
    return Answer(
        None if pixels is None else pixels.detach(), None if image is None else image.detach()
    )


def scaled(maps: torch.Tensor) -> torch.Tensor:
    """(batch, …) so that each image's highest value is 1; a map of zeros stays."""
    maps = maps.clamp(min=0)
    highest = maps.flatten(1).amax(dim=1).clamp(min=torch.finfo(maps.dtype).tiny)
    return maps / highest.view(-1, *[1] * (maps.ndim - 1))
