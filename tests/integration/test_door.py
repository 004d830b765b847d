"""The door with real sockets: policy, what is refused and how, and what is on disk before yes."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from support.instances import mr_slice
from support.peers import DCMTK_ENVIRONMENT, free_port, require_program, storescu, wait_for

from core.errors import SentinodeError
from core.identifiers import derived_uid
from core.settings import Settings
from node.dimse import contexts
from node.door.scp import Door
from node.spool.heads import read_private_information


@contextmanager
def open_door(settings: Settings) -> Iterator[Door]:
    door = Door(settings)
    try:
        yield door
    finally:
        door.close(grace_seconds=1)


@pytest.fixture(params=[True, False], ids=["fast-lane", "old-way"])
def fast_lane(request: pytest.FixtureRequest) -> bool:
    """Both ways into the house take and refuse the same."""
    return bool(request.param)


@pytest.fixture
def settings(make_settings: Callable[..., Settings], fast_lane: bool) -> Settings:
    return make_settings(node={"port": free_port(), "fast_lane": fast_lane})


@pytest.fixture
def door(settings: Settings) -> Iterator[Door]:
    with open_door(settings) as opened:
        yield opened


@contextmanager
def associated(
    port: int, *, calling: str = "MR1", called: str = "SENTINODE", syntaxes: Any = None
) -> Iterator[Association]:
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    context = build_context(MRImageStorage, syntaxes or [ExplicitVRLittleEndian])
    association = ae.associate("127.0.0.1", port, [context], ae_title=called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send_raw(
    association: Association, data: bytes, *, sop_class: str = MRImageStorage, uid: str = "1.2.9"
) -> Dataset:
    """C-STORE bytes as they are, whatever they are."""
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = uid
    request.Priority = 2
    request.DataSet = BytesIO(data)
    context = association.accepted_contexts[0]
    association._reactor_checkpoint.clear()  # or its thread would take the answer
    wait_for(lambda: association._is_paused, 5)
    association.dimse.send_msg(request, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    result = Dataset()
    result.Status = answer.Status
    result.ErrorComment = answer.ErrorComment
    return result


def encoded(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    data = buffer.getvalue()
    stream = BytesIO(data)
    head = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=[])
    length = int(head.file_meta.FileMetaInformationGroupLength)
    return data[132 + 12 + length :]


def spooled(settings: Settings) -> list[Path]:
    return sorted(settings.spool.glob("*/*/*.dcm"))


def test_an_acknowledged_instance_is_a_complete_file_that_says_who_sent_it(
    door: Door, settings: Settings
) -> None:
    dataset = mr_slice()
    with associated(door.port) as association:
        assert association.send_c_store(dataset).Status == 0x0000
        (path,) = spooled(settings)
        found = pydicom.dcmread(path)
    assert found.SOPInstanceUID == dataset.SOPInstanceUID
    assert found.PixelData == dataset.PixelData
    meta = found.file_meta
    assert meta.SourceApplicationEntityTitle == "MR1"
    assert meta.SendingApplicationEntityTitle == "MR1"
    assert meta.ReceivingApplicationEntityTitle == "SENTINODE"
    sender, received_at = read_private_information(meta)
    assert (sender.calling_ae, sender.called_ae) == ("MR1", "SENTINODE")
    assert sender.peer_address.startswith("127.0.0.1:")
    assert received_at.tzinfo is not None
    wait_for(lambda: list(settings.spool.glob("*/*/end.json")), 5, "the end is spooled")


def test_the_file_and_its_folder_are_fsynced_before_the_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = {name: getattr(os, name) for name in ("fdatasync", "fsync", "rename", "open")}

    def sync(name: str) -> Callable[[int], None]:
        def watched(handle: int) -> None:
            order.append(f"{name} " + Path(f"/proc/self/fd/{handle}").readlink().name)
            real[name](handle)

        return watched

    def rename(source: str, target: str, **folders: int) -> None:
        order.append(f"rename {source} {target}")
        real["rename"](source, target, **folders)

    def made(path: Any, flags: int, *args: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(".part"):
            order.append(f"make {path}")
        return int(real["open"](path, flags, *args, **named))

    with open_door(settings) as door, associated(door.port) as association:
        monkeypatch.setattr(os, "fdatasync", sync("fdatasync"))
        monkeypatch.setattr(os, "fsync", sync("fsync"))
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(os, "open", made)
        seen = []
        for _ in range(7):
            assert association.send_c_store(mr_slice()).Status == 0x0000
            seen.append(list(order))
            order.clear()
        monkeypatch.undo()
        folder = spooled(settings)[0].parent
    # the association's own folder is durable, before anything in it
    assert seen[0].pop(0) == f"fsync {folder.parent.name}"
    named = {0: range(1, 2), 1: range(2, 6), 5: range(6, 22)}
    for index, steps in enumerate(seen):
        number = f"{index + 1:06d}"
        made_now = [f"make {item:06d}.part" for item in named.get(index, ())]
        assert steps == [
            # the name is durable: now, or with those of an earlier image
            *made_now,
            *([f"fsync {folder.name}"] if made_now else []),
            f"fdatasync {number}.part",
            f"rename {number}.part {number}.dcm",
        ]


def test_without_fsync_nothing_is_waited_for_and_it_is_told(
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = make_settings(node={"port": free_port()}, storage={"fsync": False})
    with open_door(settings) as door, associated(door.port) as association:
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda handle: pytest.fail("synced"))
        assert association.send_c_store(mr_slice()).Status == 0x0000
        monkeypatch.undo()
    assert len(spooled(settings)) == 1
    assert "not_durable" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("MR1", "WRONG", 7), ("STRANGER", "SENTINODE", 3)],
)
def test_unknown_titles_are_rejected_with_the_right_reason(
    door: Door, calling: str, called: str, reason: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with associated(door.port, calling=calling, called=called) as association:
        assert association.is_rejected
        primitive = association.acceptor.primitive
        # PS3.8 Table 9-21: rejected permanent, by the service user
        assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, reason)
    log = wait_for(lambda: capfd.readouterr().err, 5)
    assert "association_rejected" in log
    assert ("called" if reason == 7 else "calling") in log


def test_accept_unknown_opens_the_door_to_everybody(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(node={"port": free_port(), "accept_unknown": True})
    with open_door(settings) as door, associated(door.port, calling="STRANGER") as association:
        assert association.send_c_store(mr_slice()).Status == 0x0000


def test_a_peer_that_may_not_send_is_told_so(
    make_settings: Callable[..., Settings], fast_lane: bool
) -> None:
    peers = [{"name": "ws", "ae_title": "WS", "send": False}]
    settings = make_settings(node={"port": free_port(), "fast_lane": fast_lane}, peers=peers)
    with open_door(settings) as door, associated(door.port, calling="WS") as association:
        assert association.send_c_store(mr_slice()).Status == 0x0124
    assert spooled(settings) == []


def test_one_association_too_many_is_rejected_for_now(
    make_settings: Callable[..., Settings], fast_lane: bool
) -> None:
    node = {"port": free_port(), "max_associations": 1, "fast_lane": fast_lane}
    settings = make_settings(node=node)
    with open_door(settings) as door, associated(door.port) as first:
        assert first.is_established
        with associated(door.port) as second:
            assert second.is_rejected
            primitive = second.acceptor.primitive
            assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)
        assert first.send_c_store(mr_slice()).Status == 0x0000


def test_an_association_without_a_context_we_take_is_logged(
    door: Door, capfd: pytest.CaptureFixture[str]
) -> None:
    ae = AE(ae_title="MR1")
    context = build_context("1.2.840.10008.5.1.4.31")  # Modality Worklist: not in the table
    association = ae.associate("127.0.0.1", door.port, [context], ae_title="SENTINODE")
    assert association.accepted_contexts == []
    association.abort()
    wait_for(lambda: "association_without_context" in capfd.readouterr().err, 5)


def test_garbage_on_the_port_disturbs_nobody(door: Door, settings: Settings) -> None:
    with associated(door.port) as association:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x01\x00\xff\xff\xff\xff"):
            with socket.create_connection(("127.0.0.1", door.port), timeout=5) as stray:
                stray.sendall(garbage)
        assert association.send_c_store(mr_slice()).Status == 0x0000
    assert len(spooled(settings)) == 1


def test_another_instance_than_announced_is_refused(door: Door, settings: Settings) -> None:
    data = encoded(mr_slice())
    with associated(door.port) as association:
        assert send_raw(association, data, uid="1.2.9").Status == 0xA900
    dataset = mr_slice(SOPClassUID=CTImageStorage)
    with associated(door.port) as association:
        answer = send_raw(association, encoded(dataset), uid=str(dataset.SOPInstanceUID))
        assert answer.Status == 0xA900
    assert spooled(settings) == []


@pytest.mark.parametrize("cut", [1, 3, 9, 200, 700])
def test_a_data_set_that_ends_early_is_refused(
    door: Door, settings: Settings, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = mr_slice()
    with associated(door.port) as association:
        answer = send_raw(association, encoded(dataset)[:-cut], uid=str(dataset.SOPInstanceUID))
        assert answer.Status == 0xC000
        assert association.send_c_store(mr_slice()).Status == 0x0000  # the next one is taken
    assert len(spooled(settings)) == 1
    assert "instance_refused" in capfd.readouterr().err


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_what_cannot_be_filed_is_refused(door: Door, keyword: str) -> None:
    dataset = mr_slice()
    uid = str(dataset.SOPInstanceUID)
    data = mr_slice()
    data.update(dataset)
    delattr(data, keyword)
    data.file_meta = dataset.file_meta
    with associated(door.port) as association:
        assert send_raw(association, encoded(data), uid=uid).Status == 0xC000


def test_a_uid_that_is_a_path_is_refused(door: Door, settings: Settings) -> None:
    with pytest.warns(UserWarning):
        dataset = mr_slice(StudyInstanceUID="../../../../tmp/evil")
        data = encoded(dataset)
    with associated(door.port) as association:
        assert send_raw(association, data, uid=str(dataset.SOPInstanceUID)).Status == 0xC000
    assert spooled(settings) == []


def test_bytes_that_are_no_data_set_are_refused(door: Door) -> None:
    with associated(door.port) as association:
        assert send_raw(association, os.urandom(999)).Status == 0xC000


def test_an_almost_full_disk_refuses_before_anything_is_lost(
    make_settings: Callable[..., Settings], fast_lane: bool
) -> None:
    settings = make_settings(
        node={"port": free_port(), "fast_lane": fast_lane}, storage={"min_free_mb": 1 << 40}
    )
    with open_door(settings) as door, associated(door.port) as association:
        answer = association.send_c_store(mr_slice())
        assert answer.Status == 0xA700
        assert "free" in answer.ErrorComment
    assert spooled(settings) == []


def test_a_disk_that_fills_in_the_middle_leaves_no_half_file(
    door: Door, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with associated(door.port) as association:
        assert association.send_c_store(mr_slice()).Status == 0x0000
        monkeypatch.setattr(os, "fdatasync", no_space)
        assert association.send_c_store(mr_slice()).Status == 0xA700
        monkeypatch.undo()
        assert association.send_c_store(mr_slice()).Status == 0x0000
    assert len(spooled(settings)) == 2
    # the association's end may just be written; no image is
    assert not [path for path in settings.spool.glob("*/*/[0-9]*.part") if path.stat().st_size]


def test_a_port_in_use_is_told_with_what_to_do(settings: Settings, door: Door) -> None:
    with pytest.raises(SentinodeError, match="cannot be listened on") as caught:
        Door(settings)
    assert "node.port" in caught.value.remedy


def test_every_storage_class_and_transfer_syntax_of_the_table_is_negotiated(door: Door) -> None:
    rows = [row for row in contexts.table() if row.sop_class in contexts.STORAGE_CLASSES]
    wanted = [(row.sop_class, syntax) for row in rows for syntax in row.transfer_syntaxes]
    assert len(rows) > 150
    for start in range(0, len(wanted), 128):
        ae = AE(ae_title="MR1")
        proposed = [build_context(cls, [syntax]) for cls, syntax in wanted[start : start + 128]]
        association = ae.associate("127.0.0.1", door.port, proposed, ae_title="SENTINODE")
        assert len(association.accepted_contexts) == len(proposed)
        association.release()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_are_taken_as_they_are(door: Door, settings: Settings, syntax: str) -> None:
    dataset = mr_slice()
    dataset.file_meta.TransferSyntaxUID = syntax
    with associated(door.port, syntaxes=[syntax]) as association:
        assert association.send_c_store(dataset).Status == 0x0000
    (path,) = spooled(settings)
    found = pydicom.dcmread(path)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert found.PixelData == dataset.PixelData


def test_dcmtk_talks_to_the_door(door: Door, settings: Settings, tmp_path: Path) -> None:
    echoscu = require_program("echoscu", "/usr/bin")
    command = [echoscu, "-aet", "MR1", "-aec", "SENTINODE", "127.0.0.1", str(door.port)]
    subprocess.run(command, check=True, timeout=30, env=DCMTK_ENVIRONMENT)
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        mr_slice(number).save_as(path, enforce_file_format=True)
        paths.append(path)
    sent = storescu(door.port, paths)
    assert sent.returncode == 0, sent.stderr
    assert len(spooled(settings)) == 3


def test_the_same_uid_is_derived_everywhere() -> None:
    # a constant of the house: changing it would make second objects out of old jobs
    assert derived_uid("a", "b") == "2.25." + str(int(derived_uid("a", "b")[5:]))
    assert derived_uid("a", "b", root="1.2.3").startswith("1.2.3.")
    assert len(derived_uid("a", "b", root="1.2.3." + "4" * 30)) <= 64
