"""The controllers in real gateways on a real API server, with nodes that are only objects.

    cloud 198.51.100.10
    etcd, kube-apiserver; raven-gateway processes, each on ports of its own; raven-agent of some nodes

No kubelet, controller manager or scheduler: nobody but the gateways and the tests writes anything.
"""
