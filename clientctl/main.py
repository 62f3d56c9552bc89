"""The command `clientctl`: etcdctl's verbs for a raftd cluster, a proxyd or an etcd.

Exit status: 0 done (an empty range and a delete of nothing too), 1 a single key is absent or a transaction's
condition is false, 2 wrong usage, 3 surely not done or a server does not answer well, 4 outcome unknown,
5 done, but its output could not be written, 130 interrupted. `lock` with a command exits as that does.
"""

import sys
from collections.abc import Sequence

import click

from clientctl import (
    verbs_cluster,
    verbs_completion,
    verbs_kv,
    verbs_lease,
    verbs_lock,
    verbs_txn,
    verbs_watch,
)
from clientctl.command import (
    DONE,
    INTERRUPTED,
    NOT_DONE,
    NOT_SHOWN,
    UNKNOWN,
    USAGE,
    Interrupted,
    NotShown,
    say,
    say_error,
    write,
)
from clientctl.settings import global_options


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        write(f"clientctl {version('raftd')}\n".encode())
        context.exit()


@click.group(
    context_settings={"auto_envvar_prefix": "CLIENTCTL", "help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@global_options(root=True)
def root() -> None:
    """Put, get and watch keys, lock and elect by them, and look at the servers that keep them.

    Every flag here may also stand after the verb, come from the environment (CLIENTCTL_ENDPOINTS, …), or from
    the TOML file named by --config-file; in this order of precedence.

    Exit status: 0 done, 1 absent or false, 2 wrong usage, 3 surely not done, 4 outcome unknown, 5 done, but
    its output could not be written, 130 interrupted.
    """


for _verbs in (
    verbs_kv,
    verbs_txn,
    verbs_watch,
    verbs_lease,
    verbs_lock,
    verbs_cluster,
    verbs_completion,
):
    _verbs.add_verbs(root)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        status = root.main(list(arguments), prog_name="clientctl", standalone_mode=False)
    except click.ClickException as error:
        say(_usage_line(error))
        return USAGE
    except Interrupted as interrupted:
        say(str(interrupted))
        return INTERRUPTED
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    except NotShown as problem:
        if not problem.text:
            return DONE
        say_error(f"done, but the answer could not be shown: {problem.text}")
        return NOT_SHOWN
    except Exception as error:
        return _failed(error)
    return status if isinstance(status, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def _usage_line(error: click.ClickException) -> str:
    """What is wrong and where to look, in one line: `clientctl: put: missing argument KEY; see …`."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "clientctl"
    program, _, name = path.partition(" ")
    text = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.MissingParameter):
        text = text.replace("'", "")
    if text[1:2].islower():  # not RANGE_END
        text = text[0].lower() + text[1:]
    where = f"{program}: {name}" if name else program
    return f"{where}: {text.removeprefix(f'{name} ')}; see {path} --help"


def _failed(error: Exception) -> int:
    # Here, because it takes protobuf along, and by now that is loaded.
    from clientctl.errors import NotDone, OutcomeUnknown

    if isinstance(error, OutcomeUnknown):
        say_error(str(error))
        return UNKNOWN
    if isinstance(error, NotDone):
        say_error(str(error))
        return NOT_DONE
    raise error


if __name__ == "__main__":
    main()
