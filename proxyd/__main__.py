"""`python -m proxyd` is proxyd."""

import sys

from proxyd.main import main

sys.exit(main())
