"""The generated parts of the pages under `docs/`.

    python -m cli.docs            write them
    python -m cli.docs --check    exit status 1 if a page is out of date

A generated part stands between two comments, `<!-- generated: NAME -->` and `<!-- end -->`. It
is made from the code: settings, commands, states, log events, presentation contexts, statuses,
measurements, alternatives.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = tuple(ROOT / "docs" / name for name in ("operations.md", "conformance.md", "results.md"))
SOURCES = ("core", "node", "workers", "models", "cli")

_BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_EVENT = re.compile(r"[a-z]+(_[a-z]+)*")

# What each log event means to an administrator. A new event needs a line here.
EVENTS = {
    "audit_not_told": "The syslog server of the audit trail is away; `reason` says how. What it "
    "missed is in the file.",
    "association_end_not_written": "The disk did not take the end of an association; it is tried "
    "again every few seconds, and its series wait.",
    "association_cut": "A peer broke the rules of the protocol, fell silent in the middle of "
    "an image or sent without end; its association was aborted. `reason` says which.",
    "association_ended": "A peer's association ended. `end` says how: released, aborted or "
    "broken off; `instances` how many were taken.",
    "association_filed": "Everything of an association is in store and ledger.",
    "association_rejected": "A peer was not let in. `reason` says why: add it to `[[peers]]`, or "
    "correct the AE titles.",
    "association_without_context": "A peer proposed nothing that we accept. See conformance.md.",
    "association_trouble": "An unforeseen error, with its traceback. The association was aborted.",
    "broker_away": "Jobs could not be published. They wait; see that the broker runs.",
    "bytes_missing": "An image that the ledger knows is not in the store. It is not committed to; "
    "look at the store.",
    "clock_set_back": "A clock was set back: so many `moments` (leases, waits) lay too far ahead. "
    "They were put where they would be if written now.",
    "commitment_answered": "A peer that asked for storage commitment has our report: `yes` "
    "instances are safe, `no` are not.",
    "commitment_asked": "A destination took the question for storage commitment of `objects`; its "
    "report is waited for.",
    "commitment_not_answered": "A peer does not take our report of a storage commitment; `reason` "
    "says why. It is told again after `next_try_seconds`, or `given_up` after a day.",
    "commitment_not_offered": "A destination does not commit; it is asked again after "
    "`delivery.relearn_hours`. Another proof of delivery takes its place.",
    "commitment_not_reported": "The report of a storage commitment did not come; `reason` says "
    "what follows.",
    "commitment_not_taken": "A destination cannot take the question for storage commitment now. It "
    "is asked again some times.",
    "commitment_reported": "A destination reported what it is responsible for (`committed`), and "
    "what it has not (`failed`): that is sent again. Not `known`: we did not ask for it.",
    "commitment_unknown": "A peer reported a storage commitment that we did not ask for, or that "
    "is forgotten. Harmless.",
    "connection_dropped": "Too many connections stood before the door without a word; the "
    "longest silent one was closed.",
    "connection_lost": "A connection broke while it was read.",
    "conformance_not_checked": "The program that checks objects against the standard is missing, "
    "so they leave without that check.",
    "destination_in_trouble": "A destination is away or out of resources. Its objects wait for "
    "`next_try_seconds`.",
    "destination_well": "A destination that was down took an object again. The rest follows.",
    "disk_full": "The disk of `holds` has less free than `storage.min_free_mb`: instances are "
    "refused, or will be. Free space.",
    "disk_low": "The disk of `holds` has less free than `storage.warn_free_mb`. `full_in_hours`: "
    "so long it lasts at the rate of the last hour.",
    "disk_well": "A disk that was low has room again.",
    "door_closed": "The port is closed.",
    "door_open": "The port is open; instances are taken.",
    "ended": "`sentinode up` ended all its roles.",
    "fallback_wanted": "A destination gets an object of the SOP class `sop_class` in place of one "
    "that it refused.",
    "fast_lane_off": "The fast data path cannot be used with this installation, for "
    "`reason`; images are received by the slower one.",
    "going_on": "The trouble that `waiting` named is over.",
    "identity_conflict": "Images of one study disagree about whose they are. Its work is held: "
    "see `sentinode conflicts`.",
    "instance_refused": "An instance was not taken. `status` is what the sender was told, "
    "`reason` why.",
    "instance_spooled": "An instance is safe on the disk.",
    "instance_unfilable": "A value of a spooled file does not fit the ledger. It is kept under "
    "`kept_as`.",
    "instance_unreadable": "A spooled file could not be read. It is kept under `kept_as`, and "
    "nothing was made of it.",
    "instances_filed": "A batch of instances is in store and ledger; how many were new.",
    "instances_recovered": "A receiver died, or the machine did, just after images were complete; "
    "they were found under the names of unfinished ones and are filed. Some may not have been "
    "acknowledged: their sender sends them again.",
    "intake_not_signed_off": "Intake ended while the ledger was away; others wait for it a minute.",
    "intake_silent": "The intake of a machine was not heard of for a minute while images came. "
    "Nobody waits for it; what its spool holds comes as late images.",
    "job_claimed": "A worker began with a job.",
    "job_ended": "A job ended; `state` says how, `reason` why.",
    "job_failed": "A job failed for good; `reason` and `remedy` say more.",
    "job_given_back": "A passing trouble: the job is tried again in `again_in_seconds`.",
    "job_lease_expired": "A worker fell silent. Its job is tried again, or quarantined after the "
    "second time.",
    "job_left": "A worker could not reach the ledger. The job is published again.",
    "move_broken_off": "A destination of a C-MOVE went away in the middle; who asked was told "
    "which objects it did not get.",
    "no_job_waits": "A message came, and no job was left in its queue. Harmless.",
    "job_lost": "A job was taken from its worker (held, superseded, or given to another one). "
    "Nothing of this attempt was kept.",
    "job_not_to_be_had": "A message came for a job that somebody else has or had. Harmless.",
    "job_published": "A job's id was sent to its queue.",
    "job_trouble": "An unforeseen error, with its traceback. The job is tried again.",
    "lease_not_renewed": "A worker could not reach the ledger while it computed. It goes on.",
    "machine_restarted": "A worker began on a machine that had been switched off; the `jobs` that "
    "the machine had in hand were given back, and are not blamed.",
    "message_refused": "A message of MPPS, Instance Availability Notification or Storage "
    "Commitment was not taken. `status` is what the peer was told, `reason` why.",
    "model_loaded": "A worker loaded a model, and onto which device.",
    "no_fallback": "A destination refused an object, and nothing else can be made of it that it "
    "takes; `reason` says more.",
    "notice_filed": "What a peer told us beside images is in the ledger.",
    "notice_not_told": "A webhook did not take a notice; `reason` says why. It is told again for "
    "a day.",
    "notice_taken": "What a peer told us beside images is safe on the disk.",
    "notice_unreadable": "A spooled notice could not be read or filed. It is kept under `kept_as`.",
    "object_not_given": "An object was not sent to who asked for it by C-GET or C-MOVE; `error` "
    "says why.",
    "object_not_listed": "A destination answered success, and does not list the object when it is "
    "queried. After some times it is sent again.",
    "not_durable": "storage.fsync is off: a power cut loses images that were acknowledged.",
    "object_not_sent": "An object was not delivered this time; `state` says whether it is tried "
    "again, `message` what the destination said.",
    "object_trouble": "An unforeseen error while an object was sent, with its traceback. It is "
    "tried again some times, the others go on.",
    "objects_listed": "A destination lists objects that it was sent.",
    "objects_kept_back": "A job's objects did not pass their check. They are kept and not sent; "
    "`reason` says what is wrong. See `sentinode show JOB`.",
    "object_refused": "A destination takes no object of this SOP class. It is remembered for "
    "`delivery.relearn_hours`, or until `sentinode retry`.",
    "object_sent": "A destination has an object.",
    "pages_closed": "The role web ended.",
    "pages_open": "The pages, the HTTP interface and DICOMweb are served at `url`.",
    "query_failed": "A destination answers our query for what it was sent with an error. After "
    "some times its answer to C-STORE must do as proof.",
    "query_answered": "A peer's query or retrieval was answered; `objects` were told or sent, "
    "`status` is the last response.",
    "query_refused": "A peer's query or retrieval was not taken. `status` is what it was told, "
    "`reason` why.",
    "query_trouble": "An unforeseen error in a query or retrieval, with its traceback.",
    "request_failed": "A request over HTTP could not be served; `reason` names the kind of error.",
    "request_trouble": "An unforeseen error while a request was served, and where. Its message is "
    "left out: it may quote a patient's name.",
    "rendition_done": "An object was made in place of a refused one, and is due at `destinations`.",
    "rendition_failed": "An object in place of a refused one cannot be made; `reason` says why. "
    "What comes after it is tried.",
    "rendition_given_back": "A passing trouble: it is tried again in `again_in_seconds`.",
    "rendition_lease_expired": "A worker fell silent while it made an object in place of a refused "
    "one. It is tried again, or failed after some times.",
    "rendition_left": "A worker could not reach the ledger. The rendition is published again.",
    "rendition_lost": "A rendition was given to another worker. Nothing of this attempt was kept.",
    "rendition_not_to_be_had": "A message came for a rendition that is done or in other hands. "
    "Harmless.",
    "rendition_published": "An object is to be made in place of a refused one; its id was sent to "
    "its queue.",
    "rendition_trouble": "An unforeseen error, with its traceback. The rendition is tried again.",
    "retention_ran": "Retention removed images and results from the store, and `studies` from the "
    "ledger.",
    "role_died": "A process of `sentinode up` ended by itself and is started again. The lines "
    "before say why.",
    "role_killed": "A process did not end in time and was killed.",
    "sender_not_counting": "A sender with `find = true` did not say how many images a series has. "
    "The quiet time decides. Told once, until it answers again.",
    "series_whole": "A series is whole; `decided_by` and `reason` say why, `routes`, `jobs` and "
    "`passed_on` what follows. A warning: more images were announced than came.",
    "source_attributes_do_not_conform": "What was copied unaltered from the images breaks the "
    "standard; the object is sent all the same. `attributes` names them.",
    "store_over_limit": "The store holds more than `retention.max_store_gb`, and nothing more may "
    "go; `kept` counts the reasons. See `sentinode retention`.",
    "waiting": "A role waits for a server or a disk; `error` and `remedy` say which. Told once.",
    "worker_process_died": "The process that computed a job died, or was ended because the job "
    "took too long (`overdue`). The job is tried again, or ended; `state` says which.",
    "worker_ready": "A worker serves `queues`.",
    "subscriber_dropped": "A peer took no event of workitems for a day; its subscriptions ended.",
    "workitem_begun": "The inputs of an ordered workitem are here; `job` does it.",
    "workitem_claimed": "An outside performer claimed a workitem.",
    "workitem_event_not_told": "A subscriber does not take events of workitems; `reason` says why. "
    "They are told again after `next_try_seconds`.",
    "workitem_event_refused": "A subscriber answered an event with an error; it is not told again.",
    "workitem_not_begun": "An ordered workitem was cancelled; `reason` says why.",
    "workitem_ordered": "A peer ordered an analysis by Unified Procedure Step.",
    "workitem_refused": "A message about workitems was not taken; `status` is what the peer was "
    "told, `reason` why.",
    "workitem_trouble": "An unforeseen error in a message about workitems, with its traceback.",
}


def settings_table() -> str:
    """Every setting: key, what it may be, default, meaning."""
    from core.settings import ENV_PREFIX, Settings

    schema = Settings.model_json_schema()
    parts = []
    for name, section in schema["properties"].items():
        listed = section.get("type") == "array"
        target = section["items"] if listed else section
        reference = target.get("$ref") or target["allOf"][0]["$ref"]
        content = schema["$defs"][reference.rpartition("/")[2]]
        rows = []
        for key, value in content["properties"].items():
            default = _shown(value["default"]) if "default" in value else "must be given"
            meaning = value.get("description", "")
            rows.append((_code(key), _kind(value, schema["$defs"]), default, meaning))
        heading = f"[[{name}]]" if listed else f"[{name}]"
        purpose = content["description"].split("\n")[0].partition(": ")[2]
        variable = f"{ENV_PREFIX}{name.upper()}" + ("" if listed else "__KEY")
        parts += [
            f"### `{heading}`: {purpose.rstrip('.')}",
            "",
            f"Variable: `{variable}`" + (" (the whole list, as JSON)." if listed else "."),
            "",
            *_table(("key", "value", "default", "meaning"), rows),
            "",
        ]
    return "\n".join(parts).rstrip()


def commands_table() -> str:
    """Every command of the command line with its options."""
    rows = []
    for path, command in commands():
        parameters = []
        for parameter in command.params:
            names = [*parameter.opts, *parameter.secondary_opts]
            is_option = parameter.param_type_name == "option"
            shown = "/".join(names) if is_option else parameter.metavar or parameter.name.upper()
            parameters.append(_code(shown))
        hidden = " (started by `up`)" if command.hidden else ""
        text = " ".join((command.help or "").split("\f")[0].split())
        rows.append((_code(f"sentinode {path}"), text + hidden, " ".join(parameters)))
    return "\n".join(_table(("command", "what it does", "arguments and options"), rows))


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its path."""
    import typer.main

    import cli

    def walk(prefix: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            path = f"{prefix} {name}".strip()
            if hasattr(command, "commands"):
                yield from walk(path, command)
            else:
                yield path, command

    yield from walk("", typer.main.get_command(cli.app))


def series_states() -> str:
    """States of a series."""
    from core.lifecycle import SERIES_MOVES, SeriesState

    return _states(SeriesState, SERIES_MOVES)


def job_states() -> str:
    """States of a job."""
    from core.lifecycle import JOB_MOVES, JobState

    return _states(JobState, JOB_MOVES)


def transfer_states() -> str:
    """States of a transfer."""
    from core.lifecycle import TRANSFER_MOVES, TransferState

    return _states(TransferState, TRANSFER_MOVES)


def _states(states: type[StrEnum], moves: Any) -> str:
    meanings = dict(re.findall(r"^\s*(\w+): (.+)$", states.__doc__ or "", re.MULTILINE))
    rows = []
    for state in states:
        after = ", ".join(_code(item) for item in states if item in moves[state])
        rows.append((_code(state), meanings[state.value], after or "nothing: it stays so"))
    return "\n".join(_table(("state", "meaning", "what may follow"), rows))


@dataclass(slots=True)
class LoggedEvent:
    """One event name in the code: at which levels, and in which modules."""

    levels: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)


