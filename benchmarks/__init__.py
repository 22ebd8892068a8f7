"""Side by side with nginx, Caddy and Varnish: work per CPU-second of the servers' own processes.

`python -m benchmarks` installs what it needs, starts every server on loopback, drives one after the
other in interleaved rounds and prints a table. docs/benchmarks.md explains the method.
"""
