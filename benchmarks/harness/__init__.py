"""What the measuring programs share: processes and what they use, generated trees, the machine, and reports."""
