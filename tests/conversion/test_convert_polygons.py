"""Polygons on 2D images, of LabelMe and in COCO's format, to a dataset that nnU-Net's 2d configuration trains on."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import os
import struct
import subprocess
import sys
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nnunet_wsl.cli.main import main
from nnunet_wsl.contours import place, rasterise
from nnunet_wsl.contours.polygons import AnnotatedImage, Shape
from nnunet_wsl.conversion import ConversionSettings, convert_pictures, convert_polygons
from nnunet_wsl.conversion.pictures import PictureHeader, read_header, read_picture
from nnunet_wsl.conversion.polygons import PolygonCase
from nnunet_wsl.errors import InputError

DATA = os.environ.get("NNUNET_WSL_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="NNUNET_WSL_TEST_DATA is not set")

WIDTH, HEIGHT = 13, 9
SQUARE = [[2, 1], [6, 1], [6, 5], [2, 5]]
"""From corner to corner of pixels: encloses columns 2 to 5 and rows 1 to 4."""
OVERLAPPING = [[4, 3], [9, 3], [9, 7], [4, 7]]
"""Columns 4 to 8, rows 3 to 6."""


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def source(tmp_path):
    """Three grey images; what is drawn on them is written by `annotate`."""
    folder = tmp_path / "source"
    for seed, name in enumerate(("ann", "bob", "cid")):
        write_image(folder / f"{name}.png", seed)
    return folder


def write_image(path, seed, mode="L", size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def annotate(image, shapes, **changes):
    """Write LabelMe's file beside an image; shapes are pairs of a class and points, or dictionaries."""
    content = {
        "shapes": [
            one if isinstance(one, dict) else {"label": one[0], "points": one[1], "shape_type": "polygon"}
            for one in shapes
        ],
        "imagePath": image.name,
        "imageWidth": WIDTH,
        "imageHeight": HEIGHT,
    }
    image.with_suffix(".json").write_text(json.dumps(content | changes))


def annotate_all(source, shapes=(("cell", SQUARE),)):
    for image in sorted(source.glob("*.png")):
        annotate(image, shapes)


