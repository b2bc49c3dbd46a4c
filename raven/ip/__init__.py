"""IP bytes: headers, checksums, cutting superpackets into segments and joining them again."""
