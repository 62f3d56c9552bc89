"""The verbs watch and compaction: the history of keys, as it goes on and as it ends."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from clientctl.command import DONE, NEGATIVE, NotShown, read_input, run_command, say, verb, with_client, write
from clientctl.config import WATCH_LINE_BYTES_MAX
from clientctl.settings import Settings
from clientctl.verbs_kv import FROM_KEY, INT64, PREFIX, data, parameters, show_of

if TYPE_CHECKING:
    from clientctl.client import Client
    from clientctl.watch import Watch
    from proto.kv_pb2 import Event
    from proto.rpc_pb2 import WatchCreateRequest, WatchResponse

_COMMAND = "clientctl.command_of_watch"
_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 34: r"\"", 92: r"\\"}

_WATCH = parameters(
    click.argument("key", required=False, callback=data),
    click.argument("range_end", required=False, callback=data),
    PREFIX,
    FROM_KEY,
    click.option("--rev", type=INT64, default=0, help="From this revision on; 0: from now on."),
    click.option("--prev-kv", is_flag=True, help="Show what was there before."),
    click.option("--progress-notify", is_flag=True, help="Say now and then how far the server is."),
)


def add_verbs(group: click.Group) -> None:
    """Give the root command watch and compaction."""
    interactive = click.option("-i", "--interactive", is_flag=True, help="Read watches from standard input.")
    verb(group, "watch", cls=_WithCommand)(interactive(_WATCH(_watch)))
    physical = click.option("--physical", is_flag=True, help="Wait until the disk has forgotten as well.")
    verb(group, "compaction")(click.argument("revision", type=INT64)(physical(_compaction)))


class _WithCommand(click.Command):
    """A command whose arguments after "--" are a command of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[position + 1 :])
            args = args[:position]
        return super().parse_args(ctx, args)


def _request(
    key: bytes | None,
    range_end: bytes | None,
    prefix: bool,
    from_key: bool,
    rev: int,
    prev_kv: bool,
    progress_notify: bool,
) -> "tuple[WatchCreateRequest, Sequence[str]]":
    """What to watch, and the command to run for each event."""
    from clientctl.requests import watch_request

    command = click.get_current_context().meta.get(_COMMAND, ())
    if key is None:
        key = os.environb.get(b"CLIENTCTL_WATCH_KEY")
    if key is None:
        raise click.UsageError("watch needs a key or a prefix")
    if prefix and from_key:
        raise click.UsageError("--prefix and --from-key exclude each other")
    if range_end is not None and (prefix or from_key):
        raise click.UsageError("RANGE_END cannot be given with --prefix or --from-key")
    request = watch_request(
        key,
        range_end,
        prefix=prefix,
        from_key=from_key,
        start_revision=rev,
        prev_kv=prev_kv,
        progress_notify=progress_notify,
    )
    return request, command


_LINE = click.command("watch", cls=_WithCommand, add_help_option=False)(_WATCH(_request))


def _watch(settings: Settings, interactive: bool, **parameters: Any) -> int:
    """Show what happens to KEY, or to the keys from KEY up to RANGE_END, until interrupted.

    A command after "--" is run for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,
    ETCD_WATCH_KEY and ETCD_WATCH_VALUE in its environment. Connections that are lost are made anew, and
    nothing is missed.

    With -i, each line of standard input is a watch of its own ("watch KEY --prefix"), or "progress".
    """
    if settings.write_out == "table":
        raise click.UsageError("table is not an output format of watch")
    if interactive:
        return with_client(settings, lambda client: _read_watches(settings, client))
    request, command = _request(**parameters)

    async def show(client: "Client") -> int:
        async with client.watch_request(request) as watch:
            return await _show_all(settings, watch, command)

    return with_client(settings, show)


