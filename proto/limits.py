"""Bounds of etcd's API that more than one program applies. It knows nothing of who does."""

from typing import Final

REQUEST_BYTES_MAX: Final = 3 * 512 * 1024
"""etcd's --max-request-bytes: the largest serialized request that enters the log, or travels on a stream that
many share. A server takes messages of more than twice this (`proto.options`), so whatever a request is
wrapped in on its way, it arrives (hazard 90)."""