def mask_shape(mask):
    """LabelMe's mask of the whole image."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    corners = [[0, 0], [mask.shape[1] - 1, mask.shape[0] - 1]]
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"label": "nucleus", "points": corners, "shape_type": "mask", "mask": encoded}


def read(raw, folder, file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "Dataset504_Cells" / folder / file)))


def rectangle(rows, columns):
    mask = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    mask[0, slice(*rows), slice(*columns)] = 1
    return mask


def problems_of(source, **options):
    with pytest.raises(InputError) as caught:
        convert_polygons(source, 504, "Cells", **options)
    return caught.value.problems


def test_labelme(source, raw):
    annotate_all(source)
    convert_polygons(source, 504, "Cells", spacing_mm=(0.7, 1.3))
    for seed, name in enumerate(("ann", "bob", "cid")):
        image = sitk.ReadImage(str(raw / "Dataset504_Cells" / "imagesTr" / f"{name}_0000.nii.gz"))
        assert image.GetSize() == (WIDTH, HEIGHT, 1)
        np.testing.assert_allclose(image.GetSpacing(), (0.7, 1.3, 1.3), rtol=1e-6)
        pixels = np.random.default_rng(seed).integers(1, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        assert sitk.GetArrayFromImage(image)[0].tolist() == pixels.tolist()
        assert read(raw, "labelsTr", f"{name}.nii.gz").tolist() == rectangle((1, 5), (2, 6)).tolist()
        relevance = read(raw, "imagesTr", f"{name}_0001.nii.gz")
        assert relevance.max() == 1
        # A contour along the edges of pixels marks the pixels behind the edge.
        assert relevance[0, 1, 2] == relevance[0, 1, 6] == relevance[0, 5, 2] == 1
        assert relevance[0, 3, 4] < 1
    described = json.loads((raw / "Dataset504_Cells" / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "grey", "1": "noNorm"}
    assert described["labels"] == {"background": 0, "cell": 1}
    assert described["wsl"]["polygons"] == {"labels": None, "spacing_mm_xy": [0.7, 1.3], "first_pixel": 0.5}


def test_shapes_of_a_class_are_united(source, raw):
    annotate_all(source, [("cell", SQUARE), ("cell", OVERLAPPING), ("cell", SQUARE)])
    convert_polygons(source, 504, "Cells")
    united = rectangle((1, 5), (2, 6)) | rectangle((3, 7), (4, 9))
    assert read(raw, "labelsTr", "bob.nii.gz").tolist() == united.tolist()


def test_masks_have_holes_and_are_united(source, raw):
    """Whatever is said of the first pixel: masks consist of pixels."""
    ring = rectangle((1, 6), (2, 8))[0].astype(bool)
    ring[2:4, 4:6] = False
    runs = [0]
    for value in ring.T.ravel():
        if value == (len(runs) % 2 == 1):
            runs.append(0)
        runs[-1] += 1
    images = sorted(source.glob("*.png"))
    content = {
        "images": [
            {"id": n, "file_name": image.name, "width": WIDTH, "height": HEIGHT} for n, image in enumerate(images)
        ],
        "annotations": [
            {"id": n, "image_id": n // 2, "category_id": 1, "segmentation": segmentation}
            for n, segmentation in enumerate(
                [{"size": [HEIGHT, WIDTH], "counts": runs}, [[5, 3, 6, 3, 6, 4, 5, 4]]] * len(images)
            )
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (source / "coco.json").write_text(json.dumps(content))
    expected = ring.copy()
    expected[3, 5] = True  # the polygon, in the hole
    convert_polygons(source, 504, "Cells")
    assert read(raw, "labelsTr", "bob.nii.gz")[0].tolist() == expected.astype(int).tolist()
    # Counted from the centre of the first pixel, the polygon ends on centres; the mask stays where it is.
    convert_polygons(source, 504, "Cells", first_pixel=0, overwrite=True)
    label_map = read(raw, "labelsTr", "bob.nii.gz")[0]
    assert (label_map[ring] == 1).all()
    assert label_map[2, 4] == 0


def test_a_keyhole_is_a_hole(source, raw):
    outer, inner = [[1, 1], [8, 1], [8, 7], [1, 7]], [[3, 3], [3, 5], [6, 5], [6, 3]]
    annotate_all(source, [("cell", [*outer, outer[0], *inner, inner[0]])])
    convert_polygons(source, 504, "Cells")
    ring = rectangle((1, 7), (1, 8)) - rectangle((3, 5), (3, 6))
    assert read(raw, "labelsTr", "bob.nii.gz").tolist() == ring.tolist()


def test_what_the_files_say_of_people_and_dates_goes_nowhere(source, raw, caplog):
    exif = Image.Exif()
    exif[0x013B], exif[0x010E], exif[0x0132] = "Dr Secret", "patient Secret", "2019:09:08 07:06:05"
    for path in source.glob("*.png"):
        Image.fromarray(GREY).save(path, exif=exif)
    annotate_all(source)
    convert_polygons(source, 504, "Cells")
    files = [path for path in (raw / "Dataset504_Cells").rglob("*") if path.is_file()]
    assert len(files) > 9
    for path in files:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert b"Secret" not in content
        assert b"2019" not in content
    assert "Secret" not in caplog.text


def test_a_contour_runs_between_shapes_that_touch(source, raw):
    beside = [[6, 1], [10, 1], [10, 5], [6, 5]]
    annotate_all(source, [("cell", SQUARE), ("cell", beside)])
    convert_polygons(source, 504, "Cells", settings=ConversionSettings(sigma_mm=(0.5,)))
    assert read(raw, "labelsTr", "bob.nii.gz").tolist() == rectangle((1, 5), (2, 10)).tolist()
    row = read(raw, "imagesTr", "bob_0001.nii.gz")[0, 3]
    # At x = 1.5, 5.5 and 9.5, between two voxels each.
    assert row[[1, 2, 5, 6, 9, 10]].tolist() == [1] * 6
    np.testing.assert_allclose(row[[3, 4, 7, 8]], np.exp(-(1**2) / (2 * 0.5**2)), rtol=1e-6)


def test_coco_and_labelme_say_the_same(source, raw, tmp_path):
    drawn = {"ann": [("cup", OVERLAPPING), ("disc", SQUARE)], "bob": [("disc", SQUARE)], "cid": [("cup", SQUARE)]}
    for name, shapes in drawn.items():
        annotate(source / f"{name}.png", shapes)
    settings = ConversionSettings(missing="absent", overlap="regions")
    convert_polygons(source, 504, "Cells", settings=settings)
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    for image in source.glob("*.png"):
        image.rename(other / "images" / image.name)
    numbers = {"ann": 5, "bob": 3, "cid": "x9"}
    content = {
        "images": [
            {"id": numbers[name], "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT} for name in drawn
        ],
        "annotations": [
            {
                "image_id": numbers[name],
                "category_id": ("cup", "disc").index(label),
                "segmentation": [list(chain.from_iterable(points))],
            }
            for name, shapes in drawn.items()
            for label, points in shapes
        ],
        "categories": [{"id": 0, "name": "cup"}, {"id": 1, "name": "disc"}, {"id": 2, "name": "unused"}],
    }
    (other / "annotations").mkdir()
    (other / "annotations" / "instances.json").write_text(json.dumps(content))
    convert_polygons(other, 505, "Cells", settings=settings)
    files = sorted(p.relative_to(raw / "Dataset504_Cells") for p in (raw / "Dataset504_Cells").glob("*Tr/*"))
    assert len(files) == 3 * (1 + 2 + 1)
    for file in files:
        assert (raw / "Dataset504_Cells" / file).read_bytes() == (raw / "Dataset505_Cells" / file).read_bytes()
    labels = [
        json.loads((raw / f / "dataset.json").read_text())["labels"] for f in ("Dataset504_Cells", "Dataset505_Cells")
    ]
    assert labels[0] == labels[1]
    assert list(labels[0]) == ["background", "disc", "cup"] or list(labels[0]) == ["background", "cup", "disc"]


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-0.3, WIDTH + 0.3), st.floats(-0.3, HEIGHT + 0.3)), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([(1.0, 1.0), (0.7, 1.3)]),
)
def test_a_pixel_is_inside_if_its_centre_is(triangles, spacing_mm_xy):
    shapes = tuple(Shape("cell", n, np.array(points)) for n, points in enumerate(triangles, start=1))
    annotated = AnnotatedImage("a.png", None, shapes)
    classes = {"cell": frozenset(["cell"])}
    case = PolygonCase("a", Path("a.png"), PictureHeader((WIDTH, HEIGHT), 1), annotated, classes, spacing_mm_xy, 0.5)
    grid, contours = case.read_geometry()
    mask = rasterise(place(contours, grid, case="a"), "cell")[0]
    centres = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), axis=-1)
    inside, clear = np.zeros(mask.shape, bool), np.ones(mask.shape, bool)
    for triangle in np.array(triangles):
        sides = np.roll(triangle, -1, axis=0) - triangle
        offsets = centres[:, :, None] - triangle
        turns = sides[:, 0] * offsets[..., 1] - sides[:, 1] * offsets[..., 0]
        inside |= (turns > 0).all(axis=-1) | (turns < 0).all(axis=-1)
        clear &= (np.abs(turns) > 1e-4).all(axis=-1)  # rounding may decide on a side, or along its line
    assert (mask[clear] == inside[clear]).all()


def test_labels_of_several_classes(source, raw):
    for image, name in zip(sorted(source.glob("*.png")), ("Nucleus", "nuclei", "debris"), strict=True):
        annotate(image, [("nucleus", SQUARE), (name, OVERLAPPING)])
    convert_polygons(source, 504, "Cells", labels={"nucleus": "nucle(us|i)"})
    both = rectangle((1, 5), (2, 6)) | rectangle((3, 7), (4, 9))
    assert read(raw, "labelsTr", "ann.nii.gz").tolist() == both.tolist()
    assert read(raw, "labelsTr", "bob.nii.gz").tolist() == both.tolist()
    assert read(raw, "labelsTr", "cid.nii.gz").tolist() == rectangle((1, 5), (2, 6)).tolist()


def test_faults_of_classes_of_no_label_do_not_matter(source, raw):
    annotate_all(source, [("cell", SQUARE), {"label": "spot", "points": [[1, 1]], "shape_type": "point"}])
    assert all("1 shape without a contour" in problem for problem in problems_of(source))
    convert_polygons(source, 504, "Cells", labels={"cell": "cell"})
    assert np.array_equal(read(raw, "labelsTr", "ann.nii.gz"), rectangle((1, 5), (2, 6)))


def test_images_without_a_label(source, raw, caplog):
    annotate(source / "ann.png", [("cell", SQUARE)])
    annotate(source / "bob.png", [])
    annotate(source / "cid.png", [])
    assert problems_of(source) == (
        "Nothing of label 'cell' is drawn on 2 of 3 images, such as case 'bob'. Draw it, or say with --missing whether "
        "it is absent or unknown there.",
    )
    assert list(raw.iterdir()) == []
    with caplog.at_level(logging.WARNING):
        convert_polygons(source, 504, "Cells", settings=ConversionSettings(missing="absent"))
    assert read(raw, "labelsTr", "bob.nii.gz").max() == 0
    assert "Case 'bob', label 'cell': no contours; the object is known to be absent on 1 of 1 slice" in caplog.text


def test_many_images_without_a_label_are_one_warning(tmp_path, raw, caplog):
    for n in range(8):
        image = tmp_path / "source" / f"i{n}.png"
        write_image(image, n)
        annotate(image, [("cell", SQUARE)] if n < 2 else [("disc", SQUARE)])
    with caplog.at_level(logging.WARNING):
        convert_polygons(
            tmp_path / "source", 504, "Cells", labels={"cell": "cell"}, settings=ConversionSettings(missing="absent")
        )
    assert caplog.messages == ["Label 'cell': no contours in 6 cases, such as 'i2'; wsl_report.csv lists all."]


def test_a_line_says_nothing_of_what_it_encloses(source, raw):
    strip = {"label": "cell", "points": [[8, 6.5], [12, 6.5]], "shape_type": "linestrip"}
    annotate_all(source, [("cell", SQUARE)])
    annotate(source / "bob.png", [("cell", SQUARE), strip])
    convert_polygons(source, 504, "Cells")
    labels = read(raw, "labelsTr", "bob.nii.gz")
    assert (labels == 1).tolist() == (rectangle((1, 5), (2, 6)) == 1).tolist()
    assert (labels[labels != 1] == 2).all()
    assert read(raw, "imagesTr", "bob_0001.nii.gz")[0, 6, 8:12].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("first_pixel", "shift"), [(0.5, 0), (0.0, 0.5), (1.0, -0.5)])
def test_where_the_first_pixel_is(source, raw, first_pixel, shift):
    annotate_all(source, [("cell", [[x + 0.25, y + 0.25] for x, y in SQUARE])])
    convert_polygons(source, 504, "Cells", first_pixel=first_pixel)
    start_x, start_y = (int(np.ceil(at + 0.25 - first_pixel)) for at in (2, 1))
    labels = read(raw, "labelsTr", "bob.nii.gz")
    assert labels.tolist() == rectangle((start_y, start_y + 4), (start_x, start_x + 4)).tolist()


def test_images_are_found_by_the_end_of_their_path(tmp_path, raw):
    source = tmp_path / "source"
    for seed, folder in enumerate(("a", "b", "c")):
        write_image(source / "images" / folder / "frame.png", seed)
        (source / "json").mkdir(exist_ok=True)
        annotate(source / "json" / f"{folder}.png", [("cell", SQUARE)], imagePath=f"..\\{folder}\\frame.png")
    convert_polygons(source, 504, "Cells")
    labels = raw / "Dataset504_Cells" / "labelsTr"
    assert sorted(path.name for path in labels.iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_groups_stay_in_one_fold(tmp_path, raw):
    source = tmp_path / "source"
    for n in range(18):
        image = source / f"patient{n // 3}_frame{n % 3}.png"
        write_image(image, n)
        annotate(image, [("cell", SQUARE)])
    convert_polygons(source, 504, "Cells", group=r"patient(\d+)_")
    folds = json.loads((raw / "Dataset504_Cells" / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        patients = {part: {case.split("_")[0] for case in fold[part]} for part in ("train", "val")}
        assert not patients["train"] & patients["val"]
        assert len(fold["train"]) + len(fold["val"]) == 18
    for expression in ("patient[0-2]", "patient([0-2])|frame"):
        assert problems_of(source, group=expression, overwrite=True) == (
            f"--group '{expression}' finds nothing in the paths of 9 images, or nothing with its first group, such as "
            "'patient3_frame0.png'. Change it, so that it finds the patient, for example, in each.",
        )
    assert "is not a regular expression" in problems_of(source, group="(", overwrite=True)[0]


def test_colours(source, raw):
    expected = {}
    for seed, name in enumerate(("ann", "bob", "cid")):
        expected[name] = write_image(source / f"{name}.png", seed, "RGB")
    annotate_all(source)
    convert_polygons(source, 504, "Cells")
    for name, pixels in expected.items():
        for channel in range(3):
            assert read(raw, "imagesTr", f"{name}_{channel:04d}.nii.gz")[0].tolist() == pixels[..., channel].tolist()
    described = json.loads((raw / "Dataset504_Cells" / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "R", "1": "G", "2": "B", "3": "noNorm"}
    assert problems_of(source, channels=["H", "E"], overwrite=True) == (
        "--channel names 2 channels; the images have 3. Name each of them.",
    )
    write_image(source / "bob.png", 1)
    assert problems_of(source, overwrite=True) == (
        "Expected images of one kind, found 1 in grey, such as 'bob.png', and 2 with colours, such as 'ann.png'. Save "
        "all with colours, or all in grey.",
    )


def test_all_problems_come_together(source, raw):
    annotate(source / "ann.png", [("cell", SQUARE), {"label": "cell", "points": [[1, 2]], "shape_type": "point"}])
    annotate(source / "bob.png", [("cell", SQUARE)], imageWidth=HEIGHT, imageHeight=WIDTH)
    annotate(source / "cid.png", [("cell", [[2, 1], [WIDTH + 3, 1], [6, 5]])])
    assert problems_of(source) == (
        "Annotation file 'bob.json': 1 image of another size than was drawn on. The first is 'bob.png': expected 9 x "
        "13 pixels, found 13 x 9. Restore the images that were drawn on. If its EXIF orientation turns it, and the "
        "tool did not, remove that from the image.",
        "Annotation file 'ann.json': 1 shape without a contour. The first is number 2 of image 'ann.png', of class "
        "'cell', which is a point; expected a polygon, or a mask with pixels. Draw what is missing, remove such "
        "shapes, or leave the class out with --label.",
    )
    annotate(source / "ann.png", [("cell", SQUARE)])
    annotate(source / "bob.png", [("cell", [[-2, 1], [4, 1], [6, 5]])])
    assert problems_of(source) == (
        "Case 'bob': contour 1 of ROI 'cell 1' lies 2.00 mm outside the image grid (allowed 0.50 mm). Check that the "
        "contours were drawn on this image, or pass --outside clip.",
        "Case 'cid': contour 1 of ROI 'cell 1' lies 3.00 mm outside the image grid (allowed 0.50 mm). Check that the "
        "contours were drawn on this image, or pass --outside clip.",
    )
    assert list(raw.iterdir()) == []


def test_problems_of_files_come_together(source, raw):
    annotate_all(source)
    (source / "cid.png").unlink()
    (source / "notes.json").write_text("{}")
    (source / "broken.json").write_text("{")
    assert len(problems_of(source, exclude=["x*"])) == 3
    problems = problems_of(source, exclude=["NOTES.json", "broken.json"])
    assert problems == (
        f"Annotation file 'cid.json': expected 1 image (PNG, JPEG, TIFF or BMP) below '{source}', found 0. The first "
        "that is not there is 'cid.png'. Add what is missing, correct the paths, or leave the file out with --exclude.",
    )


def test_an_image_that_is_annotated_twice(source, raw):
    annotate_all(source)
    annotate(source / "second.png", [("cell", SQUARE)], imagePath="ann.png")
    assert problems_of(source) == (
        "Annotation file 'second.json': 1 image annotated a second time, such as 'ann.png', first in 'ann.json'; "
        "expected one annotation. Leave one of the files out with --exclude, or remove entries.",
    )


def test_an_image_that_may_be_several(tmp_path, raw):
    for folder in ("a", "b"):
        write_image(tmp_path / "source" / folder / "frame.png", 1)
    (tmp_path / "source" / "json").mkdir()
    annotate(tmp_path / "source" / "json" / "frame.png", [("cell", SQUARE)])
    (problem,) = problems_of(tmp_path / "source")
    assert "1 image may be one of several files. The first is 'frame.png': 'a/frame.png' or 'b/frame.png'." in problem


@pytest.mark.parametrize(
    ("classes", "labels", "problem"),
    [
        (["cell", "Cell"], None, "The classes 'Cell' and 'cell' differ in letter case only"),
        (["cell", "Background"], None, "Class 'Background' cannot be a label of this name"),
        (["cell", "disc"], {"x": "nothing"}, "The classes, and how many shapes they have: 'cell' (3), 'disc' (3)."),
        (["cell", "disc"], {"x": "c.*", "y": "cell|disc"}, "Class 'cell' matches the labels 'x', 'y'; expected one."),
        (["cell", "disc"], {"ignore": "cell"}, "Label 'ignore' cannot be used"),
    ],
)
def test_labels_that_are_not_clear(source, raw, classes, labels, problem):
    annotate_all(source, [(name, SQUARE) for name in classes])
    assert any(problem in found for found in problems_of(source, labels=labels))


@pytest.mark.parametrize("spacing_mm", [(0.0,), (-1.0, 1.0), (float("nan"),), (1.0, 1.0, 1.0), (2000.0,)])
def test_pixels_of_no_size(source, raw, spacing_mm):
    assert problems_of(source, spacing_mm=spacing_mm)[0].startswith("--spacing-mm ")


def test_images_to_predict_on_are_those_that_trained(source, raw, tmp_path):
    annotate_all(source)
    assert (
        main(["convert", "polygons", str(source), "--dataset", "504", "--name", "Cells", "--spacing-mm", "0.7", "1.3"])
        == 0
    )
    arguments = [
        "convert",
        "images",
        str(source),
        "-o",
        str(tmp_path / "new"),
        "--kind",
        "2d",
        "--spacing-mm",
        "0.7",
        "1.3",
    ]
    assert main(arguments) == 0
    written = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in written] == [f"{name}_0000.nii.gz" for name in ("ann", "bob", "cid")]
    for path in written:
        assert path.read_bytes() == (raw / "Dataset504_Cells" / "imagesTr" / path.name).read_bytes()


@pytest.mark.parametrize("arguments", [["--kind", "2d", "--modality", "US"], ["--spacing-mm", "1"]])
def test_options_without_effect(source, tmp_path, capsys, arguments):
    assert main(["convert", "images", str(source), "-o", str(tmp_path / "new"), *arguments]) == 2
    assert "has no effect with --kind" in capsys.readouterr().err


def test_the_other_kind_of_images_is_pointed_to(source, tmp_path, capsys):
    assert main(["convert", "images", str(source), "-o", str(tmp_path / "new")]) == 2
    assert "For PNG, JPEG, TIFF or BMP files pass --kind 2d." in capsys.readouterr().err


def test_pictures_that_cannot_be_read_leave_nothing(source, tmp_path):
    whole = (source / "ann.png").read_bytes()
    (source / "ann.png").write_bytes(whole[: len(whole) - 30])
    (source / "bob.png").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        convert_pictures(source, tmp_path / "new")
    images = [problem.split(" cannot be read")[0] for problem in caught.value.problems]
    assert images == [f"Image '{source / name}'" for name in ("ann.png", "bob.png")]
    # A header alone does not tell that the rest of a JPEG is missing.
    for path in source.glob("*.png"):
        path.unlink()
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400), dtype=np.uint8)
    Image.fromarray(pixels).save(source / "dan.jpg")
    whole = (source / "dan.jpg").read_bytes()
    (source / "dan.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"Image '.*dan\.jpg' cannot be read: .*truncated"):
        convert_pictures(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


GREY = np.random.default_rng(5).integers(1, 255, (HEIGHT, WIDTH), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("a.png", Image.fromarray(GREY.astype(np.uint16) * 200), GREY[None].astype(np.uint16) * 200),
        ("a.tif", Image.fromarray(GREY.astype(np.float32) / 8), GREY[None] / 8),
        ("a.tiff", Image.fromarray(GREY.astype(np.int32) * 70000), GREY[None].astype(np.int32) * 70000),
        ("a.BMP", Image.fromarray(GREY), GREY[None]),
        ("a.png", Image.fromarray(GREY > 99), (GREY[None] > 99) * 255),
        ("a.png", Image.fromarray(GREY).convert("P"), np.stack([GREY] * 3)),
        ("a.png", Image.fromarray(GREY).convert("LA"), GREY[None]),
        ("a.png", Image.fromarray(GREY).convert("RGBA"), np.stack([GREY] * 3)),
    ],
)
def test_modes(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    pixels = read_picture(tmp_path / name)
    assert pixels.tolist() == expected.tolist()
    assert pixels.dtype.isnative
    assert read_header(tmp_path / name) == PictureHeader((WIDTH, HEIGHT), len(expected))


@pytest.mark.parametrize(
    ("name", "orientation"),
    [(name, n) for name in ("a.png", "a.jpg", "a.tif") for n in range(1, 9 if name < "a.t" else 5)],
)
def test_photographs_are_turned_as_they_are_shown(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(
        tmp_path / name, **({"tiffinfo": {274: orientation}} if name == "a.tif" else {"exif": exif})
    )
    # TIFF 6.0, tag 274: which side of the scene the first row and the first column of the file are.
    shown = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: GREY.T[:, ::-1],
        7: GREY.T[::-1, ::-1], 8: GREY.T[::-1],
    }[orientation]  # fmt: skip
    pixels = read_picture(tmp_path / name)[0]
    assert read_header(tmp_path / name).size_xy == shown.shape[::-1] == pixels.shape[::-1]
    if name != "a.jpg":  # which changes values
        assert pixels.tolist() == shown.tolist()


def test_the_preview_in_a_photograph_is_no_page(tmp_path):
    """A camera's JPEG with several images in one file (MPO)."""
    photograph, preview = Image.fromarray(np.full((9, 13), 100, np.uint8)), Image.fromarray(np.zeros((3, 4), np.uint8))
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert read_header(tmp_path / "a.jpg") == PictureHeader((13, 9), 1)
    assert read_picture(tmp_path / "a.jpg").tolist() == [[[100] * 13] * 9]


