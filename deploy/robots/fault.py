"""What a robot raises when it can no longer be trusted to know where it is or to do what it is told."""

from __future__ import annotations


class RobotFault(RuntimeError):
    """The robot stays where it was told to be last, and takes no command until a person resets it.

    The text is one line and says what failed, for how long, and what the hardware said.
    """
