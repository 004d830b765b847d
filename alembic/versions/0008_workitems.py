"""workitems that other systems order, who wants to hear of them, and what is to be told

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "workitem",
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("code", sa.JSON(), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("readiness", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("patient_id", sa.String(330), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("given", sa.JSON(), nullable=False),
        sa.Column("ordered_by", sa.String(16), nullable=False),
        sa.Column("outside", sa.Boolean(), nullable=False),
        sa.Column("job_id", sa.String(36), nullable=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("performer", sa.String(16), nullable=False),
        sa.Column("due_at", _MOMENT, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("changed_at", _MOMENT, nullable=False),
        sa.Column("started_at", _MOMENT, nullable=True),
        sa.Column("finished_at", _MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_workitem_job_id_job")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_workitem")),
        sa.UniqueConstraint("job_id", name=op.f("uq_workitem_job_id")),
    )
    op.create_index(op.f("ix_workitem_state"), "workitem", ["state"])
    op.create_index(op.f("ix_workitem_created_at"), "workitem", ["created_at"])
    op.create_index(op.f("ix_workitem_study_instance_uid"), "workitem", ["study_instance_uid"])
    op.create_table(
        "workitem_subscription",
        sa.Column("id", _ID, nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("lock", sa.Boolean(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_subscription")),
        sa.UniqueConstraint("ae_title", "uid", name=op.f("uq_workitem_subscription_ae_title")),
    )
    op.create_index(op.f("ix_workitem_subscription_uid"), "workitem_subscription", ["uid"])
    op.create_table(
        "workitem_event",
        sa.Column("id", _ID, nullable=False),
        sa.Column("ae_title", sa.String(16), nullable=False),
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_event")),
    )
    op.create_index(op.f("ix_workitem_event_ae_title"), "workitem_event", ["ae_title"])


def downgrade() -> None:
    op.drop_table("workitem_event")
    op.drop_table("workitem_subscription")
    op.drop_table("workitem")
