from __future__ import annotations

import pytest

from nnunet_wsl.contours.text import read_text_contour
from nnunet_wsl.errors import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "contour.txt"


@pytest.mark.parametrize(
    "text",
    [
        "120.50 137.5\n3 4\n-1e1 6\n",
        "120.50,137.5\r\n3, 4\r\n-1e1 ,6",
        "\ufeff  120.50\t137.5\n\n3   4 \n-1e1 6\n\n",
        "120.50 137.5\n3 4\n-1e1 6\n120.5 137.5\n",
    ],
    ids=["spaces", "commas", "byte order mark, tab, empty lines", "first point repeated at the end"],
)
def test_points(path, text):
    path.write_bytes(text.encode())
    points_xy = read_text_contour(path)
    assert points_xy.tolist() == [[120.5, 137.5], [3, 4], [-10, 6]]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("5", "5"),
        ("5 6 7", "5 6 7"),
        ("5,5 6,5", "5,5 6,5"),
        ("x y", "x y"),
        ("5 nan", "5 nan"),
        ("5 1e307", "5 1e307"),
        ("inf 5", "inf 5"),
        ("5,", "5,"),
    ],
)
def test_a_line_that_is_not_two_numbers(path, line, found):
    path.write_text(f"1 2\n\n3 4\n{line}\n5 6\n")
    with pytest.raises(InputError) as caught:
        read_text_contour(path)
    assert str(caught.value) == (
        f"Contour file '{path}', line 4: found '{found}', expected two numbers, x and y in pixels. "
        "Correct the line, or leave the file out."
    )


@pytest.mark.parametrize(("text", "count"), [("", 0), ("1 2\n3 4\n", 2), ("1 2\n3 4\n1 2\n3 4\n1 2\n", 2)])
def test_too_few_points(path, text, count):
    path.write_text(text)
    with pytest.raises(InputError, match=f"{count} different points; a closed contour needs 3"):
        read_text_contour(path)


def test_not_text(path):
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"contour\.txt' cannot be read: it is not text"):
        read_text_contour(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_text_contour(path.with_name("other.txt"))
