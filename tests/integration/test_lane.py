"""The fast lane with real sockets: every way to cut a message, and every way to break one."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.acse import ACSE
from pynetdicom.dimse_messages import C_ECHO_RQ
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.dsutils import decode
from structlog.testing import capture_logs
from support.instances import mr_slice
from support.peers import free_port, require_program, wait_for
from support.raw_scu import (
    ABORT,
    COMMAND_LAST,
    DATA,
    DATA_LAST,
    RELEASE,
    association_request,
    connected,
    pdu,
    pdv,
    raw_scu,
    store_command,
    store_pdus,
)

from core.settings import Settings
from node.door.lane import selfcheck
from node.door.lane.association import DoorServer, LaneAssociation
from node.door.reception import Incoming
from node.door.scp import Door

PIXEL_DATA = b"\xe0\x7f\x10\x00OW\x00\x00"


@contextmanager
def open_door(settings: Settings) -> Iterator[Door]:
    door = Door(settings)
    try:
        yield door
    finally:
        door.close(grace_seconds=1)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(node={"port": free_port()})


@pytest.fixture
def lane_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes the old way fails. To be asked for before the door, which binds its handlers."""
    monkeypatch.setattr(Door, "_on_store", lambda *_: 0x0110)


@pytest.fixture
def door(settings: Settings) -> Iterator[Door]:
    with open_door(settings) as opened:
        yield opened


def spooled(settings: Settings) -> list[Path]:
    return sorted(settings.spool.glob("*/*/*.dcm"))