async def _show_all(settings: Settings, watch: "Watch", command: Sequence[str]) -> int:
    """Show all that comes. Returns when a command has failed."""
    while True:
        response = await watch.receive()
        if not response.events:
            write(b"progress notify: %d\n" % response.header.revision)
        _show(settings, response)
        for event in response.events if command else ():
            if not await _run(command, response.header.revision, event):
                return NEGATIVE


def _show(settings: Settings, response: "WatchResponse") -> None:
    from clientctl import output

    if settings.write_out == "json":
        write(
            output.json_line(
                {
                    "Header": output.json_value(response.header),
                    "Events": [output.json_value(event) for event in response.events],
                    "CompactRevision": response.compact_revision,
                    "Canceled": response.canceled,
                    "Created": response.created,
                }
            )
        )
        return
    show = show_of(settings)
    for event in response.events:
        previous = output.simple_pair(event.prev_kv, show) if event.HasField("prev_kv") else b""
        kind = b"DELETE\n" if event.type else b"PUT\n"
        write(kind + previous + output.simple_pair(event.kv, show))


async def _run(command: Sequence[str], revision: int, event: "Event") -> bool:
    """Run the user's command for one event; False, and said, when it failed."""
    variables = {
        "ETCD_WATCH_REVISION": str(revision),
        "ETCD_WATCH_EVENT_TYPE": '"DELETE"' if event.type else '"PUT"',
        "ETCD_WATCH_KEY": quoted(event.kv.key),
        "ETCD_WATCH_VALUE": quoted(event.kv.value),
    }
    status, problem = await run_command(command, variables)
    if status:
        words = " ".join(quoted(os.fsencode(word)) for word in command)
        say(f"command [{words}] error ({problem})")
    return status == 0


async def _read_watches(settings: Settings, client: "Client") -> int:
    """Begin a watch for each line, until the input ends."""
    import trio

    from clientctl.errors import KeyValueError

    watches: list[Watch] = []
    failures: list[Exception] = []
    status = DONE

    async def show(watch: "Watch", command: Sequence[str]) -> None:
        nonlocal status
        try:
            async with watch:
                status = await _show_all(settings, watch, command)
        except (KeyValueError, NotShown) as error:
            failures.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(_read_line, abandon_on_cancel=True):
            text = line.decode("utf-8", "surrogateescape").strip()
            if text == "progress":
                # One answer reaches every watch.
                for watch in watches[:1]:
                    watch.request_progress()
            elif text and (wanted := _parse(text)) is not None:
                request, command = wanted
                watches.append(client.watch_request(request))
                nursery.start_soon(show, watches[-1], command)
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return status


def _read_line() -> bytes:
    return read_input(lambda stream: stream.readline(WATCH_LINE_BYTES_MAX))


def _parse(text: str) -> "tuple[WatchCreateRequest, Sequence[str]] | None":
    """A line's watch; None, and said, when it is none."""
    from clientctl.txn_script import ScriptError, split_words

    try:
        name, *words = (word.decode("utf-8", "surrogateescape") for word in split_words(text))
        if name != "watch":
            say(f"Invalid command {text} (only support watch)")
            return None
        with _LINE.make_context(name, words) as context:
            wanted: tuple[WatchCreateRequest, Sequence[str]] = _LINE.invoke(context)
            return wanted
    except (click.UsageError, ScriptError) as error:
        reason = error.format_message() if isinstance(error, click.UsageError) else str(error)
        say(f"Invalid command {text} ({reason})")
        return None


def quoted(text: bytes) -> str:
    """Bytes in double quotes, as Go's %q has them."""
    return '"' + "".join(map(_escaped, text.decode("utf-8", "surrogateescape"))) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if code in _ESCAPES:
        return _ESCAPES[code]
    if character.isprintable():
        return character
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _compaction(settings: Settings, revision: int, physical: bool) -> int:
    """Forget what was before REVISION."""
    with_client(settings, lambda client: client.compact(revision, physical=physical), writes=True)
    write(b"compacted revision %d\n" % revision)
    return DONE
