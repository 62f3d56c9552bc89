"""What grpc reads from the environment while it is loaded; imported before it.

Its own log goes to stderr between our lines, for each failed handshake or port in use that we report
ourselves. Setting GRPC_VERBOSITY (to DEBUG, INFO or ERROR) brings it back.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
