"""The raven-wg process: TUN, UDP and UAPI around one raven.wg device, on uvloop."""
