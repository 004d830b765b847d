"""The pages over HTTP: who sees what, script text as text, forms, errors, languages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.instances import T0
from support.web import Site, site_of_its_own

from core import clock
from core.accounts import Role
from core.domain import ResultKind
from core.ledger.browse import Wanted
from core.lifecycle import JobState

EVIL = "<script>alert('x')</script>"
HTML = {"Accept": "text/html"}
STUDY, SERIES = "1.2.3", "1.2.3.4"
ROUTE = {"name": "r", "model": "mr-flair-glioma", "match": {"Modality": "MR"}, "destinations": []}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    with site_of_its_own(folder, routes=[ROUTE]) as made:
        made.add_images(
            PatientName=f"{EVIL}^Erika",
            PatientID=f"ID{EVIL}",
            AccessionNumber="<b>1</b>",
            StudyDescription=EVIL,
            SeriesDescription=f'"{EVIL}',
            StationName="<i>x</i>",
        )
        made.add_job(state=JobState.FAILED, reason=f"it broke: {EVIL}")
        yield made


@pytest.fixture
def viewer(site: Site) -> Iterator[httpx.Client]:
    with site.browser(Role.VIEWER) as (client, _):
        client.headers.update(HTML)
        yield client


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


PAGES = {
    "/worklist": Role.VIEWER,
    "/worklist?state=failed&period=30d&modality=MR&q=erika": Role.VIEWER,
    "/studies": Role.VIEWER,
    "/studies?since=2026-01-01&until=2030-01-01": Role.VIEWER,
    f"/studies/{STUDY}": Role.VIEWER,
    f"/studies/{STUDY}/series/{SERIES}/instances": Role.VIEWER,
    f"/studies/{STUDY}/instances/1": Role.VIEWER,
    "/peers": Role.VIEWER,
    "/routes": Role.VIEWER,
    "/models": Role.VIEWER,
    "/models/mr-flair-glioma": Role.VIEWER,
    "/system": Role.VIEWER,
    "/account": Role.VIEWER,
    "/settings": Role.OPERATOR,
    "/users": Role.ADMINISTRATOR,
    "/audit": Role.ADMINISTRATOR,
}


def test_each_page_is_for_its_role_and_for_nobody_who_is_not_signed_in(site: Site) -> None:
    for role in Role:
        with site.browser(role) as (client, _):
            for page, needed in PAGES.items():
                answer = client.get(page, headers=HTML)
                assert answer.status_code == (200 if role.may(needed) else 403), (page, role)
                assert answer.headers["content-type"].startswith("text/html")
                assert answer.headers["cache-control"] == "no-store"
    with site.client(None) as client:
        for page in PAGES:
            answer = client.get(page, headers=HTML)
            assert answer.status_code == 303, page
            assert answer.headers["location"].startswith("/sign-in?next=/")


def test_script_text_in_every_string_shows_as_text(site: Site) -> None:
    with site.browser(Role.ADMINISTRATOR) as (client, _):
        for page in PAGES:
            answer = client.get(page, headers=HTML)
            found = Tags(answer.text)
            for tag, attributes in found.tags:
                assert tag not in {"b", "i"}, page
                if tag == "script":
                    assert attributes.get("src", "").startswith("/static/js/") or (
                        attributes.get("type") == "application/json"
                    )
                assert not [name for name in attributes if name.startswith("on")]
        study = Tags(client.get(f"/studies/{STUDY}", headers=HTML).text)
        assert f"{EVIL}, Erika" in study.text
        assert f"it broke: {EVIL}" in study.text
        assert "<i>x</i>" in Tags(client.get(f"/studies/{STUDY}/instances/1").text).text
        for query in (f"q={EVIL}", f"modality={EVIL}", f"sender={EVIL}", f"problem={EVIL}"):
            page = client.get(f"/worklist?{query}", headers=HTML)
            assert page.status_code == 200
            assert EVIL not in page.text.replace("&lt;", "‹")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/worklist?after=nonsense", 422),
        ("/worklist?since=2026-13-77", 422),
        ("/studies/1.2.3.999", 404),
        ("/studies/not-a-uid", 422),
        (f"/studies/{STUDY}/series/1.2.9/instances", 404),
        (f"/studies/{STUDY}/instances/77", 404),
        ("/studies/1.2.9/instances/1", 404),
        ("/studies/1.2.9/frames/1/1", 404),
        (f"/studies/{STUDY}/frames/1/9", 422),
        (f"/studies/{STUDY}/outlines/5", 404),
        (f"/studies/{STUDY}/pictures/5.png", 404),
        (f"/studies/{STUDY}/results/5", 404),
        ("/models/none", 404),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_is_said_on_a_page(viewer: httpx.Client, path: str, status: int) -> None:
    answer = viewer.get(path)
    assert answer.status_code == status, answer.text
    assert "<h1>" in answer.text


def test_the_viewer_gets_the_stack_and_the_numbers(site: Site, viewer: httpx.Client) -> None:
    stack = viewer.get(f"/studies/{STUDY}/series/{SERIES}/stack").json()
    assert [frame["number"] for frame in stack["frames"]] == [1, 2, 3]
    assert [frame["place"] for frame in stack["frames"]] == [5, 10, 15]
    assert stack["orientation"] == ["R", "L", "A", "P"]
    first = stack["frames"][0]
    answer = viewer.get(f"/studies/{STUDY}/frames/{first['instance']}/{first['frame']}")
    assert len(answer.content) == 16 * 16 * 2
    assert '"type": "uint16"' in answer.headers["x-frame"]
    assert viewer.get(f"/studies/1.2.9/series/{SERIES}/stack").status_code == 404


def test_looking_at_a_study_is_told_to_the_audit_trail(site: Site) -> None:
    with site.browser(Role.OPERATOR) as (client, _):
        client.get(f"/studies/{STUDY}", headers=HTML)
        client.get("/worklist?q=erika", headers=HTML)
    told = [line for line in site.app.state.room.audit.newest(50) if "operator" in line]
    assert any("DICOM Instances Accessed" in line and STUDY in line for line in told)
    assert any("Query" in line for line in told)


def test_forms_without_their_token_change_nothing(site: Site) -> None:
    with site.ledger.read() as work:
        before = len(work.views.jobs())
        (job,) = [job for job in work.views.jobs() if job.run == 1]
    posts = {
        "/worklist/retry": {"job": job.id},
        "/worklist/cancel": {"job": job.id},
        f"/studies/{STUDY}/resend": {},
        f"/studies/{STUDY}/resolve": {"decision": "release"},
        "/peers/pacs/echo": {},
        "/peers/pacs/pause": {"paused": "yes"},
        "/routes/try": {"text": ""},
        "/settings": {"text": ""},
        "/users": {"name": "x", "role": "viewer", "password": "correct horse battery"},
        "/users/viewer": {"what": "disable"},
        "/tokens": {"account": "viewer", "label": "x", "role": "viewer"},
        "/tokens/1/revoke": {},
    }
    with site.browser(Role.ADMINISTRATOR) as (client, _):
        for path, form in posts.items():
            assert client.post(path, data=form, headers=HTML).status_code == 403, path
            wrong = client.post(path, data={**form, "csrf": "wrong"}, headers=HTML)
            assert wrong.status_code == 403, path
    with site.browser(Role.VIEWER) as (client, csrf):
        for path, form in posts.items():
            answer = client.post(path, data={**form, "csrf": csrf}, headers=HTML)
            assert answer.status_code == 403, path
    with site.ledger.read() as work:
        assert len(work.views.jobs()) == before
        assert {item.name for item in work.accounts.all()} == {str(role) for role in Role}


def test_several_jobs_are_run_again_and_ended_at_once(site: Site) -> None:
    site.add_images(study="1.2.4", series="1.2.4.1")
    failed = site.add_job(study="1.2.4", series="1.2.4.1", state=JobState.FAILED, reason="no")
    with site.browser(Role.OPERATOR) as (client, csrf):
        form = {"csrf": csrf, "job": [failed, "0000aaaa"], "next": "/worklist?state=failed"}
        answer = client.post("/worklist/retry", data=form, headers=HTML)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/worklist?state=failed&done=retried&n=1")
        page = Tags(client.get(answer.headers["location"], headers=HTML).text)
        assert "1 job(s) run again" in page.text
        assert "no job begins with '0000aaaa'" in page.text
        with site.ledger.read() as work:
            jobs = work.browse.jobs(Wanted(text="1.2.4")).lines
        assert sorted((line.job.run, line.job.state) for line in jobs) == [
            (1, JobState.FAILED), (2, JobState.WAITING),
        ]  # fmt: skip
        form = {"csrf": csrf, "job": [line.job.id for line in jobs], "next": "https://evil.example"}
        answer = client.post("/worklist/cancel", data=form, headers=HTML)
        assert answer.headers["location"].startswith("/?done=cancelled&n=1")
        with site.ledger.read() as work:
            states = {line.job.state for line in work.browse.jobs(Wanted(text="1.2.4")).lines}
        assert states == {JobState.FAILED, JobState.CANCELLED}
        nothing = client.post("/worklist/cancel", data={"csrf": csrf}, headers=HTML)
        assert "done=nothing" in nothing.headers["location"]


def test_a_route_is_tried_on_what_is_stored_and_nothing_is_made(site: Site) -> None:
    site.add_images(study="1.2.5", series="1.2.5.1", SeriesDescription="T2 COR")
    with site.ledger.write() as work:
        for uid in ("1.2.5.1", SERIES):
            revision = work.series.get(uid).revision
            assert work.series.mark_whole(uid, revision, "test", T0)
    with site.ledger.read() as work:
        before = len(work.views.jobs(limit=1000))
    text = """
