"""Findings and their measurements as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from core.domain import Finding, Measurement

_UNITS = {"patient": "(LPS, mm)", "image": "(column, row, frame)"}


def findings_table(findings: tuple[Finding, ...], most: int = 20) -> Table:
    """Findings with their measurements as a table, the first `most` of them."""
    left_out = f" (the first {most} of {len(findings)})" if len(findings) > most else ""
    table = Table(title=f"Findings{left_out}", title_justify="left")
    for name in ("no.", "finding", "probability", "centre", "slices", "measured"):
        table.add_column(name)
    for finding in findings[:most]:
        side = f", {finding.laterality.meaning.lower()}" if finding.laterality else ""
        centre = finding.centre
        slices = finding.slices
        table.add_row(
            str(finding.number) if finding.present else "–",
            f"{finding.label}{side}" if finding.present else f"{finding.label}: absent",
            f"{finding.probability:.2f}" if finding.probability is not None else "",
            f"{', '.join(f'{value:.1f}' for value in centre)} {_UNITS[finding.space]}"
            if centre
            else "",
            f"{slices[0] + 1}–{slices[1] + 1}" if slices else "",
            ", ".join(_in_short(finding)),
        )
    return table


def measurements_table(findings: tuple[Finding, ...], most: int = 6) -> Table | None:
    """Everything that was measured: a line for each figure, a column for each finding."""
    shown = [finding for finding in findings if finding.measurements][:most]
    if not shown:
        return None
    table = Table("measured", "unit", title="Measurements", title_justify="left")
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for finding in shown:
        table.add_column(str(finding.number), justify="right")
        for item in finding.measurements:
            unit = "" if item.unit.value == "1" else item.unit.value
            lines.setdefault((_name_of(item), unit), {})[finding.number] = f"{item.value:.4g}"
    for (name, unit), values in lines.items():
        table.add_row(name, unit, *(values.get(finding.number, "") for finding in shown))
    return table


def _in_short(finding: Finding) -> list[str]:
    """What a person asks for first: how large, and how bright."""
    values = {_name_of(item): item for item in finding.measurements}
    found = []
    for name in ("Volume", "Area"):
        if name in values:
            found.append(f"{values[name].value:.3g} {values[name].unit.value}")
    if {"Long Axis", "Short Axis"} <= set(values):
        long, short = values["Long Axis"], values["Short Axis"]
        found.append(f"{long.value:.1f} × {short.value:.1f} {long.unit.value.strip('{}')}")
    mean = next((item for name, item in values.items() if name.endswith(", mean")), None)
    if mean is not None:
        unit = "" if mean.unit.value == "1" else f" {mean.unit.value}"
        found.append(f"mean {mean.value:.4g}{unit}")
    return found


def _name_of(measurement: Measurement) -> str:
    of = f", {measurement.derivation.meaning.lower()}" if measurement.derivation else ""
    return measurement.concept.meaning + of
