"""`sentinode expect`: an administrator or a script says which images belong together."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.instances import association, incoming, mr_slice

import cli
from core import clock
from core.ledger import Ledger
from core.ledger.evidence import Evidence
from core.lifecycle import EvidenceSource

STUDY, SERIES = "1.2.3", "1.2.3.4"


@pytest.fixture
def ledger_here(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.db'}")
    made.upgrade()
    return made


@pytest.fixture
def expect(tmp_path: Path, ledger_here: Ledger) -> Callable[..., tuple[int, str]]:
    config = tmp_path / "sentinode.toml"
    config.write_text('[storage]\ndata = "data"\n')

    def run(*arguments: str) -> tuple[int, str]:
        out = io.StringIO()
        before, code = sys.argv, 0
        sys.argv = ["sentinode", "--config", str(config), "expect", *arguments]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
        return code, " ".join(out.getvalue().split())

    return run


def receive(ledger: Ledger, *numbers: int) -> None:
    with ledger.write() as work:
        for number in numbers:
            dataset = mr_slice(number, SOPInstanceUID=f"{SERIES}.{number}")
            item = incoming(
                dataset, digest=f"{number:064d}", received_at=clock.now(), association=association()
            )
            work.filing.file(item, clock.now())


def said(ledger: Ledger) -> list[Evidence]:
    with ledger.read() as work:
        return work.evidence.of_study(STUDY)


def test_a_number_is_noted_and_what_is_missing_is_shown(
    expect: Callable[..., tuple[int, str]], ledger_here: Ledger
) -> None:
    receive(ledger_here, 1, 2)
    code, text = expect(SERIES, "--count", "3")
    assert code == 0
    assert "2 of 3 images" in text
    (noted,) = said(ledger_here)
    assert (noted.source, noted.count, noted.series_instance_uid) == (
        EvidenceSource.REQUEST,
        3,
        SERIES,
    )
    # urgency is a statement of its own, a later number takes the place of the earlier one
    assert expect(SERIES, "--stat")[0] == 0
    assert expect(SERIES, "--count", "4")[0] == 0
    assert sorted((item.count or 0, item.stat) for item in said(ledger_here)) == [
        (0, True),
        (4, False),
    ]
    code, text = expect(STUDY)
    assert code == 0
    assert "2 of 4 images" in text
    assert "STAT" in text


def test_a_list_of_instances_of_a_study_that_has_not_come(
    expect: Callable[..., tuple[int, str]], ledger_here: Ledger, tmp_path: Path
) -> None:
    names = tmp_path / "uids.txt"
    names.write_text(f"{SERIES}.1\n{SERIES}.2\n")
    code, text = expect(STUDY, "--instances", str(names))
    assert code != 0
    assert "Say --series or --study" in text
    assert expect(STUDY, "--study", "--instances", str(names))[0] == 0
    (noted,) = said(ledger_here)
    assert noted.uids == frozenset({f"{SERIES}.1", f"{SERIES}.2"})
    assert noted.study_instance_uid == STUDY
    assert noted.series_instance_uid == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-uid", "--count", "1"), "is not a UID"),
        ((SERIES, "--series", "--instances", "/no/such/file"), "cannot be read"),
        ((SERIES, "--series", "--instances", "/dev/null"), "names no instance"),
        ((SERIES, "--series", "--instances", "x", "--count", "1"), "give one"),
    ],
)
def test_what_is_no_request(
    expect: Callable[..., tuple[int, str]], arguments: tuple[Any, ...], message: str
) -> None:
    code, text = expect(*arguments)
    assert code != 0
    assert message in text


def test_a_series_that_nobody_knows_yet(expect: Callable[..., tuple[int, str]]) -> None:
    assert "noted; no image" in expect(SERIES, "--series", "--count", "3")[1]
