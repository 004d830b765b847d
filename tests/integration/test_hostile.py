"""Peers that mean ill or are broken: the door and intake stay up, small, tidy and fair."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, build_context
from pynetdicom.dimse_messages import N_CREATE_RQ
from pynetdicom.dimse_primitives import N_CREATE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from support.instances import mr_slice
from support.ledgers import new_ledger
from support.peers import free_port, wait_for
from support.raw_scu import COMMAND_LAST, DATA, pdu, pdv, raw_scu, store_command

from core.errors import MessageError
from core.settings import Settings
from core.store import Store
from node.dimse.contexts import PERFORMED_STEP
from node.door.scp import Door
from node.filing.intake import Intake

MB = 1 << 20


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        node={
            "port": free_port(),
            "acse_timeout": 2,
            "dimse_timeout": 2,
            "network_timeout": 2,
            "max_associations": 20,
            "max_instance_mb": 8,
        }
    )


@pytest.fixture
def door(settings: Settings) -> Iterator[Door]:
    before = set(threading.enumerate())
    opened = Door(settings)
    try:
        yield opened
    finally:
        opened.close(grace_seconds=1)
        wait_for(
            lambda: not [one for one in threading.enumerate() if one not in before],
            60,
            "a thread was left behind",
        )


def connect(door: Door) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), timeout=30)


def request(count: int = 1, *, length: int = 16384) -> bytes:
    """An A-ASSOCIATE-RQ with so many presentation contexts."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "MR1", "SENTINODE"
    notification = MaximumLengthNotification()
    notification.maximum_length_received = length
    primitive.user_information = [notification]
    contexts = []
    for number in range(min(count, 128)):
        context = build_context(MRImageStorage, ExplicitVRLittleEndian)
        context.context_id = 2 * number + 1
        contexts.append(context)
    primitive.presentation_context_definition_list = contexts
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    data = bytes(pdu.encode())
    if count <= len(contexts):
        return data
    # ids have one byte, so the same come again and again
    item = next(bytes(one.encode()) for one in pdu.variable_items if one.item_type == 0x20)
    user = data.rindex(b"\x50\x00", 0, len(data))
    body = data[6:user] + item * (count - len(contexts)) + data[user:]
    return data[:2] + struct.pack(">L", len(body)) + body


