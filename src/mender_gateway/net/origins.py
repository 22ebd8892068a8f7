"""Who counts as one peer where peers are counted: an IPv4 address, a network of IPv6.

Whoever has one IPv6 address usually has all 2^64 of its network (RFC 6177), so that counting
addresses would count nothing.
"""

import socket

type_of_origin = str | bytes


def origin_of(address: str) -> type_of_origin:
    """The origin of a peer with this address, as the kernel writes it, without port."""
    if ":" not in address:
        return address
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8]
