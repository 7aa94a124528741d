"""Numbers and texts as the page prints them."""

import math

from letgo.report.formats import clean, decimal, duration, memory, p_value, shorten


def test_formats():
    assert clean("a\r\nb\x00\u202e\ud800\tc") == "a\nb\ufffd\ufffd\ufffd\tc"
    assert [shorten(text, 4) for text in ("abcdef", "abcd")] == ["abc…", "abcd"]
    assert [decimal(x) for x in (-0.001, -1.5, None, math.nan)] == [
        "0.00",
        "\u22121.50",
        "\u2013",
        "\u2013",
    ]
    assert decimal(1.5, 1, "+") == "+1.5"
    assert [p_value(p) for p in (0.0001, 0.25)] == ["p\xa0<\xa00.001", "p\xa0=\xa00.250"]
    assert [duration(s) for s in (8.21, 185)] == ["8.2\xa0s", "3\xa0min 05\xa0s"]
    assert duration(7620) == "2\xa0h 07\xa0min"
    assert [memory(m) for m in (12.0, 1500.0)] == ["12\xa0MB", "1.5\xa0GB"]
