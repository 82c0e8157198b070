"""The demonstration: a whole network on one machine, put to the test."""
