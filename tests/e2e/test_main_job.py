"""The main job with real peers: DCMTK sends, Sentinode analyses, Orthanc receives.

The whole node runs as its own processes, as a hospital runs it, on a phantom made by code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from support.peers import (
    Orthanc,
    RunningNode,
    SmallPacs,
    free_port,
    orthanc,
    require_program,
    small_pacs,
    storescu,
    wait_for,
)
from support.postgresql import PostgresqlServer

from cli.phantom import PhantomStudy, write_phantom_study
from core.domain import Job
from core.ledger import Ledger
from core.ledger.views import JobLife
from core.lifecycle import JOB_OPEN, JobState, TransferState
from core.settings import Settings, load

pytestmark = pytest.mark.timeout(240)

CONFIG = """
[web]
enabled = false
[node]
host = "127.0.0.1"
port = {port}
[storage]
data = "{data}"
min_free_mb = 1
[ledger]
url = "{ledger}"
[completeness]
quiet_seconds = 1
broken_quiet_seconds = 1
[jobs]
lease_seconds = 4
[queue]
url = "{queue}"
republish_seconds = 4
[delivery]
retry_seconds = 0.5
retry_max_seconds = 1
[logs]
level = "debug"
[[peers]]
name = "mr1"
ae_title = "MR1"
[[peers]]
name = "pacs"
ae_title = "{pacs}"
host = "127.0.0.1"
port = {pacs_port}
archive = true
[[routes]]
name = "brain-flair"
model = "mr-flair-glioma"
min_instances = 10
[routes.match]
Modality = "MR"
SeriesDescription = {{ regex = "(?i)flair" }}
"""


@dataclass
class Site:
    """A node, its settings and its ledger; what it has of the study that was sent last."""

    node: RunningNode
    settings: Settings
    ledger: Ledger
    study: str = ""

    @property
    def port(self) -> int:
        return self.settings.node.port

    def life(self) -> JobLife | None:
        jobs = self.jobs()
        with self.ledger.read() as work:
            return work.views.job_life(jobs[0].id) if jobs else None

    def jobs(self) -> list[Job]:
        with self.ledger.read() as work:
            return [job for job in work.views.jobs() if job.study_instance_uid == self.study]

    def delivered(self) -> JobLife | None:
        """The newest job, once it is done and everything it made was sent."""
        life = self.life()
        if life is None or life.job.state in JOB_OPEN:
            return None
        if any(item.state != TransferState.SENT for item, _ in life.transfers):
            return None
        return life

    def wait_until_ready(self) -> None:
        wait_for(lambda: "door_open" in self.node.log, 60, "the door is open")
        wait_for(lambda: "worker_ready" in self.node.log, 60, "the worker is ready")


SiteMaker = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[SiteMaker]:
    with making_sites(tmp_path) as make:
        yield make


@contextmanager
def making_sites(folder: Path) -> Iterator[SiteMaker]:
    sites: list[Site] = []

    def make(
        pacs_port: int, *, pacs: str = "PACS", ledger: str = "", queue: str = "", roles: str = ""
    ) -> Site:
        config = folder / "sentinode.toml"
        values = {"port": free_port(), "data": folder / "data", "ledger": ledger, "queue": queue}
        config.write_text(CONFIG.format(**values, pacs=pacs, pacs_port=pacs_port))
        settings = load(config)
        made = Ledger(settings.ledger_url)
        made.upgrade()
        node = RunningNode(config, folder / "node.log", roles=roles)
        node.start()
        site = Site(node, settings, made)
        sites.append(site)
        if not roles:
            site.wait_until_ready()
        return site

    yield make
    for site in sites:
        if site.node.process is not None and site.node.process.poll() is None:
            site.node.stop()
        site.ledger.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, SmallPacs]]:
    with small_pacs() as pacs, making_sites(tmp_path_factory.mktemp("site")) as make:
        yield make(pacs.port), pacs


@pytest.fixture
def pacs(running: tuple[Site, SmallPacs]) -> SmallPacs:
    """The PACS of a node that goes on from test to test; it has nothing yet."""
    running[1].received.clear()
    return running[1]


@pytest.fixture
def site(running: tuple[Site, SmallPacs], pacs: SmallPacs) -> Site:
    """A node that goes on from test to test."""
    return running[0]


def orthanc_file(server: Orthanc, instance: str) -> bytes:
    return bytes(server.get(f"/instances/{instance}/file"))


def send(site: Site, study: PhantomStudy) -> None:
    site.study = study.uid
    sent = storescu(site.port, [study.folder])
    assert sent.returncode == 0, sent.stderr


def test_a_study_of_four_series_comes_back_as_seg_and_sr(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path / "study", random_uids=True)
    with orthanc(tmp_path / "orthanc") as pacs:
        site = make_site(pacs.port, pacs="ORTHANC")
        send(site, study)
        life = wait_for(site.delivered, 90, "SEG and SR are delivered")
        seg_ids = wait_for(lambda: pacs.instances("SEG"), 10)
        sr_ids = wait_for(lambda: pacs.instances("SR"), 10)
        seg_bytes, sr_bytes = orthanc_file(pacs, seg_ids[0]), orthanc_file(pacs, sr_ids[0])
    assert (len(seg_ids), len(sr_ids)) == (1, 1)
    assert len(site.jobs()) == 1

    # only the FLAIR-like series was analysed, the three others are explained
    (flair,) = (item.uid for item in study.series if item.name == "FLAIR")
    assert life.job.series_instance_uids == (flair,)
    with site.ledger.read() as work:
        for series in life.study.series:
            (decision,) = work.views.route_decisions(series.series_instance_uid)
            assert decision.matched == (series.series_instance_uid == flair)
            assert "SeriesDescription" in decision.reason

    # both lie in the same study, in new series, unverified, of the same patient
    seg, sr = (pydicom.dcmread(BytesIO(data)) for data in (seg_bytes, sr_bytes))
    for made in (seg, sr):
        assert made.StudyInstanceUID == study.uid
        assert made.SeriesInstanceUID not in {item.uid for item in study.series}
        assert made.PatientID == study.patient_id
    assert sr.VerificationFlag == "UNVERIFIED"

    # the lesion is where the phantom has it
    present = [item for item in life.findings if item.present]
    assert present
    largest = present[0]
    truth = np.argwhere(study.truth)
    centre = (study.affine @ np.append(truth.mean(axis=0), 1.0))[:3]
    assert largest.centre is not None
    assert np.linalg.norm(np.array(largest.centre) - centre) < 12  # mm
    volume = next(m.value for m in largest.measurements if m.concept.meaning == "Volume")
    voxel_ml = abs(np.linalg.det(study.affine[:3, :3])) / 1000
    assert volume == pytest.approx(len(truth) * voxel_ml, rel=0.5)

    check_with_validators(tmp_path, seg_bytes, sr_bytes, study, site)
    # what Orthanc holds are the very bytes of the store, in data set and in UID
    kept = {item.kind: item for item in life.results}
    assert seg.SOPInstanceUID == kept["SEG"].sop_instance_uid
    assert sr.SOPInstanceUID == kept["SR"].sop_instance_uid
    assert site.node.stop() == 0
    assert study.patient_id not in site.node.log
    assert "Phantom^" not in site.node.log


def check_with_validators(
    folder: Path, seg_bytes: bytes, sr_bytes: bytes, study: PhantomStudy, site: Site
) -> None:
    """dciodvfy, dcmqi's segimage2itkimage and tid1500reader, DCMTK's dsrdump."""
    seg_path, sr_path = folder / "seg.dcm", folder / "sr.dcm"
    seg_path.write_bytes(seg_bytes)
    sr_path.write_bytes(sr_bytes)
    for path in (seg_path, sr_path):
        told = subprocess.run(
            [require_program("dciodvfy"), str(path)], capture_output=True, text=True, check=False
        )
        errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
        assert errors == []

    out = folder / "itk"
    out.mkdir()
    command = [require_program("segimage2itkimage"), "--inputDICOM", str(seg_path)]
    subprocess.run(
        [*command, "--outputDirectory", str(out), "--outputType", "nrrd"],
        check=True,
        capture_output=True,
    )
    segments = len(pydicom.dcmread(seg_path).SegmentSequence)
    assert len(list(out.glob("*.nrrd"))) == segments

    report = folder / "report.json"
    command = [require_program("tid1500reader"), "--inputDICOM", str(sr_path)]
    subprocess.run([*command, "--outputMetadata", str(report)], check=True, capture_output=True)
    content = json.loads(report.read_text())
    assert len(content["Measurements"]) == segments
    volumes = [
        item["value"]
        for item in content["Measurements"][0]["measurementItems"]
        if item["quantity"]["CodeMeaning"] == "Volume"
    ]
    life = site.life()
    assert life is not None
    kept = [m.value for m in life.findings[0].measurements if m.concept.meaning == "Volume"]
    assert float(volumes[0]) == pytest.approx(kept[0], rel=1e-3)

    told = subprocess.run(
        [require_program("dsrdump", "/usr/bin"), str(sr_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Volume" in told.stdout
    assert "mL" in told.stdout


def test_nothing_found_is_an_sr_that_says_absent(
    site: Site, pacs: SmallPacs, tmp_path: Path
) -> None:
    study = write_phantom_study(
        tmp_path / "study", seed=11, lesions=0, series=("FLAIR",), random_uids=True
    )
    send(site, study)
    life = wait_for(site.delivered, 90, "the report is delivered")
    assert [item.present for item in life.findings] == [False]
    report, picture = sorted(pacs.received, key=lambda item: item.Modality, reverse=True)
    assert picture.Modality == "OT"
    assert report.Modality == "SR"
    assert "Absent" in str(report)


def test_kill_9_while_receiving_loses_nothing_that_was_acknowledged(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path / "study", random_uids=True)
    with small_pacs() as pacs:
        site = make_site(pacs.port)
        scp = site.node.role_pid(site.settings.data, "scp")
        program = require_program("storescu", "/usr/bin")
        command = [program, "-v", "+sd", "+r", "-R", "-aet", "MR1", "-aec", "SENTINODE"]
        command += ["127.0.0.1", str(site.port), str(study.folder)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as sender:
            assert sender.stdout is not None
            acknowledged = 0
            for line in sender.stdout:
                if "Received Store Response (Success)" not in line:
                    continue
                acknowledged += 1
                if acknowledged == 40:  # once: what storescu says after it is no acknowledgement
                    os.kill(scp, signal.SIGKILL)
        assert acknowledged >= 40
        # everything acknowledged is in the ledger, though the receiver died
        wait_for(lambda: filed(site) >= acknowledged, 30, "all acknowledged instances are filed")
        wait_for(lambda: site.node.role_pid(site.settings.data, "scp") != scp, 30, "a new receiver")
        wait_for(lambda: site.node.log.count("door_open") >= 2, 30, "the door is open again")
        send(site, study)  # the modality tries again
        life = wait_for(lambda: complete(site, 24), 90, "the whole series is analysed")
        wait_for(lambda: kinds(pacs.received, life), 10, "SEG and SR of the whole series")
    assert filed(site) == 96


def test_kill_9_of_everything_and_a_restart_forget_nothing(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    with small_pacs() as pacs:
        site = make_site(pacs.port)
        send(site, study)
        assert site.node.process is not None
        pids = [site.node.process.pid] + [
            site.node.role_pid(site.settings.data, role)
            for role in ("broker", "scp", "intake", "dispatch", "send", "worker")
        ]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        site.node.process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
        assert site.delivered() is None
        site.node.start()
        life = wait_for(site.delivered, 90, "analysed and delivered after the restart")
        assert life.job.state == JobState.DONE
        assert len(pacs.uids()) == len(set(pacs.uids())) == 3


def test_kill_9_of_the_worker_while_it_infers(make_site: SiteMaker, tmp_path: Path) -> None:
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    with small_pacs() as pacs:
        site = make_site(pacs.port)
        send(site, study)
        wait_for(lambda: (life := site.life()) and life.job.state == JobState.RUNNING, 30)
        worker = site.node.role_pid(site.settings.data, "worker")
        os.killpg(worker, signal.SIGKILL)  # Celery's parent and the child that computes
        life = wait_for(site.delivered, 120, "another worker did it")
        assert life.job.state == JobState.DONE
        assert life.job.attempt == 2
        assert any("worker died" in event.note for event in life.events)
        wait_for(lambda: len(pacs.received) == 3, 10)
    assert len(set(pacs.uids())) == 3


def test_a_pacs_that_comes_back_gets_everything(make_site: SiteMaker, tmp_path: Path) -> None:
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    port = free_port()
    site = make_site(port)
    send(site, study)
    wait_for(lambda: "destination_in_trouble" in site.node.log, 90)
    life = site.life()
    assert life is not None
    assert life.job.state == JobState.DONE
    with small_pacs(port) as pacs:
        wait_for(site.delivered, 30, "delivered when the PACS is back")
        sent = {result.kind: result.sop_instance_uid for result in life.results}
        assert pacs.uids() == [sent["SEG"], sent["SC"], sent["SR"]]


def test_our_own_results_coming_back_are_not_analysed(
    site: Site, pacs: SmallPacs, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    send(site, study)
    wait_for(site.delivered, 90)
    before = filed(site)
    back = tmp_path / "back"
    back.mkdir()
    for number, dataset in enumerate(pacs.received):
        dataset.save_as(back / f"{number}.dcm", enforce_file_format=True)
    assert storescu(site.port, sorted(back.iterdir())).returncode == 0
    wait_for(lambda: filed(site) == before + len(pacs.received), 20)
    time.sleep(2.5)  # longer than the quiet time
    with site.ledger.read() as work:
        states = {item.modality: item.state for item in work.views.study(study.uid).series}
    assert states == {"MR": "whole", "SEG": "own", "SR": "own", "OT": "own"}
    assert len(site.jobs()) == 1
    with site.ledger.read() as work:
        assert work.conflicts.open() == []


def test_a_series_whose_patients_differ_is_held_until_somebody_decides(
    site: Site, pacs: SmallPacs, tmp_path: Path
) -> None:
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    stray = study.files("FLAIR")[5]
    dataset = pydicom.dcmread(stray)
    dataset.PatientID = "SOMEBODY-ELSE"
    dataset.save_as(stray)
    send(site, study)
    life = wait_for(site.life, 30)
    assert life.job.state == JobState.HELD
    assert "identity conflict" in life.job.reason
    told = sentinode(site, "conflicts")
    assert "PatientID" in told.stdout
    assert "SOMEBODY-ELSE" not in site.node.log
    sentinode(site, "resolve", study.uid, "--release")
    ended = wait_for(lambda: (now := site.life()) and now.job.state not in JOB_OPEN and now, 60)
    # released, but no volume is built from two patients
    assert ended.job.state in {JobState.FAILED, JobState.NOT_APPLICABLE}
    assert pacs.received == []


@pytest.mark.parametrize(
    ("flaw", "says"), [("uneven spacing", "spac"), ("mixed orientation", "orientation")]
)
def test_what_is_no_volume_is_not_applicable_with_a_reason(
    site: Site, pacs: SmallPacs, tmp_path: Path, flaw: str, says: str
) -> None:
    study = write_phantom_study(
        tmp_path / "study",
        series=("FLAIR",),
        flaw=flaw,  # type: ignore[arg-type]
        random_uids=True,
    )
    send(site, study)
    life = wait_for(site.delivered, 60)
    assert life.job.state == JobState.NOT_APPLICABLE
    assert says in life.job.reason
    assert life.results == ()
    assert pacs.received == []


def test_pixels_that_cannot_be_decoded_fail_with_a_reason_and_stop_nothing(
    site: Site, pacs: SmallPacs, tmp_path: Path
) -> None:
    broken = write_phantom_study(tmp_path / "broken", series=("FLAIR",), random_uids=True)
    for path in broken.files("FLAIR"):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 3 * 2]
        dataset.save_as(path)
    good = write_phantom_study(tmp_path / "good", series=("FLAIR",), random_uids=True)
    send(site, broken)
    failed = wait_for(lambda: [j for j in site.jobs() if j.state == JobState.FAILED], 60)
    assert "decode" in failed[0].reason or "pixel" in failed[0].reason.lower()
    send(site, good)
    wait_for(lambda: len(pacs.received) == 3, 60)
    assert {str(item.StudyInstanceUID) for item in pacs.received} == {good.uid}


def test_roles_apart_with_postgresql_and_redis_by_url(
    make_site: SiteMaker, tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    """A hospital's way: a node without a worker, a worker of its own, servers by URL."""
    study = write_phantom_study(tmp_path / "study", series=("FLAIR",), random_uids=True)
    redis_port = free_port()
    command = [require_program("redis-server"), "--bind", "127.0.0.1", "--port", str(redis_port)]
    command += ["--save", "", "--dir", str(tmp_path)]
    queue = f"redis://127.0.0.1:{redis_port}/0"
    with small_pacs() as pacs, subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
        try:
            roles = "scp,intake,dispatch,send"
            site = make_site(pacs.port, ledger=postgresql.kept(), queue=queue, roles=roles)
            wait_for(lambda: "door_open" in site.node.log, 60)
            send(site, study)
            wait_for(lambda: (life := site.life()) and life.job.state == JobState.QUEUED, 30)
            worker = [sys.executable, "-m", "cli", "--config", str(site.node.config), "worker"]
            with (tmp_path / "worker.log").open("wb") as log:
                process = subprocess.Popen(worker, stdout=log, stderr=log)
            try:
                wait_for(site.delivered, 90, "SEG and SR are delivered")
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            assert sorted(item.Modality for item in pacs.received) == ["OT", "SEG", "SR"]
            assert site.node.stop() == 0
        finally:
            redis.terminate()


def test_the_node_ends_cleanly_and_leaves_no_process(make_site: SiteMaker) -> None:
    site = make_site(free_port())
    assert site.node.process is not None
    pids = [
        site.node.role_pid(site.settings.data, role)
        for role in ("broker", "scp", "intake", "dispatch", "send", "worker")
    ]
    began = time.monotonic()
    assert site.node.stop() == 0
    assert time.monotonic() - began < 20
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def sentinode(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours against the site, wide enough to fold nothing."""
    return subprocess.run(
        [sys.executable, "-m", "cli", "--config", str(site.node.config), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "COLUMNS": "250"},
    )


def filed(site: Site) -> int:
    with site.ledger.read() as work:
        return work.views.counts()["instances"]


def complete(site: Site, images: int) -> JobLife | None:
    """The newest job, once it is delivered and had that many images."""
    life = site.delivered()
    return life if life is not None and life.job.summary.get("images") == images else None


def kinds(received: list[pydicom.Dataset], life: JobLife) -> bool:
    wanted = {item.sop_instance_uid for item in life.results if item.sop_instance_uid}
    return wanted <= {str(item.SOPInstanceUID) for item in received}
