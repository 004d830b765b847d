"""One rendition: an object in another SOP class, for destinations that refuse its own.

As with a job: the bytes go to the store under this attempt's own keys, then one transaction
writes results and transfers, and only if the lease still holds.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta
from io import BytesIO

import structlog
from pydicom import dcmread
from pydicom.dataset import Dataset

from core import clock
from core.alternatives import SEGMENTATION
from core.domain import Rendition, Result
from core.errors import BytesGoneError, LeaseLostError, ResultError, SentinodeError
from core.ledger import Ledger
from core.settings import Settings
from core.sopclasses import name_of
from core.store import Store, alternative_key
from workers.lease import RenditionLease

log = structlog.get_logger()

# Nobody tells of the death of who makes one: its lease may run out a little later than a job's.
_LEASES_OF_A_JOB = 2
_LONGEST_RETRY_SECONDS = 300.0

_SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def make_alternative(dataset: Dataset, sop_class_uid: str) -> list[Dataset]:
    """What stands in for `dataset` where only `sop_class_uid` is taken, in the order of parts.

    Every UID in it follows from the object's own, so that made twice it is the same.

    Raises:
        ResultError: nothing of that class can be made of it.
    """
    if sop_class_uid.startswith(_SR_CLASSES):
        from workers.results.lesser import lesser_sr  # noqa: PLC0415 - highdicom takes seconds

        made = [lesser_sr(dataset, sop_class_uid)]
    elif sop_class_uid == SEGMENTATION:
        from workers.results.lesser import labelmap_to_binary  # noqa: PLC0415 - as above

        made = [labelmap_to_binary(dataset)]
    elif sop_class_uid == _SECONDARY_CAPTURE:
        from workers.results.capture import single_captures  # noqa: PLC0415 - as above

        made = list(single_captures(dataset))
    else:
        raise ResultError(f"no {name_of(sop_class_uid)} is made of another object")
    if not made:
        raise ResultError(f"it holds nothing that {name_of(sop_class_uid)} could show")
    for item in made:
        if str(item.SOPClassUID) != sop_class_uid:
            raise ResultError(f"{name_of(item.SOPClassUID)} was made, not {name_of(sop_class_uid)}")
    return made


class Renderer:
    """Makes renditions; what a worker process keeps between them."""

    def __init__(self, settings: Settings, ledger: Ledger, store: Store) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store

    def run(self, rendition_id: int) -> bool:
        """Claim and make a rendition; whether it was made.

        Raises:
            LedgerError: SQL is away; the lease runs out and it is published again.
        """
        owner = f"render:{uuid.uuid4().hex}"
        seconds = _LEASES_OF_A_JOB * self._settings.jobs.lease_seconds
        now = clock.now()
        with self._ledger.write() as work:
            until = now + timedelta(seconds=seconds)
            rendition = work.renditions.claim(rendition_id, owner, until, now)
        if rendition is None:
            log.info("rendition_not_to_be_had", rendition=rendition_id)
            return False
        with structlog.contextvars.bound_contextvars(rendition=rendition_id, job=rendition.job_id):
            try:
                with RenditionLease(self._ledger, rendition_id, owner, seconds) as lease:
                    return self._guarded(rendition, owner, lease)
            except LeaseLostError as error:
                log.warning("rendition_lost", reason=str(error))
                return False

    def _guarded(self, rendition: Rendition, owner: str, lease: RenditionLease) -> bool:
        try:
            results = self._make(rendition, owner)
            lease.check()
        except LeaseLostError:
            raise
        except SentinodeError as error:
            tries_left = rendition.attempts < self._settings.jobs.max_attempts
            if error.retry and (tries_left or not isinstance(error, BytesGoneError)):
                self._give_back(rendition, owner, str(error))
            else:
                self._fail(rendition, owner, str(error))
            return False
        except Exception as error:
            log.exception("rendition_trouble")
            reason = f"{type(error).__name__}: {error}"
            # a trouble that nobody knows may stay; a server that is away comes back
            if rendition.attempts >= self._settings.jobs.max_attempts:
                self._fail(rendition, owner, reason)
            else:
                self._give_back(rendition, owner, reason)
            return False
        with self._ledger.write() as work:
            destinations = work.renditions.finish(rendition.id, owner, results, clock.now())
        log.info(
            "rendition_done",
            kind=str(rendition.result.kind),
            sop_class=name_of(rendition.sop_class_uid),
            objects=len(results),
            destinations=destinations,
        )
        return True

    def _make(self, rendition: Rendition, owner: str) -> list[Result]:
        # here, not above: the encoder is not needed to know that a class cannot be made
        from workers.results.encode import to_bytes  # noqa: PLC0415

        source = dcmread(BytesIO(self._store.get(rendition.result.store_key)))
        results = []
        for part, dataset in enumerate(make_alternative(source, rendition.sop_class_uid)):
            data = to_bytes(dataset)
            key = alternative_key(
                rendition.job_id, owner, rendition.result.id, rendition.sop_class_uid, part
            )
            self._store.put_bytes(key, data)
            results.append(
                Result(
                    kind=rendition.result.kind,
                    part=part,
                    alternative_to=rendition.result.id,
                    store_key=key,
                    digest=hashlib.sha256(data).hexdigest(),
                    size=len(data),
                    sop_class_uid=str(dataset.SOPClassUID),
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    series_instance_uid=str(dataset.SeriesInstanceUID),
                )
            )
        return results

    def _give_back(self, rendition: Rendition, owner: str, reason: str) -> None:
        doublings = min(rendition.attempts - 1, 16)
        seconds = min(self._settings.jobs.retry_seconds * 2**doublings, _LONGEST_RETRY_SECONDS)
        with self._ledger.write() as work:
            next_try_at = clock.now() + timedelta(seconds=seconds)
            work.renditions.give_back(rendition.id, owner, reason, next_try_at)
        log.warning("rendition_given_back", reason=reason, again_in_seconds=seconds)

    def _fail(self, rendition: Rendition, owner: str, reason: str) -> None:
        now = clock.now()
        since = now - timedelta(hours=self._settings.delivery.relearn_hours)
        with self._ledger.write() as work:
            work.renditions.fail(rendition.id, owner, reason, since, now)
        log.warning("rendition_failed", reason=reason)
