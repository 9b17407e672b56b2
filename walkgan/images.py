"""Images: read, written, resized, laid out in a grid, converted to floats and back.

Outside, on disk and on screen, a frame is (height, width, 3) uint8 RGB; inside the networks it is float32
in [-1, 1]. Only this module converts between the two.
"""

import cv2
import numpy as np

from walkgan.errors import InputError
from walkgan.files import atomic_write


def to_float(frames):
    """Convert frames from uint8 to float32 in [-1, 1], any shape."""
    scaled = np.divide(frames, 127.5, dtype="float32")
    scaled -= 1  # in place, here and below: fresh memory takes longer than the arithmetic
    return scaled


def to_uint8(frames):
    """Convert frames from float in [-1, 1], clipped, to uint8, any shape."""
    scaled = np.multiply(frames, 127.5, dtype="float32")
    scaled += 127.5
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype("uint8")


def to_grey(frames):
    """Convert frames from RGB to a list of grey images (height, width) uint8."""
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


def read_frame(path, remedy=None):
    """Read one frame: (height, width, 3) uint8 RGB, from a grey or transparent image too.

    Raises InputError, naming the file, when it is missing, cannot be read, or is no image; then with the remedy, by
    default that for a frame of a training.
    """
    # Not cv2.imread, which prints warnings of its own and cannot open every path on Windows.
    try:
        content = np.fromfile(path, "uint8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put it back, or delete {path.parent} and extract again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    frame = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB) if content.size else None
    if frame is None:
        remedy = remedy or f"delete it, or the whole {path.parent} and extract again"
        raise InputError(f"{path} is not an image that can be read, or is damaged: {remedy}.")
    return frame


def write_frame(path, frame):
    """Write one (height, width, 3) uint8 RGB frame in the format of the path's suffix; raises InputError, naming it."""
    encoded, content = cv2.imencode(path.suffix, frame[..., ::-1])
    if not encoded:
        raise InputError(f"{path}: a frame of shape {frame.shape} cannot be written as {path.suffix}.")
    with atomic_write(path) as partial:
        partial.write_bytes(content)  # not tofile, which a full disk cuts short without an error


def image_grid(frames, columns):
    """Lay frames (count, height, width, 3) out row by row in one image, black where the last row is short."""
    count, height, width, channels = frames.shape
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), frames.dtype)
    grid[:count] = frames
    grid = grid.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def crop_and_resize(frame, height, width):
    """Crop the largest centred part with the proportions height : width from a frame and resize it to that size."""
    rows, columns = frame.shape[:2]
    crop_rows = min(rows, max(1, round(columns * height / width)))
    crop_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    crop = frame[top : top + crop_rows, left : left + crop_columns]
    return resize(crop, height, width)


def resize(frame, height, width):
    """Resize a frame, whose proportions may change."""
    interpolation = cv2.INTER_AREA if frame.shape[0] >= height else cv2.INTER_CUBIC
    return cv2.resize(frame, (width, height), interpolation=interpolation)
