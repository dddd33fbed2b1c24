"""CelebA as Hugging Face keeps it: parquet files of ``flwrlabs/celeba``, read with pyarrow alone.

Columns: ``image`` (struct of bytes and path), ``celeb_id``, and the 40 attributes as booleans. By their size the published
files hold PNGs, which are the JPEGs' pixels again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from datasets.faces.lists import USED, FacesError

MISSING = "download it again"


class ShardReader:
    """Images by shard and row; the row group that was read last is kept, for its neighbours are asked for next."""

    def __init__(self, paths: tuple[Path, ...], shard: np.ndarray, row: np.ndarray) -> None:
        """Image ``i`` is row ``row[i]`` of file ``paths[shard[i]]``; both (M,) int."""
        self.paths, self.shard, self.row = paths, shard, row
        self._open: tuple[int, int, parquet.ParquetFile] | None = None  # process, shard, file
        self._group: tuple[int, int, pa.Array] | None = None  # shard, its first row, encoded images

    def describe(self, index: int) -> str:
        """The file that an image comes from, for messages."""
        return f"{self.paths[self.shard[index]]}, row {self.row[index]},"

    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            FacesError: it cannot be read, or is kept as a path only.
        """
        shard, row = int(self.shard[index]), int(self.row[index])
        if self._group is None or self._group[0] != shard or not 0 <= row - self._group[1] < len(self._group[2]):
            try:
                self._group = (shard, *self._read_group(shard, row))
            except (OSError, pa.ArrowException) as error:
                raise FacesError(f"{self.paths[shard]} is damaged at row {row} ({_short(error)}); {MISSING}") from error
        content = self._group[2][row - self._group[1]].as_py()
        if not content:
            raise FacesError(f"{self.describe(index)} holds no image; {MISSING}")
        return content

    def _read_group(self, shard: int, row: int) -> tuple[int, pa.Array]:
        file = self._file(shard)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < first + rows:
                table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
                return first, table.column("image").combine_chunks().field("bytes")
            first += rows
        raise OSError("it became shorter")

    def _file(self, shard: int) -> parquet.ParquetFile:
        # Processes that share an open file share its position: each opens its own.
        if self._open is None or self._open[:2] != (os.getpid(), shard):
            self._open = (os.getpid(), shard, parquet.ParquetFile(self.paths[shard]))
        return self._open[2]


def read_shards(
    shards: tuple[tuple[int, Path], ...],
) -> tuple[list[str], np.ndarray, np.ndarray, ShardReader]:
    """Everything but the pixels.

    Images are named by the paths in the files, or, where these have none, by their number in the order of the partitions, as
    CelebA itself is numbered.

    Args:
        shards: partition and path of each file, in order.

    Returns:
        Names; the attributes ``USED``, (M, 4) bool; partitions, (M,) uint8; the reader of the images.

    Raises:
        FacesError: a file ends early or lacks a column.
    """
    attributes, partition, names, shard, row = [], [], [], [], []
    for number, (part, path) in enumerate(shards):
        table = _columns(path)
        attributes.append(np.stack([table.column(name).to_numpy().astype(bool) for name in USED], 1))
        partition.append(np.full(len(table), part, np.uint8))
        shard.append(np.full(len(table), number, np.int32))
        row.append(np.arange(len(table), dtype=np.int32))
        names += list(_names(table.column("image")))
    if not names:
        raise FacesError(f"{shards[0][1]} has no image; {MISSING}")
    if not all(names) or len(set(names)) < len(names):
        names = [f"{index + 1:06d}.jpg" for index in range(len(names))]
    reader = ShardReader(tuple(path for _, path in shards), np.concatenate(shard), np.concatenate(row))
    return names, np.concatenate(attributes), np.concatenate(partition), reader


def _columns(path: Path) -> pa.Table:
    try:
        file = parquet.ParquetFile(path)
        leaves = {file.schema.column(leaf).path for leaf in range(len(file.schema))}
        lacking = [name for name in ("image.bytes", "image.path", *USED) if name not in leaves]
        if lacking:
            raise FacesError(f"{path} has no column {lacking[0]}, so it is not of flwrlabs/celeba; take that one")
        table = file.read(columns=["image.path", *USED], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise FacesError(f"{path} ends early or is no parquet file ({_short(error)}); {MISSING}") from error
    for name in USED:
        if not pa.types.is_boolean(table.schema.field(name).type) or table.column(name).null_count:
            raise FacesError(f"{path} has a column {name} that is not of booleans; take flwrlabs/celeba")
    return table


def _names(images: pa.ChunkedArray) -> Iterator[str]:
    for path in images.combine_chunks().field("path").to_pylist():
        yield PurePosixPath(path).name if path else ""


def _short(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".")
