"""A real Kubernetes on the lab's wires: control plane in the cloud, kubelets at the sites, Raven between.

    cloud                                  site-a, site-b: both 192.168.1.10, each behind a NAT of its own
    etcd, kube-apiserver, scheduler,       containerd, kubelet :10250, pods 10.244.1.0/24 and 10.244.2.0/24
    kube-controller-manager, gateway       raven-agent
    198.51.100.10

The cloud cannot dial a site. The sites' kubelets register as nodes by the sites' names, with the same
InternalIP. `cluster.Cluster` builds it; `make e2e-kube` prepares the programs and runs every test here.
"""
