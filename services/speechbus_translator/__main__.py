"""`python -m speechbus_translator`: the service, settings from the environment."""

import sys

from speechbus_translator.service import main

if __name__ == "__main__":
    sys.exit(main())