def command(uid: str = "1.2.3.4", *, data_set: bool = True) -> bytes:
    """A C-STORE-RQ command set."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    rest = b"".join(
        (
            element(0x0002, MRImageStorage.encode()),
            element(0x0100, struct.pack("<H", 1)),
            element(0x0110, struct.pack("<H", 1)),
            element(0x0700, struct.pack("<H", 0)),
            element(0x0800, struct.pack("<H", 0 if data_set else 0x0101)),
            element(0x1000, uid.encode()),
        )
    )
    return element(0x0000, struct.pack("<L", len(rest))) + rest


def p_data(value: bytes, control: int, context: int = 1) -> bytes:
    item = struct.pack(">LBB", len(value) + 2, context, control) + value
    return struct.pack(">BBL", 4, 0, len(item)) + item


def answer(peer: socket.socket) -> bytes:
    """One PDU, or nothing when the connection is closed."""
    try:
        head = peer.recv(6, socket.MSG_WAITALL)
        if len(head) < 6:
            return b""
        return head + peer.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)
    except ConnectionError:
        return b""


def established(door: Door, stack: ExitStack) -> socket.socket:
    peer = stack.enter_context(connect(door))
    peer.sendall(request())
    assert answer(peer)[:1] == b"\x02"
    return peer


def is_closed(peer: socket.socket) -> bool:
    """Whether the door hangs up; what it says before that is read."""
    try:
        while peer.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def send_one(door: Door, uid: str = "") -> float:
    """A well-behaved peer sends an image; returns how long that took, seconds."""
    began = time.monotonic()
    ae = AE(ae_title="MR1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    association = ae.associate(
        "127.0.0.1",
        door.port,
        [build_context(MRImageStorage, ExplicitVRLittleEndian)],
        ae_title="SENTINODE",
    )
    assert association.is_established
    dataset = mr_slice()
    dataset.SOPInstanceUID = uid or dataset.SOPInstanceUID
    assert association.send_c_store(dataset).Status == 0x0000
    association.release()
    return time.monotonic() - began


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def outside(settings: Settings) -> set[Path]:
    """Every file that is not in the spool."""
    return {
        path
        for path in settings.data.parent.rglob("*")
        if path.is_file() and not path.is_relative_to(settings.spool)
    }


def test_connections_that_say_nothing_end_and_keep_nobody_out(door: Door) -> None:
    """Slow-loris: nothing at all, one byte, half a header, half a request."""
    beginnings = [b"", b"\x01", request()[:5], request()[:60]]
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(door)) for _ in beginnings * 2]
        for peer, beginning in zip(peers, beginnings * 2, strict=True):
            peer.sendall(beginning)
        send_one(door)
        assert all(is_closed(peer) for peer in peers)


def test_an_image_that_stops_half_way_ends_and_leaves_nothing(
    door: Door, settings: Settings
) -> None:
    with ExitStack() as stack:
        silent = established(door, stack)
        silent.sendall(p_data(command(), 3) + p_data(b"x" * 5000, 0)[:3000])
        between = established(door, stack)
        between.sendall(p_data(command(), 3) + p_data(b"x" * 5000, 0))
        assert is_closed(silent)
        assert is_closed(between)
    send_one(door)
    files = list(settings.spool.glob("*/*/*"))
    assert len([path for path in files if path.suffix == ".dcm"]) == 1
    wait_for(lambda: not list(settings.spool.glob("*/*/*.part")), 30, "half an image was left")


def test_a_flood_of_associations_is_turned_away_and_passes(door: Door) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(door)) for _ in range(60)]
        for peer in peers:
            peer.sendall(request())
        kinds = [answer(peer)[:1] for peer in peers]
        assert b"\x03" in kinds  # A-ASSOCIATE-RJ: too many at once
        assert kinds.count(b"\x02") <= 20
    wait_for(lambda: _taken(door), 60, "the door stayed shut after the flood")


def _taken(door: Door) -> bool:
    with ExitStack() as stack:
        peer = stack.enter_context(connect(door))
        peer.sendall(request())
        return answer(peer)[:1] == b"\x02"


def test_a_peer_that_never_reads_its_answers_ends(door: Door) -> None:
    """Commands without end: the answers fill both buffers; the door must not wait for ever."""
    before = memory()
    with ExitStack() as stack:
        peer = established(door, stack)
        peer.settimeout(0.5)
        sending = p_data(command("1.2.3", data_set=False), 3) * 50
        until = time.monotonic() + 8  # four times what the door waits
        while time.monotonic() < until:
            try:
                peer.sendall(sending)
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert memory() - before < 64 * MB
        peer.settimeout(60)
        assert is_closed(peer)
    send_one(door)


@pytest.mark.parametrize("lane", [True, False], ids=["lane", "old way"])
@pytest.mark.parametrize("size", [0, 16, 10_000])
def test_a_command_set_without_end_is_cut(
    make_settings: Callable[..., Settings], lane: bool, size: int
) -> None:
    door = Door(make_settings(node={"port": free_port(), "fast_lane": lane}))
    try:
        with ExitStack() as stack, structlog.testing.capture_logs() as logs:
            peer = established(door, stack)
            piece = p_data(bytes(size), 1)
            sending = piece * (4 * 64 * 1024 // len(piece))
            send_until_closed(peer, sending)
            assert is_closed(peer)
        (cut,) = [line for line in logs if line["event"] == "association_cut"]
        assert cut["reason"] == "a command set of more than 65536 bytes"
        send_one(door)
    finally:
        door.close(grace_seconds=1)


def test_a_message_that_is_no_image_is_small(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(node={"port": free_port()}, services={"mpps": True})
    door = Door(settings)
    before = memory()
    try:
        with structlog.testing.capture_logs() as logs:
            with raw_scu(door.port, [(PERFORMED_STEP, ExplicitVRLittleEndian)]) as scu:
                scu.send(pdu(pdv(COMMAND_LAST, n_create_command())))
                send_until_closed(scu.connection, pdu(pdv(DATA, bytes(100_000))) * 400)
            with raw_scu(door.port) as scu:
                # a priority that is none: the lane leaves it to pynetdicom
                odd = store_command("1.2.3").replace(b"\0\7\2\0\0\0\2\0", b"\0\7\2\0\0\0\7\0")
                assert odd != store_command("1.2.3")
                scu.send(pdu(pdv(COMMAND_LAST, odd)))
                send_until_closed(scu.connection, pdu(pdv(DATA, bytes(100_000))) * 400)
        reasons = [line["reason"] for line in logs if line["event"] == "association_cut"]
        assert reasons == [f"a message of more than {8 * MB} bytes"] * 2
        assert memory() - before < 30 * MB
        send_one(door)
    finally:
        door.close(grace_seconds=1)


def n_create_command() -> bytes:
    """The command set of an N-CREATE-RQ of a performed procedure step."""
    request = N_CREATE()
    request.MessageID, request.AffectedSOPClassUID = 1, PERFORMED_STEP
    request.AffectedSOPInstanceUID, request.AttributeList = "1.2.3", BytesIO(b"\0\0")
    message = N_CREATE_RQ()
    message.primitive_to_message(request)
    message.context_id = 1
    first = next(iter(message.encode_msg(1, 16382)))
    return bytes(first.presentation_data_value_list[0][1][1:])


def send_until_closed(peer: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):
        peer.sendall(data)


def test_messages_that_are_not_waited_for_do_not_gather(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that sends message upon message while the first is still being answered."""
    settings = make_settings(node={"port": free_port()}, services={"mpps": True})
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: Any) -> Any:
        begun.set()
        go_on.wait(60)
        raise MessageError(0x0110, "too late")

    monkeypatch.setattr("node.door.services.read_step_creation", slow)
    door = Door(settings)
    before = memory()
    try:
        with raw_scu(door.port, [(PERFORMED_STEP, ExplicitVRLittleEndian)]) as scu:
            piece = pdu(pdv(DATA, bytes(100_000)))
            message = pdu(pdv(COMMAND_LAST, n_create_command())) + piece * 10 + pdu(pdv(2, b""))
            sent = [0]

            def send() -> None:
                for _ in range(100):
                    send_until_closed(scu.connection, message)
                    sent[0] += 1

            sender = threading.Thread(target=send)
            sender.start()
            assert begun.wait(60)
            last = -1
            while sent[0] != last:  # until the door reads no more
                last = sent[0]
                time.sleep(2)
            assert last < 30
            assert memory() - before < 64 * MB
            scu.connection.shutdown(socket.SHUT_RDWR)
            sender.join(60)
    finally:
        go_on.set()
        door.close(grace_seconds=1)


