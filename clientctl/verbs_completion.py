"""The verb completion: what a shell has to be told so that it completes our verbs and flags."""

import click

from clientctl.command import DONE, verb, write
from clientctl.settings import Settings

PROGRAM = "clientctl"
_VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"


def add_verbs(group: click.Group) -> None:
    """Give the root command completion."""
    shell = click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    verb(group, "completion")(shell(_completion))


def _completion(settings: Settings, shell: str) -> int:
    """Write a script for SHELL, to be put into its settings: eval "$(clientctl completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, f"click completes {shell}"
    root = click.get_current_context().find_root().command
    # Not `source`, which for bash runs one to see how old it is: ours may not be the user's.
    complete = found(root, {}, PROGRAM, _VARIABLE)
    write((complete.source_template % complete.source_vars()).encode() + b"\n")
    return DONE
