"""Target maps in a compact form, so that loading them costs little beside loading the image.

nnU-Net keeps the target channels of a preprocessed case as float32 beside its image channels, and reads, pads and
interpolates all of them alike. Maps in [0, 1] need less: 8 bits per voxel, the voxels that the augmentation asks for,
and no arithmetic where they are zero. Each case's maps are therefore kept a second time, in steps of 1/255, in a file
of their own, and read through a :class:`MapsPatch`.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

STEPS = 255
"""Value of a compact map where the map is 1."""

_CHUNK = (1, 64, 128, 128)
_BLOCK = (1, 32, 64, 64)  # fewer blocks are read faster, up to what the processor's cache holds

_POSITIONS = 256  # that are located at a time, so that what is found stays in the processor's cache


def write_maps(data: Any, first: int, path: Path, modified_ns: int) -> None:
    """Write the maps of one case in compact form; the file appears complete or not at all.

    Parameters
    ----------
    data : array-like with shape and slicing
        The preprocessed case, (C + T, z, y, x) float32. It is read slab by slab.
    first : int
        C, the first channel that is a map.
    path : Path
        File to write, in an existing folder.
    modified_ns : int
        Time of the preprocessed case, which the file gets as its own, to tell whether it is still of that case.

    Raises
    ------
    ValueError
        If a map has values that are no numbers, or none from 0 to 1.
    OSError, RuntimeError
        If the file cannot be written.
    """
    count, *shape = data.shape
    count -= first
    chunks = [min(a, b) for a, b in zip(_CHUNK, (count, *shape), strict=True)]
    blocks = [min(a, b) for a, b in zip(_BLOCK, chunks, strict=True)]
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        maps = blosc2.empty(
            (count, *shape),
            np.uint8,
            urlpath=name,
            mode="w",
            chunks=chunks,
            blocks=blocks,
            cparams={"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [blosc2.Filter.NOFILTER], "nthreads": 1},
        )
        depth = chunks[1]
        for channel in range(count):
            for z in range(0, shape[0], depth):
                values = np.asarray(data[first + channel, z : z + depth])
                # Resampling in preprocessing is cubic and can leave [0, 1], but never by so much.
                if not (np.abs(values - 0.5) <= 1.5).all():
                    raise ValueError(f"channel {first + channel} has values that are no numbers from 0 to 1.")
                maps[channel, z : z + depth] = np.rint(np.clip(values, 0, 1) * STEPS).astype(np.uint8)
        del maps
        os.utime(partial, ns=(modified_ns, modified_ns))
        try:
            partial.replace(path)
        except PermissionError:  # on Windows, if another process has just written the file and reads it
            if not path.is_file() or path.stat().st_mtime_ns != modified_ns:
                raise
    finally:
        partial.unlink(missing_ok=True)


def open_maps(path: Path) -> Any:
    """Open a file of :func:`write_maps` for reading: (T, z, y, x) uint8."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}  # as nnU-Net does
    return blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **mmap)