def test_numbers_with_the_first_byte_first(tmp_path):
    deep = (GREY.astype(np.uint16) * 256 + 7).astype(">u2")
    Image.frombytes("I;16B", deep.shape[::-1], deep.tobytes()).save(tmp_path / "a.tif")
    pixels = read_picture(tmp_path / "a.tif")
    assert pixels.dtype.isnative
    assert pixels[0].tolist() == deep.tolist()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_turned_tiff_is_refused(tmp_path, orientation):
    Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={274: orientation})
    for read_it in (read_header, read_picture):
        with pytest.raises(InputError, match=r"stored turned by its orientation\. Save it upright"):
            read_it(tmp_path / "a.tif")


def test_pictures_that_are_not_clear(tmp_path):
    half = np.dstack([GREY] * 3 + [np.where(GREY > 99, 255, 0).astype(np.uint8)])
    Image.fromarray(half).save(tmp_path / "half.png")
    with pytest.raises(InputError, match="transparent in parts"):
        read_picture(tmp_path / "half.png")
    Image.fromarray(np.dstack([GREY] * 4), mode="CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(InputError, match="colours of mode CMYK"):
        read_header(tmp_path / "print.jpg")
    Image.fromarray(GREY).save(tmp_path / "stack.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    with pytest.raises(InputError, match="has 2 pages; expected one"):
        read_header(tmp_path / "stack.tif")


def tiff(path, samples, dtype, photometric):
    """Write an uncompressed TIFF of one strip by hand: Pillow cannot write those that it reads wrongly."""
    kind = {"u": 1, "i": 2, "f": 3}[np.dtype(dtype).kind]
    data = np.ones((HEIGHT, WIDTH, samples), np.dtype(dtype).newbyteorder("<")).tobytes()
    bits = np.dtype(dtype).itemsize * 8
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, samples)]
    tags += [(278, HEIGHT), (279, len(data)), (339, kind)]
    after = 8 + len(data)
    many = after + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, value in tags:
        if tag in (258, 339) and samples > 2:
            entries += struct.pack("<HHII", tag, 3, samples, many + len(values))
            values += struct.pack(f"<{samples}H", *[value] * samples)
        elif tag in (258, 339) and samples == 2:
            entries += struct.pack("<HHIHH", tag, 3, 2, value, value)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    header = struct.pack("<2sHI", b"II", 42, after)
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + values)


