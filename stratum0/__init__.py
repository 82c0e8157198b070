"""The publisher: the one place where a repository changes, in transactions that become one revision or nothing."""
