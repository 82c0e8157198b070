"""The reader: paths of a repository resolved, fetched from any source that answers, and verified."""
