"""Fixtures of this room's tests."""

from tests.support.served import _module_stage, dial, gateway, path, pki, stage, start

__all__ = ["_module_stage", "dial", "gateway", "path", "pki", "stage", "start"]
