"""the modality of a job, and indexes for people who look for jobs

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_job_state_created_at": ("job", ["state", "created_at", "id"]),
    "ix_job_model_created_at": ("job", ["model", "created_at", "id"]),
    "ix_job_modality_created_at": ("job", ["modality", "created_at", "id"]),
    "ix_job_browse_sender": ("job", ["sender", "created_at", "id"]),
    "ix_transfer_destination_sent_at": ("transfer", ["destination", "sent_at"]),
}


def upgrade() -> None:
    op.add_column(
        "job", sa.Column("modality", sa.String(length=16), nullable=False, server_default="")
    )
    op.execute(
        "UPDATE job SET modality = coalesce((SELECT min(series.modality) FROM job_series "
        "JOIN series ON series.series_instance_uid = job_series.series_instance_uid "
        "WHERE job_series.job_id = job.id), '')"
    )
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in reversed(_INDEXES.items()):
        op.drop_index(name, table_name=table)
    with op.batch_alter_table("job") as batch_op:
        batch_op.drop_column("modality")
