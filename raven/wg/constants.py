"""WireGuard's numbers, under the names of its paper (https://www.wireguard.com/papers/wireguard.pdf).

Section 5.4 gives the strings and layouts, section 6.1 the timers; what the paper leaves open follows the
Linux kernel module (drivers/net/wireguard) and says so.
"""

# Section 5.4.2 to 5.4.7
CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1 = b"mac1----"
LABEL_COOKIE = b"cookie--"

# Section 6.1, seconds and messages
REKEY_AFTER_MESSAGES = 1 << 60
REJECT_AFTER_MESSAGES = (1 << 64) - (1 << 13) - 1
REKEY_AFTER_TIME = 120.0
REJECT_AFTER_TIME = 180.0
REKEY_ATTEMPT_TIME = 90.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0

REKEY_TIMEOUT_JITTER_MAX = 0.334  # seconds; keeps two ends from initiating at once for ever (kernel)
MAX_HANDSHAKE_ATTEMPTS = int(
    REKEY_ATTEMPT_TIME / REKEY_TIMEOUT
)  # 18 retries after the first message (kernel)
ERASE_AFTER_TIME = 3 * REJECT_AFTER_TIME  # section 6.3: all key material goes, wherever the peer went
REFRESH_ON_RECEIVE_TIME = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT  # 165 s, section 6.2

INITIATIONS_PER_SECOND = (
    50  # of one peer; more are dropped before the expensive half of the handshake (kernel)
)

# Section 5.3
COOKIE_LIFETIME = 120.0  # seconds; how long a secret makes, and a peer keeps, cookies
COOKIE_LATENCY = 5.0  # seconds; a peer stops using a cookie this much earlier (kernel)

# Section 5.4.6: the plaintext of a transport message is padded to a multiple of this many bytes
PADDING = 16

REPLAY_WINDOW = 8192  # counters behind the newest; the kernel's is 8128, and reordering beyond that is loss

# IP TOS of the four messages: the kernel sends handshakes as AF41 (DSCP 0x22) so that they pass a full queue
HANDSHAKE_TOS = 0x88
