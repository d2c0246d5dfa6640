"""Do the words that nobody knows change what is asked? A line through the language model's features, learned from people's sentences.

The grammar of commands reads what it knows and guesses that the rest means nothing ("like a burglar", "while I take notes").
Asked for a yes or no, a model this small is worse than a coin; that the words matter ("to the kitchen") stands in the middle of it
all the same, where a logistic regression finds it. Trained by deploy/goal_service/train_judge.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deploy.goal_service.drafters import common

if TYPE_CHECKING:
    from deploy.goal_service.sentences import Vocabulary

PATH = Path(__file__).with_name("judge.safetensors")
SYSTEM = (
    "An operator commands a robot that can only walk, run, stop, crouch and lean. It knows no places or things. "
    "Say yes if the sentence asks for just that, no if it asks for anything else."
)


class Looker(Protocol):
    """Whoever has the features of a model; deploy/goal_service/engine.py does."""

    @property
    def name(self) -> str:
        """Of its model."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Of its model."""
        ...

    def mean_features(self, tokens: Sequence[int], first: int, depth: int, deadline_s: float, /) -> torch.Tensor:
        """Return the mean over the tokens from `first` on of what stands behind `depth` layers (width,)."""
        ...


@dataclass(frozen=True)
class Judge:
    """Log-odds that some words mean nothing, from the features of one model."""

    model: str
    depth: int
    """Layers."""
    weights_W: torch.Tensor
    bias: float
    least: float
    """Log-odds from which on it is believed."""

    def accepts(self, looker: Looker, sentence: str, unread: Sequence[str], deadline_s: float) -> bool:
        """Return whether the sentence asks for what it would ask for without these words. Raises what the looker raises."""
        found_W = features(looker, sentence, unread, self.depth, deadline_s)
        return float(found_W @ self.weights_W) + self.bias >= self.least


def features(looker: Looker, sentence: str, unread: Sequence[str], depth: int, deadline_s: float) -> torch.Tensor:
    """Return what the model makes of a sentence and the words in question: float32 (width,)."""
    tokens, other = _prompt(looker, f"Sentence: {sentence}\nOther words: {', '.join(unread)}"), _prompt(looker, "")
    return looker.mean_features(tokens, common(tokens, other), depth, deadline_s)


def _prompt(looker: Looker, said: str) -> Sequence[int]:
    return looker.vocabulary.chat([{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}])


def write(judge: Judge, path: Path = PATH) -> None:
    """Write it as safetensors."""
    notes = {"model": judge.model, "depth": str(judge.depth), "bias": repr(judge.bias), "least": repr(judge.least)}
    save_file({"weights": judge.weights_W.float().contiguous()}, path, notes)


@cache
def judge_of(model: str) -> Judge | None:
    """Return the judge that comes with a model; None: it has none, and must be asked otherwise."""
    with safe_open(PATH, "pt") as file:
        notes = file.metadata()
        judge = Judge(
            notes["model"], int(notes["depth"]), file.get_tensor("weights"), float(notes["bias"]), float(notes["least"])
        )
    return judge if judge.model == model else None
