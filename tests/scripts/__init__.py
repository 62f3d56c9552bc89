"""Golden scripts: stories of whole clusters of the real core, each step followed by its exact trace.

A line `> command` is carried out and what it caused is listed below it; `#` lines narrate. `pytest --rewrite
tests/test_scripts.py` writes the traces anew: read the diff, and keep it only if you know why it changed.
`runner.py` carries out the commands; `tests/simulation/notation.py` says how traces read.
"""
