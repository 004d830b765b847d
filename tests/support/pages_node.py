"""A whole node, its roles as processes of their own, before the eyes of a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from cli.phantom import PhantomStudy, write_phantom_study
from core import clock
from core.accounts import Role
from core.ledger import Ledger
from core.settings import load
from support.peers import RunningNode, SmallPacs, free_port, small_pacs, storescu, wait_for
from support.web import hashed

CONFIG = """
[node]
host = "127.0.0.1"
port = {port}
[web]
port = {web}
[storage]
data = "{data}"
min_free_mb = 1
[completeness]
quiet_seconds = 4
[delivery]
retry_seconds = 0.5
[[peers]]
name = "mr1"
ae_title = "MR1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
archive = true
[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
min_instances = 10
[routes.match]
Modality = "MR"
SeriesDescription = {{ regex = "(?i)flair" }}
"""


@dataclass
class Node:
    """A running node.

    Attributes:
        base: of its pages.
        port: of its door.
        pacs: where its results go.
    """

    base: str
    port: int
    pacs: SmallPacs
    process: RunningNode

    def made(self, modality: str) -> Dataset:
        """The object of a modality that the archive got."""
        (found,) = [item for item in self.pacs.received if item.Modality == modality]
        return found


@dataclass(frozen=True)
class Sent:
    """A FLAIR phantom that is sent in pieces."""

    study: PhantomStudy

    @classmethod
    def phantom(cls, folder: Path, **options: str) -> Sent:
        return cls(write_phantom_study(folder, series=("FLAIR",), **options))  # type: ignore[arg-type]

    def send(self, node: Node, first: int, last: int) -> None:
        """Send slices, from 0 at the feet."""
        paths = list(self.study.files("FLAIR")[first:last])
        assert storescu(node.port, paths).returncode == 0


def segmented(seg: Dataset, sop_instance_uid: str) -> np.ndarray:
    """Every pixel that a segmentation marks on an image, bool (rows, columns)."""
    found = np.zeros((seg.Rows, seg.Columns), bool)
    groups = seg.PerFrameFunctionalGroupsSequence
    for group, frame in zip(groups, seg.pixel_array.reshape(-1, *found.shape), strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        if source.ReferencedSOPInstanceUID == sop_instance_uid:
            found |= frame > 0
    return found


@contextmanager
def whole_node(folder: Path) -> Iterator[Node]:
    """Run it; its administrator has the tests' password."""
    with small_pacs() as pacs:
        values = {"port": free_port(), "web": free_port(), "pacs": pacs.port}
        config = folder / "sentinode.toml"
        config.write_text(CONFIG.format(data=folder / "data", **values))
        settings = load(config)
        ledger = Ledger(settings.ledger_url)
        ledger.upgrade()
        with ledger.write() as work:
            work.accounts.add("administrator", Role.ADMINISTRATOR, hashed(), clock.now())
        ledger.close()
        node = RunningNode(config, folder / "node.log")
        node.start()
        try:
            for event in ("pages_open", "door_open", "worker_ready"):
                wait_for(lambda event=event: event in node.log, 90, event)
            yield Node(settings.web.shown_url, settings.node.port, pacs, node)
        finally:
            node.stop()
