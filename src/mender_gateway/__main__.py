"""`python -m mender_gateway` is the same as the command `mender-gateway`."""

import sys

from mender_gateway.cli.main import main

sys.exit(main())
