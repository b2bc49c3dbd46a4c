"""ravenctl, one file per command."""
