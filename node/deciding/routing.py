"""Which model, and why. Pure functions: attributes in, explained decisions out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from core.domain import RouteDecision, Series
from core.settings import RangeRule, RegexRule, Route, Rule

_SHOWN = 60


def evaluate(routes: Iterable[Route], series: Series) -> list[RouteDecision]:
    """Hold every route against a series; each answer says why."""
    return [_evaluate(route, series) for route in routes]


def _evaluate(route: Route, series: Series) -> RouteDecision:
    misses = [
        miss
        for keyword, rule in route.match.items()
        if (miss := _miss(keyword, rule, series.attributes.get(keyword)))
    ]
    if series.instances < route.min_instances:
        misses.append(f"{series.instances} images, at least {route.min_instances} needed")
    if misses:
        return RouteDecision(route.name, False, "; ".join(misses))
    matched = ", ".join(route.match) or "no condition"
    then = [f"model {route.model}"] if route.model else []
    then += [f"passed on to {', '.join(route.forward)}"] if route.forward else []
    return RouteDecision(
        route.name, True, f"matched ({matched}; {series.instances} images): {'; '.join(then)}"
    )


def _miss(keyword: str, rule: Rule, value: Any) -> str:
    """Why a value does not fit a rule; empty when it does. Of several values one must fit."""
    values = [
        item for item in (value if isinstance(value, list) else [value]) if item not in ("", None)
    ]
    if not values:
        return f"the series has no {keyword}"
    if any(_fits(rule, item) for item in values):
        return ""
    shown = "\\".join(str(item) for item in values)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return f"{keyword} is {shown!r}, {_wanted(rule)}"


def _fits(rule: Rule, value: str | int | float) -> bool:
    if isinstance(rule, RegexRule):
        return re.search(rule.regex, str(value)) is not None
    if isinstance(rule, RangeRule):
        number = _number(value)
        return (
            number is not None
            and (rule.min is None or number >= rule.min)
            and (rule.max is None or number <= rule.max)
        )
    if isinstance(rule, list):
        return any(_fits(item, value) for item in rule)
    if isinstance(rule, str):
        return str(value).strip() == rule.strip()
    return _number(value) == float(rule)


def _number(value: str | int | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _wanted(rule: Rule) -> str:
    if isinstance(rule, RegexRule):
        return f"which does not match /{rule.regex}/"
    if isinstance(rule, RangeRule):
        low = "" if rule.min is None else f"at least {rule.min:g}"
        high = "" if rule.max is None else f"at most {rule.max:g}"
        return "not " + " and ".join(part for part in (low, high) if part)
    if isinstance(rule, list):
        return "not one of " + ", ".join(str(item) for item in rule)
    return f"not {rule}"
