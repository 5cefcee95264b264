from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.cropping import crop_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
    nnUNetTrainerDA5ord0,
)
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch.nn.functional import grid_sample

from nnunet_wsl.errors import InputError
from nnunet_wsl.training.loader import CompactMapsDataset, CompactMapsLoader, PatchesInImageLoader, _open_maps
from nnunet_wsl.training.maps import MapsPatch, as_float, open_maps, write_maps
from nnunet_wsl.training.transforms import RelevanceTransform

C, T = 2, 3
SHAPE_ZYX = (9, 21, 17)


def case_data(seed, shape=SHAPE_ZYX):
    """Image channels of noise, then maps: zero in most places, some values outside [0, 1]."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (C, *shape))
    maps = np.clip(rng.normal(0, 0.6, (T, *shape)), 0, 1.1) - 0.05
    maps[:, :, : shape[1] // 3] = 0
    return np.concatenate([image, maps]).astype(np.float32)


def padded_patch(maps, start, shape):
    """Cut a patch out of maps that go on as zeros on all sides."""
    margin = 40
    wide = np.pad(maps, [(0, 0)] + [(margin, margin)] * 3)
    return wide[(slice(None), *(slice(a + margin, a + margin + n) for a, n in zip(start, shape, strict=True)))]


def test_compact_maps_are_the_maps_in_steps_of_a_255th(tmp_path):
    data = case_data(0, (70, 21, 17))  # more slices than a slab
    write_maps(data, C, tmp_path / "case.b2nd", 10**18)
    compact = open_maps(tmp_path / "case.b2nd")
    assert compact.dtype == np.uint8
    values = as_float(torch.from_numpy(compact[:])).numpy()
    assert np.abs(values - np.clip(data[C:], 0, 1)).max() <= 0.5 / 255 + 1e-6
    assert (values[data[C:] <= 0] == 0).all()
    assert (values[data[C:] >= 1] == 1).all()
    assert (tmp_path / "case.b2nd").stat().st_mtime_ns == 10**18
    assert [p.name for p in tmp_path.iterdir()] == ["case.b2nd"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    class Broken:
        shape = (C + T, *SHAPE_ZYX)

        def __getitem__(self, index):
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_maps(Broken(), C, tmp_path / "case.b2nd", 10**18)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path):
    """No file may grow beyond 20 kB: the maps of noise are larger."""
    resource = pytest.importorskip("resource")
    write_cases(tmp_path / "plans", nnUNetDatasetNumpy, cases=1)
    dataset = CompactMapsDataset(nnUNetDatasetNumpy(str(tmp_path / "plans")), C)
    noise = np.random.default_rng(0).uniform(0, 1, (C + T, 20, 40, 40)).astype(np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"Case 'case0': its maps cannot be written to .*_target_maps \(.+\)"):
            dataset._prepare("case0", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "plans_target_maps").iterdir())


@pytest.mark.parametrize("damage", ["empty", "cut off", "of other maps", "of floats"])
def test_a_compact_file_that_is_damaged_is_written_again(tmp_path, damage):
    """Though it has the time of the preprocessed case."""
    write_cases(tmp_path / "plans", nnUNetDatasetNumpy, cases=1)

    def load():
        _open_maps.cache_clear()  # as in another process
        dataset = CompactMapsDataset(nnUNetDatasetNumpy(str(tmp_path / "plans")), C)
        dataset.load_case("case0")
        return dataset.maps[:]

    expected = load()
    (path,) = (tmp_path / "plans_target_maps").iterdir()
    modified = path.stat().st_mtime_ns
    if damage == "of other maps":
        write_maps(case_data(5), C + 1, path, modified)
    elif damage == "of floats":
        path.unlink()
        blosc2.asarray(expected.astype(np.float32), urlpath=str(path))
        os.utime(path, ns=(modified, modified))
    else:
        content = path.read_bytes()[: 0 if damage == "empty" else path.stat().st_size // 2]
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(modified, modified))
    np.testing.assert_array_equal(load(), expected)


@pytest.mark.parametrize("value", [np.nan, 255])
def test_maps_of_other_numbers_are_refused(tmp_path, value):
    data = case_data(0)
    data[C + 1, 3, 4, 5] = value
    with pytest.raises(ValueError, match="channel 3 has values that are no numbers from 0 to 1"):
        write_maps(data, C, tmp_path / "case.b2nd", 10**18)
    assert not list(tmp_path.iterdir())


def test_writers_and_readers_at_the_same_time_see_complete_maps(tmp_path):
    path = tmp_path / "case.b2nd"
    data = case_data(1)
    start = threading.Barrier(4)

    def write_and_read(_):
        start.wait()
        for _ in range(5):
            write_maps(data, C, path, 10**18)
            assert np.array_equal(open_maps(path)[:], np.rint(np.clip(data[C:], 0, 1) * 255).astype(np.uint8))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_read, range(4)))
    assert [p.name for p in tmp_path.iterdir()] == ["case.b2nd"]


starts = st.tuples(*(st.integers(-8, n + 3) for n in SHAPE_ZYX))
shapes = st.tuples(st.integers(3, 14), st.integers(4, 15), st.integers(2, 11))


@given(start=starts, shape=shapes, data=st.data())
@settings(max_examples=60)
def test_a_patch_crops_as_nnunet_does(start, shape, data):
    maps = np.random.default_rng(2).integers(0, 256, (T, *SHAPE_ZYX), dtype=np.uint8)
    patch, expected = MapsPatch(maps, start, shape), torch.from_numpy(padded_patch(maps, start, shape))
    assert torch.equal(patch.read(), expected)
    size = [data.draw(st.integers(1, n)) for n in shape]
    centre = [n / 2 for n in shape]
    cropped = crop_tensor(expected, [int(c) for c in centre], size)
    assert torch.equal(patch.crop(centre, size), cropped)
    # Pseudo-2D: the slices stay.
    planes = crop_tensor(expected.flatten(0, 1), [int(c) for c in centre[1:]], size[1:])
    assert torch.equal(patch.crop(centre[1:], size[1:]).flatten(0, 1), planes)


@given(start=starts, shape=shapes, seed=st.integers(0, 2**16), planar=st.booleans())
@settings(max_examples=60)
def test_a_patch_interpolates_as_grid_sample_does(start, shape, seed, planar):
    rng = np.random.default_rng(seed)
    count = 10
    maps = rng.integers(0, 256, (count, *SHAPE_ZYX), dtype=np.uint8) * (rng.random((count, *SHAPE_ZYX)) < 0.3)
    dims = 2 if planar else 3
    size = (5, 7, 6)[-dims:]
    affine = torch.from_numpy(rng.normal(0, 0.6, (dims, dims))).float()
    grid = torch.from_numpy(rng.uniform(-1, 1, (*size, dims))).float() @ affine + 0.2
    expected = torch.from_numpy(padded_patch(maps.astype(np.float32), start, shape))
    expected = expected.flatten(0, 1) if planar else expected
    expected = grid_sample(expected[None], grid[None], align_corners=False)[0]
    sampled = MapsPatch(maps.astype(np.uint8), start, shape).sample(grid)
    assert sampled.dtype == torch.uint8
    torch.testing.assert_close(sampled.reshape(expected.shape).float(), expected, atol=0.51, rtol=0)


def test_a_slice_of_a_2d_configuration_has_no_z_axis():
    maps = np.random.default_rng(3).integers(0, 256, (T, *SHAPE_ZYX), dtype=np.uint8)
    patch = MapsPatch(maps, (4, -2, 3), (1, 19, 13), planar=True)
    assert torch.equal(patch.read(), torch.from_numpy(padded_patch(maps, (4, -2, 3), (1, 19, 13))[:, 0]))
    assert patch.crop((9.5, 6.5), (11, 6)).shape == (T, 11, 6)
    assert patch.sample(torch.zeros(11, 6, 2)).shape == (T, 11, 6)


def write_cases(folder, dataset_class, cases=2):
    folder.mkdir(exist_ok=True)
    properties = {"class_locations": {1: np.array([[0, 4, 10, 8], [0, 3, 2, 15]]), (-1, 0, 1): np.zeros((0, 4))}}
    for seed in range(cases):
        data = case_data(seed)
        data[C:] = np.rint(data[C:].clip(0, 1) * 255) / 255
        segmentation = (np.random.default_rng(seed).random((1, *SHAPE_ZYX)) < 0.5).astype(np.int16)
        sizes = {} if dataset_class is nnUNetDatasetNumpy else {"chunks": (1, 9, 10, 10), "blocks": (1, 4, 8, 8)}
        dataset_class.save_case(data, segmentation, properties, str(folder / f"case{seed}"), **sizes)


PATCHES = {"3d": ((14, 26, 24), (6, 14, 10)), "pseudo-2d": ((6, 26, 24), (6, 14, 10)), "2d": ((26, 24), (14, 10))}


@pytest.mark.parametrize(
    ("trainer", "compact"), [(nnUNetTrainer, True), (nnUNetTrainerDA5, True), (nnUNetTrainerDA5ord0, False)]
)
@pytest.mark.parametrize("dimensions", list(PATCHES))
def test_batches_are_those_of_the_stock_loader_on_the_same_patches(tmp_path, trainer, compact, dimensions):
    write_cases(tmp_path / "plans", nnUNetDatasetBlosc2)
    initial, final = PATCHES[dimensions]
    labels = LabelManager({"background": 0, "a": 1}, None)
    batches = []
    for loader_class in (PatchesInImageLoader, CompactMapsLoader):
        stock = trainer.get_training_transforms(
            np.array(final), (-0.5, 0.5), [[1] * len(final)], (0, 1), dimensions == "pseudo-2d",
            use_mask_for_norm=[False] * C,
        )  # fmt: skip
        transforms = RelevanceTransform(stock, C)
        dataset = nnUNetDatasetBlosc2(str(tmp_path / "plans"))
        loader = loader_class(dataset, 2, initial, final, labels, 0.5, transforms=transforms)
        np.random.seed(5)  # noqa: NPY002 - what nnU-Net draws from
        torch.manual_seed(5)
        batches.append([next(loader) for _ in range(12)])
    between_steps = 0
    for expected, found in zip(*batches, strict=True):
        assert torch.equal(found["data"], expected["data"])
        assert torch.equal(found["target"][0], expected["target"][0])
        relevance, stock_relevance = found["target"][1], expected["target"][1]
        # A spatial transform that interpolates otherwise than linearly stays nnU-Net's own.
        assert relevance.dtype == (torch.uint8 if compact else torch.float32)
        relevance = as_float(relevance) if compact else relevance
        assert relevance.shape == (2, T, *final)
        torch.testing.assert_close(relevance, stock_relevance, atol=0.51 / 255, rtol=0)
        between_steps += int(((stock_relevance * 255).frac().sub(0.5).abs() < 0.4).sum())
    assert (between_steps > 0) == compact  # some samples were interpolated


def test_the_compact_file_follows_the_preprocessed_case(tmp_path):
    folder = tmp_path / "plans"
    write_cases(folder, nnUNetDatasetBlosc2, cases=1)

    def load():
        dataset = CompactMapsDataset(nnUNetDatasetBlosc2(str(folder)), C)
        image = dataset.load_case("case0")[0]
        assert image.shape == (C, *SHAPE_ZYX)
        return np.asarray(image[:, 2:5, :, 3:]), dataset.maps[:] / np.float32(255)

    image, maps = load()
    data = nnUNetDatasetBlosc2(str(folder)).load_case("case0")[0][:]
    assert np.array_equal(image, data[:C, 2:5, :, 3:])
    assert np.array_equal(maps, data[C:])
    file = tmp_path / "plans_target_maps" / "case0.b2nd"
    written = file.stat().st_ino
    load()
    assert file.stat().st_ino == written  # not written again
    assert nnUNetDatasetBlosc2.get_identifiers(str(folder)) == ["case0"]  # nnU-Net's folder has no other file

    for file in folder.glob("*.b2nd"):
        file.unlink()
    data[C:] = 1 - data[C:]
    nnUNetDatasetBlosc2.save_case(
        data, data[:1].astype(np.int16), {}, str(folder / "case0"), (1, 9, 9, 9), (1, 4, 8, 8)
    )
    os.utime(folder / "case0.b2nd", ns=(10**18, 10**18))  # older than before: a restored copy
    assert np.array_equal(load()[1], np.rint(data[C:] * 255).astype(np.uint8) / np.float32(255))


def test_cases_of_older_preprocessing_have_compact_files_too(tmp_path):
    write_cases(tmp_path / "plans", nnUNetDatasetNumpy, cases=1)
    dataset = CompactMapsDataset(nnUNetDatasetNumpy(str(tmp_path / "plans")), C)
    image = dataset.load_case("case0")[0]
    data = np.load(tmp_path / "plans" / "case0.npz")["data"]
    assert np.array_equal(image[:, 1:4], data[:C, 1:4])
    assert np.array_equal(dataset.maps[:] / np.float32(255), data[C:])


@pytest.mark.parametrize("shape", [(9, 41, 17), (3, 5, 60)])  # larger and smaller than the patch
@pytest.mark.parametrize("dimensions", list(PATCHES))
@pytest.mark.parametrize("of_label", [True, False])
def test_patches_around_voxels_stay_in_the_image(tmp_path, dimensions, shape, of_label):
    initial, final = PATCHES[dimensions]
    annotated = np.argwhere(np.random.default_rng(1).random(shape) < 0.2)
    locations = {1: annotated[::7], (-1, 0, 1): annotated}
    locations = {key: np.insert(voxels, 0, 0, axis=1) for key, voxels in locations.items()}
    write_cases(tmp_path / "plans", nnUNetDatasetBlosc2)
    dataset = nnUNetDatasetBlosc2(str(tmp_path / "plans"))
    sparse, dense = (LabelManager({"background": 0, "a": 1} | more, None) for more in ({"ignore": 2}, {}))

    def starts(kind, labels, of_label):
        loader = kind(dataset, 2, initial, final, labels, 0.5)
        np.random.seed(3)  # noqa: NPY002 - what nnU-Net draws from
        boxes = [loader.get_bbox(shape, of_label, locations) for _ in range(400)]
        assert all((np.subtract(upper, lower) == loader.patch_size).all() for lower, upper in boxes)
        return np.array([lower for lower, _ in boxes])

    # Where nnU-Net draws patches of dense labels at random is where ours must lie.
    allowed = starts(nnUNetDataLoader, dense, of_label=False)
    assert np.array_equal(starts(PatchesInImageLoader, dense, of_label=False), allowed)
    found, before = (starts(kind, sparse, of_label) for kind in (PatchesInImageLoader, nnUNetDataLoader))
    assert (found >= allowed.min(axis=0)).all()
    assert (found <= allowed.max(axis=0)).all()
    assert (before > allowed.max(axis=0)).any()
    inside = (before <= allowed.max(axis=0)).all(axis=1)
    assert np.array_equal(found[inside], before[inside])  # moved only if need be