def log_events() -> dict[str, LoggedEvent]:
    """Every event that the code logs, by name."""
    found: dict[str, LoggedEvent] = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for level, name in _logged(tree):
                event = found.setdefault(name, LoggedEvent())
                event.levels.add("error" if level == "exception" else level)
                event.modules.add(module)
    return dict(sorted(found.items()))


def _logged(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Calls like `log.info("name", …)`, and like `level("name", …)` after `level = log.info …`."""
    aliases: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            methods = [item for item in _either(node.value) if isinstance(item, ast.Attribute)]
            if methods and all(_is_logger_method(item) for item in methods):
                aliases[node.targets[0].id] = [item.attr for item in methods]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        names = [
            item.value
            for item in _either(node.args[0])
            if isinstance(item, ast.Constant)
            and isinstance(item.value, str)
            and _EVENT.fullmatch(item.value)
        ]
        if _is_logger_method(node.func):
            assert isinstance(node.func, ast.Attribute)
            yield from ((node.func.attr, name) for name in names)
        elif isinstance(node.func, ast.Name) and node.func.id in aliases:
            levels = aliases[node.func.id]
            # two names and two levels are chosen by the same question
            if len(names) == len(levels):
                yield from zip(levels, names, strict=True)
            else:
                yield from itertools.product(levels, names)


def _is_logger_method(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in _LEVELS
        and isinstance(node.value, ast.Name)
        and node.value.id in {"log", "bound"}
    )


def _either(node: ast.expr) -> list[ast.expr]:
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def events_table() -> str:
    """Every log event with its level and meaning.

    Raises:
        SystemExit: the code logs an event that has no meaning here, or the other way round.
    """
    events = log_events()
    missing, idle = sorted(events.keys() - EVENTS.keys()), sorted(EVENTS.keys() - events.keys())
    if missing or idle:
        raise SystemExit(
            f"cli/docs.py, EVENTS: say what these mean: {missing}; these are logged no more: {idle}"
        )
    rows = [
        (
            _code(name),
            ", ".join(level for level in _LEVELS if level in event.levels),
            ", ".join(_code(module) for module in sorted(event.modules)),
            EVENTS[name],
        )
        for name, event in events.items()
    ]
    return "\n".join(_table(("event", "level", "where", "meaning"), rows))


def contexts_table() -> str:
    """What we accept: SOP classes, and the transfer syntaxes of each set of them."""
    from node.dimse.contexts import table

    parts: list[str] = []
    rows = sorted(table(), key=lambda row: (row.role, row.transfer_syntaxes))
    sets = itertools.groupby(rows, key=lambda row: (row.role, row.transfer_syntaxes))
    for number, ((role, syntaxes), members) in enumerate(sets):
        letter = chr(ord("A") + number)
        ordered = [(uid.name, _code(uid)) for uid in syntaxes]
        listed = list(members)
        only_some = any(row.setting for row in listed)
        heads = ("SOP class", "UID", *(("offered with",) if only_some else ()))
        classes = sorted(
            (
                _class_name(row.sop_class),
                _code(row.sop_class),
                *((_code(row.setting) if row.setting else "always",) if only_some else ()),
            )
            for row in listed
        )
        parts += [
            f"### Set {letter}: {len(classes)} SOP class(es), {len(syntaxes)} transfer syntaxes, "
            f"role {role}",
            "",
            *_table(("transfer syntax, most wanted first", "UID"), ordered),
            "",
            *_table(heads, classes),
            "",
        ]
    return "\n".join(parts).rstrip()


def _class_name(uid: Any) -> str:
    """A SOP class's name; pynetdicom knows some that pydicom does not yet."""
    if uid.name != str(uid):
        return str(uid.name)
    from pynetdicom import sop_class

    keyword = next((key for key, value in vars(sop_class).items() if value == uid), str(uid))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword)


