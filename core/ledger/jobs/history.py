"""What was analysed before: the objects that a job's own take the place of."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from core.domain import FOR_PAGES, Result
from core.ledger.jobs.base import JobRows, turn_of
from core.ledger.rows import result_value
from core.lifecycle import JobState, TransferState
from core.schema import JobRow, JobSeriesRow, ResultRow, TransferRow


class History(JobRows):
    """Reads earlier analyses."""

    def earlier(self, job_id: str) -> tuple[int, tuple[Result, ...]]:
        """Which analysis of its images by its route a job is, and the objects of the one before.

        Earlier are the jobs of the same route on at least one of the same series that are done
        and were made before this one.

        Returns:
            The revision, 1 for the first; and the DICOM objects of the newest earlier job that
            has any, in the order in which they were made: its own, and those alternatives that
            a destination has. Empty for the first.
        """
        jobs = self._earlier_jobs(job_id)
        for earlier_id in jobs:
            results = self._objects_of(earlier_id)
            if results:
                return 1 + len(jobs), results
        return 1 + len(jobs), ()

    def void(self, job_id: str) -> tuple[Result, ...]:
        """The objects of all earlier analyses, which a job's own take the place of.

        All, not only the newest one's: a rejection that did not arrive is made up for.
        """
        objects = [
            result
            for earlier_id in reversed(self._earlier_jobs(job_id))
            for result in self._objects_of(earlier_id)
        ]
        # an analysis that counted for two jobs is there once
        return tuple({result.id: result for result in objects}.values())

    def _earlier_jobs(self, job_id: str) -> Sequence[str]:
        """Done jobs of the same route on one of the same series, made before; newest first."""
        row = self._session.get_one(JobRow, job_id)
        return self._session.scalars(
            select(JobRow.id)
            .where(
                JobRow.route == row.route,
                JobRow.state == JobState.DONE,
                turn_of() < self.turn(job_id),
                JobRow.id.in_(
                    select(JobSeriesRow.job_id).where(
                        JobSeriesRow.series_instance_uid.in_(self.series_of(job_id))
                    )
                ),
            )
            .order_by(turn_of().desc())
        ).all()

    def _objects_of(self, job_id: str) -> tuple[Result, ...]:
        """The DICOM objects of a job: its own, and those alternatives that a destination has."""
        maker = self._session.get_one(JobRow, job_id).same_as or job_id
        delivered = select(TransferRow.result_id).where(
            TransferRow.result_id.is_not(None),
            TransferRow.state.in_((TransferState.SENT, TransferState.COMMITTED)),
        )
        results = self._session.scalars(
            select(ResultRow)
            .where(
                ResultRow.job_id == maker,
                ResultRow.kind.not_in(FOR_PAGES),
                ResultRow.alternative_to.is_(None) | ResultRow.id.in_(delivered),
            )
            .order_by(ResultRow.id)
        )
        return tuple(result_value(item) for item in results)
