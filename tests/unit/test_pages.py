"""The pages' texts, templates and formats; model cards; settings that are checked."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.packages import write_spec

from core.accounts import Role
from core.lifecycle import EvidenceSource, JobState, Proof, SeriesState, TransferState
from core.modelspec import read_spec
from core.settings import load
from node.keeping.disk import Level
from node.web.pages import formats
from node.web.pages.checking import HIDDEN, check, values_of
from node.web.pages.models import card_of
from node.web.pages.rendering import THEMES
from node.web.pages.routes import rule_text
from node.web.pages.words import LANGUAGES, catalogue, speaker
from node.web.room import FOLDER

TEMPLATES = sorted((FOLDER / "templates").glob("*.html"))
SCRIPTS = sorted((FOLDER / "static").rglob("*.js"))


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_language_has_the_same_keys_and_places_for_values() -> None:
    english = catalogue("en")
    for language in LANGUAGES:
        texts = catalogue(language)
        assert set(texts) == set(english), language
        for key, text in texts.items():
            assert text.strip(), (language, key)
            assert placeholders(text) == placeholders(english[key]), (language, key)


def test_chinese_is_translated() -> None:
    english, chinese = catalogue("en"), catalogue("zh")
    same = {key for key, text in chinese.items() if text == english[key]}
    assert same <= {"script.page", "headers.vr", "evidence.mpps"}


def test_every_text_that_templates_and_scripts_ask_for_is_there_and_none_is_too_many() -> None:
    known = set(catalogue("en"))
    asked: set[str] = set()
    families: set[str] = set()
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"""\bt\("([a-z0-9_.]+)"[,)]""", text))
        families |= set(re.findall(r"""\bt\("([a-z0-9_.]+)" ~""", text))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        asked |= {f"script.{key}" for key in re.findall(r"""\bsay\("([a-z_]+)\"""", text)}
    families |= {"script.live_", "done.", "error."}
    # `request.query_params.get("after")` looks alike
    asked = {key for key in asked if "." in key}
    assert asked <= known, asked - known
    asked |= {f"{key}_one" for key in asked}
    for family in families:
        assert any(key.startswith(family) for key in known), family
    unused = {key for key in known - asked if not key.startswith(tuple(families))}
    assert not unused


def test_every_state_and_name_from_the_code_has_a_text() -> None:
    say = speaker("en")
    for states in (JobState, SeriesState, TransferState):
        for state in states:
            assert say(f"state.{state}")
    for prefix, names in (
        ("role", Role), ("role_may", Role), ("proof", Proof), ("evidence", EvidenceSource),
        ("disk", Level), ("theme", THEMES),
    ):  # fmt: skip
        for name in names:
            assert say(f"{prefix}.{name}")


def test_no_template_holds_a_script_or_a_style_that_the_browser_would_refuse() -> None:
    for path in TEMPLATES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", text), path.name
        assert "|safe" not in text, path.name
        for tag in re.findall(r"<script[^>]*>", text):
            assert 'src="/static/' in tag or 'type="application/json"' in tag, tag
        for method in re.findall(r"<form[^>]*method=\"post\"[^>]*>(.{0,120})", text, re.S):
            if path.name not in {"sign_in.html", "set_up.html"}:
                assert "csrf" in method, (path.name, method)
        for address in re.findall(r"""(?:src|href|action)="([^"{]+)""", text):
            assert address.startswith(("/", "#")), (path.name, address)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Muster^Erika^^Dr", "Muster, Erika Dr"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎, やまだ たろう)"),
        ("^Only", "Only"),
        ("", ""),
        ("=山田^太郎", "山田 太郎"),
    ],
)
def test_person_names_are_written_as_people_write_them(value: str, shown: str) -> None:
    assert formats.person(value) == shown


@given(st.floats(0, 1e9))
def test_a_duration_says_at_most_two_units_and_loses_no_unit(seconds: float) -> None:
    text = formats.span(seconds)
    parts = re.findall(r"([0-9.]+) (d|h|min|s)", text)
    assert 1 <= len(parts) <= 2
    scale = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    value = sum(float(number) * scale[unit] for number, unit in parts)
    coarsest = scale[parts[-1][1]]
    assert abs(value - seconds) <= max(0.51, coarsest)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("1", ""), ("mm2", "mm²"), ("[hnsf'U]", "HU"), ("{SUVbw}g/ml", "g/mL SUVbw"), ("mL", "mL")],
)
def test_units_are_written_as_people_write_them(value: str, shown: str) -> None:
    assert formats.unit(value) == shown