@pytest.mark.parametrize(
    ("samples", "dtype", "photometric"),
    [(1, "u1", 1), (3, "u1", 2), (1, "u2", 1), (1, "i2", 1), (1, "i4", 1), (1, "f4", 1)],
)
def test_tiff_that_is_read_as_it_is(tmp_path, samples, dtype, photometric):
    tiff(tmp_path / "a.tif", samples, dtype, photometric)
    assert read_picture(tmp_path / "a.tif").tolist() == np.ones((samples, HEIGHT, WIDTH)).tolist()


@pytest.mark.parametrize(
    ("samples", "dtype", "photometric"),
    [(3, "u2", 2), (1, "u4", 1), (1, "i1", 1), (5, "u1", 2), (1, "u2", 0), (1, "f8", 1), (2, "u2", 1)],
)
def test_tiff_that_would_be_read_as_other_numbers(tmp_path, samples, dtype, photometric):
    tiff(tmp_path / "a.tif", samples, dtype, photometric)
    with pytest.raises(InputError, match=r"would not be read as they are|of a kind that is not supported"):
        read_header(tmp_path / "a.tif")


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_png_of_16_bits_per_colour(tmp_path, colour_type):
    channels = {2: 3, 4: 2, 6: 4}[colour_type]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(2 * channels * WIDTH)) * HEIGHT
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(InputError, match="would not be read as they are"):
        read_header(tmp_path / "a.png")


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 3)
    with pytest.raises(InputError, match="Cut it into tiles"):
        read_header(tmp_path / "a.png")


