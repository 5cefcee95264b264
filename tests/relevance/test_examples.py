from __future__ import annotations

import doctest

import pytest

from nnunet_wsl.relevance import maps, transform


@pytest.mark.parametrize("module", [maps, transform])
def test_the_examples_of_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
