"""Episodes on disk: whole or absent, and equal episodes are equal bytes."""

import os
from dataclasses import fields, replace

import numpy as np
import pytest

from envs.episodes import Episode, Spool, TornEpisodeError, decode, encode, write_atomically


def make(length=5, seed=0, terminated=True):
    rng = np.random.default_rng(seed)
    actions = rng.normal(size=(3, length, 2))
    return Episode(
        state_TO=rng.normal(size=(length + 1, 3)),
        action_requested_TA=actions[0],
        action_TA=actions[1],
        action_applied_TA=actions[2],
        reward_T=rng.normal(size=length),
        terminated=terminated,
        truncated=not terminated,
        seed=seed,
        meta={"snapshot": None, "index": seed},
    )


def assert_same(a, b):
    for f in fields(Episode):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name))


def test_an_episode_survives_the_disk_to_the_bit(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.write(3, make())
    assert spool.indices() == [3]
    assert_same(spool.read(3), make())


def test_equal_episodes_are_equal_bytes_and_different_ones_are_not():
    assert encode(make()) == encode(make())
    assert encode(make()) != encode(make(seed=1))
    assert encode(make()) != encode(replace(make(), meta={"snapshot": 20}))


def test_every_truncation_and_a_flipped_bit_in_any_byte_of_the_arrays_is_detected():
    data = encode(make())
    header = 8 + int.from_bytes(data[:8], "little")
    for size in range(len(data)):
        with pytest.raises(TornEpisodeError):
            decode(data[:size])
    for at in range(header, len(data)):
        with pytest.raises(TornEpisodeError):
            decode(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def test_a_torn_file_is_named_when_read_and_counts_as_missing(tmp_path):
    spool = Spool(tmp_path)
    assert spool.read_if_whole(0) is None
    spool.path(0).write_bytes(encode(make())[:-1])
    assert spool.read_if_whole(0) is None
    with pytest.raises(TornEpisodeError, match="episode-000000"):
        spool.read(0)


def test_a_write_that_dies_half_way_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def die(_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, b"new, and longer")
    assert path.read_bytes() == b"old"


def test_trim_keeps_the_first_episodes_and_nothing_half_written(tmp_path):
    spool = Spool(tmp_path)
    for index in range(4):
        spool.write(index, make(seed=index))
    (tmp_path / ".episode-000009.safetensors.123.tmp").write_bytes(b"half")
    spool.trim(2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episode-000000.safetensors", "episode-000001.safetensors"]
    assert [episode.seed for episode in spool.episodes(2)] == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_TO": np.zeros((5, 3))}, "state_TO"),
        ({"action_applied_TA": np.zeros((5, 1))}, "action_applied_TA"),
        ({"reward_T": np.zeros(4)}, "reward_T"),
        ({"terminated": False}, "must end"),
    ],
)
def test_an_episode_refuses_arrays_that_do_not_fit_and_an_end_without_a_reason(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **change)


def test_an_empty_episode_is_refused():
    with pytest.raises(ValueError, match="at least one action"):
        make(length=0)


def test_length_and_return_count_every_step():
    episode = replace(make(length=3), reward_T=np.array([1.0, 2.0, 4.0]))
    assert (episode.length, episode.total_reward) == (3, 7.0)
