"""The role web as a process, its commands, metrics, TLS, the audit's file and syslog server."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.peers import free_port, wait_for
from support.web import PASSWORD, site_of_its_own
from typer.testing import CliRunner

import cli
from core import clock, counters
from core.accounts import Role
from core.settings import Settings
from node.web.audit import Audit, Happening
from node.web.health import GAUGES

ROOT = Path(__file__).resolve().parents[2]


def write_settings(folder: Path, port: int, more: str = "") -> Path:
    file = folder / "sentinode.toml"
    file.write_text(f"[storage]\nmin_free_mb = 1\n[web]\nport = {port}\n{more}", encoding="utf-8")
    return file


def run_command(config: Path, *arguments: str, text: str = "", status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["-c", str(config), *arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert status, result.exception
        return str(result.exception)
    assert result.exit_code == status, result.output
    return result.output


def test_the_first_start_shows_a_link_that_makes_an_administrator(tmp_path: Path) -> None:
    port = free_port()
    config = write_settings(tmp_path, port)
    command = [sys.executable, "-m", "cli", "-c", str(config), "web"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, cwd=ROOT, env=environment)
    try:
        link = wait_for(
            lambda: re.search(r"http://\S+/set-up\?key=\S+", log.read_text(encoding="utf-8")),
            message="no link",
        )[0]
        assert link.startswith(f"http://127.0.0.1:{port}/set-up?key=")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_for(lambda: _is_live(client))
            assert client.get("/readyz").status_code == 200
            form = {"key": link.partition("key=")[2], "name": "root", "password": PASSWORD}
            assert client.post("/set-up", data=form).headers["location"] == "/"
            assert client.get("/api/v1/me").json()["role"] == "administrator"
            # an open stream does not keep it from ending
            with client.stream("GET", "/api/v1/events") as stream_of_events:
                assert next(stream_of_events.iter_lines()).startswith("retry")
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    told = log.read_text(encoding="utf-8")
    assert "pages_closed" in told
    assert PASSWORD not in told


def _is_live(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.HTTPError:
        return False


def test_accounts_and_tokens_by_command(tmp_path: Path) -> None:
    config = write_settings(tmp_path, free_port())
    run_command(config, "user", "add", "Root", "--role", "administrator", "--stdin", text=PASSWORD)
    assert "short" not in run_command(config, "user", "list")
    assert "root" in run_command(config, "user", "list")
    told = run_command(config, "user", "add", "ann", "--stdin", text="short", status=1)
    assert "12 characters" in told
    assert "no role" in run_command(config, "user", "add", "ann", "--role", "boss", status=1)
    token = run_command(config, "user", "token", "add", "root", "ohif", "--days", "1").strip()
    assert token.startswith("snt_")
    listed = run_command(config, "user", "token", "list")
    assert "ohif" in listed
    assert token not in listed
    run_command(config, "user", "token", "revoke", "1")
    assert "revoked" in run_command(config, "user", "token", "list")
    assert "last" in run_command(config, "user", "disable", "root", status=1)
    run_command(config, "user", "passwd", "root", "--stdin", text=f"{PASSWORD} 2")
    trail = (tmp_path / "data" / "audit" / "audit.xml").read_text(encoding="utf-8")
    assert trail.count("110137") == 4
    assert token not in trail
    assert PASSWORD not in trail


def test_metrics_are_those_that_are_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways; counted by another process, and nothing of a patient in them."""
    script = (
        "import sys, pathlib\n"
        "from core import counters\n"
        "counters.configure(pathlib.Path(sys.argv[1]))\n"
        "for name, (labels, _) in counters.COUNTERS.items():\n"
        "    counters.count(name, *(f'x{n}' for n in range(len(labels))))\n"
        "for number in range(1000):\n"
        "    counters.count('sentinode_instances_received', f'AE{number}')\n"
    )
    with site_of_its_own(tmp_path) as here:
        here.add_images(2)
        here.add_job()
        subprocess.run(
            [sys.executable, "-c", script, str(here.settings.data)],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        with here.ledger.write() as work:
            work.circuits.well("pacs", clock.now())
        with here.client() as client:
            answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert set(families) == set(GAUGES) | set(counters.COUNTERS)
        for name, (labels, text) in (GAUGES | counters.COUNTERS).items():
            assert families[name].documentation
            assert text
            for sample in families[name].samples:
                assert set(sample.labels) == set(labels), name
        jobs = {
            tuple(sorted(item.labels.items())): item.value
            for item in families["sentinode_jobs"].samples
        }
        assert jobs == {(("queue", "cpu"), ("state", "waiting")): 1}
        assert len(families["sentinode_instances_received"].samples) <= 301
        assert sum(item.value for item in families["sentinode_instances_received"].samples) == 1001
        for secret in ("PHANTOM", "Phantom", "1.2.3"):
            assert secret not in answer.text


def test_the_ledger_away_is_told_and_not_hidden(tmp_path: Path) -> None:
    with site_of_its_own(tmp_path) as here, here.client() as client:
        room = here.app.state.room
        assert client.get("/readyz").status_code == 200
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
        room.ledger.engine.dispose()
        (tmp_path / "ledger.db").mkdir()
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200
        answer = client.get("/api/v1/jobs")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        (tmp_path / "ledger.db").rmdir()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_with_a_certificate_it_speaks_tls_only(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    web = {"cert": str(cert), "key": str(key), "host": "0.0.0.0"}
    with site_of_its_own(tmp_path, web=web) as here:
        trusted = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=here.base, verify=trusted, trust_env=False) as client:
            form = {"name": "viewer", "password": PASSWORD}
            cookie = client.post("/sign-in", data=form).headers["set-cookie"]
            assert cookie.startswith("__Host-sentinode=")
            assert "Secure" in cookie
            answer = client.get("/api/v1/me")
            assert answer.json()["name"] == "viewer"
            assert "max-age" in answer.headers["strict-transport-security"]
        plain = here.base.replace("https", "http")
        with httpx.Client(trust_env=False) as client, pytest.raises(httpx.HTTPError):
            client.get(f"{plain}/livez")


def test_only_the_named_proxy_is_believed(tmp_path: Path) -> None:
    web = {"proxy": True, "proxy_addresses": ["192.0.2.1"]}
    with site_of_its_own(tmp_path, web=web) as here, here.client(None) as client:
        form = {"name": "x", "password": "y"}
        client.post("/sign-in", data=form, headers={"X-Forwarded-For": "203.0.113.9"})
        assert "203.0.113.9" not in here.settings.audit_file.read_text(encoding="utf-8")
    web = {"proxy": True, "proxy_addresses": ["127.0.0.1"]}
    (tmp_path / "2").mkdir()
    with site_of_its_own(tmp_path / "2", web=web) as here, here.client(Role.VIEWER) as client:
        client.post("/sign-in", data=form, headers={"X-Forwarded-For": "203.0.113.9"})
        assert "203.0.113.9" in here.settings.audit_file.read_text(encoding="utf-8")
        headers = {"X-Forwarded-Proto": "https", "Host": "node.example"}
        here.add_images(1)
        line = client.get("/dicom-web/studies", headers=headers).json()[0]
        assert line["00081190"]["Value"][0].startswith("https://node.example/dicom-web/")


def test_the_audit_trail_is_put_aside_when_it_is_large(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(audit={"max_mb": 1, "keep": 2})
    audits = [Audit(settings, clock.now) for _ in range(2)]
    for audit in audits:
        monkeypatch.setattr(audit, "_max_bytes", 20_000)

    def write(audit: Audit) -> None:
        for number in range(100):
            audit.note(Happening.QUERIED, "ann", query=f"number {number}", detail="x\ny\0z")

    threads = [threading.Thread(target=write, args=(audit,)) for audit in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = settings.audit_file.parent
    kept = sorted(file.name for file in folder.iterdir())
    assert kept == ["audit.xml", "audit.xml.1", "audit.xml.2", "audit.xml.lock"]
    for file in folder.glob("audit.xml*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_size <= 20_000
        for line in file.read_text(encoding="utf-8").splitlines():
            assert line.startswith("<AuditMessage")
            assert line.endswith("</AuditMessage>")
    newest = audits[0].newest(5)
    assert len(newest) == 5
    for audit in audits:
        audit.close()


def test_a_syslog_server_is_told_over_udp(make_settings: Callable[..., Settings]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        audit = Audit(make_settings(audit={"syslog": address}), clock.now)
        audit.note(Happening.SIGN_IN, "müller")
        content = server.recv(65536).decode("utf-8")
        audit.close()
    assert content.startswith("<85>1 ")
    assert " DICOM+RFC3881 - \ufeff<AuditMessage>" in content
    assert "müller" in content


def test_a_syslog_server_is_told_over_tcp_and_may_go_away(
    make_settings: Callable[..., Settings],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        settings = make_settings(audit={"syslog": f"tcp://127.0.0.1:{server.getsockname()[1]}"})
        audit = Audit(settings, clock.now)
        audit.note(Happening.SIGN_IN, "ann")
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            length, _, rest = connection.recv(65536).partition(b" ")
            assert len(rest) == int(length)
    audit.note(Happening.SIGN_IN, "ben")  # it is away: the file has it, nobody waits
    audit.close()
    assert "ben" in settings.audit_file.read_text(encoding="utf-8")