@pytest.mark.parametrize("spacing_mm", [0.001, 1.0])
def test_small_pixels_are_no_less_of_an_object(source, raw, caplog, spacing_mm):
    annotate_all(source, [("cell", SQUARE), ("core", [[3, 2], [5, 2], [5, 4], [3, 4]])])
    convert_polygons(source, 504, "Cells", spacing_mm=(spacing_mm,), settings=ConversionSettings(overlap="regions"))
    assert "empty" not in caplog.text
    labels = json.loads((raw / "Dataset504_Cells" / "dataset.json").read_text())["labels"]
    assert list(labels) == ["background", "cell", "core"]  # the larger one first
    (problem,) = problems_of(
        source, spacing_mm=(spacing_mm,), settings=ConversionSettings(overlap="priority"), overwrite=True
    )
    assert problem.startswith("Label 'core': in all cases its contours enclose ")


def coco_beside(folder, names, file):
    for seed, name in enumerate(names):
        write_image(folder / "images" / name, seed)
    content = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [list(chain.from_iterable(SQUARE))]}
            for n in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / file).write_text(json.dumps(content))


def test_several_exports_of_the_same_names(tmp_path, raw):
    for export in ("a", "b"):
        coco_beside(tmp_path / "source" / export, ["frame_000000.png", "frame_000001.png"], "instances_default.json")
    convert_polygons(tmp_path / "source", 504, "Cells")
    names = sorted(path.name.split(".")[0] for path in (raw / "Dataset504_Cells" / "labelsTr").iterdir())
    assert names == ["a_frame_000000", "a_frame_000001", "b_frame_000000", "b_frame_000001"]


