"""`mender-gateway demo`: a whole rollout on this machine, to look at and as a test.

Everything is real but the devices, and those speak the real protocol over real sockets. The exit
status is 0 only if every device finished with the right checksum.
"""

import argparse
import asyncio
import re
import signal
import sys

SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)i?b?", re.IGNORECASE)
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)bit(?:/s)?", re.IGNORECASE)
_SMALLEST, _LARGEST = 4096, 100 * 10**9
_MOST_DEVICES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--devices", type=_devices, default=10, metavar="N", help="(10)")
    parser.add_argument(
        "--size", type=parse_size, default="20MB", help="of the artifact, such as 512kB or 20MB"
    )
    parser.add_argument(
        "--uplink", type=parse_rate, default="20mbit", help="its speed, such as 500kbit or 20mbit"
    )
    parser.add_argument(
        "--https",
        action="store_true",
        default=False,
        help="TLS everywhere, with a certificate authority made for the occasion",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False,
        help="the summary as one JSON object on the last line of stdout",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        default=False,
        help="keep running and say how to point a real mender-client at it",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demo to its end; blocks. 0 when all devices are updated, else 1."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_interruptible(args))
        except asyncio.CancelledError:
            print("interrupted", file=sys.stderr)
            return 130


async def _interruptible(args: argparse.Namespace) -> int:
    """SIGINT and SIGTERM cancel the demo, so that everything it started is ended in order."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
    return await _demo(args)


async def _demo(args: argparse.Namespace) -> int:
    from mender_gateway.demo.fleet import rollout
    from mender_gateway.demo.process import GatewayFailed
    from mender_gateway.demo.serve import deploy_to_newcomers, instructions
    from mender_gateway.demo.site import FleetPlan, site
    from mender_gateway.demo.summary import Display, PlainDisplay, json_line

    plan = FleetPlan(args.devices, args.size, args.uplink, args.https)
    # With --json standard output belongs to the program that reads it.
    out = sys.stderr if args.json else sys.stdout
    display: Display = PlainDisplay(out)
    if out.isatty():
        from mender_gateway.demo.display import TerminalDisplay

        display = TerminalDisplay(stderr=args.json)
    try:
        async with site(plan, display.phase) as running:
            summary = await rollout(running, display)
            display.summary(summary)
            if args.json:
                print(json_line(summary), flush=True)
            if args.serve:
                print(instructions(running), file=out, flush=True)
                try:
                    await deploy_to_newcomers(running)
                except asyncio.CancelledError:
                    pass
        return 0 if summary.succeeded == len(summary.reports) == plan.devices else 1
    except GatewayFailed as failure:
        display.close()
        print(f"mender-gateway: {failure}", file=sys.stderr)
        return 1
    finally:
        display.close()


def parse_size(text: str) -> int:
    """Bytes of "20MB", "512kB", "1.5 GB" or "4096"; decimal units, as disks are sold."""
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * SIZE_UNITS[match[2].lower()]) if match else 0
    if not _SMALLEST <= size <= _LARGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size from {_SMALLEST} bytes to 100 GB; write for example 20MB"
        )
    return size


def parse_rate(text: str) -> float:
    """Bits per second of "20mbit", "500kbit" or "1gbit"."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) * SIZE_UNITS[match[2].lower()] if match else 0.0
    if rate < 1000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no rate of 1kbit per second or more; write for example 20mbit"
        )
    return rate


def _devices(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number <= _MOST_DEVICES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of devices up to {_MOST_DEVICES}")
    return number
