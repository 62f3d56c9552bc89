"""Ctrl-C as a wish: what was measured so far is still reported."""

import signal

import trio


async def stop_at_signal(stop: trio.Event) -> None:
    """The first SIGINT or SIGTERM sets `stop`; a second one takes its usual effect."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()
            return
