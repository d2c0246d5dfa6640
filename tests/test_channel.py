"""Values and streams between processes: never torn, never waited for, losses known."""

import multiprocessing
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.realtime.channel import Latest, Stream

RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (40,))])


def record(n: int) -> np.ndarray:
    made = np.zeros((), RECORD)
    made["n"], made["x"] = n, n
    return made


@given(st.lists(st.binary(max_size=64), min_size=1, max_size=8))
def test_the_newest_value_is_read_and_each_only_once(values):
    latest = Latest(64)
    assert latest.read() is None
    for number, value in enumerate(values, 1):
        latest.write(value)
        assert latest.read(number - 1) == (number, value)
        assert latest.read(number) is None


def test_a_value_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="at most 8 bytes, got 9"):
        Latest(8).write(b"123456789")


def test_a_value_that_was_damaged_is_not_believed():
    latest = Latest(8)
    latest.write(b"12345678")
    memory = np.frombuffer(latest._memory, np.uint8)
    memory[np.flatnonzero(memory == ord("3"))[0]] ^= 1
    assert latest.read() is None


def test_a_record_that_was_damaged_counts_as_lost():
    stream = Stream(RECORD, 8)
    for n in (1, 2, 3):
        stream.write(record(n))
    _, slots = stream._arrays()
    slots[2]["record"]["x"][7] += 1
    assert [int(found["n"]) for found in stream.read()] == [1, 3]
    assert stream.lost == 1


@given(st.lists(st.integers(0, 12), min_size=1, max_size=20))
def test_a_stream_gives_every_record_in_order_or_counts_it_as_lost(bursts):
    stream, written, had = Stream(RECORD, 8), 0, []
    for burst in bursts:
        for _ in range(burst):
            written += 1
            stream.write(record(written))
        had += [int(found["n"]) for found in stream.read()]
        assert had == sorted(set(had))
        assert len(had) + stream.lost == written
        if written:
            assert had[-1] == written


def shout(latest: Latest, stop) -> None:
    n = 0
    while not stop.value:
        n += 1
        latest.write(np.full(2000, n, np.int64).tobytes())


def test_what_is_read_while_another_process_writes_is_never_torn():
    latest = Latest(16_000)
    context = multiprocessing.get_context("spawn")
    stop = context.RawValue("i", 0)
    writer = context.Process(target=shout, args=(latest, stop), daemon=True)
    writer.start()
    seen, after, until = 0, 0, time.monotonic() + 20
    while seen < 300 and time.monotonic() < until:
        found = latest.read(after)
        if found is not None:
            after = found[0]
            values = np.frombuffer(found[1], np.int64)
            assert len(set(values.tolist())) == 1
            seen += 1
    stop.value = 1
    writer.join(10)
    assert seen == 300
