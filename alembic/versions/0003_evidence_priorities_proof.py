"""evidence of wholeness; order of jobs; originals passed on; proof of delivery; retention

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import core.schema

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = core.schema.UTCDateTime(timezone=True)
_JOB_INDEXES = {
    "ix_job_state_republish_at": ["state", "republish_at"],
    "ix_job_turn": ["state", "queue", "priority", "sender", "size", "created_at"],
    "ix_job_sender_started_at": ["sender", "started_at"],
    "ix_job_input_digest": ["input_digest"],
}
# what is still in the store, the oldest first
_KEPT_INDEXES = {"instance": "received_at", "result": "created_at"}


def upgrade() -> None:
    with op.batch_alter_table("series") as batch_op:
        batch_op.add_column(
            sa.Column("decided_by", sa.String(length=16), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("expected", sa.Integer(), nullable=True))
        batch_op.add_column(
            sa.Column("incomplete", sa.Boolean(), nullable=False, server_default=sa.false())
        )

    op.create_table(
        "evidence",
        sa.Column("id", _ID, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("said_by", sa.String(length=16), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=True),
        sa.Column("uids", sa.JSON(), nullable=True),
        sa.Column("stat", sa.Boolean(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence")),
        sa.UniqueConstraint(
            "source", "key", "series_instance_uid", name=op.f("uq_evidence_source")
        ),
    )
    op.create_index(op.f("ix_evidence_study_instance_uid"), "evidence", ["study_instance_uid"])
    op.create_index(op.f("ix_evidence_series_instance_uid"), "evidence", ["series_instance_uid"])

    op.create_table(
        "intake",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("place", sa.String(length=255), nullable=False),
        sa.Column("filed_before", _MOMENT, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intake")),
    )

    with op.batch_alter_table("instance") as batch_op:
        batch_op.add_column(sa.Column("gone_at", _MOMENT, nullable=True))
        batch_op.add_column(sa.Column("promised_at", _MOMENT, nullable=True))
    with op.batch_alter_table("result") as batch_op:
        batch_op.add_column(sa.Column("gone_at", _MOMENT, nullable=True))
    for table, moment in _KEPT_INDEXES.items():
        op.create_index(
            f"ix_{table}_kept",
            table,
            [moment],
            sqlite_where=sa.text("gone_at IS NULL"),
            postgresql_where=sa.text("gone_at IS NULL"),
        )
    op.create_index(op.f("ix_job_instance_instance_id"), "job_instance", ["instance_id"])
    op.create_table(
        "removal",
        sa.Column("store_key", sa.String(length=255), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("store_key", name=op.f("pk_removal")),
    )

    with op.batch_alter_table("job") as batch_op:
        for name, kind, default in (
            ("priority", sa.Integer(), "0"),
            ("size", _ID, "0"),
            ("sender", sa.String(length=16), ""),
            ("strain", sa.Integer(), "0"),
        ):
            batch_op.add_column(sa.Column(name, kind, nullable=False, server_default=default))
        batch_op.add_column(sa.Column("expected", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("same_as", sa.String(length=36), nullable=True))
        for name, columns in _JOB_INDEXES.items():
            batch_op.create_index(name, columns)

    op.create_table(
        "commitment",
        sa.Column("id", _ID, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("asked_at", _MOMENT, nullable=True),
        sa.Column("answered_at", _MOMENT, nullable=True),
        sa.Column("next_try_at", _MOMENT, nullable=True),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", _MOMENT, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitment_transaction_uid")),
    )
    op.create_index("ix_commitment_state_next_try_at", "commitment", ["state", "next_try_at"])

    op.create_table(
        "commitment_request",
        sa.Column("id", _ID, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("received_at", _MOMENT, nullable=False),
        sa.Column("answered_at", _MOMENT, nullable=True),
        sa.Column("next_try_at", _MOMENT, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_request")),
        sa.UniqueConstraint(
            "transaction_uid", "calling_ae", name=op.f("uq_commitment_request_transaction_uid")
        ),
    )
    op.create_index(
        "ix_commitment_request_state_next_try_at", "commitment_request", ["state", "next_try_at"]
    )

    with op.batch_alter_table("transfer") as batch_op:
        batch_op.alter_column("result_id", existing_type=_ID, nullable=True)
        batch_op.alter_column("job_id", existing_type=sa.String(length=36), nullable=True)
        batch_op.add_column(sa.Column("instance_id", _ID, nullable=True))
        batch_op.add_column(
            sa.Column("route", sa.String(length=64), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("proof", sa.String(length=16), nullable=False, server_default="")
        )
        batch_op.add_column(
            sa.Column("proof_tries", sa.Integer(), nullable=False, server_default="0")
        )
        batch_op.add_column(sa.Column("proved_at", _MOMENT, nullable=True))
        batch_op.add_column(sa.Column("commitment_id", _ID, nullable=True))
        batch_op.create_foreign_key(
            op.f("fk_transfer_instance_id_instance"), "instance", ["instance_id"], ["id"]
        )
        batch_op.create_foreign_key(
            op.f("fk_transfer_commitment_id_commitment"), "commitment", ["commitment_id"], ["id"]
        )
        batch_op.create_unique_constraint(
            op.f("uq_transfer_instance_id"), ["instance_id", "destination"]
        )
        batch_op.create_index(op.f("ix_transfer_instance_id"), ["instance_id"])
        batch_op.create_index(op.f("ix_transfer_commitment_id"), ["commitment_id"])

    # of what was sent before nothing more is known than the answer to it
    op.execute("UPDATE transfer SET proof = 'status', proved_at = sent_at WHERE state = 'sent'")

    with op.batch_alter_table("rendition") as batch_op:
        batch_op.add_column(sa.Column("deaths", sa.Integer(), nullable=False, server_default="0"))

    with op.batch_alter_table("destination") as batch_op:
        batch_op.add_column(sa.Column("probe_owner", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("probe_until", _MOMENT, nullable=True))
        batch_op.add_column(
            sa.Column("paused", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(
            sa.Column("commitment", sa.String(length=16), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("commitment_asked_at", _MOMENT, nullable=True))


def downgrade() -> None:
    """Fails, and changes nothing, where originals were passed on."""
    with op.batch_alter_table("destination") as batch_op:
        for name in ("commitment_asked_at", "commitment", "paused", "probe_until", "probe_owner"):
            batch_op.drop_column(name)
    with op.batch_alter_table("rendition") as batch_op:
        batch_op.drop_column("deaths")
    with op.batch_alter_table("transfer") as batch_op:
        batch_op.drop_index(op.f("ix_transfer_commitment_id"))
        batch_op.drop_index(op.f("ix_transfer_instance_id"))
        batch_op.drop_constraint(op.f("uq_transfer_instance_id"), type_="unique")
        batch_op.drop_constraint(op.f("fk_transfer_commitment_id_commitment"), type_="foreignkey")
        batch_op.drop_constraint(op.f("fk_transfer_instance_id_instance"), type_="foreignkey")
        for name in (
            "commitment_id",
            "proved_at",
            "proof_tries",
            "proof",
            "route",
            "instance_id",
        ):
            batch_op.drop_column(name)
        batch_op.alter_column("job_id", existing_type=sa.String(length=36), nullable=False)
        batch_op.alter_column("result_id", existing_type=_ID, nullable=False)
    op.drop_table("commitment_request")
    op.drop_table("commitment")
    with op.batch_alter_table("job") as batch_op:
        for name in _JOB_INDEXES:
            batch_op.drop_index(name)
        for name in ("same_as", "expected", "strain", "sender", "size", "priority"):
            batch_op.drop_column(name)
    op.drop_table("removal")
    op.drop_index(op.f("ix_job_instance_instance_id"), "job_instance")
    for table in _KEPT_INDEXES:
        op.drop_index(f"ix_{table}_kept", table)
    with op.batch_alter_table("result") as batch_op:
        batch_op.drop_column("gone_at")
    with op.batch_alter_table("instance") as batch_op:
        batch_op.drop_column("promised_at")
        batch_op.drop_column("gone_at")
    op.drop_table("intake")
    op.drop_table("evidence")
    with op.batch_alter_table("series") as batch_op:
        for name in ("incomplete", "expected", "decided_by"):
            batch_op.drop_column(name)
