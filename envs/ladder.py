"""A ladder of policies from one training run, untrained to trained, and which of its rungs a data set is made of.

A folder with `ladder.safetensors` (the policies: envs/policies.py, by control steps of training) and `ladder.json` (what each of
them earns).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from envs.episodes import write_atomically
from envs.recipes import Recipe

POLICIES, CARD = "ladder.safetensors", "ladder.json"
FORMAT = 1
LEVELS = ("random", "medium", "medium-replay", "expert")
HALFWAY = 0.5
"""Share of what training gains at which a policy is called medium."""


@dataclass(frozen=True)
class Rung:
    """One policy of the ladder and what it earns, its actions sampled."""

    steps: int
    """Control steps that it was trained for: its snapshot in the file."""
    mean_return: float
    mean_length: float
    """Control steps of an episode."""
    episodes: int
    """That the means are of."""


@dataclass(frozen=True)
class Ladder:
    """Rungs in the order of training; the first is untrained."""

    robot: str
    rungs: tuple[Rung, ...]
    about: Mapping[str, object]
    """How it was trained, as JSON values."""

    def level(self, name: str) -> tuple[tuple[int, float], ...]:
        """Return the (snapshot, weight) pairs of one of LEVELS, each episode drawing its policy by weight.

        random: the untrained policy; expert: the one that earns most; medium: the first that earns half of what lies between them;
        medium-replay: all from the untrained to medium, each for as many steps as training took to the next. Raises ValueError for
        another name, and where nothing is better than the untrained policy.
        """
        if name not in LEVELS:
            raise ValueError(f"a ladder has the levels {', '.join(LEVELS)}, got {name!r}")
        first, best = self.rungs[0], max(self.rungs, key=lambda rung: rung.mean_return)
        if name == "random":
            return ((first.steps, 1.0),)
        if best is first:
            raise ValueError(
                f"no policy of {self.robot} is better than the untrained one yet: train on, with more --steps"
            )
        if name == "expert":
            return ((best.steps, 1.0),)
        enough = first.mean_return + HALFWAY * (best.mean_return - first.mean_return)
        at = next(i for i, rung in enumerate(self.rungs) if rung.mean_return >= enough)
        if name == "medium":
            return ((self.rungs[at].steps, 1.0),)
        ends = [rung.steps for rung in self.rungs[1 : at + 1]]
        early = zip(self.rungs[:at], ends, strict=True)
        return tuple((rung.steps, round((end - rung.steps) / rung.mean_length, 3)) for rung, end in early)


def write_ladder(folder: Path, ladder: Ladder) -> None:
    """Write the card."""
    card = {"format": FORMAT, **asdict(ladder)}
    write_atomically(folder / CARD, (json.dumps(card, indent=1) + "\n").encode())


def read_ladder(folder: Path) -> Ladder:
    """Return what the card says. Raises ValueError, in one line, where it is missing or not one."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text())
        if card["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {card['format']}")
        return Ladder(card["robot"], tuple(Rung(**rung) for rung in card["rungs"]), card["about"])
    except FileNotFoundError:
        raise ValueError(f"no ladder of policies in {folder}: `surefoot behave` makes one") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the card of a ladder: {error}") from None


def on_ladder(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe made of the ladder in the folder, its level being what follows the robot's name; as it is without one.

    A folder that has the recipe's own policy file is used as the recipe says. Raises ValueError, in one line, for a ladder of
    another robot, and as `Ladder.level` does.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder of policies {folder}: `surefoot behave {recipe.robot} --out {folder}` trains some")
    if (folder / recipe.policy).is_file() or not (folder / CARD).is_file():
        return recipe
    ladder = read_ladder(folder)
    if ladder.robot != recipe.robot:
        raise ValueError(f"{folder} holds policies of {ladder.robot}, not of {recipe.robot}")
    mixture = ladder.level(recipe.name.removeprefix(f"{recipe.robot}-"))
    return replace(recipe, policy=POLICIES, mixture=mixture, sampled=True, action_noise=0.0)
