"""Limits of a peer, with a clock of our own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

import pytest

from core.errors import TooLargeError
from core.settings import Settings
from node.door.limits import MB, Limits


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(
        node={"max_associations": 3, "max_associations_per_peer": 2, "max_instance_mb": 10},
        peers=[
            {"name": "a", "ae_title": "A", "max_per_second": 10, "max_instance_mb": 2},
            {"name": "b", "ae_title": "B"},
        ],
    )


def test_a_rate_is_kept_over_time_and_a_pause_is_not_saved_up(settings: Settings) -> None:
    now = [100.0]
    limits = Limits(settings, lambda: now[0])
    taken = 0
    while now[0] < 200:
        taken += 1
        now[0] += limits.pause("A") + 0.001
    assert 10 * 100 <= taken <= 10 * 100 + 11  # ten a second, and one burst
    now[0] += 1000
    assert [limits.pause("A") > 0 for _ in range(11)] == [False] * 10 + [True]
    assert all(limits.pause("B") == 0 for _ in range(1000))


def test_two_associations_share_the_rate_of_their_title(settings: Settings) -> None:
    limits = Limits(settings, lambda: 0.0)
    pauses = [limits.pause("A") for _ in range(30)]
    assert pauses[:10] == [0.0] * 10
    assert pauses[-1] == pytest.approx(2.0)


def test_two_processes_share_the_rate_of_their_title(settings: Settings) -> None:
    first, second = Limits(settings, lambda: 5.0), Limits(settings, lambda: 5.0)
    pauses = [limits.pause("A") for _ in range(15) for limits in (first, second)]
    assert pauses[:10] == [0.0] * 10
    assert pauses[-1] == pytest.approx(2.0)


def test_real_processes_count_every_instance(settings: Settings) -> None:
    """None is forgotten when several count at once."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=take_many, args=(settings, 500)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    # 1,500 and this one, of which ten were free
    assert Limits(settings, lambda: 0.0).pause("A") == pytest.approx(149.1)


def take_many(settings: Settings, count: int) -> None:
    limits = Limits(settings, lambda: 0.0)
    for _ in range(count):
        limits.pause("A")


def test_a_rate_begins_anew_after_the_machine_did(settings: Settings) -> None:
    """The monotonic clock begins at 0 with the machine; what was owed is forgotten."""
    before = Limits(settings, lambda: 1000.0)
    assert [before.pause("A") for _ in range(50)][-1] == pytest.approx(4.0)
    assert Limits(settings, lambda: 1.0).pause("A") == 0


def test_sizes_by_peer(settings: Settings) -> None:
    limits = Limits(settings)
    limits.check_size("A", 2 * MB)
    limits.check_size("B", 10 * MB)
    for title, size in (("A", 2 * MB + 1), ("B", 10 * MB + 1)):
        with pytest.raises(TooLargeError, match="larger than"):
            limits.check_size(title, size)


def test_associations_count_as_long_as_their_thread_lives(settings: Settings) -> None:
    limits = Limits(settings)
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert limits.enter(threads[0], "A") == limits.enter(threads[1], "A") == ""
    assert "this AE title" in limits.enter(threads[2], "A")
    assert limits.enter(threads[2], "B") == ""
    assert "associations at once" in limits.enter(threads[3], "B")
    end.set()
    for thread in threads:
        thread.join()
    assert limits.enter(threading.current_thread(), "A") == ""