def proposed_table() -> str:
    """What we propose when results are sent."""
    from pydicom.uid import UID, ExplicitVRLittleEndian

    from core.sopclasses import name_of
    from node.dimse.contexts import RESULT_CLASSES, UNCOMPRESSED, VERIFICATION, proposed

    rows = [(VERIFICATION.name, _code(VERIFICATION), ", ".join(uid.name for uid in UNCOMPRESSED))]
    for context in proposed({(uid, ExplicitVRLittleEndian) for uid in RESULT_CLASSES}):
        uid = str(context.abstract_syntax)
        syntaxes = ", ".join(UID(str(item)).name for item in context.transfer_syntax)
        rows.append((name_of(uid), _code(uid), syntaxes))
    return "\n".join(_table(("SOP class", "UID", "transfer syntaxes of the context"), rows))


def asked_table() -> str:
    """What the commands that ask peers propose."""
    from core.sopclasses import name_of
    from node.dimse.contexts import COMMITMENT, UNCOMPRESSED
    from node.fetching.retrieve import USUAL_CLASSES, contexts_to_ask

    plain = ", ".join(uid.name for uid in UNCOMPRESSED)
    rows = []
    for context in contexts_to_ask():
        uid = str(context.abstract_syntax)
        service = "C-" + name_of(uid).rpartition(" ")[2]
        used = {"C-FIND": "`find`, `fetch`", "C-MOVE": "`move`, `fetch`", "C-GET": "`get`, `fetch`"}
        rows.append((name_of(uid), _code(uid), "SCU", plain, used[service]))
    rows.append((name_of(COMMITMENT), _code(COMMITMENT), "SCU", plain, "`commit`"))
    usual = f"the classes of the study where the peer tells them, else {len(USUAL_CLASSES)} usual"
    syntaxes = "all that we accept"
    rows.append((f"Storage: {usual}", "", "SCP", syntaxes, "`get`, `fetch`, within C-GET"))
    heads = ("SOP class", "UID", "our role", "transfer syntaxes", "command")
    return "\n".join(_table(heads, rows))


