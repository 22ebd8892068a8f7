"""The gateway, its peers and the upstream: their configurations, and how each is started."""
