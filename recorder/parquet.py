"""A table or view as Parquet: the same schema and rows whichever database they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 50_000
"""Rows of a row group, at the most."""

GROUP_BYTES = 16 << 20
"""Bytes of values, before they are compressed, that end a row group."""


class ParquetFile:
    """Writes rows (relations.Row) with columns of these kinds to an open file. It is no Parquet before it is closed."""

    def __init__(self, file: BinaryIO, kinds: Mapping[str, str]) -> None:
        self._kinds = list(kinds.values())
        self._schema = pa.schema([(name, TYPES[kind]) for name, kind in kinds.items()])
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._held: list[Any] = []
        self._rows = self._bytes = 0

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        arrays = [_READ[kind](values) for kind, values in zip(self._kinds, zip(*rows, strict=True), strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._held.append(batch)
        self._rows += len(rows)
        self._bytes += batch.nbytes
        if self._rows >= GROUP or self._bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held), row_group_size=self._rows)
        self._held = []
        self._rows = self._bytes = 0


TYPES = {
    "time": pa.timestamp("us", tz="UTC"),
    "flag": pa.bool_(),
    "integer": pa.int64(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "text": pa.string(),
}

_READ: dict[str, Callable[[Sequence[Any]], Any]] = {
    "time": lambda values: pa.array(values, pa.string()).cast(pa.timestamp("us")).cast(TYPES["time"]),
    "flag": lambda values: pa.array(values, pa.int64()).cast(pa.bool_()),
    "integer": lambda values: pa.array(values, pa.int64()),
    "double": lambda values: pa.array(values, pa.float64()),
    "bytes": lambda values: pa.array(values, pa.binary()),
    "text": lambda values: pa.array(values, pa.string()),
}
