from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from nnunet_wsl.contours import Contour, ContourSet, Grid, place, rasterise
from nnunet_wsl.contours.polygons import read_polygons
from nnunet_wsl.errors import InputError

TRIANGLE = [[1.5, 2], [7, 2.25], [4, 6]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "annotation.json"


def labelme(path, *shapes, **changes):
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
    path.write_text(json.dumps(content | {"imageHeight": 9, "imageWidth": 11} | changes))
    return read_polygons(path)


def shape(points, kind="polygon", label="cell"):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def coco(path, *segmentations, **changes):
    content = {
        "images": [{"id": 7, "file_name": "x/a.png", "width": 11, "height": 9}, {"id": 3, "file_name": "b.png"}],
        "annotations": [
            {"id": 50 + n, "image_id": 7, "category_id": 2, "segmentation": s} for n, s in enumerate(segmentations)
        ],
        "categories": [{"id": 1, "name": "disc"}, {"id": 2, "name": "cup"}],
    }
    path.write_text(json.dumps(content | changes))
    return read_polygons(path)


def test_labelme_polygons(path):
    (image,) = labelme(path, shape(TRIANGLE), shape(TRIANGLE[::-1], label="disc"))
    assert (image.file, image.size_xy) == ("a.png", (11, 9))
    first, second = image.shapes
    assert (first.class_name, first.number, first.closed, first.fault) == ("cell", 1, True, "")
    assert first.points_xy.tolist() == TRIANGLE
    assert (second.class_name, second.number) == ("disc", 2)
    assert second.points_xy.tolist() == TRIANGLE[::-1]


def test_old_files_of_labelme_have_no_type_and_no_size(path):
    (image,) = labelme(path, {"label": "cell", "points": TRIANGLE}, imageHeight=None, imageWidth=None)
    assert image.size_xy is None
    assert image.shapes[0].points_xy.tolist() == TRIANGLE


@pytest.mark.parametrize(
    ("file", "expected"),
    [("..\\images\\a.png", "../images/a.png"), ("../images/a.png", "../images/a.png"), ("C:\\x\\a.png", "C:/x/a.png")],
)
def test_paths_of_windows(path, file, expected):
    assert labelme(path, imagePath=file)[0].file == expected
    images = [{"id": 1, "file_name": file}]
    assert coco(path, images=images)[0].file == expected


def test_labelme_lines_are_open(path):
    (image,) = labelme(path, shape(TRIANGLE, "linestrip"), shape(TRIANGLE[:2], "line"))
    assert [s.closed for s in image.shapes] == [False, False]
    assert [len(s.points_xy) for s in image.shapes] == [3, 2]


def test_labelme_rectangles(path):
    oriented = [[3, 1], [6, 4], [4, 6], [1, 3]]
    (image,) = labelme(path, shape([[7, 5], [2, 3]], "rectangle"), shape(oriented, "oriented_rectangle"))
    corners = image.shapes[0].points_xy
    assert {tuple(corner) for corner in corners} == {(2, 3), (7, 3), (7, 5), (2, 5)}
    assert (corners != np.roll(corners, 1, axis=0)).sum(axis=1).tolist() == [1, 1, 1, 1]  # neighbours share a side
    assert image.shapes[1].points_xy.tolist() == oriented


@pytest.mark.parametrize("kind", ["rotation", "quadrilateral"])
def test_boxes_of_x_anylabeling(path, kind):
    corners = [[3, 1], [6, 4], [4, 6], [1, 3]]
    (image,) = labelme(path, shape(corners, kind))
    assert image.shapes[0].points_xy.tolist() == corners


@pytest.mark.parametrize(("width", "height"), [(11.0, 9.0), ("11", "9")])
def test_whole_numbers_in_any_form(path, width, height):
    assert labelme(path, imageWidth=width, imageHeight=height)[0].size_xy == (11, 9)
    images = [{"id": 7.0, "file_name": "a.png", "width": width, "height": height}]
    assert coco(path, [[1, 2, 5, 2, 3, 6]], images=images)[0].size_xy == (11, 9)


def test_labelme_circles(path):
    (image,) = labelme(path, shape([[4.5, 3], [7.5, 7]], "circle"))
    x, y = image.shapes[0].points_xy.T
    np.testing.assert_allclose(np.hypot(x - 4.5, y - 3), 5, rtol=1e-12)
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2  # shoelace
    assert area == pytest.approx(np.pi * 25, rel=2e-3)


@pytest.mark.parametrize(
    ("drawn", "fault"),
    [
        (shape([[1, 2]], "point"), "is a point"),
        (shape([[1, 2], [3, 4]], "mask"), "is a mask that cannot be decoded"),
        (shape([[1, 2], [3, 4]], "mask") | {"mask": "AAAA"}, "is a mask that cannot be decoded"),
        (shape([[1, 2], [3, 4]], "mask") | {"mask": "no base64!"}, "is a mask that cannot be decoded"),
        (shape([[1, 2], [3, 4]]), "is a polygon of 2 points"),
        (shape([[1, 2]], "linestrip"), "is a linestrip of 1 points"),
        (shape([[1, 2]], "circle"), "is a circle of 1 points"),
        (shape([]), "is a polygon of 0 points"),
        (shape([[1, 2], [3, 4], [5]]), "has points that are no pairs of numbers"),
        (shape([[1, 2, 0], [3, 4, 0], [5, 6, 0]]), "has points that are no pairs of numbers"),
        (shape([[1, 2], [3, 4], [5, "x"]]), "has points that are no pairs of numbers"),
        (shape([[1, 2], [3, 4], [5, float("nan")]]), "has points that are no pairs of numbers"),
        (shape([[1, 2], [3, 4], [5, 1e307]]), "has points that are no pairs of numbers"),
        (shape([[1, 2], [3, 4], [5, True]]), "has points that are no pairs of numbers"),
        (shape([[1, 2], [3, 4], [5, "6"]]), "has points that are no pairs of numbers"),
        (shape(TRIANGLE, ["polygon"]), "is a ['polygon']"),
        (shape(TRIANGLE, label=None), "has no class"),
        (shape(TRIANGLE, label="\ud800"), "has no class"),
        (shape(None), "has points that are no pairs of numbers"),
        ("nothing", "has no class"),
    ],
)
def test_labelme_shapes_that_are_no_contours(path, drawn, fault):
    (image,) = labelme(path, shape(TRIANGLE), drawn)
    assert [s.fault for s in image.shapes] == ["", fault]
    assert image.shapes[1].points_xy.shape == (0, 2)


def mask_shape(mask, corner_xy=(0, 0)):
    """A mask as LabelMe stores it: its part of the image as PNG, between two corners that are pixels of it."""
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1").save(buffer, "PNG")
    (x, y), (height, width) = corner_xy, mask.shape
    corners = [[x, y], [x + width - 1, y + height - 1]]
    return shape(corners, "mask") | {"mask": base64.b64encode(buffer.getvalue()).decode()}


def filled(image, size_xy=(11, 9)):
    """The pixels inside the shapes of an image: even-odd within those of one number, which are united."""
    grid = Grid((0, 0, 0), (1, 1, 1), np.eye(3), (1, *size_xy[::-1]))
    contours = [
        Contour(
            "cell", np.column_stack([s.points_xy - s.first_pixel, np.zeros(len(s.points_xy))]), source=str(s.number)
        )
        for s in image.shapes
    ]
    return rasterise(place(ContourSet(["cell"], contours), grid, case="a"), "cell")[0]


RING = np.array([[0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool)


def test_labelme_masks(path):
    (image,) = labelme(path, mask_shape(RING, (3, 2)), mask_shape(np.ones((2, 1), bool), (0, 7)))
    assert [s.number for s in image.shapes] == [1, 1, 2]  # the ring has a hole
    expected = np.zeros((9, 11), bool)
    expected[2:6, 3:8] = RING
    expected[7:9, 0] = True
    assert filled(image).tolist() == expected.tolist()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labelme_masks_of_other_modes(path, mode):
    """Of grey and palette images what is not 0 is inside, whatever colour it has; base64 may have line breaks."""
    picture = Image.fromarray(RING.astype(np.uint8))
    if mode == "P":
        picture.putpalette([255, 255, 255, 0, 0, 0])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    encoded = base64.encodebytes(buffer.getvalue()).decode()
    (image,) = labelme(path, shape([[2.9999999999999996, 2], [7, 5]], "mask") | {"mask": encoded})
    assert filled(image)[2:6, 3:8].tolist() == RING.tolist()


def test_a_mask_says_how_large_an_image_is_that_has_no_size(path):
    mask = {"size": [20, 30], "counts": [5, 595]}
    other = {"size": [30, 20], "counts": [5, 595]}
    images = [{"id": 7, "file_name": "a.png"}]
    (image,) = coco(path, mask, other, [[1, 2, 5, 2, 3, 6.5]], images=images)
    assert image.size_xy == (30, 20)
    assert [(s.number, s.fault) for s in image.shapes] == [
        (1, ""), (2, "is a mask of another size than its image"), (3, ""),
    ]  # fmt: skip


def test_labelme_masks_with_faults(path):
    larger, one_corner = mask_shape(RING), mask_shape(RING)
    larger["points"][1][0] += 1
    del one_corner["points"][0]
    coloured = mask_shape(RING)
    buffer = io.BytesIO()
    Image.fromarray(RING).convert("RGBA").save(buffer, "PNG")
    coloured["mask"] = base64.b64encode(buffer.getvalue()).decode()
    (image,) = labelme(path, larger, one_corner, mask_shape(np.zeros((2, 3), bool)), coloured)
    assert [s.fault for s in image.shapes] == [
        "is a mask of another size than its corners say",
        "is a mask without two corners",
        "is a mask without a pixel",
        "is a mask in colours",
    ]


def runs_of(mask):
    """COCO's run lengths, pixel by pixel: column after column, first those outside."""
    counts, inside = [0], False
    for value in mask.T.ravel():
        if value != inside:
            counts.append(0)
            inside = value
        counts[-1] += 1
    return counts


@given(arrays(bool, (9, 11)))
def test_coco_masks(tmp_path_factory, mask):
    path = tmp_path_factory.mktemp("coco") / "annotation.json"
    image = coco(path, {"size": [9, 11], "counts": runs_of(mask)})[0]
    if mask.any():
        assert filled(image).tolist() == mask.tolist()
    else:
        assert image.shapes[0].fault == "is a mask without a pixel"


Y, X = np.mgrid[:9, :11]
LARGE_Y, LARGE_X = np.mgrid[:300, :200]
REPEATED = "0" * 89


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        # Written by pycocotools 2.0.10.
        ((((Y - 4) ** 2 + (X - 5) ** 2) < 14) & (((Y - 4) ** 2 + (X - 5) ** 2) > 2), "d0532OK10O010O010O51Na0"),
        (np.ones((300, 200), bool), "0Pcj1"),
        (
            (LARGE_Y > 40) & (LARGE_Y < 290) & (LARGE_X % 50 > 3),
            f"iV1i7c1{REPEATED}`U10`jN{REPEATED}`U10`jN{REPEATED}`U10`jN{REPEATED}gN",
        ),
    ],
    ids=["ring", "all", "columns"],
)
def test_compressed_coco_masks(path, mask, counts):
    height, width = mask.shape
    size = {"width": width, "height": height}
    images = [{"id": 7, "file_name": "a.png", **size}]
    image = coco(path, {"size": [height, width], "counts": counts}, images=images)[0]
    assert filled(image, (width, height)).tolist() == mask.tolist()


def test_coco_polygons(path):
    first, second = coco(path, [[1, 2, 5, 2, 3, 6.5], [7, 7, 9, 7, 8, 8, 7.5, 8]], [[0, 0, 1, 0, 1, 1]])
    assert (first.file, first.size_xy) == ("x/a.png", (11, 9))
    assert [(s.class_name, s.number) for s in first.shapes] == [("cup", 1), ("cup", 2), ("cup", 3)]
    assert first.shapes[0].points_xy.tolist() == [[1, 2], [5, 2], [3, 6.5]]
    assert first.shapes[1].points_xy.tolist() == [[7, 7], [9, 7], [8, 8], [7.5, 8]]
    assert (second.file, second.size_xy, second.shapes) == ("b.png", None, ())


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ({"size": [9, 11], "counts": [5, 95]}, "is a mask whose runs do not add up to 9 x 11 pixels"),
        ({"size": [9, 11], "counts": [99]}, "is a mask without a pixel"),
        ({"size": [9, 11], "counts": [9, 0, 90]}, "is a mask without a pixel"),
        ({"size": [11, 9], "counts": [5, 94]}, "is a mask of another size than its image"),
        ({"size": [9], "counts": [5, 94]}, "is a mask without a possible size"),
        ({"size": [9, -11], "counts": [5, 94]}, "is a mask without a possible size"),
        ({"size": [10**6, 10**6], "counts": [0, 10**12]}, "is a mask without a possible size"),
        ({"size": [10**19, 2], "counts": [5, 1, 2 * 10**19 - 6]}, "is a mask without a possible size"),
        ({"counts": [5, 94]}, "is a mask without a possible size"),
        ({"size": [9, 11], "counts": [9 * 10**4299] * 2}, "is a mask that cannot be decoded"),
        ({"size": [9, 11], "counts": "o" * 200000 + "0"}, "is a mask that cannot be decoded"),
        ({"size": [9, 11], "counts": [5, -6, 100]}, "is a mask that cannot be decoded"),
        ({"size": [9, 11], "counts": [5.0, 94]}, "is a mask that cannot be decoded"),
        ({"size": [9, 11]}, "is a mask that cannot be decoded"),
        ({"size": [9, 11], "counts": "d0532OK10O010O010O51Na"}, "is a mask that cannot be decoded"),  # cut off
        ({"size": [9, 11], "counts": "d0 "}, "is a mask that cannot be decoded"),
        ([], "has no polygon, but a box at most"),
        (None, "has no polygon, but a box at most"),
        ([[1, 2, 3, 4]], "is a polygon of 2 points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "has points that are no pairs of numbers"),
        ([[1, 2, 3, 4, 5, None]], "has points that are no pairs of numbers"),
        ([1, 2, 3, 4, 5, 6], "has points that are no pairs of numbers"),
    ],
)
def test_coco_annotations_that_are_no_contours(path, segmentation, fault):
    assert coco(path, segmentation)[0].shapes[0].fault == fault