def policy_table() -> str:
    """Association policy, with the settings' defaults."""
    from core.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
    from core.settings import NodeSettings
    from node.dimse.contexts import MOST_PROPOSED

    node = NodeSettings()
    rows = [
        ("Implementation Class UID", _code(IMPLEMENTATION_CLASS_UID), ""),
        ("Implementation Version Name", _code(IMPLEMENTATION_VERSION_NAME), ""),
        ("AE title", _code(node.ae_title), _code("node.ae_title")),
        ("Port", _code(node.port), _code("node.port")),
        ("Associations at once", str(node.max_associations), _code("node.max_associations")),
        ("Largest PDU received, bytes", str(node.max_pdu), _code("node.max_pdu")),
        ("Wait for association messages, s", f"{node.acse_timeout:g}", _code("node.acse_timeout")),
        ("Wait for a DIMSE message, s", f"{node.dimse_timeout:g}", _code("node.dimse_timeout")),
        ("Idle association is aborted, s", f"{node.network_timeout:g}", "`node.network_timeout`"),
        ("Presentation contexts proposed, at most", str(MOST_PROPOSED), ""),
    ]
    return "\n".join(_table(("what", "value or default", "setting"), rows))


def query_keys() -> str:
    """The keys of Query/Retrieve, level by level."""
    from core.ledger.queries.attributes import ANY_LEVEL, QUERY_RETRIEVE

    rows = [
        (level.value, *_key(attribute))
        for level, attributes in QUERY_RETRIEVE.items()
        for attribute in attributes
    ]
    rows += [("STUDY and below", *_key(attribute)) for attribute in ANY_LEVEL]
    return "\n".join(_table(("level", "key", "tag", "VR", "usage", "matching"), rows))