def is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether a file holds compact maps of a shape; one that was cut off does not."""
    try:
        maps = open_maps(path)
        return isinstance(maps, blosc2.NDArray) and maps.dtype == np.uint8 and tuple(maps.shape) == shape
    except (OSError, RuntimeError, ValueError):
        return False


def as_float(maps: torch.Tensor) -> torch.Tensor:
    """Return compact maps, uint8 in steps of 1/255, as float32 in [0, 1]."""
    return maps.float().div_(STEPS)


class MapsPatch:
    """The maps of one patch, read only where they are asked for.

    All positions are those of the patch, whose first voxel is (0, 0, 0). Outside the patch and outside the image the
    maps are zero.

    Parameters
    ----------
    maps : array-like with shape and slicing
        Compact maps of the whole case, (T, z, y, x) uint8.
    start_zyx : sequence of int
        Where the patch starts in the case; negative if it begins before the image.
    shape_zyx : sequence of int
        Shape of the patch.
    planar : bool
        Whether the patch is a slice of a 2D configuration: results have no z axis then.
    """

    def __init__(self, maps: Any, start_zyx: Sequence[int], shape_zyx: Sequence[int], planar: bool = False) -> None:
        self.maps = maps
        self.start_zyx = [int(n) for n in start_zyx]
        self.shape_zyx = [int(n) for n in shape_zyx]
        self.planar = planar

    def read(self) -> torch.Tensor:
        """Return the maps of the whole patch: (T, *spatial) uint8."""
        return self._result(self._region([0, 0, 0], self.shape_zyx))

    def crop(self, centre: Sequence[float], shape: Sequence[int]) -> torch.Tensor:
        """Return a part of the patch, as batchgeneratorsv2's ``SpatialTransform`` crops it.

        Parameters
        ----------
        centre : sequence of float
            Centre in voxels along the last axes; all of the others is kept.
        shape : sequence of int
            Spatial shape along the same axes.

        Returns
        -------
        torch.Tensor
            (T, *spatial) uint8.
        """
        kept = 3 - len(shape)
        start = [0] * kept + [math.floor(c) - n // 2 for c, n in zip(centre, shape, strict=True)]
        return self._result(self._region(start, [*self.shape_zyx[:kept], *shape]))

    def sample(self, grid: torch.Tensor) -> torch.Tensor:
        """Interpolate the patch linearly, as ``torch.nn.functional.grid_sample`` does with zeros as padding.

        Parameters
        ----------
        grid : torch.Tensor
            (z, y, x, 3) float32: for each voxel of the result its x, y, z in the patch, -1 and 1 being its ends. Or
            (y, x, 2): the same y and x in every slice of the patch.

        Returns
        -------
        torch.Tensor
            (T, *spatial) uint8.
        """
        if grid.shape[-1] == 2:
            patch = torch.from_numpy(self._region([0, 0, 0], self.shape_zyx))
            slices = patch.flatten(0, 1)[None].float()
            planes = grid_sample(slices, grid[None], align_corners=False)[0].round_().to(torch.uint8)
            return self._result(planes.reshape(*patch.shape[:2], *planes.shape[1:]).numpy())
        # Only what the grid reaches, and a voxel more for its rounding.
        start, stop = [], []
        positions = grid.reshape(-1, 3).numpy()
        lowest, highest = _bounds(positions)
        for axis, n in enumerate(self.shape_zyx):
            low, high = (((float(bound[2 - axis]) + 1) * n - 1) / 2 for bound in (lowest, highest))
            start.append(min(max(math.floor(low) - 1, -1), n))
            stop.append(max(min(math.floor(high) + 3, n + 1), start[-1] + 1))
        region = self._region(start, [b - a for a, b in zip(start, stop, strict=True)])
        result = np.zeros((len(region), *grid.shape[:3]), np.uint8)
        rows = result.reshape(len(region), -1)
        _interpolate(region, np.array(start), np.array(self.shape_zyx), positions, rows)
        return self._result(result)

    def _region(self, start: Sequence[int], shape: Sequence[int]) -> NDArray[np.uint8]:
        inside, target = [], []
        for a, n, offset, extent, size in zip(
            start, shape, self.start_zyx, self.shape_zyx, self.maps.shape[1:], strict=True
        ):
            low = max(a, 0, -offset)
            high = max(low, min(a + n, extent, size - offset))
            inside.append(slice(low + offset, high + offset))
            target.append(slice(low - a, high - a))
        if all(s.stop - s.start == n for s, n in zip(target, shape, strict=True)):
            whole: NDArray[np.uint8] = self.maps[(slice(None), *inside)]
            return whole
        region = np.zeros((self.maps.shape[0], *shape), np.uint8)
        if all(s.stop > s.start for s in inside):
            region[(slice(None), *target)] = self.maps[(slice(None), *inside)]
        return region

    def _result(self, values: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(values[:, 0] if self.planar else values)


def _bounds(positions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the smallest and the largest x, y, z of positions (N, 3)."""
    whole = len(positions) // _POSITIONS * _POSITIONS
    bounds = []
    for function in (np.min, np.max):
        # Many at a time: numpy is slow over rows of three.
        rows = function(positions[:whole].reshape(-1, 3 * _POSITIONS), axis=0) if whole else positions[:1]
        bounds.append(function(np.concatenate([rows.reshape(-1, 3), positions[whole:]]), axis=0))
    return bounds[0], bounds[1]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _busy(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tell which maps of a region (T, z, y, x) are not zero at a voxel or its next ones: map c has bit c modulo 8."""
    busy = np.zeros(region.shape[1:], np.uint8)
    for c in range(len(region)):
        _mark(busy.reshape(-1), region[c].reshape(-1), np.uint8(1 << c % 8))
    for z in range(len(busy)):
        for y in range(len(busy[z])):
            _unite(busy[z, y, :-1], busy[z, y, 1:])
            if y:
                _unite(busy[z, y - 1], busy[z, y])
        if z:
            _unite(busy[z - 1].reshape(-1), busy[z].reshape(-1))
    return busy


# The loops below run over the whole of arrays that were passed to a function, which is what gets vectorised.


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _mark(bits: NDArray[np.uint8], values: NDArray[np.uint8], bit: np.uint8) -> None:
    for n in range(len(bits)):
        bits[n] |= bit if values[n] else np.uint8(0)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _unite(bits: NDArray[np.uint8], others: NDArray[np.uint8]) -> None:
    for n in range(len(bits)):
        bits[n] |= others[n]


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _interpolate(
    region: NDArray[np.uint8],
    start_zyx: NDArray[np.int64],
    shape_zyx: NDArray[np.int64],
    grid: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Interpolate a region (T, z, y, x) of the patch at the positions (N, 3) of the grid, into zeros (T, N)."""
    # Most voxels lie between eight zeros; one look tells which, and in which maps.
    busy = _busy(region).reshape(-1)
    maps = region.reshape(len(region), -1)
    half = np.float32(0.5)
    scale_zyx = half * shape_zyx.astype(np.float32)
    shift_zyx = scale_zyx - half - start_zyx.astype(np.float32)
    row, plane, one = np.uint64(region.shape[3]), np.uint64(region.shape[2] * region.shape[3]), np.uint64(1)
    cells = np.empty(_POSITIONS, np.int32)
    dz, dy, dx = np.empty(_POSITIONS, np.float32), np.empty(_POSITIONS, np.float32), np.empty(_POSITIONS, np.float32)
    for first in range(0, len(grid), _POSITIONS):
        count = min(_POSITIONS, len(grid) - first)
        positions = grid[first : first + count].reshape(-1)
        _locate(positions, scale_zyx, shift_zyx, region.shape[1:], cells[:count], dz[:count], dy[:count], dx[:count])
        for n in range(count):
            if cells[n] < 0:
                continue
            k = np.uint64(cells[n])  # unsigned, or numba would take negative indices into account
            bits = busy[k]
            if bits == 0:
                continue
            z, y, x = dz[n], dy[n], dx[n]
            for c in range(len(maps)):
                if not (bits >> (c % 8)) & 1:
                    continue
                values = maps[c]
                near_low = _mix(values[k], values[k + one], x)
                near_high = _mix(values[k + row], values[k + row + one], x)
                far_low = _mix(values[k + plane], values[k + plane + one], x)
                far_high = _mix(values[k + plane + row], values[k + plane + row + one], x)
                value = _mix(_mix(near_low, near_high, y), _mix(far_low, far_high, y), z)
                out[c, first + n] = np.uint8(value + half)


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _locate(
    positions: NDArray[np.float32],
    scale_zyx: NDArray[np.float32],
    shift_zyx: NDArray[np.float32],
    shape_zyx: tuple[int, int, int],
    cells: NDArray[np.int32],
    dz: NDArray[np.float32],
    dy: NDArray[np.float32],
    dx: NDArray[np.float32],
) -> None:
    """Find the voxel below each position, -1 outside the region, and how far above it the position lies."""
    row, plane = np.int32(shape_zyx[2]), np.int32(shape_zyx[1] * shape_zyx[2])
    end_z, end_y, end_x = np.float32(shape_zyx[0] - 1), np.float32(shape_zyx[1] - 1), np.float32(shape_zyx[2] - 1)
    scale_z, scale_y, scale_x = scale_zyx[0], scale_zyx[1], scale_zyx[2]
    shift_z, shift_y, shift_x = shift_zyx[0], shift_zyx[1], shift_zyx[2]
    for n in range(len(cells)):
        x, y, z = positions[3 * n], positions[3 * n + 1], positions[3 * n + 2]
        x, y, z = x * scale_x + shift_x, y * scale_y + shift_y, z * scale_z + shift_z
        inside = (x >= 0) & (y >= 0) & (z >= 0) & (x < end_x) & (y < end_y) & (z < end_z)
        i, j, k = np.int32(z), np.int32(y), np.int32(x)
        dz[n], dy[n], dx[n] = z - np.float32(i), y - np.float32(j), x - np.float32(k)
        cells[n] = np.int32(i * plane + j * row + k) if inside else np.int32(-1)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _mix(low: np.float32, high: np.float32, share: np.float32) -> np.float32:
    return np.float32(low) + (np.float32(high) - np.float32(low)) * share
