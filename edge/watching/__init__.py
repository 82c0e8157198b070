"""What an edge counts, logs and shows to monitoring."""
