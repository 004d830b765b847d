"""A large ledger for worklist.py: rows in bulk, straight into the tables."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from core.ledger import Ledger
from core.ledger.queries.folding import name_groups
from core.schema import Base

INSTANCES = 10  # of a study, in one series
DAYS = 90
TODAY = 1200  # studies and steps of today
_FAMILIES = [
    a + b + c
    for a in ("Ba", "Do", "Fi", "Gu", "Ha", "Ki", "Lo", "Mu", "Pe", "Ro", "Sa", "Ti", "Vo", "We")
    for b in ("ber", "den", "gal", "kor", "lin", "mar", "nes", "rit", "son", "tak", "vel", "zin")
    for c in ("", "a", "berg", "er", "feld", "ler", "man", "o", "ski", "stein", "ton", "um")
]
_GIVEN = ["Anna", "Boris", "Chen", "Dora", "Emil", "Fatima", "Georg", "Hanna", "Ivan", "Jun"]
_STATES = ["done"] * 17 + ["failed", "not_applicable", "waiting"]

Rows = Iterator[dict[str, Any]]


def patient_of(study: int) -> int:
    """Some five studies belong to two patients."""
    return study * 2 // 5


def name_of(patient: int) -> str:
    """A patient's name; the same for the same patient."""
    made = random.Random(patient)
    family = made.choice(_FAMILIES)
    return f"{family}^{made.choice(_GIVEN)}^{patient % 97:02d}"


def uid_of(study: int) -> str:
    """Study Instance UID; not in the order of time, as UIDs are."""
    return f"1.2.826.0.1.{random.Random(study).randrange(10**9)}.{study}"


def moment_of(study: int, studies: int, now: datetime, midnight: datetime) -> datetime:
    """When a study came: some today, the others evenly over the days before."""
    today = min(TODAY, studies // 4)
    if study < today:
        return midnight + (now - midnight) * (study / today)
    return midnight - timedelta(days=DAYS) * ((study - today + 1) / (studies - today))


def fill(ledger: Ledger, studies: int, now: datetime) -> None:
    """Make the tables and fill them."""
    ledger.upgrade()
    midnight = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    moments = [moment_of(study, studies, now, midnight) for study in range(studies)]
    for table, rows in (
        ("association", _associations(now)),
        ("study", _studies(moments)),
        ("series", _series(moments)),
        ("instance", _instances(moments)),
        ("job", _jobs(moments)),
        ("job_series", _job_series(studies)),
        ("job_event", _events(moments)),
        ("result", _results(moments)),
        ("transfer", _transfers(moments)),
        ("finding", _findings(studies)),
    ):
        _insert(ledger, table, rows)
    with ledger.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        # as a server does by itself after a while
        sqlite = ledger.engine.dialect.name == "sqlite"
        connection.exec_driver_sql("ANALYZE" if sqlite else "VACUUM ANALYZE")


def _insert(ledger: Ledger, table: str, rows: Rows) -> None:
    columns = [column.name for column in Base.metadata.tables[table].columns]
    if ledger.engine.dialect.name == "sqlite":
        plain: Callable[[Any], Any] = lambda value: (  # noqa: E731
            value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
            if isinstance(value, datetime)
            else value
        )
        raw = sqlite3.connect(str(ledger.url.database))
        raw.execute("PRAGMA synchronous=OFF")
        quoted = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * len(columns))
        raw.executemany(
            f"INSERT INTO {table} ({quoted}) VALUES ({marks})",
            (tuple(plain(row.get(name)) for name in columns) for row in rows),
        )
        raw.commit()
        raw.close()
        return
    raw = ledger.engine.raw_connection()
    first = next(rows)
    names = list(first)
    quoted = ", ".join(f'"{name}"' for name in names)
    with raw.cursor().copy(f"COPY {table} ({quoted}) FROM STDIN") as copy:
        copy.write_row(list(first.values()))
        for row in rows:
            copy.write_row(list(row.values()))
    raw.commit()
    if "id" in names and isinstance(first["id"], int):
        raw.cursor().execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
        )
        raw.commit()
    raw.close()


def _associations(now: datetime) -> Rows:
    yield {
        "id": "a1",
        "calling_ae": "MR1",
        "called_ae": "SENTINODE",
        "peer_address": "127.0.0.1:1",
        "began_at": now,
        "ended_at": now,
        "end": "released",
    }


def _studies(moments: list[datetime]) -> Rows:
    for study, moment in enumerate(moments):
        patient = patient_of(study)
        name = name_of(patient)
        alphabetic, ideographic, phonetic = name_groups(name)
        local = moment.astimezone()
        yield {
            "study_instance_uid": uid_of(study),
            "patient_id": f"P{patient:07d}",
            "issuer_of_patient_id": "",
            "patient_name": name,
            "patient_birth_date": f"19{patient % 100:02d}0101",
            "accession_number": f"A{study:08d}",
            "description": "MR Brain",
            "study_date": f"{local:%Y%m%d}",
            "study_time": f"{local:%H%M%S}",
            "study_id": str(study),
            "patient_sex": "O",
            "referring_physician": "Ref^Doc",
            "referring_key": "ref^doc",
            "procedure_id": "",
            "procedure": "",
            "name_alphabetic": alphabetic,
            "name_ideographic": ideographic,
            "name_phonetic": phonetic,
            "conflict": False,
            "first_received_at": moment,
        }


