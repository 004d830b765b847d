"""what was told of workitems last, how far the follower is, and who wants no more of one

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "workitem_told",
        sa.Column("uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("readiness", sa.String(16), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_workitem_told")),
    )
    op.create_index(op.f("ix_workitem_told_at"), "workitem_told", ["at"])
    op.create_table(
        "workitem_follower",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("last_event", sa.BigInteger(), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_follower")),
    )
    with op.batch_alter_table("workitem_subscription") as batch_op:
        batch_op.add_column(
            sa.Column("muted", sa.Boolean(), nullable=False, server_default=sa.false())
        )


def downgrade() -> None:
    with op.batch_alter_table("workitem_subscription") as batch_op:
        batch_op.drop_column("muted")
    op.drop_table("workitem_follower")
    op.drop_table("workitem_told")
