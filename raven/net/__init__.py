"""I/O on trio: TLS, tunnels, splicing, netlink and WireGuard devices."""
