"""`python -m clientctl` is clientctl."""

from clientctl.main import main

main()
