"""Sample-Score-Rank: draw candidates from the proposal, predict and score each once, take the best.

a* = argmin_s J(f(z, a_s), a_s), a_s ~ rho(a | z). Source: Zhou et al., D-MPC, arXiv 2410.05364, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Generator, Tensor

from planners.sampling import Incumbent, Region


@dataclass(frozen=True)
class SsrState:
    """The proposals and the best of them."""

    first_BSHA: Tensor
    best: Incumbent


@dataclass(frozen=True)
class Ssr:
    """One iteration, no parameters: everything is in the proposal. Without one it is random shooting."""

    @property
    def iterations(self) -> int:
        """Always one."""
        return 1

    @property
    def least_samples(self) -> int:
        """One candidate is a choice."""
        return 1

    @property
    def trust(self) -> float:
        """No trust region: candidates are the proposals."""
        return math.inf

    def init(self, first_BSHA: Tensor, region: Region, /) -> SsrState:
        """Return the state that holds the proposals (B, S, H, A)."""
        return SsrState(first_BSHA, Incumbent.none(first_BSHA))

    def ask(self, state: SsrState, samples: int, generators: Sequence[Generator], /) -> Tensor:
        """Return the proposals, (B, S, H, A)."""
        return state.first_BSHA

    def tell(self, state: SsrState, actions_BSHA: Tensor, cost_BS: Tensor, /) -> SsrState:
        """Return the state with the best of the candidates."""
        return replace(state, best=state.best.challenge(actions_BSHA, cost_BS))

    def spread(self, state: SsrState, /) -> Tensor:
        """Return inf: nothing narrows."""
        return state.best.cost_B.new_full(state.best.cost_B.shape, math.inf)

    def answer(self, state: SsrState, /) -> Incumbent:
        """Return the best candidate and its cost."""
        return state.best
