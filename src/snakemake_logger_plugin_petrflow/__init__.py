"""Looks at the files after ``--configfile`` before Snakemake reads them.

Snakemake 9.27 reads them before it reads the Snakefile, and answers a file that is missing, or no UTF-8, with a traceback, and one that
is no YAML with a sentence that names neither file nor line. Of a project's own code only plugins run earlier: Snakemake imports every
package called ``snakemake_logger_plugin_*`` when it makes its command line. This one says what is wrong and ends the process. What
Snakemake can read, the Snakefile checks, with everything else.

The class below makes it a plugin. It is used only where somebody asks for ``--logger petrflow``, and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase

from petrflow.config import read_yaml


class LogHandler(LogHandlerBase):
    """Writes nothing."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        """Pass a record over."""


def config_files(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the files that a command line of Snakemake's names after ``--configfile`` or ``--configfiles``."""
    inside = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option.startswith("-"):
            asked = option in ("--configfile", "--configfiles")
            inside = asked and not equals
            if asked and equals:
                yield value
        elif inside:
            yield argument


def unreadable(arguments: Sequence[str]) -> list[str]:
    """One sentence for each file after ``--configfile`` that Snakemake could not read."""
    said = []
    for path in config_files(arguments):
        if not Path(path).suffix and not Path(path).exists():
            said.append(
                f"{path}: there is no such file, and what follows --configfile is taken for one; put targets before it."
            )
        else:
            said += [str(mistake) for mistake in read_yaml(path).mistakes if not mistake.path]
    return said


_said = unreadable(sys.argv[1:])
if _said:
    sys.exit("\n".join(["The configuration cannot be read; nothing was started.", *_said]))
