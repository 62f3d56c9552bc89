"""`bench`: run, show and measure clusters on this machine."""

import click

from bench.cluster import cluster
from bench.compare import compare
from bench.demo import demo
from bench.disk import disk
from bench.failover import failover
from bench.load import get, mixed, put, watch
from bench.report import report
from bench.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raftd", prog_name="bench")
def main() -> None:
    """Run, show and measure clusters on this machine."""


for command in (cluster, demo, put, get, mixed, watch, failover, compare, report, disk, worker):
    main.add_command(command)
