"""What an edge is told, one module for each part of the file."""
