"""Are our re-created walker data sets like D4RL's? Return, mean and deviation of each state, beside theirs.

D4RL's tables are those of its v2 sets, from nikhilbarhate99/min-decision-transformer@36b9f9b (`d4rl_infos.py`); their
mean returns are about 2850 (medium) and 683 (medium-replay).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, Result, Table, mean_interval, parse, publish
from deploy.commandline import guarded
from envs.dataset import EpisodeData
from envs.recipes import RECIPES

SPEED = 8  # its column


@dataclass(frozen=True)
class DataOptions(Options):
    """Which data to compare."""

    data: Path = Path("data")
    """Folder of the data sets that `surefoot collect` made."""


@dataclass(frozen=True)
class Published:
    """What is known of one of D4RL's sets."""

    name: str
    mean_return: float
    mean_O: tuple[float, ...]
    std_O: tuple[float, ...]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


PUBLISHED = (
    Published(
        "walker2d-medium",
        2850.0,
        _numbers(
            "1.219 0.1416 -0.037 -0.1381 0.5138 -0.0472 -0.4729 0.0423 2.3949 "
            "-0.0314 0.0447 -0.0239 -0.1013 0.0909 -0.0042 -0.1212 -0.5497"
        ),
        _numbers(
            "0.1231 0.3242 0.1146 0.2623 0.564 0.2272 0.3837 0.7374 1.2388 "
            "0.798 1.5664 1.8093 3.0256 4.0625 1.4587 3.7446 5.5851"
        ),
    ),
    Published(
        "walker2d-medium-replay",
        683.0,
        _numbers(
            "1.2094 0.1326 -0.1437 -0.2047 0.5578 -0.0323 -0.2785 0.1913 1.4702 "
            "-0.125 0.0565 -0.0999 -0.3403 0.0355 -0.0893 -0.2992 -0.5984"
        ),
        _numbers(
            "0.1193 0.3563 0.2585 0.4208 0.5202 0.1569 0.3677 0.7161 1.3764 "
            "0.8632 2.6365 3.0134 3.7207 4.8673 2.6682 3.8452 5.4768"
        ),
    ),
)


def table(data: EpisodeData, known: Published) -> Table:
    """Return each state's mean and deviation, ours and D4RL's; the shift is in D4RL's deviations."""
    mean_O, std_O = data.moments()
    rows = tuple(
        (name, unit, float(mean), known_mean, float(mean - known_mean) / known_std, float(std), known_std)
        for name, unit, mean, known_mean, std, known_std in zip(
            data.layout.state_names, data.layout.state_units, mean_O, known.mean_O, std_O, known.std_O, strict=True
        )
    )
    columns = ("state", "unit", "mean", "D4RL mean", "shift", "std", "D4RL std")
    return Table(f"{known.name}: {data.episodes} episodes, {data.frames} frames", columns, rows)


def headline(data: EpisodeData, known: Published) -> dict[str, Any]:
    """Return the figures of one data set under its own names."""
    mean_O, kind = data.moments()[0], known.name.removeprefix("walker2d-").replace("-", "_")
    shift_O = np.abs(mean_O - known.mean_O) / known.std_O
    return {
        f"{kind}_return": mean_interval(data.episode_returns()),
        f"{kind}_return_over_d4rl": float(data.episode_returns().mean()) / known.mean_return,
        f"{kind}_speed_m_per_s": float(mean_O[SPEED]),
        f"{kind}_d4rl_speed_m_per_s": known.mean_O[SPEED],
        f"{kind}_median_shift": float(np.median(shift_O)),
        f"{kind}_largest_shift": float(shift_O.max()),
        f"{kind}_largest_shift_of": data.layout.state_names[int(shift_O.argmax())],
        f"{kind}_episodes_ending_in_a_fall": float(data.terminated_N.sum()) / data.episodes,
    }


def measure(folder: Path, quick: bool) -> Result:
    """Return the comparison; raises FileNotFoundError where a data set has not been collected."""
    known = PUBLISHED[:1] if quick else PUBLISHED
    sets = [EpisodeData.load(folder / each.name) for each in known]
    figures = {key: x for pair in zip(sets, known, strict=True) for key, x in headline(*pair).items()}
    return Result(
        "data_statistics",
        "Our re-created data sets have the returns of D4RL's walker2d-medium and -medium-replay; the gait is another, "
        "for other policies made them.",
        figures,
        tuple(table(*pair) for pair in zip(sets, known, strict=True)),
        seeds=tuple(RECIPES[each.name][1].seed for each in known),
        n=sum(data.episodes for data in sets),
        notes=("shift = (our mean - D4RL's mean) / D4RL's deviation.", "Intervals of the return are over episodes."),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and publish; 2 where the data are missing."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = parse(DataOptions, __doc__, argv)
    publish(measure(options.data, options.quick), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
