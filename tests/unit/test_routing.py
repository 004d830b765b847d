"""Routing: which model, and why, for every kind of rule."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import RouteDecision, Series
from core.lifecycle import SeriesState
from core.settings import Route
from node.deciding.routing import evaluate

VALUES = st.one_of(
    st.text(max_size=80), st.integers(-1000, 1000), st.floats(-1e6, 1e6), st.just("nan")
)
ATTRIBUTES = st.one_of(VALUES, st.lists(VALUES, max_size=4))
RULES = st.one_of(
    st.text(max_size=20),
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6),
    st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3),
    st.fixed_dictionaries({"regex": st.sampled_from(["(?i)flair", "^T2", "[0-9]+", ""])}),
    st.fixed_dictionaries({"min": st.floats(-100, 0), "max": st.floats(0, 100)}),
)


def series(instances: int = 20, **attributes: Any) -> Series:
    return Series("1.2", "1", "MR", "", "1", SeriesState.WHOLE, 1, instances, attributes)


def decide(rule: Any, instances: int = 20, least: int = 1, **attributes: Any) -> RouteDecision:
    (keyword,) = attributes or ("EchoTime",)
    route = Route(name="r", model="m", match={keyword: rule}, min_instances=least)
    (decision,) = evaluate([route], series(instances, **attributes))
    assert decision.route == "r"
    return decision


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("MR", "MR"),
        ("MR", " MR "),
        (90, 90.0),
        (90, "90"),
        (90.5, "90.50"),
        (["MR", "CT"], "CT"),
        ([1, 3], 3.0),
        ({"regex": "(?i)flair"}, "Ax FLAIR fs"),
        ({"regex": "^1"}, 15),
        ({"min": 80}, 80),
        ({"max": 80}, "79.9"),
        ({"min": 80, "max": 120}, 120.0),
        ("PRIMARY", ["ORIGINAL", "PRIMARY", "M_FFE"]),
        ({"regex": "^M_"}, ["ORIGINAL", "PRIMARY", "M_FFE"]),
        ({"max": 1}, [5, 0.5]),
    ],
)
def test_a_value_that_fits_is_taken(rule: Any, value: Any) -> None:
    decision = decide(rule, EchoTime=value)
    assert decision.matched
    assert "EchoTime" in decision.reason
    assert "model m" in decision.reason


@pytest.mark.parametrize(
    ("rule", "value", "wanted"),
    [
        ("MR", "CT", "not MR"),
        ("MR", "mr", "not MR"),
        (90, 91, "not 90"),
        (90, "many", "not 90"),
        (["MR", "PT"], "CT", "not one of MR, PT"),
        ({"regex": "(?i)flair"}, "T2 TSE", "does not match /(?i)flair/"),
        ({"min": 80}, 79.9, "not at least 80"),
        ({"max": 80}, 80.1, "not at most 80"),
        ({"min": 80, "max": 120}, 121, "not at least 80 and at most 120"),
        ({"min": 80}, "many", "not at least 80"),
        ({"min": 80}, "nan", "not at least 80"),
        ("DERIVED", ["ORIGINAL", "PRIMARY"], "not DERIVED"),
    ],
)
def test_a_miss_names_the_keyword_the_value_and_what_was_wanted(
    rule: Any, value: Any, wanted: str
) -> None:
    decision = decide(rule, EchoTime=value)
    assert not decision.matched
    shown = "\\".join(map(str, value)) if isinstance(value, list) else str(value)
    for part in ("EchoTime", repr(shown), wanted):
        assert part in decision.reason


@pytest.mark.parametrize("attributes", [{}, {"EchoTime": ""}, {"EchoTime": None}])
@pytest.mark.parametrize("rule", ["", "MR", 0, {"regex": ""}, {"min": -1e9}])
def test_an_attribute_that_is_missing_never_fits(rule: Any, attributes: dict[str, Any]) -> None:
    route = Route(name="r", model="m", match={"EchoTime": rule})
    (decision,) = evaluate([route], series(**attributes))
    assert not decision.matched
    assert decision.reason == "the series has no EchoTime"


def test_too_few_images_are_told() -> None:
    decision = decide("MR", instances=9, least=10, Modality="MR")
    assert not decision.matched
    assert decision.reason == "9 images, at least 10 needed"
    assert decide("MR", instances=10, least=10, Modality="MR").matched


def test_every_miss_is_told_at_once() -> None:
    route = Route(
        name="r",
        model="m",
        match={"Modality": "MR", "SeriesDescription": {"regex": "flair"}, "EchoTime": {"min": 80}},
        min_instances=30,
    )
    (decision,) = evaluate([route], series(Modality="CT", EchoTime=10))
    assert decision.reason == (
        "Modality is 'CT', not MR; the series has no SeriesDescription; "
        "EchoTime is '10', not at least 80; 20 images, at least 30 needed"
    )


def test_a_route_without_conditions_takes_everything() -> None:
    (decision,) = evaluate([Route(name="r", model="m")], series())
    assert decision.matched
    assert "no condition" in decision.reason


def test_every_route_is_asked_in_order() -> None:
    routes = [Route(name=name, model="m") for name in "cab"]
    assert [item.route for item in evaluate(routes, series())] == ["c", "a", "b"]


def test_a_long_value_is_cut() -> None:
    decision = decide("x", SeriesDescription="y" * 5000)
    assert "y" * 50 in decision.reason
    assert len(decision.reason) < 200


@given(RULES, ATTRIBUTES, st.integers(1, 30), st.integers(1, 30))
def test_any_rule_on_any_value_gives_an_answer_with_a_reason(
    rule: Any, value: Any, instances: int, least: int
) -> None:
    decision = decide(rule, instances, least, EchoTime=value)
    assert "EchoTime" in decision.reason or instances < least
    assert not decision.matched or instances >= least
    # the same question, the same answer
    assert decide(rule, instances, least, EchoTime=value) == decision


@given(RULES, st.lists(VALUES, min_size=1, max_size=4))
def test_of_several_values_one_must_fit(rule: Any, values: list[Any]) -> None:
    singles = [decide(rule, EchoTime=value).matched for value in values]
    assert decide(rule, EchoTime=values).matched == any(singles)


@given(st.lists(st.text("MRCT", min_size=1, max_size=2), max_size=3), st.text("MRCT", min_size=1))
def test_a_list_fits_where_one_of_its_values_does(rule: list[str], value: str) -> None:
    assert decide(rule, Modality=value).matched == (value in rule)