def test_problems_of_many_images_are_one_per_file(tmp_path, raw):
    names = [f"{n}.png" for n in range(7)]
    coco_beside(tmp_path / "source", names, "instances.json")
    path = tmp_path / "source" / "annotations" / "instances.json"
    (tmp_path / "source" / "annotations" / "person.json").write_bytes(path.read_bytes())
    (problem,) = problems_of(tmp_path / "source")
    assert "7 images annotated a second time" in problem
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:6]:
        annotation["segmentation"] = {"counts": [1], "size": [HEIGHT, WIDTH]}
    path.write_text(json.dumps(content))
    (problem,) = problems_of(tmp_path / "source", exclude=["*person.json"])
    assert problem.startswith(
        "Annotation file 'annotations/instances.json': 6 shapes without a contour. The first is number 1"
    )


@pytest.mark.parametrize(
    ("written", "is_found"),
    [
        ("../../label-studio/data/media/upload/1/ann.png", True),
        ("C:\\data\\ann.png", True),
        ("/elsewhere/ann.png", True),
        ("https://host/ann.png", True),
        ("train/ann.png", False),  # it might be another image of that name
        ("", False),
        (".", False),
        ("..", False),
    ],
)
def test_paths_of_other_machines(source, raw, written, is_found):
    annotate_all(source)
    annotate(source / "ann.png", [("cell", SQUARE)], imagePath=written)
    if is_found:
        convert_polygons(source, 504, "Cells")
    else:
        (problem,) = problems_of(source)
        assert problem.startswith("Annotation file 'ann.json': expected 1 image ")
        assert ("; of that name is 'ann.png'" in problem) == written.endswith("png")


