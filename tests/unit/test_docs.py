"""What the pages say and what the code does are the same, both ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import docs
from core.counters import COUNTERS
from core.settings import Notice, Peer, Route, Settings, Workitem
from node.dimse.contexts import table
from node.web.health import GAUGES

OPERATIONS, CONFORMANCE, _ = docs.PAGES
REMEDY = "out of date: run python -m cli.docs"


def _block(page: Path, name: str) -> str:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert found, f"{page.name} has no part {name}"
    return found[1]


def _first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.name)
def test_page_is_what_the_generator_makes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs.names_of(text)
    assert docs.filled(text) == text, REMEDY


def test_every_part_stands_on_a_page() -> None:
    named = [name for page in docs.PAGES for name in docs.names_of(page.read_text("utf-8"))]
    assert sorted(named) == sorted(docs.BLOCKS)


def test_a_stale_page_is_noticed() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    stale = text.replace("| `port` | whole number, 1 to 65535 | `11112` |", "| `port` | x |", 1)
    assert stale != text
    assert docs.filled(stale) == text


def test_every_setting_is_in_the_table_and_nothing_else() -> None:
    wanted = []
    for field in Settings.model_fields.values():
        kind = field.annotation
        section = kind if isinstance(kind, type) else kind.__args__[0]  # type: ignore[union-attr]
        wanted += list(section.model_fields)
    assert _first_cells(_block(OPERATIONS, "settings")) == wanted


def test_every_command_is_in_the_table_and_nothing_else() -> None:
    wanted = [f"sentinode {path}" for path, _ in docs.commands()]
    assert len(wanted) > 10
    assert _first_cells(_block(OPERATIONS, "commands")) == wanted


def test_every_command_that_the_text_names_exists() -> None:
    known = {path for path, _ in docs.commands()}
    text = OPERATIONS.read_text(encoding="utf-8")
    word = r"[a-z]+"
    named = re.findall(rf"^(?:\$ )?sentinode ({word}(?: {word})*)", text, re.MULTILINE)
    named += re.findall(rf"`sentinode ({word}(?: {word})*)", text)
    assert named
    for words in map(str.split, named):
        beginnings = {" ".join(words[:count]) for count in range(1, len(words) + 1)}
        assert beginnings & known, f"there is no command `sentinode {' '.join(words)}`"


def test_every_setting_that_the_text_names_exists() -> None:
    known = set()
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type):
            known |= {f"{name}.{key}" for key in kind.model_fields}  # type: ignore[attr-defined]
    known |= {f"peers.{key}" for key in Peer.model_fields}
    known |= {f"routes.{key}" for key in Route.model_fields}
    known |= {f"notices.{key}" for key in Notice.model_fields}
    known |= {f"workitems.{key}" for key in Workitem.model_fields}
    sections = "|".join(Settings.model_fields)
    named = set()
    for page in docs.PAGES:
        named |= set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", page.read_text("utf-8")))
    modules = {module for event in docs.log_events().values() for module in event.modules}
    named -= modules
    assert named
    assert named <= known, sorted(named - known)


def test_every_event_in_the_code_is_in_the_table_and_nothing_else() -> None:
    logged = list(docs.log_events())
    assert len(logged) > 20
    assert _first_cells(_block(OPERATIONS, "log-events")) == logged
    assert sorted(docs.EVENTS) == logged, "cli/docs.py, EVENTS: say what each event means"


def test_events_are_found_however_they_are_logged() -> None:
    events = docs.log_events()
    # by a bound logger, at a level chosen first, and with a name chosen at the same time
    assert events["instance_refused"].levels == {"warning", "error"}
    assert events["job_lease_expired"].levels == {"warning", "error"}
    assert events["object_sent"].levels == {"info"}
    assert events["object_not_sent"].levels == {"warning"}


def test_every_sop_class_and_transfer_syntax_is_in_the_conformance_statement() -> None:
    text = _block(CONFORMANCE, "contexts")
    listed = set(re.findall(r"\| `([0-9.]{9,})` \|", text))
    rows = table()
    assert listed == {str(row.sop_class) for row in rows} | {
        str(uid) for row in rows for uid in row.transfer_syntaxes
    }


def test_every_status_of_the_door_is_in_the_conformance_statement() -> None:
    from core import errors
    from node.door.scp import PROCESSING_FAILURE, SUCCESS

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RefusedError)
    ]
    assert len(kinds) > 3
    statuses = {SUCCESS, PROCESSING_FAILURE, *(kind.status for kind in kinds)}
    listed = _first_cells(_block(CONFORMANCE, "store-statuses"))
    assert set(listed) == {f"0x{status:04X}" for status in statuses}


def test_every_metric_is_in_the_table_and_nothing_else() -> None:
    told = _first_cells(_block(OPERATIONS, "metrics"))
    assert sorted(told) == sorted([*GAUGES, *(f"{name}_total" for name in COUNTERS)])
