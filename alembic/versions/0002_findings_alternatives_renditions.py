"""more about findings; several results of one kind; alternatives for what a destination refuses

Revision ID: 0002
Revises: 0001

SQLite changes a constraint only by copying the table, and the old table is dropped: `Ledger`
switches foreign keys off while it upgrades.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import core.schema

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = core.schema.UTCDateTime(timezone=True)
_FIRST = sa.text("alternative_to IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("finding") as batch_op:
        for name, kind, default in (
            ("kind", sa.String(length=16), "lesion"),
            ("part", sa.Integer(), "0"),
            ("segment", sa.Integer(), "0"),
            ("channel", sa.Integer(), "0"),
            ("space", sa.String(length=16), "patient"),
            ("evaluations", sa.JSON(), "[]"),
        ):
            batch_op.add_column(sa.Column(name, kind, nullable=False, server_default=default))
        for name in ("laterality", "key_image", "axes"):
            batch_op.add_column(sa.Column(name, sa.JSON(), nullable=True))
    # until now a lesion's segment was its number
    finding = sa.table("finding", sa.column("segment"), sa.column("number"), sa.column("present"))
    op.execute(
        finding.update().where(finding.c.present.is_(sa.true())).values(segment=finding.c.number)
    )

    with op.batch_alter_table("measurement") as batch_op:
        batch_op.add_column(sa.Column("derivation", sa.JSON(), nullable=True))

    with op.batch_alter_table("result") as batch_op:
        batch_op.add_column(sa.Column("part", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("alternative_to", _ID, nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_result_alternative_to_result"), "result", ["alternative_to"], ["id"]
        )
        batch_op.drop_constraint(op.f("uq_result_job_id"), type_="unique")
        batch_op.create_index(
            "uq_result_alternative", ["alternative_to", "sop_class_uid", "part"], unique=True
        )
    op.create_index(
        "uq_result_first",
        "result",
        ["job_id", "kind", "part"],
        unique=True,
        sqlite_where=_FIRST,
        postgresql_where=_FIRST,
    )

    op.create_table(
        "rendition",
        sa.Column("id", _ID, nullable=False),
        sa.Column("result_id", _ID, nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("published", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("next_try_at", _MOMENT, nullable=True),
        sa.Column("republish_at", _MOMENT, nullable=True),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", _MOMENT, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.id"], name=op.f("fk_rendition_result_id_result")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_rendition_job_id_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rendition")),
        sa.UniqueConstraint("result_id", "sop_class_uid", name=op.f("uq_rendition_result_id")),
    )
    op.create_index(op.f("ix_rendition_job_id"), "rendition", ["job_id"])
    op.create_index("ix_rendition_state_next_try_at", "rendition", ["state", "next_try_at"])

    with op.batch_alter_table("transfer") as batch_op:
        batch_op.add_column(
            sa.Column("class_refused", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("rendition_id", _ID, nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_transfer_rendition_id_rendition"), "rendition", ["rendition_id"], ["id"]
        )
        batch_op.create_index(op.f("ix_transfer_rendition_id"), ["rendition_id"])

    op.create_table(
        "refused_sop_class",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("destination", "sop_class_uid", name=op.f("pk_refused_sop_class")),
    )


def downgrade() -> None:
    """Fails, and changes nothing, where a job has several results of one kind."""
    op.drop_table("refused_sop_class")
    with op.batch_alter_table("transfer") as batch_op:
        batch_op.drop_index(op.f("ix_transfer_rendition_id"))
        batch_op.drop_constraint(op.f("fk_transfer_rendition_id_rendition"), type_="foreignkey")
        batch_op.drop_column("rendition_id")
        batch_op.drop_column("class_refused")
    op.drop_table("rendition")
    op.drop_index("uq_result_first", "result")
    with op.batch_alter_table("result") as batch_op:
        batch_op.drop_index("uq_result_alternative")
        batch_op.drop_constraint(op.f("fk_result_alternative_to_result"), type_="foreignkey")
        batch_op.drop_column("alternative_to")
        batch_op.drop_column("part")
        batch_op.create_unique_constraint(op.f("uq_result_job_id"), ["job_id", "kind"])
    with op.batch_alter_table("measurement") as batch_op:
        batch_op.drop_column("derivation")
    with op.batch_alter_table("finding") as batch_op:
        for name in (
            "kind",
            "part",
            "segment",
            "channel",
            "space",
            "evaluations",
            "laterality",
            "key_image",
            "axes",
        ):
            batch_op.drop_column(name)
