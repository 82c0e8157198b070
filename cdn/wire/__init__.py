"""The framing of the extensions, shared by all who send and all who receive."""
