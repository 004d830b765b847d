"""What a source's character set can write of our own words."""

import pytest

from workers.results.charset import CharacterSet


@pytest.mark.parametrize(
    ("values", "text", "folded"),
    [
        (None, "Läsion 1", "Lasion 1"),
        ("ISO_IR 100", "Läsion 1", "Läsion 1"),
        (["", "ISO 2022 IR 87"], "病変 1", "病変 1"),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "병변 1", "병변 1"),
        ("ISO_IR 192", "病変 – Läsion", "病変 – Läsion"),
        ("ISO_IR 100", "病変", "?"),
    ],
)
def test_what_can_be_written_stays(values, text, folded):
    known = CharacterSet(values)
    assert known.fold(text) == folded
    assert known.encode(text)


@pytest.mark.parametrize(
    ("values", "wide"),
    [(None, False), ("ISO_IR 100", False), ("ISO_IR 192", True), (["", "ISO 2022 IR 87"], True)],
)
def test_where_a_character_may_have_several_bytes(values, wide):
    assert CharacterSet(values).is_wide == wide
