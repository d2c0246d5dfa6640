"""Data sets of stock lerobot as a kill leaves them: mended, they equal the ones that were finished properly."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.cli import main as surefoot
from deploy.repair import repair

CAMERA = "observation.images.eye"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
    "action": {"dtype": "float32", "shape": (1,), "names": ["f"]},
    "note": {"dtype": "string", "shape": (1,), "names": None},
    CAMERA: {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
}
LENGTHS = (6, 9, 7)


def lerobot() -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


def add_frames(dataset: Any, episode: int, count: int) -> None:
    rng = np.random.default_rng(episode)
    for index in range(count):
        dataset.add_frame(
            {
                "observation.state": rng.normal(size=3).astype(np.float32),
                "action": rng.normal(size=1).astype(np.float32),
                "note": f"note {episode}",
                CAMERA: np.full((48, 64, 3), 60 * episode + 5 * index, np.uint8),
                "task": f"task {episode % 2}",
            }
        )


def recorded(folder: Path) -> Path:
    """Record with stock lerobot as `proper`; `killed` is what was on disk in the fourth episode, before `finalize`."""
    dataset = lerobot().create("a/b", 20, FEATURES, root=folder / "proper", video_backend="pyav")
    for episode, count in enumerate(LENGTHS):
        add_frames(dataset, episode, count)
        dataset.save_episode()
    add_frames(dataset, 3, 4)
    shutil.copytree(folder / "proper", folder / "killed")
    dataset.clear_episode_buffer()
    dataset.finalize()
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def killed(stock, tmp_path):
    return Path(shutil.copytree(stock / "killed", tmp_path / "killed"))


def rows(root: Path) -> dict[str, list]:
    dataset = lerobot()("a/b", root=root, video_backend="pyav")
    return dataset.hf_dataset.with_format("arrow")[: len(dataset)].to_pydict()


def assert_equal(root: Path, proper: Path) -> None:
    """Rows, pictures, places and statistics are the same, as lerobot reads them."""
    mended, wanted = (lerobot()("a/b", root=path, video_backend="pyav") for path in (root, proper))
    assert rows(root) == rows(proper)
    for index in range(len(wanted)):
        np.testing.assert_allclose(mended[index][CAMERA], wanted[index][CAMERA], atol=1e-6)
        assert mended[index]["task"] == wanted[index]["task"]
    names = ["length", "dataset_from_index", "dataset_to_index", f"videos/{CAMERA}/from_timestamp", "tasks"]
    for name in names:
        assert mended.meta.episodes[name] == wanted.meta.episodes[name]
    ends = [each.meta.episodes[f"videos/{CAMERA}/to_timestamp"] for each in (mended, wanted)]
    np.testing.assert_allclose(*ends)
    for key, values in wanted.meta.stats.items():
        for name, value in values.items():
            np.testing.assert_allclose(mended.meta.stats[key][name], value, rtol=1e-5, atol=0.02 * (key == CAMERA))
    assert mended.meta.info.to_dict() == wanted.meta.info.to_dict()


def test_a_kill_leaves_rows_that_cannot_be_read_and_no_metadata_about_them(killed):
    with pytest.raises(pa.ArrowInvalid, match="magic bytes not found in footer"):
        pq.read_table(killed / "data/chunk-000/file-000.parquet")
    assert not (killed / "meta/episodes").exists()


def test_every_saved_episode_is_kept(stock, killed, capsys):
    assert surefoot(["repair", str(killed)]) == 0
    said = capsys.readouterr().out
    assert "data/chunk-000/file-000.parquet has no footer; its pages hold 22 whole rows" in said
    assert "meta/episodes does not say where 3 of 3 episodes are" in said
    assert f"what was there is now {killed}.broken" in said
    assert f"3 whole episodes are in {killed}" in said
    assert_equal(killed, stock / "proper")
    before = (stock / "killed/data/chunk-000/file-000.parquet").read_bytes()
    assert (killed.with_name("killed.broken") / "data/chunk-000/file-000.parquet").read_bytes() == before


def test_what_is_whole_is_left_alone(stock, killed, capsys):
    assert repair(stock / "proper") == []
    repair(killed)
    assert surefoot(["repair", str(killed)]) == 0
    assert capsys.readouterr().out == f"nothing to mend in {killed}\n"


def test_a_half_written_episode_is_left_out(stock, killed):
    path = killed / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert any("its pages hold 15 whole rows" in line for line in repair(killed))
    whole = rows(stock / "proper")
    assert rows(killed) == {name: values[:15] for name, values in whole.items()}


def test_an_episode_whose_pictures_are_not_encoded_yet_is_encoded(stock, tmp_path, monkeypatch):
    from lerobot.datasets import dataset_writer

    encode = dataset_writer._encode_video_worker

    def copy_before_the_third(key: str, episode: int, root: Path, *rest: Any) -> Path:
        if episode == 2:
            shutil.copytree(root, tmp_path / "encoding")
        return encode(key, episode, root, *rest)

    monkeypatch.setattr(dataset_writer, "_encode_video_worker", copy_before_the_third)
    recorded(tmp_path)
    said = repair(tmp_path / "encoding")
    assert f"episode 2: its {CAMERA} is still single pictures" in said
    assert rows(tmp_path / "encoding") == rows(stock / "proper")
    dataset = lerobot()("a/b", root=tmp_path / "encoding", video_backend="pyav")
    seen = [round(255 * dataset[i][CAMERA].mean().item()) for i in range(len(dataset))]
    wanted = [60 * episode + 5 * index for episode, count in enumerate(LENGTHS) for index in range(count)]
    assert seen == pytest.approx(wanted, abs=3)


def test_metadata_that_count_wrongly_are_made_again(stock, tmp_path):
    root = Path(shutil.copytree(stock / "proper", tmp_path / "proper"))
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"total_episodes": 2, "total_frames": 15}))
    (root / "meta/stats.json").unlink()
    said = repair(root)
    assert "meta/info.json counts 2 episodes and 15 rows, there are 3 and 22" in said
    assert "meta/stats.json cannot be read" in said
    assert_equal(root, stock / "proper")


def test_episodes_without_their_video_are_left_out_and_the_rest_is_numbered_anew(stock, tmp_path):
    root = Path(shutil.copytree(stock / "proper", tmp_path / "proper"))
    path = next(root.glob("meta/episodes/*/*.parquet"))
    table = pq.read_table(path)
    at = table.column_names.index(f"videos/{CAMERA}/file_index")
    pq.write_table(table.set_column(at, table.column_names[at], [[9, 0, 0]]), path)  # the first one's is not there
    assert f"episode 0 in data/chunk-000/file-000.parquet is left out: a video of it lacks frames: {CAMERA}" in repair(
        root
    )
    dataset = lerobot()("a/b", root=root, video_backend="pyav")
    assert [row["episode_index"].item() for row in (dataset[0], dataset[9])] == [0, 1]
    assert 255 * dataset[0][CAMERA].mean().item() == pytest.approx(60, abs=3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), "tells what the columns are and cannot be read"),
        (lambda root: shutil.rmtree(root / "videos"), "holds no whole episode"),
        (shutil.rmtree, "there is no folder"),
    ],
)
def test_what_cannot_be_mended_is_refused_in_one_line_and_left_as_it_is(killed, capsys, spoil, said):
    spoil(killed)
    before = sorted(killed.rglob("*"))
    assert surefoot(["repair", str(killed)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(killed.rglob("*")) == before
    assert [path for path in killed.parent.iterdir() if path != killed] == []


def test_a_repair_that_was_killed_before_the_swap_is_finished(stock, killed):
    repair(killed)
    broken = killed.with_name("killed.broken")
    shutil.move(killed, killed.with_name(".killed.repaired"))
    shutil.move(broken, killed)
    assert repair(killed) == [f"what was there is now {broken}"]
    assert_equal(killed, stock / "proper")
