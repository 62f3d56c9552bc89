"""`python -m raftd` is raftd."""

from raftd.main import main

main()
