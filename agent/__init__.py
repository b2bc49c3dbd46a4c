"""raven-agent: the edge end of every tunnel."""
