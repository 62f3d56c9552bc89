"""How a daemon logs: structlog to stderr, coloured lines on a terminal, JSON lines otherwise.

Set up once, by `proto.shell`; everybody else calls `structlog.get_logger()`. Levels below the chosen one
cost a method call that does nothing.
"""

import logging
import os
import sys
from typing import Any, TextIO

import structlog


def set_up_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Log events of `level` ("debug", "info", "warning" or "error") and above to `stream` (stderr)."""
    stream = stream or sys.stderr
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        colours = not os.environ.get("NO_COLOR")
        # Without rich: its tracebacks print local variables, and with them what clients store.
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain))
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
