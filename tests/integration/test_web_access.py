"""Who may do what over HTTP: sign-in, sessions, tokens, forms, throttling, set-up, audit."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from sqlalchemy import text
from support.web import PASSWORD, Site, site, site_of_its_own

from core import clock
from core.accounts import Role
from core.errors import AccountError, SettingsError
from core.ledger import Ledger
from core.settings import Settings
from node.web.api import description
from node.web.passwords import digest_of

ROLES: list[Role | None] = [None, *Role]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for all tests that leave it as they found it."""
    with site_of_its_own(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def fresh(ledger: Ledger, make_settings: Callable[..., Settings]) -> Iterator[Site]:
    """One for this test alone, on each kind of database."""
    with site(ledger, make_settings) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    """One for this test alone, on SQLite."""
    with site_of_its_own(tmp_path) as made:
        yield made


def _examples(path: str) -> str:
    values = {"study": "1.2.3", "job": "0" * 8, "name": "nobody", "result": "1", "number": "9999"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


# What the least role is that may ask for each thing; a path that is not here is a viewer's to read.
NEEDS = {
    ("post", "/studies/{study}/cancel"): Role.OPERATOR,
    ("post", "/studies/{study}/resend"): Role.OPERATOR,
    ("post", "/studies/{study}/resolve"): Role.OPERATOR,
    ("post", "/jobs/{job}/retry"): Role.OPERATOR,
    ("post", "/jobs/{job}/rerun"): Role.OPERATOR,
    ("post", "/jobs/{job}/cancel"): Role.OPERATOR,
    ("post", "/peers/{name}/echo"): Role.OPERATOR,
    ("put", "/peers/{name}/paused"): Role.ADMINISTRATOR,
    ("post", "/routes/try"): Role.OPERATOR,
    ("get", "/users"): Role.ADMINISTRATOR,
    ("post", "/users"): Role.ADMINISTRATOR,
    ("patch", "/users/{name}"): Role.ADMINISTRATOR,
    ("post", "/tokens"): Role.VIEWER,
    ("delete", "/tokens/{number}"): Role.VIEWER,
}


def test_each_endpoint_lets_in_whom_it_should(here: Site) -> None:
    paths = description(here.app)["paths"]
    seen = set()
    with here.client(None) as client:
        for path, methods in paths.items():
            if path.endswith("/events"):
                continue
            for method in methods:
                short = path.removeprefix("/api/v1")
                needed = NEEDS.get((method, short))
                assert needed is not None or method == "get", f"{method} {path} is not in NEEDS"
                seen.add((method, short))
                for role in ROLES:
                    headers = {"Authorization": f"Bearer {here.tokens[role]}"} if role else {}
                    answer = client.request(method, _examples(path), headers=headers)
                    told = f"{method} {path} as {role}: {answer.status_code} {answer.text[:200]}"
                    if role is None:
                        assert answer.status_code == 401, told
                    elif not role.may(needed or Role.VIEWER):
                        assert answer.status_code == 403, told
                    else:
                        assert answer.status_code not in {401, 403}, told
                        assert answer.status_code < 500, told
    assert set(NEEDS) <= seen


@pytest.mark.parametrize(
    "path",
    ["/dicom-web/studies", "/dicom-web/studies/1.2.3/metadata", "/metrics", "/api/v1/events"],
)
def test_what_shows_patients_or_figures_needs_a_token(here: Site, path: str) -> None:
    with here.client(None) as client:
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        wrong = client.get(path, headers={"Authorization": "Bearer snt_wrong"})
        assert wrong.status_code == 401


def test_a_session_changes_nothing_without_its_form_token(fresh: Site) -> None:
    fresh.add_images(1)
    job = fresh.add_job()
    with fresh.browser(Role.OPERATOR) as (browser, token):
        path = f"/api/v1/jobs/{job}/cancel"
        assert browser.post(path).status_code == 403
        assert browser.post(path, headers={"X-CSRF-Token": "0" * 64}).status_code == 403
        assert browser.post(path, data={"csrf": "wrong"}).status_code == 403
        headers = {"X-CSRF-Token": token, "Origin": "https://elsewhere.example"}
        assert browser.post(path, headers=headers).status_code == 403
        headers = {"X-CSRF-Token": token, "Sec-Fetch-Site": "cross-site"}
        assert browser.post(path, headers=headers).status_code == 403
        answer = browser.post(path, headers={"X-CSRF-Token": token, "Origin": fresh.base})
        assert answer.status_code == 200, answer.text
    with fresh.ledger.read() as work:
        assert work.views.job(job).state == "cancelled"
        assert work.views.job_life(job).events[-1].actor == "web:operator"


def test_signing_out_ends_the_session(here: Site) -> None:
    with here.browser() as (browser, token):
        assert browser.get("/api/v1/me").json()["name"] == "viewer"
        secret = browser.cookies["sentinode"]
        assert browser.post("/sign-out", data={"csrf": token}).status_code == 303
        browser.cookies.set("sentinode", secret)
        assert browser.get("/api/v1/me").status_code == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites(here: Site) -> None:
    with here.client(None) as client:
        answer = client.post("/sign-in", data={"name": " Viewer ", "password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        with here.ledger.read() as work:
            assert work.accounts.session(
                digest_of(client.cookies["sentinode"]), clock.now(), timedelta(minutes=1)
            )


@pytest.mark.parametrize(
    ("next_path", "goes_to"),
    [
        ("/worklist?state=failed", "/worklist?state=failed"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_after_sign_in_it_goes_on_within_the_site(here: Site, next_path: str, goes_to: str) -> None:
    with here.client(None) as client:
        form = {"name": "viewer", "password": PASSWORD, "next": next_path}
        assert client.post("/sign-in", data=form).headers["location"] == goes_to


def test_sign_ins_that_fail_must_wait(alone: Site) -> None:
    with alone.client(None) as client:
        wrong = {"name": "viewer", "password": "wrong"}
        places = [client.post("/sign-in", data=wrong).headers["location"] for _ in range(8)]
        assert "problem=wrong" in places[0]
        assert "problem=wait" in places[-1]
        # the right one has to wait as well, or guessing would go on unhindered
        right = {"name": "viewer", "password": PASSWORD}
        assert "problem=wait" in client.post("/sign-in", data=right).headers["location"]
        # nobody else is kept out by it
        other = {"name": "operator", "password": PASSWORD}
        assert client.post("/sign-in", data=other).headers["location"] == "/"


def test_waiting_grows_and_ends(ledger: Ledger) -> None:
    now = clock.now()
    keys = ("both:ann:::1",)
    with ledger.write() as work:
        for _ in range(5):
            work.throttle.failed(keys[0], 5, timedelta(minutes=15), now)
        assert work.throttle.blocked_until(keys, now) is None
        waits = []
        for _ in range(12):
            work.throttle.failed(keys[0], 5, timedelta(minutes=15), now)
            until = work.throttle.blocked_until(keys, now)
            assert until is not None
            waits.append((until - now).total_seconds())
    assert waits[:3] == [2, 4, 8]
    assert waits[-1] == 900
    with ledger.read() as work:
        assert work.throttle.blocked_until(keys, now + timedelta(seconds=901)) is None
    with ledger.write() as work:
        work.throttle.well(keys, now)
    with ledger.read() as work:
        assert work.throttle.blocked_until(keys, now) is None


def test_sessions_end_by_idleness_by_age_and_with_the_password(ledger: Ledger) -> None:
    now, idle = clock.now(), timedelta(minutes=10)
    with ledger.write() as work:
        account = work.accounts.add("ann", Role.VIEWER, "hash", now)
        work.accounts.begin_session(account.id, "d1", now, now + timedelta(hours=1))
    with ledger.read() as work:
        found = work.accounts.session("d1", now + timedelta(minutes=9), idle)
        assert found is not None
        assert work.accounts.session("d1", now + timedelta(minutes=11), idle) is None
    for minute in range(0, 60, 5):
        with ledger.write() as work:
            work.accounts.seen(found.id, now + timedelta(minutes=minute))
    with ledger.read() as work:
        assert work.accounts.session("d1", now + timedelta(minutes=59), idle) is not None
        assert work.accounts.session("d1", now + timedelta(minutes=60), idle) is None
    with ledger.write() as work:
        work.accounts.begin_session(account.id, "d2", now, now + timedelta(hours=1))
        work.accounts.set_password("ann", "other")
    with ledger.read() as work:
        assert work.accounts.session("d2", now, idle) is None


def test_a_token_never_may_more_than_its_account(ledger: Ledger) -> None:
    now = clock.now()
    with ledger.write() as work:
        work.accounts.add("root", Role.ADMINISTRATOR, "hash", now)
        work.accounts.add("ann", Role.OPERATOR, "hash", now)
        with pytest.raises(AccountError):
            work.accounts.add_token("ann", "x", Role.ADMINISTRATOR, "d0", now)
        work.accounts.add_token("ann", "x", Role.OPERATOR, "d1", now)
        work.accounts.add_token("ann", "y", Role.VIEWER, "d2", now, now + timedelta(hours=1))
    with ledger.read() as work:
        assert work.accounts.token("d1", now)[1] == Role.OPERATOR  # type: ignore[index]
        assert work.accounts.token("d2", now)[1] == Role.VIEWER  # type: ignore[index]
        assert work.accounts.token("d2", now + timedelta(hours=1)) is None
    with ledger.write() as work:
        work.accounts.set_role("ann", Role.VIEWER)
    with ledger.read() as work:
        assert work.accounts.token("d1", now)[1] == Role.VIEWER  # type: ignore[index]
    with ledger.write() as work:
        work.accounts.disable("ann", True)
    with ledger.read() as work:
        assert work.accounts.token("d1", now) is None


def test_the_last_administrator_stays(ledger: Ledger) -> None:
    with ledger.write() as work:
        work.accounts.add("root", Role.ADMINISTRATOR, "hash", clock.now())
        for change in (
            lambda: work.accounts.disable("root", True),
            lambda: work.accounts.set_role("root", Role.VIEWER),
        ):
            with pytest.raises(AccountError, match="last administrator"):
                change()
        work.accounts.add("second", Role.ADMINISTRATOR, "hash", clock.now())
        work.accounts.disable("root", True)
        with pytest.raises(AccountError, match="last administrator"):
            work.accounts.disable("second", True)


def test_tokens_are_made_shown_once_and_revoked(fresh: Site) -> None:
    with (
        fresh.browser(Role.OPERATOR) as (browser, token),
        fresh.client(Role.ADMINISTRATOR) as administrator,
        fresh.client(None) as program,
    ):
        headers = {"X-CSRF-Token": token}
        made = browser.post("/api/v1/tokens", json={"name": "ohif"}, headers=headers)
        assert made.status_code == 201, made.text
        secret, number = made.json()["secret"], made.json()["token"]["id"]
        bearer = {"Authorization": f"Bearer {secret}"}
        assert program.get("/api/v1/me", headers=bearer).json() == {
            "name": "operator",
            "role": "viewer",
            "by": "token",
        }
        assert program.post("/api/v1/tokens", json={"name": "x"}, headers=bearer).status_code == 403
        listed = browser.get("/api/v1/tokens").json()
        assert {item["account"] for item in listed} == {"operator"}
        assert secret not in browser.get("/api/v1/tokens").text
        more = {"name": "x", "role": "administrator"}
        assert browser.post("/api/v1/tokens", json=more, headers=headers).status_code == 403
        others = {"name": "x", "account": "administrator"}
        assert browser.post("/api/v1/tokens", json=others, headers=headers).status_code == 403
        assert browser.delete(f"/api/v1/tokens/{number}", headers=headers).status_code == 200
        assert program.get("/api/v1/me", headers=bearer).status_code == 401
        theirs = next(
            item["id"]
            for item in administrator.get("/api/v1/tokens").json()
            if item["account"] == "viewer"
        )
        assert browser.delete(f"/api/v1/tokens/{theirs}", headers=headers).status_code == 404


def test_users_are_made_changed_and_locked(here: Site) -> None:
    with here.client(Role.ADMINISTRATOR) as client, here.client(None) as other:
        new = {"name": "Ann.B@example.org", "role": "operator", "password": PASSWORD}
        assert client.post("/api/v1/users", json=new).json()["name"] == "ann.b@example.org"
        assert client.post("/api/v1/users", json=new).status_code == 409
        assert client.post("/api/v1/users", json={**new, "name": "a b"}).status_code == 409
        short = {**new, "name": "c", "password": "short"}
        assert client.post("/api/v1/users", json=short).status_code == 409
        form = {"name": "ann.b@example.org", "password": PASSWORD}
        assert other.post("/sign-in", data=form).headers["location"] == "/"
        assert other.get("/api/v1/me").status_code == 200
        path = "/api/v1/users/ann.b@example.org"
        assert client.patch(path, json={"disabled": True}).json()["disabled"] is True
        assert other.get("/api/v1/me").status_code == 401
        assert "wrong" in other.post("/sign-in", data=form).headers["location"]
        assert client.patch(path, json={"disabled": False, "role": "viewer"}).status_code == 200
        assert client.patch("/api/v1/users/nobody", json={"role": "viewer"}).status_code == 404


def test_a_password_is_changed_by_who_knows_it(alone: Site) -> None:
    other = "another good password"
    with alone.browser() as (browser, token):
        form = {"csrf": token, "earlier": "wrong", "password": other}
        assert "problem" in browser.post("/password", data=form).headers["location"]
        form = {"csrf": token, "earlier": PASSWORD, "password": "short"}
        assert "at+least" in browser.post("/password", data=form).headers["location"]
        form = {"csrf": token, "earlier": PASSWORD, "password": other}
        assert "changed" in browser.post("/password", data=form).headers["location"]
        assert browser.get("/api/v1/me").status_code == 401
        form = {"name": "viewer", "password": other}
        assert browser.post("/sign-in", data=form).headers["location"] == "/"


def test_the_set_up_link_makes_the_first_account_once(
    tmp_path: Path,
) -> None:
    with site_of_its_own(tmp_path) as here, here.client(None) as client:
        with here.ledger.engine.begin() as connection:
            for table in ("api_token", "web_session", "account"):
                connection.execute(text(f"DELETE FROM {table}"))
        room = here.app.state.room
        form = {"key": "guess", "name": "root", "password": PASSWORD}
        assert client.post("/set-up", data=form).status_code == 403
        link = room.set_up.new_link(here.base)
        form["key"] = link.partition("key=")[2]
        weak = client.post("/set-up", data={**form, "password": "short"})
        assert "problem" in weak.headers["location"]
        cross = client.post("/set-up", data=form, headers={"Sec-Fetch-Site": "cross-site"})
        assert cross.status_code == 403
        assert client.post("/set-up", data=form).headers["location"] == "/"
        me = client.get("/api/v1/me").json()
        assert (me["name"], me["role"]) == ("root", "administrator")
        again = client.post("/set-up", data={**form, "name": "second"})
        assert again.status_code == 403
        form["key"] = room.set_up.new_link(here.base).partition("key=")[2]
        late = client.post("/set-up", data={**form, "name": "second"})
        assert "already" in late.headers["location"]


def test_what_is_huge_is_refused_before_it_is_read(alone: Site) -> None:
    with alone.client(Role.ADMINISTRATOR) as client:
        answer = client.post("/api/v1/users", content=b"x" * (2 << 20))
        assert answer.status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(1 << 14):
                yield b"x" * 65536

        try:
            answer = client.post("/api/v1/users", content=endless())
            assert answer.status_code == 413
        except httpx.WriteError:
            pass  # it closed the connection, which is as good
        assert client.get("/api/v1/me").status_code == 200


def test_another_hosts_name_does_not_lead_here(here: Site) -> None:
    with here.client(Role.VIEWER) as client:
        rebound = client.get("/api/v1/me", headers={"Host": "rebound.example"})
        assert rebound.status_code == 421
        assert client.get("/livez", headers={"Host": "10.0.0.1:80"}).status_code == 200


def test_every_answer_forbids_foreign_scripts(here: Site) -> None:
    with here.client() as client:
        for path in ("/api/v1/me", "/nowhere", "/livez", "/static/none.js"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
        assert client.get("/api/v1/me").headers["cache-control"] == "no-store"


def test_the_audit_trail_says_who_did_what(alone: Site) -> None:
    alone.add_images(1)
    job = alone.add_job()
    with alone.client(Role.OPERATOR) as client:
        for _ in range(3):
            client.get("/api/v1/studies/1.2.3")
        client.post(f"/api/v1/jobs/{job}/cancel")
        client.get("/api/v1/studies", params={"text": "Phantom"})
    with alone.client(None) as client:
        client.post("/sign-in", data={"name": "mallory", "password": "guess"})
    file = alone.settings.audit_file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = []
    for line in file.read_text(encoding="utf-8").splitlines():
        root = ElementTree.fromstring(line)
        event = root.find("EventIdentification")
        assert event is not None
        code = event.find("EventID")
        person = root.find("ActiveParticipant")
        assert code is not None
        assert person is not None
        objects = {item.get("ParticipantObjectID") for item in root if "Object" in item.tag}
        said.append(
            (
                person.get("UserID"),
                code.get("csd-code"),
                event.get("EventOutcomeIndicator"),
                objects,
            )
        )
    # looking again is told only after a quarter of an hour
    assert said.count(("operator", "110103", "0", {"1.2.3", "PHANTOM"})) == 1
    assert ("operator", "110111", "0", {f"job:{job}", "1.2.3", "PHANTOM"}) in said
    assert ("operator", "110112", "0", {"query"}) in said
    assert ("mallory", "110114", "4", set()) in said


def test_what_cannot_be_audited_is_not_done(alone: Site) -> None:
    alone.add_images(1)
    job = alone.add_job()
    file = alone.settings.audit_file
    file.unlink(missing_ok=True)
    file.mkdir(parents=True)
    with alone.client(Role.OPERATOR) as client:
        assert client.get("/api/v1/studies/1.2.3").status_code == 503
        assert client.post(f"/api/v1/jobs/{job}/cancel").status_code == 503
    with alone.ledger.read() as work:
        assert work.views.job(job).state == "waiting"


@pytest.mark.parametrize(
    ("web", "fault"),
    [
        ({"host": "0.0.0.0"}, "web.host"),
        ({"host": "192.0.2.1"}, "web.host"),
        ({"host": "node.example.org"}, "web.host"),
        ({"cert": "c.pem"}, "web.cert"),
    ],
)
def test_pages_never_stand_open_on_a_network(
    make_settings: Callable[..., Settings], web: dict[str, str], fault: str
) -> None:
    with pytest.raises(SettingsError) as error:
        make_settings(web=web)
    assert any(fault in line for line in error.value.faults)


def test_with_tls_or_a_proxy_they_may(make_settings: Callable[..., Settings]) -> None:
    assert make_settings(web={"host": "0.0.0.0", "proxy": True}).web.secure
    assert make_settings(web={"host": "::", "cert": "c.pem", "key": "k.pem"}).web.secure
    assert not make_settings(web={"host": "127.0.0.9"}).web.secure
