"""The two ways in which a command can fail by somebody's fault, and that of being told to end; anything else is a
defect of this program.

The front door turns the first into exit status 1 and the second into exit status 2, and prints the message alone,
without a traceback. The message is therefore complete for a person: what, where (file, row, image or key), what was
found, what was wanted, what to do. What it quotes of a stranger's file cannot command the terminal: control characters
stand in it as their escapes.
"""

from __future__ import annotations

import signal


class _Said(Exception):
    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(_Said):
    """The work or a file is at fault (exit status 1)."""


class ConfigError(_Said):
    """The command line or the configuration is at fault (exit status 2)."""


class Ended(KeyboardInterrupt):
    """The process was told to end by a signal; nothing on its way takes it for an error (exit status 128 + number)."""

    def __init__(self, number: int, how: str = ""):
        super().__init__(number, how)
        self.number, self.how = int(number), how

    def __str__(self) -> str:
        said = "interrupted" if self.number == signal.SIGINT else f"told to end ({signal.Signals(self.number).name})"
        return f"{said}; {self.how}" if self.how else said


def printable(text: str) -> str:
    """The text with every character that is not printed as itself replaced by its escape; line breaks stay."""
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