@pytest.mark.parametrize(
    "written", ["/elsewhere/project/{}/frame.png", "C:\\project\\{}\\frame.png", "../x/{}/frame.png"]
)
def test_as_much_of_a_path_as_possible_must_agree(tmp_path, raw, written):
    source = tmp_path / "source"
    for seed, folder in enumerate(("p1", "p2")):
        write_image(source / folder / "frame.png", seed)
        annotate(
            source / f"{folder}.png", [("cell", SQUARE if seed else OVERLAPPING)], imagePath=written.format(folder)
        )
    convert_polygons(source, 504, "Cells")
    assert read(raw, "labelsTr", "p1.nii.gz").tolist() == rectangle((3, 7), (4, 9)).tolist()
    assert read(raw, "labelsTr", "p2.nii.gz").tolist() == rectangle((1, 5), (2, 6)).tolist()


def test_the_image_beside_comes_before_deeper_ones(source, raw):
    annotate_all(source)
    write_image(source / "deep" / "ann.png", 5)
    annotate(source / "ann.png", [("cell", SQUARE)], imagePath="/elsewhere/ann.png")
    convert_polygons(source, 504, "Cells")
    assert sorted(path.name for path in (raw / "Dataset504_Cells" / "labelsTr").iterdir())[0] == "ann.nii.gz"


