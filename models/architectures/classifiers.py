"""Classifiers of whole images from MONAI: DenseNet, EfficientNet and ResNet, also small ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import nn

from models.answer import Answer

_NORMS: dict[str, tuple[str, dict[str, object]]] = {
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": 8}),
    "batch": ("batch", {}),
}


def _norm(name: str) -> tuple[str, dict[str, object]]:
    if name not in _NORMS:
        raise ValueError(f"there is no norm {name!r} (there is: {', '.join(sorted(_NORMS))})")
    return _NORMS[name]


def densenet(
    in_channels: int = 1,
    out_channels: int = 2,
    init_features: int = 64,
    growth_rate: int = 32,
    block_config: Sequence[int] = (6, 12, 24, 16),
    norm: str = "batch",
    dropout: float = 0.0,
) -> nn.Module:
    """A DenseNet (Huang et al. 2017): (batch, in, rows, columns) to logits (batch, out)."""
    return DenseNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=out_channels,
        init_features=init_features,
        growth_rate=growth_rate,
        block_config=tuple(block_config),
        norm=_norm(norm),
        dropout_prob=dropout,
    )


def efficientnet(in_channels: int = 1, out_channels: int = 2, size: int = 0) -> nn.Module:
    """An EfficientNet (Tan and Le 2019), B0 to B7 by `size`: to logits (batch, out).

    Raises:
        ValueError: no such size.
    """
    if size not in range(8):
        raise ValueError(f"there is no EfficientNet-B{size}")
    return EfficientNetBN(
        f"efficientnet-b{size}",
        pretrained=False,
        spatial_dims=2,
        in_channels=in_channels,
        num_classes=out_channels,
    )


class Evidence(nn.Module):
    """Logits for every place, then pooled: what a place says is seen before it is added up.

    The pooling is the log of the mean of exponentials (Pinheiro and Collobert 2015), between
    mean and maximum: a small lesion counts, a single pixel does not decide.
    """

    def __init__(self, features: int, classes: int, sharpness: float, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.logits = nn.Conv2d(features, classes, 1)
        self.sharpness = sharpness

    def forward(self, features: torch.Tensor, share: torch.Tensor | None = None) -> Answer:
        """(batch, features, rows, columns) to classes, and where the last class was seen.

        `share` (batch, 1, rows, columns), 0 to 1, says how much each place counts.
        """
        places = self.logits(self.dropout(features)).float()
        if share is None:
            share = torch.ones_like(places[:, :1])
        weights = share / share.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)
        scaled = places * self.sharpness + weights.clamp_min(1e-12).log()
        pooled = torch.logsumexp(scaled.flatten(2), dim=2) / self.sharpness
        return Answer(image=pooled, where=places[:, -1:].relu() * (share > 0))


class ResNetPlaces(nn.Module):
    """See `resnet`."""

    def __init__(self, net: ResNet, head: Evidence) -> None:
        super().__init__()
        self.net, self.head = net, head

    def forward(self, images: torch.Tensor, share: torch.Tensor | None = None) -> Answer:
        """(batch, in, rows, columns) to an `Answer`; see `Evidence` about `share`."""
        net = self.net
        features = net.act(net.bn1(net.conv1(images)))
        if not net.no_max_pool:
            features = net.maxpool(features)
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            features = layer(features)
        if share is not None:
            share = nn.functional.adaptive_avg_pool2d(share, features.shape[-2:])
        answer: Answer = self.head(features, share)
        return answer


def resnet(
    in_channels: int = 1,
    out_channels: int = 2,
    features: Sequence[int] = (24, 48, 96, 160),
    blocks: Sequence[int] = (1, 1, 2, 2),
    norm: str = "batch",
    sharpness: float = 1.0,
    dropout: float = 0.0,
) -> nn.Module:
    """A ResNet (He et al. 2016) that answers for each place, then for the image.

    The input is made 32 times smaller. `sharpness` is that of `Evidence`: towards 0 the mean of
    the places, towards infinity their maximum.
    """
    net = ResNet(
        block=ResNetBlock,
        layers=list(blocks),
        block_inplanes=list(features),
        spatial_dims=2,
        n_input_channels=in_channels,
        conv1_t_size=5,
        conv1_t_stride=2,
        no_max_pool=False,
        feed_forward=False,
        norm=_norm(norm),
    )
    return ResNetPlaces(net, Evidence(features[-1], out_channels, sharpness, dropout))
