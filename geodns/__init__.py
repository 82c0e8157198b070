"""Answers DNS queries with the nearest usable edge: pure core in `answer`, sockets around it in `server`."""