@pytest.mark.parametrize("kind", [1, 4, 5, 7, 9, 0xFF])
@pytest.mark.parametrize("asked", [False, True])
def test_absurd_lengths_take_no_memory(door: Door, kind: int, asked: bool) -> None:
    before = memory()
    with ExitStack() as stack:
        peer = established(door, stack) if asked else stack.enter_context(connect(door))
        try:
            peer.sendall(struct.pack(">BBL", kind, 0, 0xFFFFFFFF) + bytes(1000))
            for _ in range(64):
                peer.sendall(bytes(MB))
        except (ConnectionError, TimeoutError):
            pass
        assert memory() - before < 48 * MB
    send_one(door)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 0x7FFFFFFF, 0xFFFFFFFF])
def test_fragments_that_lie_about_their_length_end_the_association(door: Door, length: int) -> None:
    with ExitStack() as stack:
        peer = established(door, stack)
        body = struct.pack(">LBB", length, 1, 3) + command()
        peer.sendall(struct.pack(">BBL", 4, 0, len(body)) + body)
        peer.sendall(p_data(b"x" * 100, 2))
        assert is_closed(peer)
    send_one(door)


@pytest.mark.parametrize("count", [128, 5000])
def test_thousands_of_presentation_contexts(door: Door, count: int) -> None:
    before = memory()
    with ExitStack() as stack:
        peer = stack.enter_context(connect(door))
        peer.sendall(request(count))
        answer(peer)
    send_one(door)
    assert memory() - before < 64 * MB


@pytest.mark.parametrize("uid", ["../../../../evil", "/tmp/evil", "1.2/../../x", "1.2\\x", "."])
def test_a_uid_is_never_a_path(door: Door, settings: Settings, uid: str) -> None:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    before = outside(settings)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    dataset = mr_slice(SOPInstanceUID="1.2.3.4.5.6.7.8.9.0.1.2.3.4.5.6")
    write_dataset(stream, dataset)
    evil = uid.encode().ljust(len(dataset.SOPInstanceUID), b"\0")
    data = stream.getvalue().replace(dataset.SOPInstanceUID.encode(), evil)
    with ExitStack() as stack:
        peer = established(door, stack)
        peer.sendall(p_data(command(uid), 3) + p_data(data, 2))
        response = answer(peer)
        place = response.find(struct.pack("<HHL", 0, 0x0900, 2))
        # refused by a status, or by an abort
        assert response[:1] != b"\x04" or struct.unpack("<H", response[place + 8 : place + 10])[0]
    assert outside(settings) == before
    assert not list(settings.spool.glob("*/*/*.dcm"))