def test_all_problems_of_a_coco_file_come_together(path):
    annotations = [
        {"id": 1, "image_id": 9, "category_id": 2, "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 2, "image_id": 9, "category_id": 2, "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 3, "image_id": 7, "category_id": [2], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        "nothing",
    ]
    images = [{"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}, {"id": 8}, 5]
    with pytest.raises(InputError) as caught:
        coco(path, images=images, annotations=annotations)
    assert caught.value.problems == (
        f"'{path}': the id 7 comes twice in 'images'. Correct it.",
        f"'{path}', entry 3 of 'images': expected 'id' and 'file_name'. Correct it.",
        f"'{path}', entry 4 of 'images': expected 'id' and 'file_name'. Correct it.",
        f"'{path}': 3 annotations with the id of no image, such as annotation 1. Correct or remove what names it.",
        f"'{path}': 1 annotation with the id of no category, such as annotation 3. Correct or remove what names it.",
    )


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"shapes": [], "imagePath": 3}', '{"shapes": {}}'])
def test_json_of_another_kind(path, content):
    path.write_text(content)
    with pytest.raises(InputError, match=r"is no annotation file: expected LabelMe's 'shapes'.*--exclude"):
        read_polygons(path)


@pytest.mark.parametrize("content", [b"", b'{"shapes": [', b"\xff\xfe{}", b"[" * 100_000])
def test_files_that_are_no_json(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"Annotation file '.*' cannot be read: .*Restore or remove it\."):
        read_polygons(path)


def test_a_byte_order_mark_is_no_matter(path):
    labelme(path, shape(TRIANGLE))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_polygons(path)[0].shapes[0].points_xy.tolist() == TRIANGLE