def worklist_keys() -> str:
    """The keys of Modality Worklist."""
    from core.ledger.queries.attributes import WORKLIST

    rows = [("step" if key.step else "", *_key(key)) for key in WORKLIST]
    return "\n".join(_table(("of", "key", "tag", "VR", "usage", "matching"), rows))


_MATCHING = {
    "UI": "list of UID",
    "DA": "single value, range",
    "TM": "single value, range",
    "PN": "single value, wild card",
    "IS": "single value",
}


def _key(attribute: Any) -> tuple[str, ...]:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(attribute.keyword) or 0
    matching = _MATCHING.get(attribute.vr, "single value, wild card")
    return (
        _code(attribute.keyword),
        f"({tag >> 16:04X},{tag & 0xFFFF:04X})",
        attribute.vr,
        attribute.usage.value,
        matching if attribute.matched else "told only",
    )


def step_states() -> str:
    """What a worklist says of a job's state."""
    from core.ledger.queries.steps import STATUS

    rows = [(_code(state.value), status) for state, status in STATUS.items()]
    return "\n".join(_table(("state of the job", "Scheduled Procedure Step Status"), rows))


def query_statuses() -> str:
    """What queries and retrieval are answered with."""
    from node.worklist.statuses import MEANINGS

    rows = [(_code(_hex(status)), service, meaning) for status, service, meaning in MEANINGS]
    return "\n".join(_table(("status", "service", "when"), rows))


