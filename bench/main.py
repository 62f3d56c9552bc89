"""`bench`: run, show and measure clusters on this machine."""

import click

from bench.cluster import cluster
from bench.demo import demo


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raftd", prog_name="bench")
def main() -> None:
    """Run, show and measure clusters on this machine."""


main.add_command(cluster)
main.add_command(demo)
