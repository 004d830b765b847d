"""what queries by DICOM ask for: more of a study, folded names, instance numbers

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from core.ledger.queries.columns import study_columns
from core.schema import _bytewise

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STUDY: dict[str, sa.String] = {
    "study_time": _bytewise(16),
    "study_id": sa.String(64),
    "patient_sex": sa.String(16),
    "referring_physician": sa.String(330),
    "referring_key": _bytewise(330),
    "procedure_id": sa.String(64),
    "procedure": sa.String(64),
    "name_alphabetic": _bytewise(330),
    "name_ideographic": _bytewise(330),
    "name_phonetic": _bytewise(330),
}
_AT_ONCE = 500


def upgrade() -> None:
    with op.batch_alter_table("study") as batch_op:
        for name, kind in _STUDY.items():
            batch_op.add_column(sa.Column(name, kind, nullable=False, server_default=""))
        batch_op.drop_index("ix_study_study_date")
        batch_op.create_index("ix_study_when", ["study_date", "study_instance_uid"])
        batch_op.create_index("ix_study_name_alphabetic", ["name_alphabetic", "study_instance_uid"])
    for name in ("name_ideographic", "name_phonetic"):
        op.create_index(
            f"ix_study_{name}",
            "study",
            [name, "study_instance_uid"],
            sqlite_where=sa.text(f"{name} <> ''"),
            postgresql_where=sa.text(f"{name} <> ''"),
        )
    with op.batch_alter_table("instance") as batch_op:
        # of what is filed already it is not known; its bytes would have to be read
        batch_op.add_column(sa.Column("number", sa.String(16), nullable=False, server_default=""))
    with op.batch_alter_table("result") as batch_op:
        batch_op.add_column(sa.Column("attributes", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.create_index(op.f("ix_result_series_instance_uid"), ["series_instance_uid"])
    _fill()


def _fill() -> None:
    """From the attributes that the ledger keeps of one series of each study."""
    connection = op.get_bind()
    metadata = sa.MetaData()
    study = sa.Table("study", metadata, autoload_with=connection)
    series = sa.Table("series", metadata, autoload_with=connection)
    attributes = sa.type_coerce(series.c.attributes, sa.JSON())
    last = ""
    while True:
        studies = connection.execute(
            sa.select(study.c.study_instance_uid, study.c.patient_name)
            .where(study.c.study_instance_uid > last)
            .order_by(study.c.study_instance_uid)
            .limit(_AT_ONCE)
        ).all()
        if not studies:
            return
        uids = [uid for uid, _ in studies]
        kept = connection.execute(
            sa.select(series.c.study_instance_uid, attributes)
            .where(series.c.study_instance_uid.in_(uids))
            .order_by(series.c.series_instance_uid.desc())
        )
        found: dict[str, Any] = dict(kept.all())
        rows = [{"uid": uid, **study_columns(name, found.get(uid) or {})} for uid, name in studies]
        for row in rows:
            del row["study_date"]  # it was kept from the beginning
        connection.execute(
            study.update()
            .where(study.c.study_instance_uid == sa.bindparam("uid"))
            .values({name: sa.bindparam(name) for name in _STUDY}),
            rows,
        )
        last = uids[-1]


def downgrade() -> None:
    with op.batch_alter_table("result") as batch_op:
        batch_op.drop_index(op.f("ix_result_series_instance_uid"))
        batch_op.drop_column("attributes")
    with op.batch_alter_table("instance") as batch_op:
        batch_op.drop_column("number")
    for name in ("name_ideographic", "name_phonetic"):
        op.drop_index(f"ix_study_{name}", "study")
    with op.batch_alter_table("study") as batch_op:
        batch_op.drop_index("ix_study_name_alphabetic")
        batch_op.drop_index("ix_study_when")
        batch_op.create_index("ix_study_study_date", ["study_date"])
        for name in reversed(_STUDY):
            batch_op.drop_column(name)
