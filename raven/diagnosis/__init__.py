"""What `ravenctl doctor` and `netcheck` look at, and how they judge it."""
