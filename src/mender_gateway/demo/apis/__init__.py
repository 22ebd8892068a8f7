"""The Mender Server's device and management APIs, as a gateway and its devices see them."""
