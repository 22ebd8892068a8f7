"""`mender-gateway inventory`: what the gateway host's own Mender client reports about it.

One `name=value` a line, as mender-client's inventory scripts print it. With a configuration that
cannot be read the host still is a gateway, so that much is said.
"""

import os
import sys
from argparse import ArgumentParser, Namespace

from mender_gateway.config.load import load
from mender_gateway.devices.inventory import SYSTEM_ID
from mender_gateway.errors import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", help="configuration file (/etc/mender/mender-gateway.conf)"
    )


def run(options: Namespace) -> int:
    """Print the attributes; a configuration that cannot be used is said on stderr."""
    print("mender_is_gateway=true")
    try:
        system = load(options.config, os.environ).config.device_system
    except ConfigError as error:
        print(f"mender-gateway: {error}", file=sys.stderr)
        return 0
    if system.enabled and system.system_id is not None:
        print(f"{SYSTEM_ID}={system.system_id}")
    return 0
