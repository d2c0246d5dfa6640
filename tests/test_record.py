"""The recorder against lerobot: what is handed over is what is read back, and nothing that happens to the writer stops the loop."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import record_kill
from benchmarks.record_kill import KillOptions
from deploy import shards
from deploy.record import Recorder, Step
from deploy.shards import Form, Shards, ready, recover, staging
from deploy.writer import HELD_S
from envs.dataset import EpisodeData, Layout
from envs.types import Observation

LAYOUT = Layout("toy", 50, ("x", "v"), ("m", "m/s"), ("left", "right"), ("N", "N"))
FORM = Form(LAYOUT, ("slew", "bounds"))


def state(episode: int, step: int) -> np.ndarray:
    return np.array([episode + 1 / 3, step / 7])


def step(episode: int, index: int, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "observation": Observation(10.0 + index / 50, state(episode, index)),
        "requested_A": np.array([index / 3, 1.0]),
        "sent_A": np.array([index / 9, 1.0]),
        "plan_age_s": 0.032,
        "reward": 0.5 * index,
        "task": f"task {episode}",
    }
    return Step(**{**values, **changes})


def record(recorder: Recorder, episode: int, steps: int, keep: bool = True, terminated: bool = False) -> bool:
    recorder.begin(seed=100 + episode)
    for index in range(steps):
        recorder.record(step(episode, index))
    return recorder.end(keep, state(episode, steps), terminated)


def opened(root: Path) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("surefoot/test", root=root, video_backend="pyav")


def columns(root: Path) -> dict[str, list]:
    dataset = opened(root)
    return dataset.hf_dataset.with_format("arrow")[: len(dataset)].to_pydict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three kept episodes and a dropped one, with a camera, by two recorders one after the other."""
    root = tmp_path_factory.mktemp("record") / "toy"
    form = Form(LAYOUT, FORM.limits, {"eye": (64, 96)})
    with Recorder(root, form, {"note.txt": "hello"}, patient=True) as recorder:
        recorder.begin(seed=7)
        image = np.full((64, 96, 3), 200, np.uint8)
        recorder.record(step(0, 0, altered_by=("slew", "whim"), images={"eye": image}))
        recorder.record(step(0, 1, plan_age_s=np.inf, by="operator"))
        recorder.record(step(0, 2, requested_A=np.full(2, np.nan), altered_by=("nonfinite",)))
        recorder.record(step(0, 3, observation=Observation(0.0, state(0, 3), np.zeros_like(image))))
        assert recorder.end(final_O=state(0, 4), terminated=True)
        record(recorder, 8, 5, keep=False)
        record(recorder, 9, 0)
        assert recorder.wait().reasons == ("no step had an outcome",)
        record(recorder, 1, 6)
    assert (recorder.status.saved, recorder.status.lost, recorder.status.ended) == (2, 1, None)
    with Recorder(root, form, patient=True) as recorder:
        recorder.begin()
        for index in range(3):
            recorder.record(step(2, index))
        recorder.end()  # nobody saw what the last step led to
    return root


def test_lerobot_reads_every_value_that_was_handed_over(folder):
    found = columns(folder)
    assert found["episode_index"] == [0] * 4 + [1] * 6 + [2] * 2
    numbers = [(0, t) for t in range(4)] + [(1, t) for t in range(6)] + [(2, t) for t in range(2)]
    assert found["observation.state"] == [state(*n).tolist() for n in numbers]
    assert found["next.state"] == [state(e, t + 1).tolist() for e, t in numbers]
    assert found["action"] == [[t / 9, 1.0] for _, t in numbers]
    assert found["action_requested"][:3] == [[0.0, 1.0], [1 / 3, 1.0], [2 / 9, 1.0]]  # the third was not finite
    assert found["limiter"][:3] == [[False, True, False, True], [False] * 4, [True, False, False, False]]
    assert found["plan_age_s"][:2] == pytest.approx([0.032, HELD_S])
    assert found["measured_time_s"][4:6] == [10.0, 10.02]
    assert found["intervention"] == [False, True] + [False] * 10
    assert found["next.reward"] == [0.5 * t for _, t in numbers]
    assert found["episode_seed"] == [7] * 4 + [101] * 6 + [-1] * 2
    assert np.flatnonzero(found["next.done"]).tolist() == [3, 9, 11]
    assert np.flatnonzero(found["next.terminated"]).tolist() == [3]
    assert np.flatnonzero(found["next.truncated"]).tolist() == [9, 11]


