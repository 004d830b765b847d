"""What is wrong with settings: pydantic's errors by their full key, and faults across keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from core.errors import ModelSpecError
from core.modelspec import find_specs

_PARTS_OF_A_RULE = 4  # routes, its index, match, keyword
_RULE_HELP = "write a value, a list, { regex = … } or { min = …, max = … }"


def faults_of(error: ValidationError) -> list[str]:
    """What pydantic says, one line for each key."""
    faults = []
    for fault in error.errors():
        place = fault["loc"]
        if len(place) > _PARTS_OF_A_RULE and (place[0], place[2]) == ("routes", "match"):
            # pydantic tells each member of the union that did not fit; one line says it all
            faults.append(f"{_key(place[:_PARTS_OF_A_RULE])}: {_RULE_HELP}")
        else:
            faults.append(f"{_key(place)}: {_message(fault)}")
    return faults


def _key(location: tuple[int | str, ...]) -> str:
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{part}" if key else part
    return key


def _message(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    text = str(fault["msg"])
    value = fault.get("input")
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool) else ""
    return text[0].lower() + text[1:] + shown


def cross_faults(raw: dict[str, Any]) -> list[str]:
    """Faults that need more than one key. Works on raw values, so that they show at once."""
    faults: list[str] = []
    peers = _dicts(raw.get("peers"))
    routes = _dicts(raw.get("routes"))
    faults += _doubles("peers", [peer.get("name") for peer in peers])
    faults += _doubles("routes", [route.get("name") for route in routes])
    faults += _doubles("peers", [peer.get("ae_title") for peer in peers], key="ae_title")

    models = raw.get("models")
    folders = _texts(models.get("folders")) if isinstance(models, dict) else []
    known: set[str] | None = None
    try:
        known = set(find_specs(tuple(Path(folder) for folder in folders)))
    except ModelSpecError as error:
        faults.append(f"models.folders: {error}")
    named = _texts([peer.get("name") for peer in peers])
    sendable = _texts([peer.get("name") for peer in peers if peer.get("host") and peer.get("port")])
    for index, peer in enumerate(peers):
        asked = [key for key in ("archive", "commit", "find") if peer.get(key)]
        if asked and peer.get("name") not in sendable:
            faults.append(f"peers[{index}].host: {asked[0]} = true needs host and port")
    for index, route in enumerate(routes):
        model = route.get("model")
        if isinstance(model, str) and known is not None and model not in known:
            names = ", ".join(sorted(known)) or "none"
            faults.append(
                f"routes[{index}].model: no model {model!r} is installed (there is: {names})"
            )
        if not model and not route.get("forward"):
            faults.append(f"routes[{index}].model: a route needs a model, or peers to forward to")
        for among in ("destinations", "forward"):
            for number, name in enumerate(_texts(route.get(among))):
                key = f"routes[{index}].{among}[{number}]"
                if name not in named:
                    faults.append(f"{key}: no peer is called {name!r}")
                elif name not in sendable:
                    faults.append(f"{key}: peer {name!r} has no host and port to send to")
        match = route.get("match")
        for keyword, rule in match.items() if isinstance(match, dict) else ():
            faults += _rule_faults(f"routes[{index}].match.{keyword}", keyword, rule)
    return faults + _workitem_faults(raw, routes) + _web_faults(raw)


def _workitem_faults(raw: dict[str, Any], routes: list[dict[str, Any]]) -> list[str]:
    """A workitem is done by a route of ours, or by somebody else."""
    faults: list[str] = []
    called = _texts([route.get("name") for route in routes])
    workitems = _dicts(raw.get("workitems"))
    codes = [f"{item.get('scheme', '99SENTINODE')} {item.get('code')}" for item in workitems]
    for index, item in enumerate(workitems):
        route_name = item.get("route")
        if codes.index(codes[index]) != index:
            faults.append(f"workitems[{index}].code: {codes[index]!r} is there twice")
        if bool(route_name) == bool(item.get("outside")):
            faults.append(f"workitems[{index}].route: give a route, or outside = true; not both")
        elif isinstance(route_name, str) and route_name and route_name not in called:
            faults.append(f"workitems[{index}].route: no route is called {route_name!r}")
    return faults


def _web_faults(raw: dict[str, Any]) -> list[str]:
    """The pages show patients' images: never unprotected on a network."""
    faults: list[str] = []
    web = raw.get("web")
    web = web if isinstance(web, dict) else {}
    host = web.get("host") or "127.0.0.1"
    tls = bool(web.get("cert")) and bool(web.get("key"))
    if bool(web.get("cert")) != bool(web.get("key")):
        faults.append("web.cert: cert and key go together")
    proxied = str(web.get("proxy", False)).lower() in {"true", "1", "yes", "on"}
    if isinstance(host, str) and not _is_loopback(host) and not tls and not proxied:
        faults.append(
            f"web.host: {host!r} can be reached from other machines, which needs web.cert and "
            "web.key, or web.proxy = true behind a proxy that speaks TLS"
        )
    audit = raw.get("audit")
    syslog = audit.get("syslog") if isinstance(audit, dict) else ""
    if isinstance(syslog, str) and syslog:
        known = re.fullmatch(r"(udp|tcp|tls)://(\[[0-9A-Fa-f:]+\]|[^\[\]:/]+):([0-9]{1,5})", syslog)
        if not known:
            faults.append(f"audit.syslog: {syslog!r} is not udp://, tcp:// or tls://host:port")
    notices = _dicts(raw.get("notices"))
    faults += _doubles("notices", [notice.get("name") for notice in notices])
    for index, notice in enumerate(notices):
        url = notice.get("url")
        if isinstance(url, str) and not re.match(r"https?://[^/\s]+", url):
            faults.append(f"notices[{index}].url: {url!r} is no http or https URL")
    return faults


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def rule_faults(match: Mapping[str, Any]) -> list[str]:
    """What is wrong with the conditions of a route that was not read by `load`."""
    return [
        fault
        for keyword, rule in match.items()
        for fault in _rule_faults(f"match.{keyword}", keyword, rule)
    ]


def _rule_faults(key: str, keyword: str, rule: Any) -> list[str]:
    from pydicom.datadict import tag_for_keyword  # noqa: PLC0415 - 0.2 s; only with routes

    faults = []
    if tag_for_keyword(keyword) is None:
        faults.append(f"{key}: {keyword!r} is no DICOM keyword")
    if not isinstance(rule, dict):
        return faults
    if isinstance(rule.get("regex"), str):
        try:
            re.compile(rule["regex"])
        except re.error as error:
            faults.append(f"{key}.regex: {error}")
    if "regex" not in rule and not {"min", "max"} & set(rule):
        faults.append(f"{key}: {_RULE_HELP}")
    low, high = rule.get("min"), rule.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        faults.append(f"{key}: min {low} is greater than max {high}, so nothing would match")
    return faults


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _doubles(section: str, names: list[Any], key: str = "name") -> list[str]:
    seen: set[str] = set()
    faults = []
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue
        if name in seen:
            faults.append(f"{section}[{index}].{key}: {name!r} is used twice")
        seen.add(name)
    return faults
