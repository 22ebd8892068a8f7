"""A Mender Server, an S3-like store behind a slow line, and a fleet of devices, over loopback.

Nothing here imports the gateway: both ends are written independently, so that each rollout of the
demo is a test of the gateway. `cloud.running` gives tests the upstream and the store in a thread;
`device.SimulatedDevice` is one device; `fleet` and `display` are the `mender-gateway demo`.
"""
