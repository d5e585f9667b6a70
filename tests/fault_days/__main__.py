"""`python -m tests.fault_days`."""

import sys

from tests.fault_days.run import main

if __name__ == "__main__":
    sys.exit(main())