def workitem_statuses() -> str:
    """What messages about workitems are answered with."""
    from node.worklist.ups.statuses import MEANINGS

    rows = [(_code(_hex(status)), message, meaning) for status, message, meaning in MEANINGS]
    return "\n".join(_table(("status", "message", "when"), rows))


def workitem_states() -> str:
    """What a workitem says of a job's state."""
    from core.workitems import OF_JOBS, state_of_job

    rows = [
        (
            _code(state.value),
            state_of_job(state, started=False).value,
            state_of_job(state, started=True).value,
        )
        for state in OF_JOBS
    ]
    heads = ("state of the job", "Procedure Step State", "once a worker began it")
    return "\n".join(_table(heads, rows))


def store_statuses() -> str:
    """What a C-STORE is answered with, from the tree of errors."""
    from core.errors import RefusedError
    from node.door.reception import PROCESSING_FAILURE, SUCCESS

    rows = [(_code(_hex(SUCCESS)), "The instance is on our disk, synced.", "")]
    for kind in _tree(RefusedError):
        meaning = (kind.__doc__ or "").split("\n")[0]
        if kind.status == PROCESSING_FAILURE:
            meaning = "An internal error; our log has the details."
        rows.append((_code(_hex(kind.status)), meaning, kind.remedy))
    return "\n".join(_table(("status", "meaning", "what to do"), rows))


