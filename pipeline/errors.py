"""The two ways in which a command can fail by somebody's fault; anything else is a defect of this program.

The front door turns the first into exit status 1 and the second into exit status 2, and prints the message alone,
without a traceback. The message is therefore complete for a person: what, where (file, row, image or key), what was
found, what was wanted, what to do.
"""

from __future__ import annotations


class InputError(Exception):
    """The work or a file is at fault (exit status 1)."""


class ConfigError(Exception):
    """The command line or the configuration is at fault (exit status 2)."""