[[routes]]
name = "new"
model = "mr-flair-glioma"
match = { SeriesDescription = { regex = "COR" } }
"""
    with site.browser(Role.OPERATOR) as (client, csrf):
        page = Tags(
            client.post("/routes/try", data={"csrf": csrf, "text": text}, headers=HTML).text
        )
        assert "new would take 1 of the newest 2 series." in page.text
        assert "which does not match /COR/" in page.text
        bad = text.replace("regex", "regexp")
        answer = client.post("/routes/try", data={"csrf": csrf, "text": bad}, headers=HTML)
        assert answer.status_code == 422
        assert "routes[0].match.SeriesDescription" in answer.text
        two = client.post("/routes/try", data={"csrf": csrf, "text": text * 2}, headers=HTML)
        assert "exactly one" in two.text
    with site.ledger.read() as work:
        assert len(work.views.jobs(limit=1000)) == before


def test_settings_are_shown_and_a_file_is_checked(site: Site, tmp_path: Path) -> None:
    with site.browser(Role.ADMINISTRATOR) as (client, csrf):
        page = client.get("/settings", headers=HTML).text
        assert "[completeness]" in page
        form = {"csrf": csrf}
        files = {"file": ("sentinode.toml", b"[node]\nport = 0\n")}
        answer = client.post("/settings", data=form, files=files, headers=HTML)
        assert answer.status_code == 422
        assert "node.port" in answer.text
        good = client.post(
            "/settings", data={**form, "text": "[node]\nport = 4242\n"}, headers=HTML
        )
        assert good.status_code == 200
        assert "4242" in Tags(good.text).text
        huge = client.post("/settings", data={**form, "text": "#" * 2_000_000}, headers=HTML)
        assert huge.status_code == 413
        binary = client.post(
            "/settings", data=form, files={"file": ("x", b"\xff\xfe\x00")}, headers=HTML
        )
        assert "UTF-8" in binary.text


def test_users_and_tokens_are_managed_and_a_secret_is_shown_once(site: Site) -> None:
    with site.browser(Role.ADMINISTRATOR) as (client, csrf):
        user = {"csrf": csrf, "name": "neu", "role": "viewer", "password": "correct horse battery"}
        answer = client.post("/users", data=user, headers=HTML)
        assert answer.headers["location"] == "/users?done=user_added"
        again = client.post("/users", data=user, headers=HTML)
        assert "problem=" in again.headers["location"]
        form = {"csrf": csrf, "account": "neu", "label": "script", "role": "viewer"}
        made = client.post("/tokens", data=form, headers=HTML)
        secret = re.search(r'class="secret">([^<]+)<', made.text)
        assert secret is not None
        assert secret[1] not in client.get("/users", headers=HTML).text
        bearer = {"Authorization": f"Bearer {secret[1]}", **HTML}
        with site.client(None) as program:
            assert program.get("/worklist", headers=bearer).status_code == 200
        client.post("/users/neu", data={"csrf": csrf, "what": "disable"}, headers=HTML)
        with site.client(None) as program:
            assert program.get("/worklist", headers=bearer).status_code == 303
        last = client.post(
            "/users/administrator", data={"csrf": csrf, "what": "disable"}, headers=HTML
        )
        assert "problem=" in last.headers["location"]


def test_a_peer_is_paused_and_one_that_is_away_is_told(site: Site) -> None:
    with site.browser(Role.ADMINISTRATOR) as (client, csrf):
        client.post("/peers/pacs/pause", data={"csrf": csrf, "paused": "yes"}, headers=HTML)
        assert "‖" in client.get("/peers", headers=HTML).text
        with site.ledger.read() as work:
            assert work.circuits.get("pacs").paused
        client.post("/peers/pacs/pause", data={"csrf": csrf, "paused": "no"}, headers=HTML)
        with site.ledger.read() as work:
            assert not work.circuits.get("pacs").paused
        answer = client.post("/peers/pacs/echo", data={"csrf": csrf}, headers=HTML)
        assert "problem=pacs" in answer.headers["location"]
        assert client.post("/peers/x/echo", data={"csrf": csrf}, headers=HTML).status_code == 404


def test_the_language_is_the_browsers_until_somebody_chooses(site: Site) -> None:
    with site.client(None, headers=HTML) as client:
        assert "Sign in" in client.get("/sign-in").text
        asked = client.get("/sign-in", headers={"Accept-Language": "fr, zh-CN;q=0.9, en;q=0.5"})
        assert '<html lang="zh"' in asked.text
        assert "登录" in asked.text
        answer = client.get("/preferences?language=zh&theme=dark&next=/sign-in")
        assert answer.headers["location"] == "/sign-in"
        page = client.get("/sign-in").text
        assert '<html lang="zh" data-theme="dark"' in page
        away = client.get("/preferences?language=xx&next=//evil.example")
        assert away.headers["location"] == "/"
        assert "set-cookie" not in away.headers


def test_the_sign_in_says_what_was_wrong_and_goes_where_somebody_wanted(site: Site) -> None:
    with site.client(None, headers=HTML) as client:
        form = {"name": "viewer", "password": "wrong", "next": "/studies"}
        back = client.post("/sign-in", data=form)
        assert back.headers["location"] == "/sign-in?problem=wrong&next=%2Fstudies"
        page = client.get(back.headers["location"]).text
        assert "Name or password is wrong." in page
        assert 'name="next" value="/studies"' in page
        assert "no longer" not in client.get("/set-up?key=wrong").text
        assert "was used" in client.get("/set-up?key=wrong").text


def test_activation_maps_are_there_for_their_study_only(site: Site) -> None:
    sheet, text = BytesIO(), PngInfo()
    text.add_text("maps", '{"1.2.3.4.1": [0, 0, 4, 4]}')
    Image.new("L", (4, 4), 9).save(sheet, "png", pnginfo=text)
    site.add_images(study="1.2.8", series="1.2.8.1")
    maps = [(ResultKind.HEAT, sheet.getvalue())]
    site.add_job(study="1.2.8", series="1.2.8.1", state=JobState.DONE, results=maps)
    with site.ledger.read() as work:
        (result,) = work.study_page.page("1.2.8").jobs[0].results
        assert work.study_page.page("1.2.8").jobs[0].transfers == ()
    with site.browser() as (client, _):
        found = client.get(f"/studies/1.2.8/heat/{result.id}")
        assert found.json() == {"maps": {"1.2.3.4.1": [0, 0, 4, 4]}}
        picture = client.get(f"/studies/1.2.8/heat/{result.id}.png")
        assert picture.headers["content-type"] == "image/png"
        assert picture.content == sheet.getvalue()
        for path in (f"/studies/{STUDY}/heat/{result.id}", f"/studies/1.2.8/pictures/{result.id}"):
            assert client.get(path).status_code == 404
            assert client.get(f"{path}.png").status_code == 404
    with site.client(None) as nobody:
        assert nobody.get(f"/studies/1.2.8/heat/{result.id}").status_code == 401


def test_what_is_wrong_with_the_node_stands_above_the_worklist(site: Site) -> None:
    now = clock.now()
    with site.browser() as (client, _):
        assert "pacs is" not in client.get("/worklist", headers=HTML).text
        with site.ledger.write() as work:
            work.circuits.failed("pacs", f"refused {EVIL}", now)
            work.circuits.failed("not-in-the-settings-any-more", "x", now)
        page = Tags(client.get("/worklist", headers=HTML).text)
        assert f"pacs is down: refused {EVIL}" in page.text
        assert "any-more" not in page.text
        with site.ledger.write() as work:
            work.circuits.well("pacs", now)
            work.circuits.pause("pacs", True)
        assert "pacs is paused" in client.get("/worklist", headers=HTML).text
        with site.ledger.write() as work:
            work.circuits.pause("pacs", False)
        assert "pacs is paused" not in client.get("/worklist", headers=HTML).text


def test_what_an_address_says_before_the_sign_in_is_not_repeated(site: Site) -> None:
    with site.client(None) as nobody:
        page = nobody.get("/sign-in?problem=call+0900-1234&done=retried", headers=HTML)
    assert "0900-1234" not in page.text
