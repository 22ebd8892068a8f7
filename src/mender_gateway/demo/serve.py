"""The demo that stays: how a real mender-client is pointed at it, and updates for whoever comes.

Every device that shows up is accepted by the demo's server; each one that is not of the simulated
fleet gets a deployment of the demo's release.
"""

import asyncio
import json

from mender_gateway.demo.apis.devauth import Status
from mender_gateway.demo.site import DEVICE_TYPE, RELEASE, Site

_LOOK_EVERY = 1.0


def instructions(site: Site) -> str:
    """What to do on this machine to have a real client updated through the gateway."""
    conf: dict[str, object] = {
        "ServerURL": site.url,
        "UpdatePollIntervalSeconds": 5,
        "InventoryPollIntervalSeconds": 15,
        "RetryPollIntervalSeconds": 5,
    }
    if site.ca is not None:
        conf["ServerCertificate"] = str(site.ca)
    upstream = site.cloud.upstream
    return "\n".join(
        [
            f"The gateway listens at {site.url}; press Ctrl-C to end.",
            "A real mender-client on this machine is updated with these two files:",
            "--- /etc/mender/mender.conf",
            json.dumps(conf, indent=2),
            "--- /var/lib/mender/device_type",
            f"device_type={DEVICE_TYPE}",
            "---",
            f"It gets {RELEASE}, which writes /var/tmp/mender-demo-payload.",
            f"The server itself: {upstream.base} (user {upstream.user}, "
            f"password {upstream.password}).",
            f"Metrics of the gateway: http://{site.gateway.addresses['metrics']}/metrics",
        ]
    )


async def deploy_to_newcomers(site: Site) -> None:
    """Runs until cancelled, or until the gateway ends."""
    upstream = site.cloud.upstream
    known = {device.id for device in upstream.devices()}
    while site.gateway.running:
        for device in upstream.devices():
            if device.id not in known and device.status is Status.ACCEPTED:
                known.add(device.id)
                upstream.deploy(RELEASE, [device.identity])
                shown = ", ".join(f"{name}={value}" for name, value in device.identity.items())
                print(f"accepted {shown} and deployed {RELEASE} to it", flush=True)
        await asyncio.sleep(_LOOK_EVERY)