def test_an_endless_image_is_cut_off(door: Door, settings: Settings) -> None:
    before = memory()
    with ExitStack() as stack:
        peer = established(door, stack)
        try:
            peer.sendall(p_data(command(), 3))
            for _ in range(64 * 16):
                peer.sendall(p_data(bytes(MB // 16), 0))
        except (ConnectionError, TimeoutError):
            pass
        spooled = sum(path.stat().st_size for path in settings.spool.rglob("*") if path.is_file())
        assert spooled <= 9 * MB
        assert memory() - before < 64 * MB
    send_one(door)


def test_a_good_sender_is_hardly_slower_beside_a_bad_one(door: Door) -> None:
    send_one(door)
    alone = sorted(send_one(door) for _ in range(5))[2]
    stop = threading.Event()

    def trouble() -> None:
        while not stop.is_set():
            try:
                with connect(door) as peer:
                    peer.sendall(os.urandom(2000))
            except OSError:
                stop.wait(0.01)

    bad = threading.Thread(target=trouble)
    bad.start()
    try:
        beside = sorted(send_one(door) for _ in range(5))[2]
    finally:
        stop.set()
        bad.join()
    assert beside < 20 * alone + 5


_pdus = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda kind, length, body: struct.pack(">BBL", kind, 0, length) + body,
        st.integers(0, 9),
        st.one_of(st.integers(0, 400), st.integers(0, 2**32 - 1)),
        st.binary(max_size=300),
    ),
    st.builds(
        lambda body: struct.pack(">BBL", 4, 0, len(body)) + body,
        st.binary(min_size=1, max_size=300),
    ),
    st.builds(p_data, st.binary(max_size=200), st.integers(0, 255), st.integers(0, 255)),
    st.just(request()),
    st.just(p_data(command(), 3)),
    st.just(p_data(command(data_set=False), 3)),
    st.just(p_data(command(), 3) + p_data(b"x" * 40, 2)),
    st.just(struct.pack(">BBLL", 5, 0, 4, 0)),  # A-RELEASE-RQ
    st.just(struct.pack(">BBLL", 7, 0, 4, 0)),  # A-ABORT
    st.builds(lambda at, byte: _changed(request(), at, byte), st.integers(), st.integers(0, 255)),
    st.builds(
        lambda at, byte: _changed(p_data(command(), 3), at, byte),
        st.integers(),
        st.integers(0, 255),
    ),
)


def _changed(data: bytes, at: int, byte: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(changed)] = byte
    return bytes(changed)


@hypothesis_settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.booleans(), st.lists(_pdus, max_size=5), st.booleans())
def test_any_bytes_in_any_state(
    door: Door, settings: Settings, asked: bool, pdus: list[bytes], cut: bool
) -> None:
    """Garbage, truncated and well-made PDUs in any order: the connection ends, not the door."""
    with ExitStack() as stack:
        peer = established(door, stack) if asked else stack.enter_context(connect(door))
        try:
            for pdu in pdus:
                peer.sendall(pdu)
            if cut and pdus:
                peer.sendall(pdus[-1][: len(pdus[-1]) // 2])
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert is_closed(peer)
    assert not list(settings.spool.glob("*/*/*.dcm"))


def test_after_the_fuzzing_everything_is_as_before(door: Door, settings: Settings) -> None:
    """Many broken connections, then one image through door and intake."""
    before, threads = memory(), threading.active_count()
    for number in range(150):
        with connect(door) as peer:
            peer.sendall(request()[: number % 100] + os.urandom(number))
    uid = "1.2.3.4.5"
    send_one(door, uid)
    wait_for(lambda: threading.active_count() <= threads + 1, 60, "threads were left behind")
    assert memory() - before < 64 * MB
    ledger = new_ledger(settings.data / "l.db")
    intake = Intake(settings.spool, Store(settings.store_url), ledger)
    wait_for(lambda: intake.step() or not list(settings.spool.glob("*/*/*.dcm")), 30)
    with ledger.read() as work:
        assert [item.sop_instance_uid for item in work.series.instances("1.2.3.4")] == [uid]
    ledger.close()