def test_a_name_in_other_letter_case_is_pointed_to(source, raw):
    annotate_all(source)
    (source / "ann.png").rename(source / "ann.PNG")
    (problem,) = problems_of(source)
    assert "'ann.png'; of that name is 'ann.PNG'." in problem


def test_listed_images_without_shapes_are_a_warning(source, raw, caplog):
    annotate_all(source)
    annotate(source / "bob.png", [])
    convert_polygons(source, 504, "Cells", settings=ConversionSettings(missing="absent"))
    assert "On 1 listed image nothing is drawn, such as 'bob.png'." in caplog.text


def test_hidden_files_and_folders_are_passed_over(source, raw, tmp_path):
    annotate_all(source)
    for folder in (".ipynb_checkpoints", ".thumbs"):
        (source / folder).mkdir()
        (source / folder / "ann-checkpoint.json").write_text("{}")
        write_image(source / folder / "ann.png", 1)
    (source / "._ann.json").write_bytes(b"\0")
    convert_polygons(source, 504, "Cells")
    convert_pictures(source, tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == len(list((raw / "Dataset504_Cells" / "labelsTr").iterdir())) == 3


@needs_data
@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_nuclei_traced_one_by_one_give_the_union_of_their_masks(tmp_path, raw, kind):
    contourpy = pytest.importorskip("contourpy")
    expected = {}
    for folder in sorted(path for path in (Path(DATA) / "nuclei_dsb2018").iterdir() if path.is_dir())[:6]:
        name = f"n{folder.name[:8]}"
        masks = [np.asarray(Image.open(mask)) > 0 for mask in (folder / "masks").iterdir()]
        expected[name] = np.any(masks, axis=0)
        (tmp_path / "source").mkdir(exist_ok=True)
        with Image.open(next((folder / "images").iterdir())) as image:
            image.save(tmp_path / "source" / f"{name}.png")
        lines = [
            line[:-1] - 1 + 0.5  # off the padding, to the corner of the image
            for mask in masks
            for line in contourpy.contour_generator(z=np.pad(mask, 1).astype(float)).lines(0.5)
        ]
        height, width = expected[name].shape
        shapes = [("nucleus", line.tolist()) for line in lines]
        if kind == "mask":
            shapes = [mask_shape(mask) for mask in masks]
        annotate(tmp_path / "source" / f"{name}.png", shapes, imageWidth=width, imageHeight=height)
    convert_polygons(tmp_path / "source", 504, "Cells")
    for name, union in expected.items():
        assert (read(raw, "labelsTr", f"{name}.nii.gz")[0] != union).sum() == 0


@pytest.mark.slow
def test_nnunet_plans_slices_in_the_plane_of_the_image(tmp_path, raw):
    """The thickness of the one slice must not let nnU-Net take another axis for the one across slices."""
    source = tmp_path / "source"
    for n in range(5):
        image = source / f"i{n}.png"
        write_image(image, n, size=(45, 34))
        annotate(image, [("cell", [[x * 4, y * 4] for x, y in SQUARE])], imageWidth=45, imageHeight=34)
    convert_polygons(source, 504, "Cells", spacing_mm=(0.7, 1.3))
    command = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as e"
    arguments = ["-d", "504", "-c", "2d", "-npfp", "1", "-np", "1", "--verify_dataset_integrity"]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{command}; e()", *arguments],
        check=True,
        env=os.environ.copy(),
        capture_output=True,
    )
    plans = json.loads((tmp_path / "nnUNet_preprocessed" / "Dataset504_Cells" / "nnUNetPlans.json").read_text())
    assert plans["transpose_forward"] == [0, 1, 2]
    assert plans["configurations"]["2d"]["spacing"] == pytest.approx([1.3, 0.7])
    assert plans["configurations"]["2d"]["median_image_size_in_voxels"] == [34, 45]
