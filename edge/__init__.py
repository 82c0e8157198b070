"""The edge: a caching proxy near users that verifies what it stores."""
