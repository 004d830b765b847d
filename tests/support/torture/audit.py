"""The audit: what was acknowledged against what the ledger, the store and the PACS hold.

It asks with SQL and files of its own, not with the node's code: that is on trial.

    lost     an acknowledged image that is not in the ledger, or whose bytes are not in the store
    missing  a result of a whole series' final input that the PACS does not hold
    doubled  a result that the PACS holds twice for the same input under different UIDs, a UID
             that came with two contents, or an object that the ledger knows nothing of
    foreign  an object in another patient or study than its source, or that refers to others
    stuck    a job or transfer that did not come to an end, or ended without saying why
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom

from support.torture.pacs import Kept
from support.torture.patients import Series
from support.torture.site import Site

_SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."

_INSTANCES = """
SELECT i.sop_instance_uid, i.store_key, i.series_instance_uid, s.study_instance_uid, i.id
FROM instance i JOIN series s ON s.series_instance_uid = i.series_instance_uid
"""
_INPUTS = """
SELECT j.id, ji.instance_id FROM job j JOIN job_instance ji ON ji.job_id = j.id
"""
_JOBS = "SELECT id, state, reason, study_instance_uid FROM job"
_RESULTS = """
SELECT r.job_id, r.kind, r.sop_instance_uid, r.store_key FROM result r
WHERE r.sop_instance_uid <> '' AND r.kind IN ('SEG', 'SR')
"""
_TRANSFERS = "SELECT id, state, message FROM transfer"
_FINAL_JOBS = {"done", "not_applicable", "failed", "quarantined", "cancelled", "superseded"}
_FINAL_TRANSFERS = {"sent", "committed"}
_ENDED_TRANSFERS = _FINAL_TRANSFERS | {"refused", "failed", "paused"}


@dataclass
class Verdict:
    """What the audit found; each list holds a line for every single fault."""

    acknowledged: int = 0
    objects: int = 0
    series: int = 0
    later: int = 0
    repeats: int = 0
    lost: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every aim is met."""
        return not (self.lost or self.missing or self.doubled or self.foreign or self.stuck)


def audit(site: Site, unsettled: list[str]) -> Verdict:
    """Look at everything. The site is settled, or as settled as it gets."""
    return _Audit(site, unsettled).verdict


