"""Read-back by C-FIND (PS3.4 Annex C): does a destination list what it was sent."""

from __future__ import annotations

from collections.abc import Collection

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from core.errors import PeerError
from node.dimse.contexts import STUDY_ROOT_FIND, UNCOMPRESSED

# So few objects of a series are asked for one by one, more by listing the series.
_FEW = 4
_PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1


class QueryRefusedError(PeerError):
    """The destination answered the query with an error; it is not down."""

    retry = False


def find_contexts() -> list[PresentationContext]:
    """The presentation contexts that the query needs."""
    return [build_context(STUDY_ROOT_FIND, list(UNCOMPRESSED))]


def listed(
    association: Association, study_uid: str, series_uid: str, wanted: Collection[str]
) -> set[str]:
    """Which of the `wanted` SOP Instance UIDs of a series the destination lists.

    It is asked at IMAGE level in the Study Root model, with the unique keys of the levels above
    (PS3.4 Section C.4.1.2.1).

    Raises:
        QueryRefusedError: the destination answered with an error.
        PeerError: the association broke.
    """
    found: set[str] = set()
    for uid in wanted if len(wanted) <= _FEW else [""]:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study_uid
        query.SeriesInstanceUID = series_uid
        query.SOPInstanceUID = uid
        found |= _ask(association, query)
    return found & set(wanted)


def _ask(association: Association, query: Dataset) -> set[str]:
    found: set[str] = set()
    try:
        answers = association.send_c_find(query, STUDY_ROOT_FIND)
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"it cannot be queried: {error}") from error
    for answer, content in answers:
        if "Status" not in answer:
            raise PeerError("the association broke, or the query was not answered in time")
        if answer.Status in _PENDING:
            if content is not None:
                found.add(str(content.get("SOPInstanceUID", "")))
        elif answer.Status != 0x0000:
            raise QueryRefusedError(f"the query was answered with 0x{answer.Status:04X}")
    return found
