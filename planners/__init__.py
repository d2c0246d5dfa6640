"""What to do, given a belief: search methods in one table."""

from collections.abc import Mapping

from planners.cem import Cem
from planners.mppi import Mppi
from planners.ssr import Ssr

PLANNERS: dict[str, type[Ssr] | type[Cem] | type[Mppi]] = {"ssr": Ssr, "cem": Cem, "mppi": Mppi}
"""One file, one line: the class is the method's configuration."""


def pick[T](table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`; raises KeyError that lists the legal names of this `kind`."""
    if name not in table:
        raise KeyError(f"no {kind} named {name!r}; choose from {sorted(table)}")
    return table[name]
