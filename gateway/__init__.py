"""raven-gateway: the cloud end of every tunnel."""
