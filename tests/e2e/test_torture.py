"""The short form of `make torture`: each kind of fault, and nothing may be lost."""

from __future__ import annotations

import pytest
from support.peers import require_program
from support.torture.drive import Plan
from support.torture.plans import LOOKED_FOR, Leg, run_leg

pytestmark = pytest.mark.timeout(400)

WITHOUT_SQL_TIME = (
    "receiver killed",
    "intake killed",
    "worker killed with its lease",
    "broker killed, files deleted",
    "disk full",
    "PACS refusing (0xC000)",
    "PACS stores, does not answer",
    "sender drops in mid-image",
    "duplicates",
    "two nodes on one ledger",
)
ON_SERVERS = (
    "sender killed while sending",
    "dispatcher killed",
    "broker killed",
    "SQL away",
    "worker killed with its lease",
    "PACS down",
    "PACS drops in mid-object",
    "PACS out of resources (0xA700)",
    "reordered",
)


@pytest.mark.parametrize(
    ("sql", "broker", "kinds"),
    [("sqlite", "valkey", WITHOUT_SQL_TIME), ("postgresql", "redis", ON_SERVERS)],
)
def test_nothing_acknowledged_is_lost_and_every_result_arrives_once(
    sql: str, broker: str, kinds: tuple[str, ...]
) -> None:
    program = require_program("redis-server", "/usr/bin") if broker == "redis" else ""
    plan = Plan(times=1, acknowledged=60, kinds=kinds, gap_seconds=0.4, images=(4, 10), minutes=2.0)
    outcome = run_leg(Leg(sql, broker, plan), 7, program)  # type: ignore[arg-type]
    found = {name: getattr(outcome.verdict, name) for name in LOOKED_FOR}
    assert found == {name: [] for name in LOOKED_FOR}, f"kept in {outcome.kept}"
    assert outcome.told.troubles == []
    assert set(outcome.told.hits) == set(kinds)
    assert outcome.verdict.acknowledged >= 60
    assert outcome.verdict.series > 0
