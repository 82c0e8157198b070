"""HTTP as an edge speaks it: requests read, answers made. Pure."""