def element(tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", *tag, vr, len(value)) + value


def small_data(uid: str, pixels: bytes = b"", sop_class: str = MRImageStorage) -> bytes:
    """The least data set that can be filed."""
    out = element((8, 0x16), b"UI", sop_class.encode()) + element((8, 0x18), b"UI", uid.encode())
    out += element((0x20, 0xD), b"UI", b"1.2.3") + element((0x20, 0xE), b"UI", b"1.2.3.4")
    return out + PIXEL_DATA + struct.pack("<L", len(pixels)) + pixels


def data_of(path: Path) -> bytes:
    """What lies behind the File Meta."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<L", content, 140)
    return content[144 + length :]


def lane_threads() -> list[threading.Thread]:
    return [
        item
        for item in threading.enumerate()
        if isinstance(item, LaneAssociation) or type(item).__name__ == "LaneReactor"
    ]


def gone() -> bool:
    return not lane_threads()


def end_of(settings: Settings) -> str:
    (path,) = settings.spool.glob("*/*/end.json")
    return path.read_text()


@hypothesis_settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(data=st.data())
def test_however_the_bytes_are_cut_the_same_file_comes_out(
    data: st.DataObject, door: Door, settings: Settings
) -> None:
    even = st.integers(0, 20_000).map(lambda number: 2 * number)
    expected = {}
    with raw_scu(door.port) as scu:
        for number in range(data.draw(st.integers(1, 2))):
            uid = str(generate_uid())
            expected[uid] = small_data(uid, os.urandom(data.draw(even)))
            pieces = max(2, data.draw(even))
            wire = store_pdus(uid, expected[uid], pieces, message_id=number + 1)
            scu.send_cut(wire, data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
            assert scu.status() == 0x0000
        scu.send(RELEASE)
        assert scu.receive()[0] == 6
    found = {str(pydicom.dcmread(path).SOPInstanceUID): data_of(path) for path in spooled(settings)}
    assert {uid: found[uid] for uid in expected} == expected


@pytest.mark.usefixtures("lane_only")
def test_the_lane_is_what_is_used(door: Door) -> None:
    ae = AE(ae_title="MR1")
    contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian)]
    association = ae.associate("127.0.0.1", door.port, contexts, ae_title="SENTINODE")
    assert association.send_c_store(mr_slice()).Status == 0x0000
    association.release()
    assert association.is_released


def test_command_and_data_in_one_pdu_and_an_empty_last_fragment(
    door: Door, settings: Settings
) -> None:
    uid = "1.2.9"
    data = small_data(uid, bytes(100))
    command = pdv(COMMAND_LAST, store_command(uid))
    with raw_scu(door.port) as scu:
        scu.send(pdu(command, pdv(DATA, data[:50]), pdv(DATA, data[50:]), pdv(DATA_LAST, b"")))
        assert scu.status() == 0x0000
    assert [data_of(path) for path in spooled(settings)] == [data]


def test_contexts_and_services_alternate_on_one_association(door: Door, settings: Settings) -> None:
    verification = "1.2.840.10008.1.1"
    ae = AE(ae_title="MR1")
    contexts = [
        build_context(MRImageStorage, ExplicitVRLittleEndian),
        build_context(CTImageStorage, DeflatedExplicitVRLittleEndian),
        build_context(verification),
    ]
    association = ae.associate("127.0.0.1", door.port, contexts, ae_title="SENTINODE")
    for number in range(3):
        assert association.send_c_store(mr_slice(number)).Status == 0x0000
        deflated = mr_slice(number, SOPClassUID=CTImageStorage)
        deflated.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        deflated.file_meta.MediaStorageSOPClassUID = CTImageStorage
        assert association.send_c_store(deflated).Status == 0x0000
        assert association.send_c_echo().Status == 0x0000
    association.release()
    assert len(spooled(settings)) == 6
    wait_for(lambda: list(settings.spool.glob("*/*/end.json")), 60, "the end is spooled")
    assert '"released"' in end_of(settings)


@pytest.mark.usefixtures("lane_only")
@pytest.mark.parametrize("pieces", [2, 9])
def test_a_command_in_fragments_takes_the_lane(door: Door, settings: Settings, pieces: int) -> None:
    uid = "1.2.9"
    data = small_data(uid, bytes(100))
    wire = fragments(store_command(uid), pieces)
    with raw_scu(door.port) as scu:
        scu.send(b"".join(pdu(piece) for piece in wire) + pdu(pdv(DATA_LAST, data)))
        assert scu.status() == 0x0000
        # all in one PDU, and the first piece alone
        scu.send(
            pdu(wire[0]) + pdu(*wire[1:], pdv(DATA, data[:10])) + pdu(pdv(DATA_LAST, data[10:]))
        )
        assert scu.status() == 0x0000
        scu.send(store_pdus("1.2.10", small_data("1.2.10")))
        assert scu.status() == 0x0000
    assert [data_of(path) for path in spooled(settings)][:2] == [data, data]
    assert len(spooled(settings)) == 3


def fragments(command: bytes, pieces: int) -> list[bytes]:
    """A command set cut into so many fragments, one of them empty."""
    size = -(-len(command) // pieces)
    cut = [command[start : start + size] for start in range(0, len(command), size)]
    return [*(pdv(1, piece) for piece in cut[:-1]), pdv(1, b""), pdv(COMMAND_LAST, cut[-1])]


def test_another_command_in_fragments_goes_the_old_way_whole(door: Door) -> None:
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 7, "1.2.840.10008.1.1"
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    message.context_id = 1
    (only,) = message.encode_msg(1, 16382)
    whole = only.presentation_data_value_list[0][1][1:]
    contexts = [("1.2.840.10008.1.1", ExplicitVRLittleEndian)]
    with raw_scu(door.port, contexts) as scu:
        for piece in fragments(bytes(whole), 3):
            scu.send(pdu(piece))
        assert scu.status() == 0x0000
        scu.send(RELEASE)
        assert scu.receive()[0] == 6


@pytest.mark.usefixtures("lane_only")
def test_deflated_data_and_another_class_than_the_contexts_take_the_lane(
    door: Door, settings: Settings
) -> None:
    uid = "1.2.9"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = packer.compress(small_data(uid, bytes(100_000), CTImageStorage)) + packer.flush()
    data += b"\0" * (len(data) % 2)
    contexts = [(MRImageStorage, DeflatedExplicitVRLittleEndian)]
    with raw_scu(door.port, contexts) as scu:
        scu.send(store_pdus(uid, data, sop_class=CTImageStorage))
        assert scu.status() == 0x0000
    assert [data_of(path) for path in spooled(settings)] == [data]


@pytest.mark.usefixtures("lane_only")
def test_an_image_that_comes_before_pynetdicom_says_established_takes_the_lane(
    door: Door, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    accept = ACSE.send_accept

    def dawdle(acse: ACSE) -> None:
        accept(acse)
        answered.wait(30)

    monkeypatch.setattr(ACSE, "send_accept", dawdle)
    try:
        with raw_scu(door.port) as scu:
            scu.send(store_pdus("1.2.9", small_data("1.2.9")))
            wait_for(lambda: spooled(settings), 10)
            assert scu.status() == 0x0000
    finally:
        answered.set()


def test_a_peer_that_hangs_up_while_it_is_accepted_is_not_held_open(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gone_away = threading.Event(), threading.Event()
    accept = ACSE.send_accept

    def dawdle(acse: ACSE) -> None:
        asked.set()
        gone_away.wait(30)
        wait_for(lambda: acse.dul.finished, 10)
        accept(acse)

    monkeypatch.setattr(ACSE, "send_accept", dawdle)
    with connected(door.port) as scu:
        scu.send(association_request())
        assert asked.wait(10)
    with capture_logs() as logs:
        gone_away.set()
        wait_for(gone, 10)
    assert [line["end"] for line in logs if line["event"] == "association_ended"] == ["aborted"]


@pytest.mark.usefixtures("lane_only")
def test_a_peer_that_takes_little_at_once_is_answered_in_fragments(
    door: Door, settings: Settings
) -> None:
    with raw_scu(door.port, max_pdu=50) as scu:
        scu.send(store_pdus("1.2.9", small_data("1.2.9", bytes(100_000))))
        answer, last = b"", False
        while not last:
            kind, body = scu.receive()
            assert kind == 4
            assert len(body) <= 50
            answer, last = answer + body[6:], body[5] == COMMAND_LAST
        assert decode(BytesIO(answer), True, True).Status == 0x0000
    assert len(spooled(settings)) == 1


@pytest.mark.parametrize("last", [ABORT, RELEASE, b""], ids=["abort", "release", "hang up"])
def test_an_image_that_breaks_off_leaves_nothing(
    door: Door, settings: Settings, last: bytes
) -> None:
    whole = store_pdus("1.2.9", small_data("1.2.9", bytes(50_000)), 10_000)
    with raw_scu(door.port) as scu:
        scu.send(store_pdus("1.2.8", small_data("1.2.8")))
        assert scu.status() == 0x0000
        # two fragments: the abort stands between two PDUs, the hang-up within one
        cut = len(pdu(pdv(COMMAND_LAST, store_command("1.2.9")))) + 2 * 10_012
        scu.send(whole[: cut if last else cut + 77])
        wait_for(lambda: list(settings.spool.glob("*/*/*.part")), 60, "the image is coming")
        scu.send(last)
    wait_for(lambda: list(settings.spool.glob("*/*/end.json")), 60, "the end is spooled")
    wait_for(gone, 60, "its threads have ended")
    assert len(spooled(settings)) == 1
    assert not list(settings.spool.glob("*/*/*.part"))


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">BxL", 4, 0xFFFFFFFF),
        struct.pack(">BxL", 4, 200_000),
        pdu(struct.pack(">LBB", 0xFFFFFFFF, 1, 0)),
        pdu(struct.pack(">LBB", 0, 1, 0)),
        pdu(pdv(DATA, b"ab", context_id=3)),
        pdu(pdv(COMMAND_LAST, store_command("1.2.10"))),
        pdu(pdv(DATA_LAST, b"ab") + b"more"),
        b"\x99\0\0\0\0\x04abcd",
    ],
    ids=["4 GB", "too long", "long pdv", "short pdv", "context", "command", "behind", "type"],
)
def test_what_breaks_the_rules_within_a_data_set_is_cut(
    door: Door, settings: Settings, bad: bytes
) -> None:
    with raw_scu(door.port) as scu:
        scu.send(pdu(pdv(COMMAND_LAST, store_command("1.2.9"))))
        scu.send(pdu(pdv(DATA, small_data("1.2.9")[:20])) + bad)
        assert scu.hung_up()
    wait_for(gone, 60, "its threads have ended")
    assert not list(settings.spool.glob("*/*/*.part")) + spooled(settings)


def test_an_instance_larger_than_allowed_is_refused_and_the_next_is_taken(
    make_settings: Callable[..., Settings],
) -> None:
    peers = [{"name": "mr1", "ae_title": "MR1", "max_instance_mb": 1}]
    settings = make_settings(node={"port": free_port()}, peers=peers)
    with open_door(settings) as door, raw_scu(door.port) as scu:
        scu.send(store_pdus("1.2.9", small_data("1.2.9", bytes(1_100_000))))
        assert scu.status() == 0xA700
        scu.send(store_pdus("1.2.10", small_data("1.2.10", bytes(900_000))))
        assert scu.status() == 0x0000
        scu.send(pdu(pdv(COMMAND_LAST, store_command("1.2.11"))))
        with pytest.raises(OSError):
            for _ in range(10_000):
                scu.send(pdu(pdv(DATA, bytes(16_000))))
        wait_for(gone, 60, "its threads have ended")
    assert len(spooled(settings)) == 1


def test_memory_does_not_grow_with_the_image(door: Door, settings: Settings) -> None:
    size = 48 << 20
    uid = "1.2.9"
    head = small_data(uid)[:-4] + struct.pack("<L", size)
    piece = pdu(pdv(DATA, bytes(64 * 1024)))
    with raw_scu(door.port) as scu:
        tracemalloc.start()
        scu.send(pdu(pdv(COMMAND_LAST, store_command(uid)), pdv(DATA, head)))
        for _ in range(size // (64 * 1024)):
            scu.send(piece)
        scu.send(pdu(pdv(DATA_LAST, b"")))
        assert scu.status() == 0x0000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    (path,) = spooled(settings)
    assert path.stat().st_size > size
    assert peak < 4 << 20


def test_a_rate_slows_the_reading_down_and_refuses_nothing(
    make_settings: Callable[..., Settings],
) -> None:
    peers = [{"name": "mr1", "ae_title": "MR1", "max_per_second": 4}]
    settings = make_settings(node={"port": free_port()}, peers=peers)
    with open_door(settings) as door, raw_scu(door.port) as scu:
        began = time.monotonic()
        for number in range(8):
            scu.send(store_pdus(f"1.2.{number}", small_data(f"1.2.{number}")))
            assert scu.status() == 0x0000
        # four at once, then four a second: the eighth is read after 0.75 s at the earliest
        assert time.monotonic() - began >= 0.7


def test_associations_of_one_title_are_limited(make_settings: Callable[..., Settings]) -> None:
    peers = [{"name": "a", "ae_title": "A"}, {"name": "b", "ae_title": "B"}]
    node = {"port": free_port(), "max_associations_per_peer": 2}
    settings = make_settings(node=node, peers=peers)
    with open_door(settings) as door:
        with raw_scu(door.port, calling="A"), raw_scu(door.port, calling="A"):
            with connected(door.port) as third:
                third.send(association_request(calling="A"))
                # PS3.8 Table 9-21: transient, presentation, local limit exceeded
                assert third.receive() == (3, bytes([0, 2, 3, 2]))
            with raw_scu(door.port, calling="B") as other:
                other.send(store_pdus("1.2.9", small_data("1.2.9")))
                assert other.status() == 0x0000
        wait_for(gone, 60, "its threads have ended")
        with raw_scu(door.port, calling="A") as again:
            again.send(RELEASE)
            assert again.receive()[0] == 6


def test_silent_connections_end_and_leave_no_thread(
    make_settings: Callable[..., Settings],
) -> None:
    node = {
        "port": free_port(),
        "acse_timeout": 1,
        "network_timeout": 2,
        "dimse_timeout": 1,
        "max_associations": 2,
    }
    settings = make_settings(node=node)
    with open_door(settings) as door:
        with (
            connected(door.port) as mute,
            connected(door.port) as slow,
            raw_scu(door.port) as within_pdu,
            raw_scu(door.port) as within_message,
        ):
            slow.send(b"\x01\x00\x00")  # the first bytes of a request
            command = pdu(pdv(COMMAND_LAST, store_command("1.2.9")))
            within_pdu.send(command + pdu(pdv(DATA, bytes(1000)))[:100])
            within_message.send(command + pdu(pdv(DATA, small_data("1.2.9")[:20])))
            for scu in (mute, slow, within_pdu, within_message):
                assert scu.hung_up()
        wait_for(gone, 60, "its threads have ended")
        with raw_scu(door.port) as scu:
            scu.send(store_pdus("1.2.9", small_data("1.2.9")))
            assert scu.status() == 0x0000
    assert len(spooled(settings)) == 1


def test_the_door_stays_open_behind_a_crowd_that_says_nothing(door: Door) -> None:
    before = threading.active_count()
    crowd = [connected(door.port) for _ in range(120)]
    for item in crowd:
        item.__enter__()
    with raw_scu(door.port) as scu:
        scu.send(store_pdus("1.2.9", small_data("1.2.9")))
        assert scu.status() == 0x0000
        # two threads each, and not for all of them
        assert threading.active_count() - before < 2 * 100
    for item in crowd:
        item.__exit__(None, None, None)
    wait_for(gone, 60, "its threads have ended")


def test_a_peer_that_never_reads_is_given_up(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(node={"port": free_port(), "network_timeout": 1})
    with open_door(settings) as door, raw_scu(door.port) as scu:
        one = store_pdus("1.2.9", b"\0\0")  # refused: no disk in this
        scu.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        scu.connection.settimeout(0.5)
        with pytest.raises(OSError):
            for _ in itertools.count():
                scu.send(one * 100)
        wait_for(gone, 60, "its threads have ended")


def test_two_receivers_share_a_port(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(node={"port": free_port(), "receivers": 2})
    with open_door(settings), open_door(settings):
        for number in range(12):
            with raw_scu(settings.node.port) as scu:
                scu.send(store_pdus(f"1.2.{number}", small_data(f"1.2.{number}")))
                assert scu.status() == 0x0000
    assert len(spooled(settings)) == 12
    assert len({path.parents[1] for path in spooled(settings)}) == 2


def test_another_version_of_pynetdicom_goes_the_old_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    selfcheck.trouble.cache_clear()
    monkeypatch.setattr(selfcheck, "__version__", "3.1.0")
    try:
        with open_door(settings) as door, raw_scu(door.port) as scu:
            scu.send(store_pdus("1.2.9", small_data("1.2.9")))
            assert scu.status() == 0x0000
            assert lane_threads() == []
    finally:
        selfcheck.trouble.cache_clear()
    assert "fast_lane_off" in capfd.readouterr().err


def test_a_lane_that_does_not_work_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    selfcheck.trouble.cache_clear()
    monkeypatch.setattr("node.door.lane.reactor.LaneReactor._begin_store", lambda *_: 1 / 0)
    try:
        assert "self-check" in selfcheck.trouble() or "answered" in selfcheck.trouble()
    finally:
        selfcheck.trouble.cache_clear()


def test_an_error_of_ours_aborts_and_leaves_nothing(
    door: Door, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Incoming, "write", lambda *_: 1 / 0)
    with raw_scu(door.port) as scu:
        scu.send(store_pdus("1.2.9", small_data("1.2.9")))
        assert scu.hung_up()
    wait_for(gone, 60, "its threads have ended")
    assert not list(settings.spool.glob("*/*/*.part")) + spooled(settings)


def test_the_lane_takes_tls(tmp_path: Path) -> None:
    openssl = require_program("openssl", "/usr/bin")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-days", "2", "-nodes"]
    made = ["-newkey", "rsa:2048", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *subject, *made], check=True, capture_output=True)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    client_side = ssl.create_default_context(cafile=str(certificate))
    client_side.check_hostname = False
    desk = selfcheck._Desk()
    ae = AE(ae_title="SENTINODE")
    ae.supported_contexts = [build_context(MRImageStorage, ExplicitVRLittleEndian)]
    server = ae.make_server(
        ("127.0.0.1", 0),
        server_class=DoorServer,
        desk=desk,
        ssl_context=server_side,
        linger=30,
    )
    ae._servers.append(server)
    serving = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    image = mr_slice(rows=512, columns=512)
    try:
        scu = AE(ae_title="MR1")
        association = scu.associate(
            "127.0.0.1",
            server.server_address[1],
            ae.supported_contexts,
            tls_args=(client_side, "localhost"),
        )
        for _ in range(3):
            assert association.send_c_store(image).Status == 0x0000
        association.release()
    finally:
        server.shutdown()
        serving.join(30)
    assert len(desk.taken) == 3
    assert image.PixelData in desk.taken[0]
    wait_for(gone, 60, "its threads have ended")


def test_the_kernel_saw_the_right_order(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """A kill -9 cannot show a missing fsync; the system calls themselves can."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-e", "none", "true"], check=False).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    port, trace, config = free_port(), tmp_path / "trace", tmp_path / "sentinode.toml"
    config.write_text(
        f'[node]\nhost = "127.0.0.1"\nport = {port}\n[storage]\nmin_free_mb = 1\n'
        '[[peers]]\nname = "mr1"\nae_title = "MR1"\n'
    )
    calls = "trace=openat,fdatasync,fsync,rename,renameat,renameat2,sendto,close"
    command = [strace, "-f", "-qq", "-y", "-s", "600", "-e", calls, "-o", str(trace)]
    command += [sys.executable, "-m", "cli", "--config", str(config), "scp"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: "door_open" in (tmp_path / "log").read_text(), 60, "the door is open")
        with raw_scu(port) as scu:
            for number in (1, 2, 3):
                scu.send(store_pdus(f"1.2.{number}", small_data(f"1.2.{number}", bytes(50_000))))
                assert scu.status() == 0x0000
            scu.send(RELEASE)
            scu.receive()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    lines = trace.read_text(errors="replace").splitlines()
    begun = [n for n, line in enumerate(lines) if "000001.part" in line and "openat" in line]
    steps = [name for line in lines[begun[0] :] if (name := step(line))]
    synced = ["fsync folder", "open", "fdatasync file", "rename", "answer"]
    # one name, then four at once: the third image finds its own durable
    assert steps[:6] == ["make", *synced]
    assert steps[6:15] == ["make"] * 4 + synced
    assert steps[15:19] == synced[1:]


def step(line: str) -> str:
    """What a line of the trace means for one image."""
    if "resumed>" in line:
        return ""
    if "openat(" in line and ".part" in line and "json" not in line:
        return "make" if "O_CREAT" in line else "open"
    if "fdatasync(" in line and ".part>" in line:
        return "fdatasync file"
    if "rename" in line and ".part" in line and ".dcm" in line:
        return "rename"
    if "fsync(" in line and "fdatasync" not in line and "/spool/" in line:
        return "fsync folder"
    return "answer" if "sendto(" in line and r"\4\0\0\0" in line else ""
