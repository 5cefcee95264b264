from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

SPACINGS_MM = st.one_of(st.sampled_from([0.7, 1.1, 3.0, 0.8, 2.5, 0.9765625, 0.683594, 5.0]), st.floats(0.01, 20.0))


@st.composite
def contour_masks(draw, ndims=(2, 3), max_side=12):
    """A bool array with at least one contour voxel, rarely square, sometimes of one slice or one voxel."""
    ndim = draw(st.sampled_from(ndims))
    shape = draw(st.tuples(*[st.integers(1, max_side)] * ndim))
    mask = draw(npst.arrays(np.bool_, shape, elements=st.just(False), fill=st.just(False)))
    voxels = st.tuples(*[st.integers(0, n - 1) for n in shape])
    for voxel in draw(st.lists(voxels, min_size=1, max_size=40)):
        mask[voxel] = True
    return mask


@st.composite
def masks_with_spacing(draw, spacings=SPACINGS_MM, **mask_options):
    mask = draw(contour_masks(**mask_options))
    return mask, draw(st.tuples(*[spacings] * mask.ndim))
