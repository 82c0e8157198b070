"""The edge: a caching proxy near its users that believes nothing it has not verified."""