def test_lerobot_shows_names_tasks_and_pictures(folder):
    dataset = opened(folder)
    assert dataset.features["limiter"]["names"] == ["nonfinite", "slew", "bounds", "other"]
    assert dataset.features["action"]["names"] == ["left", "right"]
    assert [dataset[i]["task"] for i in (0, 4, 11)] == ["task 0", "task 1", "task 2"]
    seen = [round(255 * dataset[i]["observation.images.eye"].mean().item()) for i in (0, 1, 2, 3, 4)]
    assert seen == pytest.approx([200, 200, 200, 0, 0], abs=3)  # the last picture stays until a new one comes
    assert dataset.meta.stats["observation.state"]["mean"][0] == pytest.approx((4 + 2 * 6 + 3 * 2) / 12 - 2 / 3)
    assert (folder / "meta/note.txt").read_text() == "hello"


def test_a_recording_can_be_learned_from(folder):
    data = EpisodeData.load(folder)
    assert data.episode_start.tolist() == [0, 4, 10, 12]
    assert data.state_NO.dtype == data.action_NA.dtype == np.float32
    np.testing.assert_array_equal(data.next_state_NO[0], state(0, 1).astype(np.float32))


def test_a_folder_with_something_else_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="has another column 'limiter' than this recording"):
        Recorder(folder, Form(LAYOUT, ("other limit",)))
    with pytest.raises(ValueError, match="has fps 50, this recording has 20"):
        Recorder(folder, Form(Layout("toy", 20, ("x", "v"), ("m", "m/s"), ("left", "right"), ("N", "N"))))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no LeRobotDataset"):
        Recorder(tmp_path, FORM)


def test_a_stopped_writer_never_holds_the_loop_up_and_what_it_missed_is_counted(tmp_path):
    with Recorder(tmp_path / "toy", FORM, capacity=20) as recorder:
        os.kill(recorder.writer_pid, signal.SIGSTOP)  # the loop would hang here if it ever waited
        recorder.begin()
        taken = sum(recorder.record(step(0, index)) for index in range(1000))
        assert not recorder.end(final_O=state(0, 1000))
        assert not recorder.begin()  # there is no room for a second one
        assert not recorder.record(step(1, 0))
        os.kill(recorder.writer_pid, signal.SIGCONT)
        assert recorder.wait().saved == 1
        status = recorder.status
    assert taken == 19  # of 20 slots; the beginning took one
    assert (status.saved, status.cut, status.lost, status.dropped) == (1, 1, 1, 1000 - taken + 1)
    assert status.reasons[0] == "the writer has fallen behind"
    assert status.reasons[-1] == "an episode ends after 18 steps: the next one did not reach the writer"
    assert columns(tmp_path / "toy")["frame_index"] == list(range(18))


def test_a_full_disk_ends_recording_with_the_reason_and_the_loop_goes_on(tmp_path):
    with Recorder(tmp_path / "toy", FORM) as recorder:
        record(recorder, 0, 10)
        assert recorder.wait().saved == 1
        resource.prlimit(recorder.writer_pid, resource.RLIMIT_FSIZE, (2000, 2000))
        record(recorder, 1, 10)
        assert recorder.wait().saved == 1
        assert not recorder.begin()
        assert not recorder.record(step(2, 0))
        status = recorder.status
    assert status.ended is not None
    assert "File too large" in status.ended
    assert status.saved == 1
    assert status.dropped in range(1, 12)  # this step, and those of its episode that came after the writer had ended
    assert not list(tmp_path.glob(".*"))
    assert opened(tmp_path / "toy").num_episodes == 1


