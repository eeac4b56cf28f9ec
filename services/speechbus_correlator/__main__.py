"""`python -m speechbus_correlator`: the service, settings from the environment."""

import sys

from speechbus_correlator.service import main

if __name__ == "__main__":
    sys.exit(main())
