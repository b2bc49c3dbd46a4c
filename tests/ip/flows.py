"""Flows of every shape, as hypothesis makes them."""

from hypothesis import strategies as st

from tests.ip.model import Flow

flows = st.builds(
    Flow,
    version=st.sampled_from([4, 6]),
    tcp=st.booleans(),
    options=st.sampled_from([b"", b"\x01" * 4, b"\x01\x01\x08\x0a" + b"abcdefgh", b"\x01" * 40]),
    traffic_class=st.sampled_from([0, 2]),
    dont_fragment=st.booleans(),
)