def sent_statuses() -> str:
    """What we make of a destination's answer to C-STORE: every status there can be."""
    from node.sending.judge import judge

    def outcome(status: int) -> tuple[str, bool, bool, bool]:
        verdict = judge(status, "")
        return verdict.state.value, verdict.trouble, verdict.refusal, verdict.sop_class

    found: dict[tuple[str, bool, bool, bool], list[str]] = {}
    for result, group in itertools.groupby(range(0x10000), key=outcome):
        members = list(group)
        span = _code(_hex(members[0]))
        if len(members) > 1:
            span += f" to {_code(_hex(members[-1]))}"
        found.setdefault(result, []).append(span)
    rows = []
    for (state, retry, refusal, sop_class), spans in found.items():
        meaning = f"the transfer becomes `{state}`"
        if retry:
            meaning = "out of resources: everything for this destination is tried again later"
        elif sop_class:
            meaning = f"the transfer becomes `{state}`; another object is sent, if one can be made"
        elif refusal:
            meaning = "tried again, at most `delivery.max_refusals` times, then `refused`"
        rows.append((meaning, "all others" if refusal else ", ".join(spans)))
    return "\n".join(_table(("what we do", "status"), rows))


# Names in `workers.lesions.concepts`, in the order in which a report has them.
_MEASURED = {
    "size": "VOLUME AREA LONG_AXIS SHORT_AXIS MAXIMUM_3D_DIAMETER SURFACE_AREA PERIMETER",
    "shape": "SPHERICITY COMPACTNESS_2 SOLIDITY ELONGATION FLATNESS CIRCULARITY SOLIDITY_2D",
    "boundary": "MARGIN_SHARPNESS MARGIN_IRREGULARITY MARGINS",
    "density": "MEAN STANDARD_DEVIATION MEDIAN MINIMUM MAXIMUM PERCENTILE_10 PERCENTILE_90 "
    "CONTRAST",
    "uptake, of PET in SUV": "PEAK TOTAL_LESION_GLYCOLYSIS",
    "where a classifier looked": "ACTIVATION_PLACE ACTIVATION_SIDE",
}


