from __future__ import annotations

import pytest

from nnunet_wsl.errors import rounded


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1500.04, 1, "1500.0"),
        (6.93, 1, "6.9"),
        (0.77, 1, "0.77"),
        (12.346, 2, "12.35"),
        (0.00123456, 2, "0.00123"),
        (-0.00041, 3, "-0.00041"),
        (0, 2, "0.00"),
    ],
)
def test_numbers_that_are_too_small_for_their_decimals(value, digits, text):
    assert rounded(value, digits) == text
    assert rounded(value, digits, "+") == (text if value < 0 else f"+{text}")
