"""`python -m proxyd` is proxyd."""

from proxyd.main import main

main()