def measurements_table() -> str:
    """The codes of what is measured of a lesion."""
    from workers.lesions import concepts

    rows = []
    for kind, names in _MEASURED.items():
        for name in names.split():
            code = getattr(concepts, name)
            meaning = concepts.PRIVATE_MEANINGS.get(code, "")
            rows.append((kind, code.meaning, f"({code.value}, {code.scheme})", meaning))
    return "\n".join(_table(("of", "what", "code", "defined as, where the code is ours"), rows))


def alternatives_table() -> str:
    """What is made of an object for a destination that refuses its SOP class."""
    from core.alternatives import ALTERNATIVES
    from core.sopclasses import name_of

    rows = [
        (name_of(uid), ", then ".join(name_of(other) for other in others))
        for uid, others in ALTERNATIVES.items()
    ]
    return "\n".join(_table(("refused", "made in its place"), rows))


def _tree(kind: Any) -> Iterator[Any]:
    from core import errors

    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child)


def metrics_table() -> str:
    """What `/metrics` tells."""
    from core.counters import COUNTERS
    from node.web.health import GAUGES

    found = {f"{name}_total": about for name, about in COUNTERS.items()} | GAUGES
    rows = (
        (_code(name), ", ".join(map(_code, labels)), text)
        for name, (labels, text) in sorted(found.items())
    )
    return "\n".join(_table(("metric", "labels", "what it says"), rows))


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": commands_table,
    "series-states": series_states,
    "job-states": job_states,
    "transfer-states": transfer_states,
    "log-events": events_table,
    "metrics": metrics_table,
    "contexts": contexts_table,
    "proposed": proposed_table,
    "asked": asked_table,
    "policy": policy_table,
    "query-keys": query_keys,
    "worklist-keys": worklist_keys,
    "step-states": step_states,
    "query-statuses": query_statuses,
    "workitem-states": workitem_states,
    "workitem-statuses": workitem_statuses,
    "store-statuses": store_statuses,
    "sent-statuses": sent_statuses,
    "measurements": measurements_table,
    "alternatives": alternatives_table,
}


def filled(text: str) -> str:
    """A page with its generated parts made anew.

    Raises:
        KeyError: the page asks for a part that there is not.
    """
    return _BLOCK.sub(
        lambda found: f"{found[1]}\n{BLOCKS[found['name']]()}\n\n{found[3]}",
        text,
    )


def names_of(text: str) -> list[str]:
    """The generated parts that a page asks for."""
    return [found["name"] for found in _BLOCK.finditer(text)]


def main(arguments: list[str]) -> int:
    """Write the pages, or check them; returns the exit status."""
    stale = 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if before == after:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{page.relative_to(ROOT)} is out of date: run python -m cli.docs")
        else:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} written")
    return 1 if stale and "--check" in arguments else 0


def _kind(value: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a setting may be, for a person."""
    if "anyOf" in value:
        kinds = [_kind(item, definitions) for item in value["anyOf"] if item.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in value:
        keys = definitions[value["$ref"].rpartition("/")[2]]["properties"]
        return "{ " + ", ".join(f"{key} = …" for key in keys) + " }"
    if "enum" in value:
        return ", ".join(_code(item) for item in value["enum"])
    kind = str(value.get("type", "any"))
    if kind == "array":
        inner = _kind(value.get("items", {}), definitions)
        return "list" if " or " in inner else f"list of {inner}"
    if kind == "object":
        return f"{{ Keyword = … }} with {_kind(value['additionalProperties'], definitions)}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    shown = "path" if value.get("format") == "path" else names.get(kind, "text")
    return shown + _limits(value)


def _limits(value: dict[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f", {low:g} to {high:g}" if high < 10**6 else f", {low} to {high}"
    if low is not None:
        return f", at least {low:g}"
    if "exclusiveMinimum" in value:
        return f", above {value['exclusiveMinimum']:g}"
    return ""


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return _code(str(value).lower())
    return _code(value)


def _hex(status: int) -> str:
    return f"0x{status:04X}"


def _code(value: object) -> str:
    return f"`{value}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
