"""How fast are the pages with many studies? Used by worklist.py.

`sentinode web` as a process of its own over the ledger that was filled; one browser that is signed
in asks one page after the other, as a person who filters and turns pages does. A page is timed
until its last byte.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from worklist_ledger import name_of, patient_of, uid_of

from core.accounts import Role
from core.ledger import Ledger
from node.web.passwords import hash_password

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers import free_port

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "a benchmark's password"
CONFIG = """
[web]
port = {port}
[storage]
data = "{data}"
min_free_mb = 1
[ledger]
url = "{url}"
[logs]
level = "warning"
"""
Address = Callable[[random.Random, int], str]


def page_figures(
    ledger_url: str, folder: Path, studies: int = 100_000, requests: int = 60
) -> dict[str, float | None]:
    """p95 of each page over HTTP, ms.

    page_worklist: the first page, by state, by day, and pages far back. page_search: the worklist
    by a patient's name. page_studies: the list of studies. page_study: the page of one study.
    """
    figures: dict[str, float | None] = {}
    with pages(ledger_url, folder) as client:
        for kind, address in (
            ("page_worklist", _worklist(client)),
            ("page_search", _search),
            ("page_studies", lambda chosen, _: f"/studies?period={chosen.choice(_PERIODS)}"),
            ("page_study", lambda chosen, among: f"/studies/{uid_of(chosen.randrange(among))}"),
        ):
            figures[kind] = measured(client, kind, address, studies, requests)
    return figures


_PERIODS = ("", "today", "7d", "30d")
_STATES = ("done", "failed", "waiting", "not_applicable", "running")


def _worklist(client: httpx.Client) -> Address:
    deep = [_far_back(client, pages) for pages in (1, 5, 20)]

    def address(chosen: random.Random, _: int) -> str:
        return chosen.choice(
            [
                "/worklist",
                f"/worklist?state={chosen.choice(_STATES)}",
                f"/worklist?period={chosen.choice(_PERIODS)}&modality=MR",
                "/worklist?model=mr-flair-glioma&sender=MR1",
                *deep,
            ]
        )

    return address


def _far_back(client: httpx.Client, pages: int) -> str:
    """The address of a later page, as its links lead there."""
    address = "/worklist"
    for _ in range(pages):
        text = client.get(address).text
        link = text.rpartition('rel="next" href="')[2].partition('"')[0]
        address = f"/worklist{link.replace('&amp;', '&')}"
    return address


def _search(chosen: random.Random, studies: int) -> str:
    name = name_of(patient_of(chosen.randrange(studies))).partition("^")[0]
    return f"/worklist?q={name if chosen.random() < 0.7 else name + 'zz'}"


def measured(
    client: httpx.Client, kind: str, address: Address, studies: int, requests: int
) -> float:
    """p95 of pages of a kind, ms; each asks for something else."""
    chosen = random.Random(kind)
    taken = []
    for number in range(requests + 3):
        path = address(chosen, studies)
        began = time.perf_counter()
        answer = client.get(path)
        milliseconds = (time.perf_counter() - began) * 1000
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code}")
        if number >= 3:  # the first ones open SQL and compile templates
            taken.append((milliseconds, path))
    taken.sort()
    p95 = taken[min(len(taken) - 1, int(len(taken) * 0.95))][0]
    longest, slowest = taken[-1]
    print(
        f"{kind}: p50 {taken[len(taken) // 2][0]:.1f}, p95 {p95:.1f}, longest {longest:.1f} ms "
        f"({slowest})"
    )
    return round(p95, 1)


@contextmanager
def pages(ledger_url: str, folder: Path) -> Iterator[httpx.Client]:
    """`sentinode web` on a ledger, and a client that is signed in."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(ledger_url)
    with ledger.write() as work:
        if not work.accounts.any():
            hashed = hash_password(PASSWORD, 8)
            work.accounts.add("bench", Role.ADMINISTRATOR, hashed, datetime.now(UTC))
    ledger.close()
    port = free_port()
    config = folder / "web.toml"
    config.write_text(CONFIG.format(port=port, data=folder / "data", url=ledger_url))
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "--config", str(config), "web"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=120, trust_env=False) as client:
            deadline = time.monotonic() + 60
            while not _signed_in(client):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit((folder / "web.log").read_text())
                time.sleep(0.1)
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _signed_in(client: httpx.Client) -> bool:
    try:
        form = {"name": "bench", "password": PASSWORD}
        return client.post("/sign-in", data=form).headers.get("location") == "/"
    except httpx.HTTPError:
        return False
