"""What an edge keeps: in memory, on disk, and what leaves first."""
