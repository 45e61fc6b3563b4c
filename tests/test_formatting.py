"""Numbers as people and programs read them: few digits, true units, no noise of binary fractions."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate import formatting


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1 + 0.2, "0.3000"), (1e-5, "1.000e−05"), (-0.0, "0"), (0.0, "0"), (1e16, "1.000e+16"),
        (-1e308, "−1.000e+308"), (5e-324, "4.941e−324"), (999_999.9, "1.000e+06"), (math.nan, "—"), (-math.inf, "—"),
    ],
)  # fmt: skip
def test_significant_digits(value: float, shown: str) -> None:
    assert formatting.significant(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.0004, "0.000"), (-0.0, "0.000"), (1234.5678, "1,234.568"), (1e15, "1.000e+15"), (-1e308, "−1.000e+308")],
)
def test_fixed_decimals(value: float, shown: str) -> None:
    assert formatting.fixed(value, 3) == shown


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_number_is_long_or_a_negative_zero(value: float) -> None:
    values = {"k": value}
    for shown in (formatting.significant(value), formatting.fixed(value, 3), formatting.parameters(values)):
        assert len(shown) <= 26
        assert "nan" not in shown
        assert "inf" not in shown
        assert shown.strip("k=−-") not in ("",) or not math.isfinite(value)
        assert not shown.startswith("−0.000") or "e" in shown or any(digit in shown for digit in "123456789")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"), (-0.0, "0 s"), (0.0076, "0.0076 s"), (9.99, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"),
        (3_599.4, "59 min 59 s"), (3_599.9, "1 h 0 min"), (86_399, "23 h 59 min"), (100 * 3_600, "4 days 4 h"),
        (1e9, "11,574 days 1 h"), (math.nan, "—"), (math.inf, "—"),
    ],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "under a second"), (0.0076, "under a second"), (59.4, "about 59 s"), (59.6, "about 1 min 0 s")],
)
def test_estimates_have_whole_seconds(seconds: float, shown: str) -> None:
    assert formatting.roughly(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(-0.001, "0%"), (0.005, "0%"), (1.0, "100%"), (math.nan, "—")])
def test_shares(value: float, shown: str) -> None:
    assert formatting.share(value) == shown


def test_one_is_singular() -> None:
    assert [formatting.count(number, "trial") for number in (0, 1, 2, 1_000)] == [
        "0 trials", "1 trial", "2 trials", "1,000 trials",
    ]  # fmt: skip


def test_whole_numbers_are_whole_while_a_double_holds_them() -> None:
    assert (repr(formatting.whole(8.0)), repr(formatting.whole(-0.0))) == ("8", "0")
    assert formatting.whole(1e308) == 1e308
    assert isinstance(formatting.whole(1e308), float)
    assert formatting.setting(8.0) == "8"
    assert formatting.setting(1e16) == "1.000e+16"
    assert formatting.setting(True) == "True"


def test_json_has_null_where_there_is_no_number() -> None:
    answer = {"a": math.nan, "b": [1, -math.inf, (2.5, math.inf)], "c": {"d": "NaN", "e": None, "f": True}}
    assert json.loads(formatting.as_json(answer)) == {
        "a": None, "b": [1, None, [2.5, None]], "c": {"d": "NaN", "e": None, "f": True},
    }  # fmt: skip
