"""The Kubernetes API on trio: typed objects, a client, watches, leases; `gateway.controllers` is above."""
