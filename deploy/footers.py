"""A parquet file whose writer was killed has all its pages, but no footer to say where they are: the footer made again.

A file is a sequence of row groups, each of them one column chunk after another, each of these an optional dictionary page
and data pages. Every page begins with a header that holds its size and its number of values. The schema is not in the
pages: it has to be known. Source: the Parquet format, and Thrift's compact protocol, in which its structures are written.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = b"PAR1"
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 2, 3

Fields = dict[int, tuple[int, Any]]
"""A Thrift structure: number of the field -> (type, value). A list is (type of its items, items)."""


class Reader:
    """Reads structures in Thrift's compact protocol. Raises IndexError or ValueError where the bytes are none."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def fields(self) -> Fields:
        """Return the structure that begins here."""
        found: Fields = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._signed()
            found[number] = (head & 15, self._value(head & 15))
        return found

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in (I16, I32, I64):
            return self._signed()
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._unsigned())
        if kind in (LIST, SET):
            return self._list()
        if kind == STRUCT:
            return self.fields()
        raise ValueError(f"no value of type {kind} is expected in parquet")

    def _list(self) -> tuple[int, list[Any]]:
        head = self._byte()
        size = head >> 4 if head >> 4 != 15 else self._unsigned()
        if size > len(self.data):
            raise ValueError(f"a list of {size} items")
        return head & 15, [self._value(head & 15) for _ in range(size)]

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _bytes(self, size: int) -> bytes:
        self.at += size
        if self.at > len(self.data):
            raise IndexError("the bytes end inside a value")
        return self.data[self.at - size : self.at]

    def _unsigned(self) -> int:
        total = shift = 0
        while (byte := self._byte()) & 128:
            total |= (byte & 127) << shift
            shift += 7
        return total | byte << shift

    def _signed(self) -> int:
        zigzag = self._unsigned()
        return zigzag >> 1 ^ -(zigzag & 1)


def written(fields: Fields) -> bytes:
    """Return a structure in Thrift's compact protocol."""
    out, last = bytearray(), 0
    for number, (kind, value) in sorted(fields.items()):
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        gap = number - last
        out += bytes([gap << 4 | kind]) if gap < 16 else bytes([kind]) + _varint(number << 1)
        out += b"" if kind in (TRUE, FALSE) else _written(kind, value)
        last = number
    return bytes(out) + b"\0"


