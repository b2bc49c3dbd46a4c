"""The tables of registry.sqlite, and how a database of an older Raven becomes one of this.

`PRAGMA user_version` counts the steps already taken. Steps are only ever appended: a released one never
changes.
"""

APPLICATION_ID = 0x5261766E  # "Ravn"; tells `file` and us whose database this is

# A statement ends where a semicolon ends its line: inside a trigger they stand in the middle.
# STRICT, so that a wrong type is an error at the write and not a surprise at the read.
STEPS = (
    """
    CREATE TABLE nodes (
        name               TEXT PRIMARY KEY,
        created            REAL NOT NULL,
        last_seen          REAL,
        public_key         BLOB CHECK (length(public_key) = 32),
        pod_cidrs          TEXT NOT NULL DEFAULT '',  -- separated by blanks
        software           TEXT NOT NULL DEFAULT '',
        certificate_serial TEXT NOT NULL
    ) STRICT;

    CREATE TABLE tokens (
        id          TEXT PRIMARY KEY,
        secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
        node        TEXT,
        reusable    INTEGER NOT NULL CHECK (reusable IN (0, 1)),
        created     REAL NOT NULL,
        expires     REAL NOT NULL,
        uses        INTEGER NOT NULL DEFAULT 0,
        used        REAL,
        used_by     TEXT
    ) STRICT;

    CREATE TABLE certificates (
        serial     TEXT PRIMARY KEY,
        node       TEXT NOT NULL,
        token_id   TEXT NOT NULL,
        key_hash   BLOB NOT NULL CHECK (length(key_hash) = 32),
        not_before REAL NOT NULL,
        not_after  REAL NOT NULL,
        issued     REAL NOT NULL,
        pem        TEXT NOT NULL,
        revoked    REAL
    ) STRICT;
    CREATE INDEX certificates_of_node ON certificates (node, issued);

    CREATE TABLE audit (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        time    REAL NOT NULL,
        event   TEXT NOT NULL,
        node    TEXT NOT NULL,
        asker   TEXT NOT NULL,
        target  TEXT NOT NULL,
        verdict TEXT NOT NULL,
        detail  TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE revision (value INTEGER NOT NULL) STRICT;
    INSERT INTO revision (value) VALUES (0);
    CREATE TRIGGER certificate_revoked AFTER UPDATE OF revoked ON certificates
        BEGIN UPDATE revision SET value = value + 1; END;
    CREATE TRIGGER node_removed AFTER DELETE ON nodes
        BEGIN UPDATE revision SET value = value + 1; END;

    ALTER TABLE certificates ADD COLUMN superseded REAL;
    """,
    """
    -- NULL in the lines before there was a chain
    ALTER TABLE audit ADD COLUMN hash BLOB CHECK (length(hash) = 32);
    CREATE TABLE audit_anchor (id INTEGER NOT NULL, hash BLOB NOT NULL CHECK (length(hash) = 32)) STRICT;
    INSERT INTO audit_anchor (id, hash) SELECT coalesce(max(id), 0), zeroblob(32) FROM audit;
    """,
    """
    ALTER TABLE nodes ADD COLUMN address TEXT NOT NULL DEFAULT '';
    CREATE INDEX nodes_at_address ON nodes (address) WHERE address <> '';
    """,
    """
    CREATE TABLE gateways (
        name     TEXT PRIMARY KEY,
        address  TEXT NOT NULL,  -- HOST:PORT that agents dial
        created  REAL NOT NULL,
        key_hash BLOB CHECK (length(key_hash) = 32)  -- NULL for the gateway that holds the CA
    ) STRICT;
    CREATE TABLE gateway_list (revision INTEGER NOT NULL) STRICT;
    INSERT INTO gateway_list (revision) VALUES (0);
    CREATE TRIGGER gateway_removed AFTER DELETE ON gateways
        BEGIN UPDATE revision SET value = value + 1; END;

    ALTER TABLE tokens ADD COLUMN role TEXT NOT NULL DEFAULT 'node' CHECK (role IN ('node', 'gateway'));

    -- Grows with whatever the gateways that follow this one have to know.
    CREATE TABLE copy (revision INTEGER NOT NULL) STRICT;
    INSERT INTO copy (revision) VALUES (0);
    CREATE TRIGGER copy_node_added AFTER INSERT ON nodes
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_node_changed AFTER UPDATE ON nodes
        WHEN old.public_key IS NOT new.public_key OR old.pod_cidrs <> new.pod_cidrs
            OR old.address <> new.address OR old.certificate_serial <> new.certificate_serial
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_node_removed AFTER DELETE ON nodes
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_certificate_added AFTER INSERT ON certificates
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_certificate_changed AFTER UPDATE ON certificates
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_gateways_changed AFTER UPDATE ON gateway_list
        BEGIN UPDATE copy SET revision = revision + 1; END;
    """,
    """
    -- who may ask at the O&M entries: access tokens by their id, certificates of operators by their serial
    CREATE TABLE credentials (
        id          TEXT PRIMARY KEY,
        kind        TEXT NOT NULL CHECK (kind IN ('token', 'certificate')),
        name        TEXT NOT NULL,
        secret_hash BLOB CHECK (length(secret_hash) = 32),
        created     REAL NOT NULL,
        expires     REAL NOT NULL,
        revoked     REAL
    ) STRICT;
    CREATE TRIGGER credential_revoked AFTER UPDATE OF revoked ON credentials
        BEGIN UPDATE revision SET value = value + 1; END;

    -- NULL in lines that are not of a request, and in all lines before there were such columns
    ALTER TABLE audit ADD COLUMN request TEXT;
    ALTER TABLE audit ADD COLUMN sent INTEGER;
    ALTER TABLE audit ADD COLUMN received INTEGER;
    ALTER TABLE audit ADD COLUMN seconds REAL;
    """,
    """
    -- ranges the node's pod networks may lie in; what a node carried before this was asked, it may carry on
    ALTER TABLE nodes ADD COLUMN pod_allow TEXT NOT NULL DEFAULT '';
    UPDATE nodes SET pod_allow = pod_cidrs;
    CREATE TRIGGER node_pods_allowed AFTER UPDATE OF pod_allow ON nodes
        BEGIN UPDATE revision SET value = value + 1; END;
    ALTER TABLE tokens ADD COLUMN pod_cidrs TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TRIGGER copy_node_allowed AFTER UPDATE OF pod_allow ON nodes
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_credential_added AFTER INSERT ON credentials
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_credential_changed AFTER UPDATE ON credentials
        BEGIN UPDATE copy SET revision = revision + 1; END;
    CREATE TRIGGER copy_credential_removed AFTER DELETE ON credentials
        BEGIN UPDATE copy SET revision = revision + 1; END;
    """,
)
