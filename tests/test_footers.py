"""Parquet files cut off anywhere: the footer made again finds every whole row group, and pyarrow reads it."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.footers import with_footer

SCHEMA = pa.schema(
    [
        ("state", pa.list_(pa.float32(), 3)),
        ("done", pa.bool_()),
        ("exact", pa.list_(pa.float64(), 2)),
        ("note", pa.string()),
        ("index", pa.int64()),
    ]
)
PER_ROW = (3, 1, 2, 1, 1)
SIZES = (5, 1, 30_000, 12)  # the third needs several pages, and more entries than a dictionary holds


def rows(size, seed):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "state": list(rng.normal(size=(size, 3)).astype(np.float32)),
            "done": rng.random(size) < 0.5,
            "exact": list(rng.normal(size=(size, 2))),
            "note": [f"note {n % 4}" for n in range(size)],
            "index": rng.integers(0, 2**62, size),
        },
        schema=SCHEMA,
    )


TABLES = [rows(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def written():
    """The bytes of the file, and where each of its row groups ends."""
    file, ends = io.BytesIO(), []
    with pq.ParquetWriter(file, SCHEMA, compression="snappy", use_dictionary=True) as writer:
        for table in TABLES:
            writer.write_table(table)
            ends.append(file.tell())
    return file.getvalue(), ends


def read(data):
    found = pq.read_table(io.BytesIO(with_footer(data, SCHEMA, PER_ROW)))
    found.validate(full=True)
    return found


@pytest.mark.parametrize("whole", range(len(SIZES) + 1))
@pytest.mark.parametrize("beyond", [0, 1, 17])
def test_a_cut_file_keeps_the_row_groups_that_are_whole(written, whole, beyond):
    data, ends = written
    cut = ([4, *ends][whole] if whole else 4) + beyond
    expected = pa.concat_tables([SCHEMA.empty_table(), *TABLES[:whole]])
    assert read(data[:cut]).equals(expected)


@pytest.mark.parametrize("group", range(len(SIZES)))
def test_a_row_group_that_lacks_its_last_byte_is_left_out(written, group):
    data, ends = written
    assert len(read(data[: ends[group] - 1])) == sum(SIZES[:group])


def test_a_file_cut_anywhere_keeps_them(written):
    data, ends = written
    for cut in np.random.default_rng(0).integers(4, len(data), 40).tolist():
        whole = sum(end <= cut for end in ends)
        assert len(read(data[:cut])) == sum(SIZES[:whole])


def test_a_file_that_is_no_parquet_is_refused():
    with pytest.raises(ValueError, match="does not begin as a parquet file"):
        with_footer(b"something else", SCHEMA, PER_ROW)
