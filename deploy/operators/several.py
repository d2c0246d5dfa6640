"""More than one way to steer and to stop one robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from deploy.guard import Switch
    from deploy.loop import Operator


@dataclass(frozen=True)
class FirstOf:
    """Operators of whom the first that asks for anything is heard; those after it are not asked, and know by that."""

    operators: Sequence[Operator]

    def wants(self, t_s: float, last_A: np.ndarray, /) -> np.ndarray | None:
        """Return what the first of them asks for, (A,), None if nobody does."""
        wishes = (operator.wants(t_s, last_A) for operator in self.operators)
        return next((wish for wish in wishes if wish is not None), None)


@dataclass(frozen=True)
class AnyOf:
    """Emergency stops of which any one stops the robot."""

    switches: Sequence[Switch]

    @property
    def thrown(self) -> str:
        """Who threw the first that is thrown; empty while nobody has."""
        return next((switch.thrown for switch in self.switches if switch.thrown), "")

    def release(self) -> None:
        """Release them all."""
        for switch in self.switches:
            switch.release()
