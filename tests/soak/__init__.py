"""A long run of devices against faults; `python -m tests.soak`, not part of the test suite."""