def _series(moments: list[datetime]) -> Rows:
    attributes = json.dumps({"Modality": "MR", "BodyPartExamined": "BRAIN"})
    for study, moment in enumerate(moments):
        uid = uid_of(study)
        yield {
            "series_instance_uid": f"{uid}.1",
            "study_instance_uid": uid,
            "modality": "MR" if study % 3 else "CT",
            "description": "AX FLAIR",
            "number": "1",
            "state": "whole",
            "revision": INSTANCES,
            "last_received_at": moment,
            "last_filed_at": moment,
            "attributes": attributes,
            "decided_by": "quiet",
            "decision": "",
            "incomplete": False,
        }


def _instances(moments: list[datetime]) -> Rows:
    row_id = 0
    for study, moment in enumerate(moments):
        uid = uid_of(study)
        for number in range(1, INSTANCES + 1):
            row_id += 1
            yield {
                "id": row_id,
                "sop_instance_uid": f"{uid}.1.{number}",
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4",
                "series_instance_uid": f"{uid}.1",
                "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                "digest": f"{row_id:064d}",
                "version": 1,
                "current": True,
                "identity": "{}",
                "number": str(number),
                "store_key": f"instances/{row_id}",
                "size": 524288,
                "received_at": moment,
                "association_id": "a1",
            }


def job_of(study: int) -> str:
    """The id of a study's job."""
    return f"{study:08x}-0000-4000-8000-{study:012x}"


def _jobs(moments: list[datetime]) -> Rows:
    for study, moment in enumerate(moments):
        recent = study < TODAY * 2
        yield {
            "id": job_of(study),
            "study_instance_uid": uid_of(study),
            "route": "brain",
            "model": "mr-flair-glioma",
            "model_version": "1.0.0",
            "queue": "cpu",
            "destinations": "[]",
            "input_digest": f"{study:064d}",
            "run": 1,
            "state": _STATES[study % len(_STATES)] if recent else _STATES[study % 17],
            "attempt": 1,
            "deaths": 0,
            "priority": 0,
            "size": 5242880,
            "sender": "MR1",
            "modality": "MR" if study % 3 else "CT",
            "losses": 0,
            "blamed": False,
            "strain": 0,
            "created_at": moment,
            "updated_at": moment,
            "queued_at": moment,
            "published": 1,
            "started_at": moment,
            "finished_at": moment + timedelta(seconds=20),
            "reason": "",
            "remedy": "",
            "summary": "{}",
        }


def _job_series(studies: int) -> Rows:
    for study in range(studies):
        yield {"job_id": job_of(study), "series_instance_uid": f"{uid_of(study)}.1"}


def _events(moments: list[datetime]) -> Rows:
    row_id = 0
    for study, moment in enumerate(moments):
        for state in ("waiting", "queued", "running", "done"):
            row_id += 1
            yield {
                "id": row_id,
                "job_id": job_of(study),
                "at": moment,
                "state": state,
                "note": "",
                "actor": "bench",
            }


def _results(moments: list[datetime]) -> Rows:
    for study, moment in enumerate(moments):
        uid = uid_of(study)
        yield {
            "id": study + 1,
            "job_id": job_of(study),
            "kind": "SEG",
            "part": 0,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
            "sop_instance_uid": f"{uid}.9.1",
            "series_instance_uid": f"{uid}.9",
            "attributes": '{"Modality": "SEG"}',
            "store_key": f"results/{study}",
            "digest": f"{study:064d}",
            "size": 100000,
            "created_at": moment,
        }


def _transfers(moments: list[datetime]) -> Rows:
    for study, moment in enumerate(moments):
        yield {
            "id": study + 1,
            "result_id": study + 1,
            "job_id": job_of(study),
            "route": "brain",
            "study_instance_uid": uid_of(study),
            "destination": "pacs",
            "state": "sent",
            "attempts": 1,
            "refusals": 0,
            "created_at": moment,
            "message": "success",
            "sent_at": moment,
            "class_refused": False,
            "proof": "status",
            "proof_tries": 0,
            "proved_at": moment,
        }


def _findings(studies: int) -> Rows:
    code = '{"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}'
    for study in range(studies):
        yield {
            "id": study + 1,
            "job_id": job_of(study),
            "number": 1,
            "kind": "lesion",
            "label": "FLAIR signal abnormality",
            "present": True,
            "part": 0,
            "segment": 1,
            "channel": 0,
            "tracking_uid": f"{uid_of(study)}.8",
            "category": code,
            "type": code,
            "color": "[255, 64, 64]",
            "space": "patient",
            "probability": 0.9,
            "evaluations": "[]",
        }
