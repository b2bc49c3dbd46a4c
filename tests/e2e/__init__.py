"""Scenarios on the whole product, in network namespaces, by the programs and commands a user has.

    cloud-pod ── cloud ── internet ─┬─ nat-a ── site-a ── pod-a
                 gateway            │           agent
                 raven-wg           │           raven-wg
                                    └─ nat-b ── site-b ── pod-b
                                                agent, raven-wg

Both sites have the same private address behind a masquerading router that lets nothing in.
"""
