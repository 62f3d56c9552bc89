"""The verb txn: a transaction from standard input, in etcdctl's syntax."""

from typing import TYPE_CHECKING

import click

from clientctl.command import DONE, NEGATIVE, read_input, say, verb, with_client, write
from clientctl.config import TXN_LINE_BYTES_MAX
from clientctl.settings import Settings
from clientctl.verbs_kv import TXN_LINES, show_of

if TYPE_CHECKING:
    from clientctl.requests import Operation


def add_verbs(group: click.Group) -> None:
    """Give the root command txn."""
    interactive = click.option("-i", "--interactive", is_flag=True, help="Ask for each section.")
    verb(group, "txn")(interactive(_txn))


def _txn(settings: Settings, interactive: bool) -> int:
    """Do one list of operations if all conditions hold, and another one if not, as one step.

    Standard input has three sections, each ended by an empty line: conditions such as value("k") = "v", then
    the operations (put, get, del, as on the command line) if they hold, then those if they do not.
    Exits with 1 when a condition was false.
    """
    from clientctl import output
    from clientctl.requests import txn_request
    from clientctl.txn_script import ScriptError, parse_comparison, read_section

    if settings.write_out == "table":
        raise click.UsageError("table is not an output format of txn")
    titles = ("compares:", "success requests (get, put, del):", "failure requests (get, put, del):")
    sections: list[list[str]] = []
    try:
        for title in titles:
            if interactive:
                say(title)
            sections.append(list(read_section(_read_line)))
        conditions = [parse_comparison(line) for line in sections[0]]
        success, failure = ([_operation(line) for line in section] for section in sections[1:])
    except ScriptError as error:
        raise click.UsageError(str(error)) from None
    request = txn_request(conditions, success, failure)
    reply = with_client(settings, lambda client: client.execute_txn(request), writes=True)
    if settings.write_out == "json":
        write(output.json_line(output.json_value(reply)))
    else:
        write(output.simple_txn(reply, show_of(settings)))
    return DONE if reply.succeeded else NEGATIVE


def _read_line() -> str:
    line = read_input(lambda stream: stream.readline(TXN_LINE_BYTES_MAX + 1))
    if len(line) > TXN_LINE_BYTES_MAX:
        raise click.UsageError(f"a line has more than {TXN_LINE_BYTES_MAX} bytes")
    return line.decode("utf-8", "surrogateescape")


def _operation(line: str) -> "Operation":
    from clientctl.txn_script import ScriptError, split_words

    name, *arguments = (word.decode("utf-8", "surrogateescape") for word in split_words(line))
    command = TXN_LINES.get(name)
    if command is None:
        raise ScriptError(f"not put, get or del: {line}")
    try:
        with command.make_context(name, arguments) as context:
            operation: Operation = command.invoke(context)
    except click.UsageError as error:
        raise ScriptError(f"{line}: {error.format_message()}") from None
    return operation
