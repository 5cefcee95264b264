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
_BLOCK = (1, 16, 32, 32)  # 16 KiB; larger blocks hold more voxels that a patch does not need


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
                # Resampling in preprocessing is cubic and can leave [0, 1].
                values = np.clip(data[first + channel, z : z + depth], 0, 1)
                maps[channel, z : z + depth] = np.rint(values * STEPS).astype(np.uint8)
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
        # Most voxels lie between eight zeros; one look tells which, and in which maps: map c has bit c modulo 8.
        busy = np.zeros(region.shape[1:], np.uint8)
        for c, values in enumerate(region):
            busy |= (values != 0) * np.uint8(1 << c % 8)
        busy[:-1] |= busy[1:]
        busy[:, :-1] |= busy[:, 1:]
        busy[:, :, :-1] |= busy[:, :, 1:]
        result = np.zeros((len(region), *grid.shape[:3]), np.uint8)
        rows = result.reshape(len(region), -1)
        _interpolate(region, busy, np.array(start), np.array(self.shape_zyx), positions, rows)
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


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _bounds(grid: NDArray[np.float32]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the smallest and the largest x, y, z of a grid (N, 3)."""
    x0, y0, z0 = x1, y1, z1 = grid[0, 0], grid[0, 1], grid[0, 2]
    for n in range(1, len(grid)):
        x, y, z = grid[n, 0], grid[n, 1], grid[n, 2]
        x0, y0, z0 = min(x0, x), min(y0, y), min(z0, z)
        x1, y1, z1 = max(x1, x), max(y1, y), max(z1, z)
    return (x0, y0, z0), (x1, y1, z1)


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator]
def _interpolate(
    region: NDArray[np.uint8],
    busy: NDArray[np.uint8],
    start_zyx: NDArray[np.int64],
    shape_zyx: NDArray[np.int64],
    grid: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> None:
    """Interpolate a region (T, z, y, x) of the patch at the positions (N, 3) of the grid, into zeros (T, N)."""
    # float32 and unsigned throughout: float64 and the test for negative indices take twice as long
    half = np.float32(0.5)
    depth, height, width = region.shape[1:]
    scale_z, scale_y, scale_x = (
        half * np.float32(shape_zyx[0]),
        half * np.float32(shape_zyx[1]),
        half * np.float32(shape_zyx[2]),
    )
    shift_z = scale_z - half - np.float32(start_zyx[0])
    shift_y = scale_y - half - np.float32(start_zyx[1])
    shift_x = scale_x - half - np.float32(start_zyx[2])
    end_z, end_y, end_x = np.float32(depth - 1), np.float32(height - 1), np.float32(width - 1)
    for n in range(len(grid)):
        x, y, z = grid[n, 0] * scale_x + shift_x, grid[n, 1] * scale_y + shift_y, grid[n, 2] * scale_z + shift_z
        if not (x >= 0 and y >= 0 and z >= 0 and x < end_x and y < end_y and z < end_z):
            continue
        i, j, k = np.uint64(z), np.uint64(y), np.uint64(x)
        bits = busy[i, j, k]
        if bits == 0:
            continue
        i1, j1, k1 = i + np.uint64(1), j + np.uint64(1), k + np.uint64(1)
        dz, dy, dx = z - np.float32(i), y - np.float32(j), x - np.float32(k)
        for c in range(len(region)):
            if not (bits >> (c % 8)) & 1:
                continue
            near_low = _mix(region[c, i, j, k], region[c, i, j, k1], dx)
            near_high = _mix(region[c, i, j1, k], region[c, i, j1, k1], dx)
            far_low = _mix(region[c, i1, j, k], region[c, i1, j, k1], dx)
            far_high = _mix(region[c, i1, j1, k], region[c, i1, j1, k1], dx)
            value = _mix(_mix(near_low, near_high, dy), _mix(far_low, far_high, dy), dz)
            out[c, n] = np.uint8(value + half)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _mix(low: np.float32, high: np.float32, share: np.float32) -> np.float32:
    return np.float32(low) + (np.float32(high) - np.float32(low)) * share
