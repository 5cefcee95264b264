from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from nnunet_wsl.contours import Contour, ContourSet, read_rtstruct, write_rtstruct
from nnunet_wsl.errors import InputError

SQUARE = [(1, 1), (1, 4), (3, 4), (3, 1)]
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "SECRET-4711", "PatientBirthDate": "19700102"}


@pytest.fixture(scope="module")
def series(grid):
    """Headers of an oblique series on the grid, in shuffled order."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    images = []
    for k in (3, 0, 4, 2, 1):
        image = Dataset()
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        for keyword, value in PATIENT.items():
            setattr(image, keyword, value)
        image.StudyDate = "20200102"
        image.InstanceNumber = k + 1
        # Decimal strings of at most 16 characters, as in every DICOM header.
        image.ImageOrientationPatient = [f"{v:.10f}" for v in grid.direction[:, :2].T.ravel()]
        image.ImagePositionPatient = [f"{v:.8f}" for v in grid.to_mm([[0, 0, k]])[0]]
        image.SliceThickness = 3
        images.append(image)
    return images


@pytest.fixture
def contour_set(grid, draw):
    return ContourSet(
        ["GTV", "nothing", "nerve"],
        [
            draw(grid, 3, SQUARE),
            draw(grid, 1, np.add(SQUARE, 1 / 3)),
            draw(grid, 0, SQUARE[:2], "nerve", closed=False),
        ],
    )


@pytest.fixture
def written(tmp_path, contour_set, series):
    """A structure set to break: `path`, and a function that changes the file."""
    path = tmp_path / "RS.dcm"
    write_rtstruct(path, contour_set, series)

    def change(edit=lambda dataset: dataset):
        dataset = pydicom.dcmread(path)
        edit(dataset)
        dataset.save_as(path)
        return path

    return change


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_rtstruct(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    return problem.removeprefix(f"{path}: ")


def test_round_trip(tmp_path, contour_set, series):
    write_rtstruct(tmp_path / "RS.dcm", contour_set, series)
    rtstruct = read_rtstruct(tmp_path / "RS.dcm")

    assert rtstruct.problems == {}
    assert rtstruct.contours.objects == ("GTV", "nothing", "nerve")
    assert [(c.object, c.closed) for c in rtstruct.contours.contours] == [
        ("GTV", True),
        ("GTV", True),
        ("nerve", False),
    ]
    for read, drawn in zip(rtstruct.contours.contours, contour_set.contours, strict=True):
        np.testing.assert_allclose(read.points_mm, drawn.points_mm, atol=1e-9)
    assert rtstruct.frame_of_reference_uid == series[0].FrameOfReferenceUID
    assert rtstruct.referenced_series_uids == (series[0].SeriesInstanceUID,)
    assert rtstruct.referenced_sop_uids == {image.SOPInstanceUID for image in series}
    assert [file.name for file in tmp_path.iterdir()] == ["RS.dcm"]


def test_every_contour_refers_to_the_image_of_its_slice(tmp_path, contour_set, series):
    write_rtstruct(tmp_path / "RS.dcm", contour_set, series)
    dataset = pydicom.dcmread(tmp_path / "RS.dcm")
    image_of_slice = {image.InstanceNumber - 1: image.SOPInstanceUID for image in series}
    referenced = [
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        for roi in dataset.ROIContourSequence
        for contour in roi.get("ContourSequence", ())
    ]
    assert "ContourSequence" not in dataset.ROIContourSequence[1], "DICOM forbids an empty one"
    assert referenced == [image_of_slice[3], image_of_slice[1], image_of_slice[0]]
    assert dataset.PatientName == "Doe^Jane"
    assert dataset.StudyInstanceUID == series[0].StudyInstanceUID
    assert dataset.SeriesInstanceUID != series[0].SeriesInstanceUID


def test_writing_refuses_what_is_on_no_image(tmp_path, grid, draw, series):
    with pytest.raises(ValueError, match=r"'GTV' lies 1\.50 mm off the nearest image"):
        write_rtstruct(tmp_path / "RS.dcm", ContourSet(["GTV"], [draw(grid, 1.5, SQUARE)]), series)
    with pytest.raises(ValueError, match="needs the images"):
        write_rtstruct(tmp_path / "RS.dcm", ContourSet(["GTV"], [draw(grid, 1, SQUARE)]), [])
    assert not list(tmp_path.iterdir())


def test_failed_writing_leaves_the_old_file_alone(tmp_path, contour_set, series, monkeypatch):
    path = tmp_path / "RS.dcm"
    path.write_bytes(b"old")

    def full_disk(self, filename, **options):
        filename.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Dataset, "save_as", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_rtstruct(path, contour_set, series)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["RS.dcm"]


def test_nothing_about_the_patient_is_kept(written):
    def break_contour(dataset):
        dataset.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"

    rtstruct = read_rtstruct(written(break_contour))
    text = repr(rtstruct)
    assert not any(value in text for value in (*PATIENT.values(), "20200102"))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"ContourGeometricType": "POINT"}, "expected geometric type CLOSED_PLANAR or .*, found 'POINT'"),
        ({"ContourGeometricType": "OPEN_NONPLANAR"}, "found 'OPEN_NONPLANAR'"),
        ({"ContourGeometricType": ""}, "found ''"),
        ({"ContourData": [1, 2, 3, 4, 5, 6, 7]}, "three coordinates for every point, found 7 numbers"),
        ({"ContourData": [1, 2, 3] * 3}, "states 4 points, but has 3"),
        ({"ContourData": [1, 2, 3] * 2, "NumberOfContourPoints": 2}, "needs 3 points or more, and has 2"),
        ({"ContourData": [], "NumberOfContourPoints": 0}, "needs 3 points or more, and has 0"),
    ],
)
def test_faulty_contour(written, change, fault):
    def break_contour(dataset):
        for keyword, value in change.items():
            setattr(dataset.ROIContourSequence[0].ContourSequence[1], keyword, value)

    path = written(break_contour)
    rtstruct = read_rtstruct(path)

    assert list(rtstruct.problems) == ["GTV"]
    assert rtstruct.selected({"label": ["nerve"]}).objects == ("label",)
    with pytest.raises(InputError, match=fault) as caught:
        rtstruct.selected({"label": ["nerve", "GTV"]})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: contour 2 of ROI 'GTV': ")
    assert problem.endswith("Repair the ROI and export it again, or do not select it.")


@pytest.mark.parametrize("text", [b"1,5", b"nan", b"   ", b"inf", b"1e307"])
def test_coordinates_that_are_no_numbers(written, text):
    path = written()
    content = path.read_bytes()
    element = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0].get_item("ContourData")
    first = element.value.split(b"\\")[0]
    path.write_bytes(content.replace(first + b"\\", text.ljust(len(first)) + b"\\", 1))

    rtstruct = read_rtstruct(path)
    assert len(rtstruct.problems["GTV"]) == 1
    assert "numbers" in rtstruct.problems["GTV"][0]


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        (b"4.0 ", None),
        (b"4\0", None),
        (b"  ", None),
        (b"3.5 ", "states 3.5 points, but has 4"),
        (b"-4", "states -4 points, but has 4"),
        (b"abc ", "expected a number of points, found 'abc'"),
    ],
)
def test_a_number_of_points_that_is_written_otherwise(written, stated, fault):
    def state(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[1]
        tag = pydicom.tag.Tag("NumberOfContourPoints")
        contour[tag] = pydicom.dataelem.RawDataElement(tag, None, len(stated), stated, 0, True, True)

    rtstruct = read_rtstruct(written(state))
    problems = rtstruct.problems.get("GTV", ())
    assert len(rtstruct.contours.of("GTV")) + len(problems) == 2
    assert [fault in problem for problem in problems] == ([True] if fault else [])


def test_all_faults_of_the_selected_rois_together(written):
    def break_all(dataset):
        for roi in dataset.ROIContourSequence:
            for contour in roi.get("ContourSequence", ()):
                contour.ContourGeometricType = "POINT"

    rtstruct = read_rtstruct(written(break_all))
    with pytest.raises(InputError) as caught:
        rtstruct.selected({"one": ["nerve"], "two": ["GTV", "nerve"]})
    assert [problem.split("contour ")[1].split(":")[0] for problem in caught.value.problems] == [
        "1 of ROI 'nerve'",
        "1 (and 1 other) of ROI 'GTV'",
    ]


def test_xor_contours_are_closed(written):
    def combine(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "CLOSEDPLANAR_XOR"

    rtstruct = read_rtstruct(written(combine))
    assert rtstruct.problems == {}
    assert all(contour.closed for contour in rtstruct.contours.of("GTV"))


def test_two_rois_of_one_name(written):
    def rename(dataset):
        dataset.StructureSetROISequence[1].ROIName = "GTV"

    rtstruct = read_rtstruct(written(rename))
    assert rtstruct.contours.objects == ("GTV", "nerve")
    with pytest.raises(InputError, match=r"2 ROIs are named 'GTV'\. Rename them or export one of them\."):
        rtstruct.selected({"GTV": ["GTV"]})
    rtstruct.selected({"nerve": ["nerve"]})


def test_roi_of_another_frame_of_reference(written, series):
    def move(dataset):
        dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"

    rtstruct = read_rtstruct(written(move))
    assert rtstruct.frame_of_reference_uid == series[0].FrameOfReferenceUID
    with pytest.raises(InputError, match="ROI 'GTV' is drawn in another frame of reference"):
        rtstruct.selected({"GTV": ["GTV"]})
    rtstruct.selected({"nerve": ["nerve"]})


def test_frame_of_reference_of_rois_that_state_none(written, series):
    def forget(dataset):
        for roi in dataset.StructureSetROISequence:
            del roi.ReferencedFrameOfReferenceUID

    assert read_rtstruct(written(forget)).frame_of_reference_uid == series[0].FrameOfReferenceUID

    def forget_all(dataset):
        del dataset.ReferencedFrameOfReferenceSequence, dataset.FrameOfReferenceUID

    rtstruct = read_rtstruct(written(forget_all))
    assert rtstruct.frame_of_reference_uid is None
    assert rtstruct.referenced_series_uids == ()
    assert len(rtstruct.referenced_sop_uids) == 3, "the images that contours name"


def test_a_name_with_a_backslash(written):
    def rename(dataset):
        dataset.StructureSetROISequence[1].ROIName = ["lung", "left"]  # as pydicom takes a backslash

    assert read_rtstruct(written(rename)).contours.objects == ("GTV", r"lung\left", "nerve")


def test_unnamed_roi_goes_by_its_number(written):
    def forget(dataset):
        dataset.StructureSetROISequence[1].ROIName = " "

    assert read_rtstruct(written(forget)).contours.objects == ("GTV", "ROI 2", "nerve")


def test_rois_that_cannot_be_told_apart(written):
    def renumber(dataset):
        dataset.StructureSetROISequence[1].ROINumber = 1

    assert refusal(written(renumber)).startswith("two ROIs have the number '1'.")


def test_contours_of_no_roi(written):
    def renumber(dataset):
        dataset.ROIContourSequence[2].ReferencedROINumber = 9

    assert refusal(written(renumber)).startswith(
        "has contours of ROI number '9', but lists only the ROI numbers 1, 2, 3."
    )


def test_no_roi_at_all(written):
    def empty(dataset):
        dataset.StructureSetROISequence = []

    assert refusal(written(empty)).startswith("the structure set lists no ROI.")


def test_other_files(written, tmp_path):
    def pretend(dataset):
        dataset.Modality = "CT"

    assert refusal(written(pretend)) == "expected modality RTSTRUCT, found CT."
    (tmp_path / "text.dcm").write_text("no DICOM")
    assert refusal(tmp_path / "text.dcm") == "expected a DICOM file, but it has no DICOM header."
    assert refusal(tmp_path / "missing.dcm") == "cannot be read: No such file or directory."
    assert refusal(tmp_path) == "cannot be read: Is a directory."


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_a_file_that_is_cut_off_never_loses_a_contour_in_silence(written):
    path = written()
    content, whole = path.read_bytes(), read_rtstruct(path).contours
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            rtstruct = read_rtstruct(path)
        except InputError:
            continue
        for name in set(whole.objects) - set(rtstruct.problems):
            # None at all is reported by whoever needs the ROI.
            assert len(rtstruct.contours.of(name)) in (0, len(whole.of(name)))


@pytest.mark.filterwarnings("ignore:.*exceeds the size of 64 kByte:UserWarning")
def test_a_contour_of_more_than_64_kilobytes(tmp_path, grid, series):
    """Fits no explicit DS element: pydicom, like other writers, stores it as UN there."""
    rng = np.random.default_rng(0)
    index_xyz = np.column_stack([rng.uniform(0, 10, 5000), rng.uniform(0, 6, 5000), np.full(5000, 2)])
    contour = Contour("GTV", grid.to_mm(index_xyz))
    write_rtstruct(tmp_path / "implicit.dcm", ContourSet(["GTV"], [contour]), series)
    dataset = pydicom.dcmread(tmp_path / "implicit.dcm")
    assert dataset.ROIContourSequence[0].ContourSequence[0]["ContourData"].VR == "DS"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(tmp_path / "explicit.dcm")
    for file in ("implicit.dcm", "explicit.dcm"):
        (read,) = read_rtstruct(tmp_path / file).contours.contours
        np.testing.assert_allclose(read.points_mm, contour.points_mm, rtol=0, atol=1e-9)


def test_no_warning_quotes_the_file(written, recwarn):
    def edit(dataset):
        with pydicom.config.disable_value_validation():
            dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.840.19560217.0042"  # leading zero
            for roi in dataset.StructureSetROISequence:
                roi.ReferencedFrameOfReferenceUID = "1.2.840.19560217.0042"

    path = written(edit)
    recwarn.clear()
    read_rtstruct(path)
    assert [str(warning.message) for warning in recwarn if "19560217" in str(warning.message)] == []
