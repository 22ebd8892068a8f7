"""What drives the servers: wrk where it can, and small programs for the rest."""
