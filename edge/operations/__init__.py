"""What operators do with a running edge: purge, drain, replace."""
