"""Two edge sites behind NAT, a cloud, and the internet between them, in network namespaces of one machine.

`world.World` builds and removes them, `programs` and `raven` start real programs inside. The demo, the
end-to-end tests and the benchmarks stand on it. Nothing of Raven is imported here: the lab runs what a
user runs.
"""
