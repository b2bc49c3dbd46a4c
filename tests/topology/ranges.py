"""For tests that are not about who may carry which pod network."""

import ipaddress

ANY_RANGE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