def test_a_killed_writer_is_reported_and_the_loop_goes_on(tmp_path):
    with Recorder(tmp_path / "toy", FORM) as recorder:
        recorder.begin()
        os.kill(recorder.writer_pid, signal.SIGKILL)
        while recorder.record(step(0, 0)):
            pass
        recorder.end()
        assert recorder.wait().saved == 0
        assert not recorder.begin()
        assert recorder.status.ended == "the writer's process ended with code -9"


def test_a_step_that_does_not_fit_ends_its_episode_and_raises_nothing(tmp_path):
    with Recorder(tmp_path / "toy", FORM, patient=True) as recorder:
        recorder.begin()
        taken = [recorder.record(step(0, index, sent_A=np.zeros(2 + (index == 2)))) for index in range(4)]
        recorder.end(final_O=state(0, 4))
    assert taken == [True, True, False, False]
    assert "a step does not fit: could not broadcast" in recorder.status.reasons[0]
    assert (recorder.status.saved, recorder.status.cut, recorder.status.dropped) == (1, 1, 2)


def test_an_episode_ends_before_a_reading_that_is_not_finite(tmp_path):
    with Recorder(tmp_path / "toy", FORM, patient=True) as recorder:
        recorder.begin()
        for index in range(5):
            spoilt = {"observation": Observation(0.0, np.full(2, np.nan))} if index == 3 else {}
            recorder.record(step(0, index, **spoilt))
        recorder.end(final_O=state(0, 5))
    assert (recorder.status.saved, recorder.status.cut) == (1, 1)
    assert "a reading that was not finite at step 3" in recorder.status.reasons[0]
    assert columns(tmp_path / "toy")["next.state"] == [state(0, t).tolist() for t in (1, 2)]


class Killed(BaseException):
    """Where a kill would strike."""


def add(target: Shards, form: Form, value: float) -> None:
    target.begin()
    for _ in range(3):
        frame: dict[str, Any] = {}
        for name, feature in form.features().items():
            frame[name] = np.full(feature["shape"], value if feature["dtype"] != "bool" else False, feature["dtype"])
        target.add({**frame, "task": f"task {value:g}"})
    target.keep()


def killed_after(moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, replace = iter(range(moves)), os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        if next(left, None) is None:
            raise Killed
        replace(source, target)

    monkeypatch.setattr(shards.os, "replace", replace_or_die)


@pytest.mark.parametrize("moves", range(7))
def test_killed_between_any_two_moves_it_opens_and_the_next_one_finishes_them(tmp_path, monkeypatch, moves):
    root = tmp_path / "toy"
    target = Shards(root, FORM, {})
    add(target, FORM, 1.0)
    with monkeypatch.context() as patch:
        killed_after(moves, patch)
        if moves < 6:  # one commits the episode, five move its files
            with pytest.raises(Killed):
                add(target, FORM, 2.0)
        else:
            add(target, FORM, 2.0)
    dataset = opened(root)
    assert [row["action"][0].item() for row in (dataset[0], dataset[len(dataset) - 1])] == [1.0, 1.0 + (moves == 6)]
    said = recover(root)
    assert len(said) == (moves < 6)
    assert not staging(root).exists()
    assert not ready(root).exists()
    assert opened(root).num_episodes == (1 if moves == 0 else 2)


def test_no_saved_episode_is_lost_to_kills_at_random_times(monkeypatch):
    monkeypatch.setattr(record_kill, "LONGEST_S", 1.0)
    found = record_kill.measure(KillOptions(kills=6, seed=1)).headline
    assert found["kills"] == 6
    assert found["saved episodes lost"] == 0
    assert found["most episodes lost by one kill, the running one included"] <= 1
    assert found["data sets that did not open"] == 0
    assert found["loops that did not go on after their writer was killed"] == 0
