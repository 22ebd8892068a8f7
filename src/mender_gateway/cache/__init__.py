"""Artifacts on disk: each crosses the uplink once, whoever asks and whenever.

`Cache.acquire` gives a `Reader` on an object: finished, or still arriving. The room knows neither
HTTP nor Mender; an `Origin` says where bytes come from and a `Verifier` judges them. The directory
is the truth and may be shared by several processes; `layout` describes it.
"""

from mender_gateway.cache.cache import Cache
from mender_gateway.cache.entry import Outcome, Reader
from mender_gateway.cache.errors import (
    Bypass,
    FillBroken,
    OriginRefused,
    VerificationFailed,
)
from mender_gateway.cache.origin import Attributes, Origin, Source, Verifier, VerifierFactory
from mender_gateway.cache.settings import CacheSettings, Event, Figures, Kind

__all__ = [
    "Attributes",
    "Bypass",
    "Cache",
    "CacheSettings",
    "Event",
    "Figures",
    "FillBroken",
    "Kind",
    "Origin",
    "OriginRefused",
    "Outcome",
    "Reader",
    "Source",
    "VerificationFailed",
    "Verifier",
    "VerifierFactory",
]
