"""whose lease ran out, and whether the job is blamed for it

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job") as batch_op:
        batch_op.add_column(sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("lost_by", sa.String(length=64), nullable=True))
        batch_op.add_column(
            sa.Column("blamed", sa.Boolean(), nullable=False, server_default=sa.false())
        )


def downgrade() -> None:
    with op.batch_alter_table("job") as batch_op:
        for name in ("blamed", "lost_by", "losses"):
            batch_op.drop_column(name)