def _written(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return _varint(value << 1 ^ value >> 63)
    if kind == BINARY:
        return _varint(len(value)) + value
    if kind in (LIST, SET):
        inner, items = value
        head = bytes([len(items) << 4 | inner]) if len(items) < 15 else bytes([240 | inner]) + _varint(len(items))
        return head + b"".join(_written(inner, item) for item in items)
    if kind == STRUCT:
        return written(value)
    return bytes([value]) if kind in (BYTE, TRUE, FALSE) else value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class Page(NamedTuple):
    """One page as its header tells."""

    kind: int
    begin: int
    end: int
    raw: int
    """Its size with the header, before compression."""
    values: int


@dataclass(frozen=True)
class Chunk:
    """One column of one row group."""

    pages: tuple[Page, ...]

    @property
    def values(self) -> int:
        """Number of values, those of a list counted singly."""
        return sum(page.values for page in self.pages if page.kind != DICTIONARY_PAGE)


def read_pages(data: bytes) -> list[Page]:
    """Return the pages that are whole, in order."""
    pages, at = [], len(MAGIC)
    while at < len(data):
        reader = Reader(data, at)
        try:
            header = reader.fields()
            kind, raw, packed = header[1][1], header[2][1], header[3][1]
            (values,) = (header[n][1][1][1] for n in (5, 7, 8) if n in header)
        except (IndexError, KeyError, ValueError, TypeError):
            break
        if kind not in (DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2) or packed < 0 or reader.at + packed > len(data):
            break
        pages.append(Page(kind, at, reader.at + packed, raw + reader.at - at, values))
        at = reader.at + packed
    return pages


def row_groups(pages: Sequence[Page], per_row: Sequence[int]) -> list[tuple[int, list[Chunk]]]:
    """Return (rows, column chunks) of the row groups that are whole; `per_row` is how many values a row has per column."""
    groups, at = [], 0
    while group := _group(pages, at, per_row):
        groups.append(group)
        at += sum(len(chunk.pages) for chunk in group[1])
    return groups


def _group(pages: Sequence[Page], at: int, per_row: Sequence[int]) -> tuple[int, list[Chunk]] | None:
    """Return the row group that begins at page `at`: the fewest rows with which all columns come out even."""
    values = 0
    for first in range(at, len(pages)):
        if pages[first].kind == DICTIONARY_PAGE:
            if first > at:
                return None
            continue
        values += pages[first].values
        if chunks := _chunks(pages, at, per_row, values // per_row[0]):
            return values // per_row[0], chunks
    return None


def _chunks(pages: Sequence[Page], at: int, per_row: Sequence[int], rows: int) -> list[Chunk] | None:
    chunks = []
    for each in per_row:
        end, values = at, 0
        while end < len(pages) and values < rows * each and (end == at or pages[end].kind != DICTIONARY_PAGE):
            values += pages[end].values if pages[end].kind != DICTIONARY_PAGE else 0
            end += 1
        if values != rows * each:
            return None
        chunks.append(Chunk(tuple(pages[at:end])))
        at = end
    return chunks


def with_footer(data: bytes, schema: pa.Schema, per_row: Sequence[int]) -> bytes:
    """Return the parquet file that `data` would be, had its writer lived: with the row groups that are whole.

    `schema` is what it was written with; `per_row` is the number of values per row of each column. Raises ValueError
    where the file does not begin as parquet does.
    """
    if data[:4] != MAGIC:
        raise ValueError("it does not begin as a parquet file does")
    footer = _template(schema)
    (_, (model, *_)) = footer[4][1]
    columns = [chunk[3][1] for chunk in model[1][1][1]]
    groups = row_groups(read_pages(data), per_row)
    listed = [_row_group(rows, chunks, columns, index) for index, (rows, chunks) in enumerate(groups)]
    footer[3] = (I64, sum(rows for rows, _ in groups))
    footer[4] = (LIST, (STRUCT, listed))
    end = groups[-1][1][-1].pages[-1].end if groups else len(MAGIC)
    tail = written(footer)
    return data[:end] + tail + struct.pack("<I", len(tail)) + MAGIC


def _template(schema: pa.Schema) -> Fields:
    """Return the footer that lerobot's writer gives a file of one row with this schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    row = pa.Table.from_arrays([pa.nulls(1, kind) for kind in schema.types], schema=schema)
    with pq.ParquetWriter(file, schema, compression="snappy", use_dictionary=True) as writer:
        writer.write_table(row)
    data = file.getvalue()
    (size,) = struct.unpack("<I", data[-8:-4])
    return Reader(data, len(data) - 8 - size).fields()


def _row_group(rows: int, chunks: Sequence[Chunk], columns: Sequence[Fields], index: int) -> Fields:
    listed = [{2: (I64, 0), 3: (STRUCT, _column(c, like))} for c, like in zip(chunks, columns, strict=True)]
    sizes = [(column[3][1][6][1], column[3][1][7][1]) for column in listed]
    return {
        1: (LIST, (STRUCT, listed)),
        2: (I64, sum(raw for raw, _ in sizes)),
        3: (I64, rows),
        5: (I64, chunks[0].pages[0].begin),
        6: (I64, sum(packed for _, packed in sizes)),
        7: (I16, index),
    }


def _column(chunk: Chunk, like: Fields) -> Fields:
    """Return the metadata of a column chunk: type, path and codec as in `like`."""
    first, *_ = chunk.pages
    data = next(page for page in chunk.pages if page.kind != DICTIONARY_PAGE)
    packed = chunk.pages[-1].end - first.begin
    dictionary = {11: (I64, first.begin)} if first.kind == DICTIONARY_PAGE else {}
    return {
        **{number: like[number] for number in (1, 2, 3, 4)},
        5: (I64, chunk.values),
        6: (I64, sum(page.raw for page in chunk.pages)),
        7: (I64, packed),
        9: (I64, data.begin),
        **dictionary,
    }