def test_one_of_something_is_not_several() -> None:
    say = speaker("en")
    assert say("worklist.images_so_far", n=1) == "1 image"
    assert say("worklist.images_so_far", n=2) == "2 images"
    assert speaker("zh")("worklist.images_so_far", n=1) == "1 幅图像"


def test_small_formats() -> None:
    assert formats.span(timedelta(minutes=3, seconds=5)) == "3 min 05 s"
    assert formats.span(-1) == "0.0 s"
    assert formats.size(999) == "999 B"
    assert formats.size(1_500_000) == "1.5 MB"
    assert formats.dicom_date("20260102") == "2026-01-02"
    assert formats.dicom_date("2026.1") == "2026.1"
    assert formats.status(0xA700) == "0xA700"
    assert formats.moment(None) == ""
    assert len(formats.moment(datetime(2026, 1, 2, tzinfo=UTC))) == 19


def test_a_card_shows_what_is_written_and_runs_nothing(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path).parent)
    assert card_of(spec) is None
    (tmp_path / "card.md").write_text(
        "# title\n\n## Measured\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n"
        "[bad](javascript:alert(1)) [good](https://example.org) ![pic](https://example.org/x.png)\n",
        encoding="utf-8",
    )
    card = str(card_of(spec))
    assert "<h3>Measured</h3>" in card
    assert "<td>2</td>" in card
    assert "title" not in card
    assert "<script" not in card
    assert "<img" not in card
    assert "&lt;script&gt;" in card
    assert 'href="https://example.org"' in card
    assert 'href="javascript' not in card


def test_a_card_may_point_to_files_beside_it(tmp_path: Path) -> None:
    spec = read_spec(write_spec(tmp_path).parent)
    text = "See [decision 27](../docs/27.md) and [us](https://example.org)."
    (tmp_path / "card.md").write_text(text, encoding="utf-8")
    card = str(card_of(spec))
    assert "See decision 27 and" in card
    assert 'href="https://example.org"' in card


SETTINGS = """
[storage]
data = "/nowhere/data"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "10.0.0.1"
port = 104
archive = true
"""


def test_a_file_is_checked_and_compared_and_nothing_is_written(tmp_path: Path) -> None:
    running = load(overrides={"storage": {"data": str(tmp_path / "data")}})
    assert not (tmp_path / "data").exists()
    checked = check(SETTINGS, running)
    assert checked.faults == ()
    changes = {item.key: (item.now, item.then) for item in checked.differences}
    assert changes["storage.data"] == (str(tmp_path / "data"), "/nowhere/data")
    assert changes["peers[pacs].port"] == ("", "104")
    assert not any(key.startswith("node.") for key in changes)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[node]\nport = 99999999\n", "node.port"),
        ("[nod]\nport = 1\n", "nod"),
        ("[node", "not valid TOML"),
        ('[[routes]]\nname = "x"\nmodel = "none"\n', "routes[0].model"),
        ("node = 3\n", "node"),
    ],
)
def test_every_fault_of_a_file_is_named(tmp_path: Path, text: str, key: str) -> None:
    running = load(overrides={"storage": {"data": str(tmp_path)}})
    faults = check(text, running).faults
    assert any(fault.startswith(key) for fault in faults), faults


def test_secrets_are_hidden(tmp_path: Path) -> None:
    settings = load(
        overrides={
            "storage": {"data": str(tmp_path)},
            "ledger": {"url": "postgresql://sentinode:geheim@db/sentinode"},
            "queue": {"url": "redis://:geheim@broker/0"},
        }
    )
    shown = dict(values_of(settings))
    assert "geheim" not in repr(shown)
    assert shown["ledger.url"] == f"postgresql://sentinode:{HIDDEN}@db/sentinode"
    assert shown["web.password_length"] == str(settings.web.password_length)


def test_rules_are_written_short(tmp_path: Path) -> None:
    match = {"Modality": ["MR", "CT"], "Rows": {"min": 64}, "StudyDescription": {"regex": "(?i)x"}}
    route = {"name": "r", "model": "mr-flair-glioma", "match": match, "destinations": []}
    settings = load(overrides={"storage": {"data": str(tmp_path)}, "routes": [route]})
    rules = settings.routes[0].match
    assert [rule_text(rule) for rule in rules.values()] == ["MR | CT", "64 …", "/(?i)x/"]