class _Audit:
    def __init__(self, site: Site, unsettled: list[str]) -> None:
        self._site = site
        self._book = site.book
        self._kept = dict(site.pacs.kept)
        self.verdict = Verdict(
            acknowledged=len(self._book.acknowledged),
            objects=len(self._kept),
            series=len(self._book.whole),
            repeats=site.pacs.repeats,
            stuck=list(unsettled),
        )
        ask = site.sql.ask
        self._instances: dict[str, list[Any]] = defaultdict(list)
        uid_of: dict[int, str] = {}
        for row in ask(_INSTANCES):
            self._instances[row[0]].append(row)
            uid_of[row[4]] = row[0]
        inputs: dict[str, set[str]] = defaultdict(set)
        for job, instance in ask(_INPUTS):
            inputs[job].add(uid_of[instance])
        self._inputs = {job: frozenset(uids) for job, uids in inputs.items()}
        self._jobs = {row[0]: row for row in ask(_JOBS)}
        self._results = {row[2]: row for row in ask(_RESULTS)}
        self._lost()
        self._missing()
        self._doubled()
        self._foreign()
        self._stuck()

    def _lost(self) -> None:
        for uid, (series, index) in self._book.acknowledged.items():
            rows = self._instances.get(uid, [])
            if not rows:
                self.verdict.lost.append(f"{uid}: not in the ledger")
                continue
            if any((row[2], row[3]) != (series.uid, series.study_uid) for row in rows):
                self.verdict.foreign.append(f"{uid}: filed in another series or study")
            allowed = series.encodings(index)
            for row in rows:
                try:
                    found = hashlib.sha256(self._data_set(row[1])).hexdigest()
                except (OSError, ValueError) as error:
                    self.verdict.lost.append(f"{uid}: {error}")
                    continue
                if found not in allowed:
                    self.verdict.lost.append(f"{uid}: the store holds other bytes")
            if len(rows) != 1:
                self.verdict.doubled.append(f"{uid}: {len(rows)} versions of one image")

    def _missing(self) -> None:
        jobs_of: dict[frozenset[str], list[str]] = defaultdict(list)
        for job, uids in self._inputs.items():
            jobs_of[uids].append(job)
        for series in self._book.whole.values():
            final = jobs_of.get(frozenset(series.sop_uids), [])
            wanted = {"SEG", "SR"} if series.lesion else {"SR"}
            done = {
                kind
                for uid, (job, kind, _, _) in self._results.items()
                if job in final and uid in self._kept
            }
            if not wanted <= done:
                states = [f"{job}: {self._jobs[job][1]} {self._jobs[job][2]}" for job in final]
                lacks = ", ".join(sorted(wanted - done))
                self.verdict.missing.append(f"series {series.uid}: no {lacks} ({states})")

    def _doubled(self) -> None:
        """By input and kind; the reports also by what they themselves say they are about."""
        groups: dict[tuple[object, str], set[str]] = defaultdict(set)
        for uid, item in self._kept.items():
            row = self._results.get(uid)
            if row is None:
                self.verdict.doubled.append(f"{uid}: unknown to the ledger")
                continue
            groups[self._inputs[row[0]], row[1]].add(uid)
            if item.sop_class.startswith(_SR_CLASSES):
                about = item.references.intersection(self._instances)
                groups[about, "SR by itself"].add(uid)
            if not self._same(item, row[3]):
                self.verdict.doubled.append(f"{uid}: the PACS holds other bytes than the store")
        for (_, kind), uids in groups.items():
            if len(uids) > 1:
                self.verdict.doubled.append(f"{kind} for one input: {sorted(uids)}")
        self.verdict.doubled += [f"{uid}: two contents" for uid in self._site.pacs.other_content]
        whole = {frozenset(series.sop_uids) for series in self._book.whole.values()}
        self.verdict.later = sum(1 for uids in self._inputs.values() if uids not in whole)

    def _foreign(self) -> None:
        owner: dict[str, Series] = {
            uid: series for uid, (series, _) in self._book.acknowledged.items()
        }
        for uid, item in self._kept.items():
            sources = {owner[ref] for ref in item.references if ref in owner}
            row = self._results.get(uid)
            if row is not None:
                sources |= {owner[ref] for ref in self._inputs[row[0]] if ref in owner}
            homes = {(series.patient_id, series.study_uid) for series in sources}
            if homes != {(item.patient_id, item.study_uid)} or len(sources) != 1:
                self.verdict.foreign.append(f"{uid} ({item.modality}): {homes}")

    def _stuck(self) -> None:
        for job, state, reason, _ in self._jobs.values():
            if state not in _FINAL_JOBS:
                self.verdict.stuck.append(f"job {job} is {state}: {reason}")
            elif state not in {"done", "superseded", "cancelled"} and not reason:
                self.verdict.stuck.append(f"job {job} is {state} without a reason")
        for transfer, state, message in self._site.sql.ask(_TRANSFERS):
            if state not in _ENDED_TRANSFERS:
                self.verdict.stuck.append(f"transfer {transfer} is {state}: {message}")
            elif state not in _FINAL_TRANSFERS and not message:
                self.verdict.stuck.append(f"transfer {transfer} is {state} without a reason")

    def _data_set(self, key: str) -> bytes:
        """The data set's bytes of a file in the store, without its preamble and File Meta."""
        path = Path(self._site.a.settings.store_url) / key
        data = path.read_bytes()
        stream = BytesIO(data)
        pydicom.filereader.read_preamble(stream, False)
        meta = pydicom.filereader._read_file_meta_info(stream)
        if not meta:
            raise ValueError(f"{key}: no File Meta")
        return data[stream.tell() :]

    def _same(self, item: Kept, key: str) -> bool:
        return hashlib.sha256(self._data_set(key)).hexdigest() == item.digest
