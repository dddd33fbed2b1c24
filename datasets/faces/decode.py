"""From the bytes of a picture to the pixels that networks see."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.faces.listing import Listing
from datasets.faces.lists import FacesError

FORMATS = ("JPEG", "PNG")  # PNG: some parquet files


WIDTH = 178  # px of CelebA's aligned images, 218 high


def decode(content: bytes, resolution: int, crop: int = WIDTH) -> np.ndarray:
    """A square in the middle, scaled with antialiasing: of 178x218 px the rows from 20 to 198, or fewer of both.

    Args:
        content: a JPEG or PNG file.
        resolution: width and height to give, px.
        crop: side of the square where images are `WIDTH` wide; of others the same share.

    Returns:
        uint8 (3, H, W).

    Raises:
        OSError: the picture ends early or is none.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        side = round(min(image.size) * crop / WIDTH)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.convert("RGB").crop((left, top, left + side, top + side))
        square = square.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)


def decode_rows(listing: Listing, rows: np.ndarray, resolution: int, crop: int = WIDTH) -> np.ndarray:
    """Some images of a listing: uint8 (B, 3, H, W).

    Raises:
        FacesError: naming the first that is missing or cannot be read.
    """
    images = np.empty((len(rows), 3, resolution, resolution), np.uint8)
    for place, row in enumerate(rows):
        try:
            images[place] = decode(listing.read(row), resolution, crop)
        except (OSError, SyntaxError, ValueError) as error:  # PIL calls a broken PNG a SyntaxError
            if isinstance(error, FacesError):
                raise
            short = "it is no picture" if isinstance(error, UnidentifiedImageError) else str(error)
            raise FacesError(
                f"{listing.describe(row)} cannot be read ({short}): it was cut off or altered; "
                "unpack or download it again"
            ) from error
    return images
