"""The daemon's frame: log, configuration, certificates, then the gateway until it ends.

Whatever is wrong with the settings is one line in the log's form and exit status 1, before any port
is opened.
"""

import os
import signal
import time
import traceback
from argparse import Namespace

from mender_gateway.config.certificates import check_certificates
from mender_gateway.config.load import load
from mender_gateway.errors import ConfigError
from mender_gateway.observe.log import DEBUG, Log


def run(options: Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to load again before all is loaded
    log = Log(options.log_level, options.log_format)
    try:
        return _serve(options.config, log)
    except ConfigError as error:
        log.fatal(str(error))
        return 1
    except Exception as error:
        log.fatal(
            "the gateway ended by a fault of its own",
            error=error,
            traceback=traceback.format_exc()[-1800:],
        )
        return 1
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it ends already, and with its own status
        log.close()


def _serve(path: str | None, log: Log) -> int:
    loaded = load(path, os.environ)
    if loaded.config.debug_log:
        log.level = DEBUG
    found = check_certificates(loaded.config, time.time())
    for warning in (*loaded.warnings, *found.warnings):
        log.warn(warning)
    if found.errors:
        raise ConfigError(found.errors[0])
    from mender_gateway import gateway  # costs time and memory that a bad configuration need not

    return gateway.run(loaded, log)
