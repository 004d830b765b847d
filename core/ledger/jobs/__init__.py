"""Jobs: made once, published, claimed in turn with a lease, finished by whoever holds them.

`making` makes and re-makes them, `publishing` says which messages to send, `claiming` gives the
best one to a worker, `holding` keeps or ends a lease, `returning` gives a job back to a worker
that was taken for dead, `ending` writes down what came of it, `sharing` lets one analysis count
for several jobs, `history` knows what came before.
"""

from core.ledger.jobs.base import DISPATCH, HELD_REASON, HELD_REMEDY
from core.ledger.jobs.claiming import Claiming
from core.ledger.jobs.ending import is_sent
from core.ledger.jobs.holding import MAX_DEATHS, MAX_LOSSES, Holding
from core.ledger.jobs.making import Making, NewJob
from core.ledger.jobs.publishing import LONGEST_REPUBLISH, Publishing
from core.ledger.jobs.sharing import Sharing

__all__ = [
    "DISPATCH",
    "HELD_REASON",
    "HELD_REMEDY",
    "LONGEST_REPUBLISH",
    "MAX_DEATHS",
    "MAX_LOSSES",
    "Jobs",
    "NewJob",
    "is_sent",
]


class Jobs(Making, Publishing, Claiming, Holding, Sharing):
    """Makes and moves jobs."""
