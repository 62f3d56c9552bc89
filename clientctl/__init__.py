"""The client library and the command line. The library: `from clientctl.client import Client`."""
