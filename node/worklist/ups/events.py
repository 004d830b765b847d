"""Putting events into the queue of those who subscribed (PS3.4 Section CC.2.6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from core.errors import QueryError
from core.ledger import Work
from core.workitems import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, Workitem
from node.worklist.identifier import Key
from node.worklist.ups.content import as_json, report_of
from node.worklist.ups.matching import read_wishes

_OF_PROGRESS = ("ProcedureStepProgressInformationSequence",)
_PERFORMERS = "ScheduledHumanPerformersSequence"
_OF_PERFORMER = ("HumanPerformerCodeSequence", "HumanPerformerOrganization")
# PS3.4 Table CC.2.6-1, Event Type ID
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, ASSIGNED = 1, 2, 3, 5


def tell(
    work: Work,
    item: Workitem,
    whole: Dataset,
    now: datetime,
    kind: int = STATE_REPORT,
    content: Dataset | None = None,
    *,
    only: str = "",
) -> frozenset[str]:
    """Queue an event for each subscriber that it concerns; who they are.

    Args:
        whole: the workitem as a data set, for filters.
        content: default: the state report.
        only: the one subscriber to tell; default: each.
    """
    listening = work.subscriptions.to((item.uid, GLOBAL_SUBSCRIPTION, FILTERED_SUBSCRIPTION))
    if not listening:
        return frozenset()
    if kind == STATE_REPORT and not only:
        state, readiness = str(item.state), str(item.readiness)
        if not work.subscriptions.is_news(item.uid, state, readiness, now):
            return frozenset()
    told = {one.ae_title for one in listening if one.muted}
    muted = frozenset(told)
    said = as_json(report_of(item, whole) if content is None else content)
    for one in listening:
        if one.ae_title in told or only not in {"", one.ae_title}:
            continue
        if one.uid == FILTERED_SUBSCRIPTION and not _matches(one.filter, whole):
            continue
        work.subscriptions.queue(one.ae_title, item.uid, kind, said, now)
        told.add(one.ae_title)
    return frozenset(told) - muted


def of_change(changes: Dataset) -> list[tuple[int, Dataset]]:
    """The events of an N-SET, with their content (PS3.4 Table CC.2.6-1)."""
    found = []
    if changes.get("ProcedureStepProgressInformationSequence"):
        found.append((PROGRESS_REPORT, _some(changes, _OF_PROGRESS)))
    if changes.get("ScheduledStationNameCodeSequence") or changes.get(_PERFORMERS):
        said = _some(changes, ("ScheduledStationNameCodeSequence",))
        performers = changes.get(_PERFORMERS)
        for element in _some(performers[0], _OF_PERFORMER) if performers else ():
            said.add(element)
        found.append((ASSIGNED, said))
    return found


def _some(whole: Dataset, keywords: tuple[str, ...]) -> Dataset:
    made = Dataset()
    for keyword in keywords:
        if keyword in whole:
            made.add(whole[keyword])
    return made


def filter_text(keys: Mapping[int, Key]) -> str:
    """Matching keys as they are kept with a subscription.

    Raises:
        QueryError: a value that cannot be one.
    """
    read_wishes(keys)
    return json.dumps([_plain(key) for key in keys.values()])


def _plain(key: Key) -> list[Any]:
    return [key.tag, key.vr, list(key.values), [[_plain(k) for k in item] for item in key.items]]


def _key(plain: list[Any]) -> Key:
    tag, vr, values, items = plain
    return Key(tag, vr, tuple(values), tuple(tuple(_key(k) for k in item) for item in items))


def _matches(kept: str, whole: Dataset) -> bool:
    keys = {key.tag: key for key in map(_key, json.loads(kept or "[]"))}
    try:
        return all(wish.accepts(whole) for wish in read_wishes(keys))
    except QueryError:
        return False
