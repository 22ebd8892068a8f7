"""The cases, one function each: from a site to a result."""
