"""The array types of the whole product: one name per element type, so that annotations read alike everywhere.

A type says what the elements are; the docstring of the function says the shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Pixel values 0..255: images [H, W, 3] in RGB, grey images [H, W], batches of images [N, H, W, 3].
Pixels = npt.NDArray[np.uint8]
#: Half precision: tokens and other outputs of networks that are kept in bulk.
Float16Array = npt.NDArray[np.float16]
#: Single precision: what networks take and give, masks, maps.
Float32Array = npt.NDArray[np.float32]
#: Double precision: fits, metrics and everything else that is computed from few numbers.
Float64Array = npt.NDArray[np.float64]
#: Labels, indices and counts.
Int64Array = npt.NDArray[np.int64]
#: Masks and selections.
BoolArray = npt.NDArray[np.bool_]
#: Floating point of any precision.
FloatArray = npt.NDArray[np.floating[Any]]
#: Any element type: inputs of networks, stored arrays of several types.
AnyArray = npt.NDArray[Any]
