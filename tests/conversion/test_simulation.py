from __future__ import annotations

import numpy as np
import pytest
from conversion.phantom import SPACING_MM_ZYX, grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_wsl.contours import drawn_slices, place, rasterise
from nnunet_wsl.conversion.simulation import Simulation
from nnunet_wsl.errors import InputError

SHAPE = (9, 7, 11)


def drawn(masks, simulation, case="ann"):
    shape = next(iter(masks.values())).shape
    contours = simulation.draw(masks, grid(shape), case)
    return place(contours, grid(shape), case=case), contours.annotated


def on_slices(*slices):
    mask = np.zeros(SHAPE, bool)
    mask[list(slices), 2:5, 3:8] = True
    return mask


def test_every_third_slice():
    """A is on 2..5 and B on 5..7: the middle of 2..7 is 5, so 2, 5 and 8 are worked on; C is nowhere, D missed.

    A, drawn on 2 and 5, cannot be at or before 2 - 3 or at or after 5 + 3. B, drawn on 5 only, not at or before 2.
    """
    masks = {"A": on_slices(2, 3, 4, 5), "B": on_slices(5, 6, 7), "C": on_slices(), "D": on_slices(3)}
    placed, annotated = drawn(masks, Simulation(every=3))
    assert [drawn_slices(placed, name).tolist() for name in masks] == [[2, 5], [5], [], []]
    assert annotated == {"A": (2, 5, 8), "B": (0, 1, 2, 5, 8), "C": tuple(range(9)), "D": (2, 5, 8)}


def test_a_part_that_lies_between_the_slices_is_not_taken_for_absent():
    """Slices 1, 4 and 7 are worked on. The part on slice 0 is missed, so slice 0 is unknown; it lies 4 before 4."""
    placed, annotated = drawn({"A": on_slices(0, 4)}, Simulation(every=3))
    assert drawn_slices(placed, "A").tolist() == [4]
    assert annotated == {"A": (1, 4, 7, 8)}


def test_a_case_without_objects():
    placed, annotated = drawn({"A": on_slices(), "B": on_slices()}, Simulation(every=2, drop=1))
    assert placed.contours == ()
    assert annotated == {"A": "all", "B": "all"}


def test_forgotten_slices_are_not_known():
    placed, annotated = drawn({"A": on_slices(3, 4, 5)}, Simulation(drop=1))
    assert placed.contours == ()
    assert annotated == {"A": (0, 1, 2, 6, 7, 8)}


def test_half_a_contour():
    """Marching squares give 2 * (3 + 5) points around 3 x 5 voxels."""
    contours = Simulation(opened=1).draw({"A": on_slices(3, 4)}, grid(SHAPE), "ann")
    assert [(contour.closed, len(contour.points_mm)) for contour in contours.contours] == [(False, 8), (False, 8)]


def test_jitter_has_the_standard_deviation_in_mm():
    mask = np.zeros((400, 40, 40), bool)
    mask[:, 15:25, 17:23] = True
    geometry = grid(mask.shape)
    exact = Simulation().draw({"A": mask}, geometry, "ann")
    moved = Simulation(jitter_mm=0.5).draw({"A": mask}, geometry, "ann")
    offsets_vox = [
        geometry.to_voxel_xyz(b.points_mm) - geometry.to_voxel_xyz(a.points_mm)
        for a, b in zip(exact.contours, moved.contours, strict=True)
    ]
    std_mm = np.concatenate(offsets_vox).std(axis=0) * SPACING_MM_ZYX[::-1]
    np.testing.assert_allclose(std_mm, [0.5, 0.5, 0], atol=0.04)
    steps_mm = np.concatenate([np.diff(offset, axis=0) for offset in offsets_vox]) * SPACING_MM_ZYX[::-1]
    # The fastest wave turns by 4 * 2 pi / 32 per point; white noise would step by sqrt(2) * 0.5.
    assert steps_mm.std(axis=0)[:2].max() < 0.3


def test_jitter_stays_within_the_image():
    masks = {"A": np.ones(SHAPE, bool)}
    placed, _ = drawn(masks, Simulation(jitter_mm=5))
    assert placed.clippings == ()


def test_random_numbers_depend_on_seed_and_case_only():
    masks = {"A": on_slices(*range(9))}

    def points(seed, case):
        contours = Simulation(jitter_mm=1, drop=0.5, seed=seed).draw(masks, grid(SHAPE), case)
        return np.concatenate([contour.points_mm for contour in contours.contours])

    assert np.array_equal(points(1, "ann"), points(1, "ann"))
    assert not np.array_equal(points(1, "ann"), points(2, "ann"))
    assert not np.array_equal(points(1, "ann"), points(1, "bob"))


@given(
    arrays.arrays(bool, (2, 9, 3, 4)),
    st.integers(1, 10),
    st.sampled_from([0, 0.5, 1]),
    st.sampled_from([0, 0.5, 1]),
    st.integers(0, 5),
)
def test_without_jitter_the_annotation_is_never_wrong(truth, every, drop, opened, seed):
    masks = dict(zip("AB", truth, strict=True))
    placed, annotated = drawn(masks, Simulation(every=every, drop=drop, opened=opened, seed=seed))
    for name, mask in masks.items():
        inside = rasterise(placed, name)
        assert not (inside & ~mask).any()
        known = range(9) if annotated[name] == "all" else annotated[name]
        open_slices = {
            contour.slice_index for contour in placed.contours if not contour.closed and contour.object == name
        }
        complete = sorted(set(known) - open_slices)
        np.testing.assert_array_equal(inside[complete], mask[complete])
        if not drop:
            assert set(drawn_slices(placed, name)) <= set(known)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"every": 0}, "--every 0"),
        ({"every": 10**30}, "--every 10+ is no step. Give a number of slices from 1 to 1000000"),
        ({"jitter_mm": -1.0}, "--jitter-mm -1"),
        ({"jitter_mm": 1e308}, r"--jitter-mm 1e\+308 is no distance. Give a number of mm from 0 to 1e\+06"),
        ({"jitter_mm": float("nan")}, "--jitter-mm nan"),
        ({"drop": 1.5}, "--drop 1.5"),
        ({"opened": -0.5}, "--open -0.5"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_numbers_out_of_range(numbers, message):
    with pytest.raises(InputError, match=message):
        Simulation(**numbers)


def test_objects_are_drawn_independently():
    masks = {"A": on_slices(*range(9)), "B": on_slices(*range(9))}
    contours = Simulation(jitter_mm=1).draw(masks, grid(SHAPE), "ann")
    first, second = (np.concatenate([one.points_mm for one in contours.of(name)]) for name in masks)
    assert not np.isclose(first, second).all(axis=1).any()
