-- The relay's records. SQLite and PostgreSQL both accept this, but for the type of bytes (BLOB here, BYTEA there) and for WITHOUT
-- ROWID, which saves an index here and has no meaning there. Tables of older relays keep their rowids.
-- Times are milliseconds since 1970. Ids and hashes are raw bytes.

CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);

-- Which of a relay's nodes leads, or led last, and where others reach it: one row, or none if it has no nodes.
CREATE TABLE IF NOT EXISTS leader (
    since_ms BIGINT PRIMARY KEY,
    url TEXT NOT NULL,
    relay BLOB NOT NULL,             -- the relay's public key
    tokens BLOB NOT NULL             -- hash of what tells right tokens from wrong ones
);

-- One row a start of the relay: its fencing tokens begin with `incarnation`; the commitment to its epoch's secret
-- stands here before any probe is drawn from it.
CREATE TABLE IF NOT EXISTS epochs (
    incarnation BIGINT PRIMARY KEY,
    commitment BLOB NOT NULL,
    started_ms BIGINT NOT NULL
);

-- What the secret of an epoch is derived from, beside the relay's key.
CREATE TABLE IF NOT EXISTS epoch_salts (
    incarnation BIGINT PRIMARY KEY,
    salt BLOB NOT NULL
);

-- Entries of the public log that are not in its files yet, or since the last time only. Those that became durable together
-- are one row: a line each, from `position` on.
CREATE TABLE IF NOT EXISTS log_entries (
    position BIGINT PRIMARY KEY,
    entry BLOB NOT NULL
);

-- The last checkpoint of a log whose files are in a bucket: one row.
CREATE TABLE IF NOT EXISTS log_checkpoint (
    size BIGINT PRIMARY KEY,
    note BLOB NOT NULL
);

-- Which entries are about whom.
CREATE TABLE IF NOT EXISTS log_receipts (
    volunteer BLOB NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (volunteer, position)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS jobs (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    state TEXT NOT NULL,             -- running, done, canceled
    dtype TEXT NOT NULL,
    m BIGINT NOT NULL,
    k BIGINT NOT NULL,
    n BIGINT NOT NULL,
    a BLOB NOT NULL,                 -- hashes of the uploaded matrices
    b BLOB NOT NULL,
    transpose_b BIGINT NOT NULL,
    idempotency_key TEXT UNIQUE,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT
);

CREATE TABLE IF NOT EXISTS panels (
    job BLOB NOT NULL,
    side BIGINT NOT NULL,            -- 0: rows of A, 1: rows of B transposed
    position BIGINT NOT NULL,
    hash BLOB NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (job, side, position)
);

-- Accepted tiles. The keys make it impossible to accept a shard, or a place in C, twice.
CREATE TABLE IF NOT EXISTS accepted (
    job BLOB NOT NULL,
    shard BIGINT NOT NULL,
    row_start BIGINT NOT NULL,
    row_end BIGINT NOT NULL,
    col_start BIGINT NOT NULL,
    col_end BIGINT NOT NULL,
    depth_start BIGINT NOT NULL,
    depth_end BIGINT NOT NULL,
    hash BLOB NOT NULL,
    bytes BIGINT NOT NULL,
    volunteer BLOB NOT NULL,
    backend TEXT NOT NULL,
    compute_ms BIGINT NOT NULL,
    check_us BIGINT NOT NULL,
    accepted_ms BIGINT NOT NULL,
    PRIMARY KEY (job, shard),
    UNIQUE (job, depth_start, row_start, col_start)
) WITHOUT ROWID;

-- Results that are too small for a file each: durable with their record, in one transaction. By shard and not by hash, so that
-- what is written together lies together.
CREATE TABLE IF NOT EXISTS small_results (
    job BLOB NOT NULL,
    shard BIGINT NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (job, shard)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS rejected (
    job BLOB NOT NULL,
    shard BIGINT NOT NULL,
    volunteer BLOB NOT NULL,
    backend TEXT NOT NULL,
    reason TEXT NOT NULL,
    rejected_ms BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS rejected_by_job ON rejected (job);

-- Accepted results of tabs that were lent on other sites, by the site's origin.
CREATE TABLE IF NOT EXISTS embedders (
    origin TEXT PRIMARY KEY,
    accepted BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS volunteers (
    id BLOB PRIMARY KEY,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL
);

-- What volunteers let others see of them: a team, or none, and whether their own names are listed.
CREATE TABLE IF NOT EXISTS memberships (
    volunteer BLOB PRIMARY KEY,
    team TEXT NOT NULL,
    listed BIGINT NOT NULL,
    said_ms BIGINT NOT NULL          -- the last time, in a session with an accepted result
);

-- Token data sets: the tokens lie in `datasets`, the blocks that volunteers fetch among the blobs.
CREATE TABLE IF NOT EXISTS datasets (
    id BLOB PRIMARY KEY,
    vocabulary BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS blocks (
    dataset BLOB NOT NULL,
    position BIGINT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (dataset, position)
);
CREATE INDEX IF NOT EXISTS blocks_by_hash ON blocks (hash);

CREATE TABLE IF NOT EXISTS runs (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    state TEXT NOT NULL,             -- running, paused, done, canceled
    reason TEXT,                     -- why it is paused
    request TEXT NOT NULL,           -- what was asked for, as JSON, without the tokenizer
    checkpoint BLOB NOT NULL,        -- hash of the first checkpoint
    checkpoint_bytes BIGINT NOT NULL,
    tokenizer BLOB,                  -- hash of tokenizer.json
    idempotency_key TEXT UNIQUE,
    created_ms BIGINT NOT NULL,
    ended_ms BIGINT
);

-- Closed rounds. What is here is durable: blobs and the run's state were written before.
CREATE TABLE IF NOT EXISTS rounds (
    run BLOB NOT NULL,
    round BIGINT NOT NULL,
    parameters BLOB NOT NULL,        -- hash of the parameters where it starts
    next_parameters BLOB NOT NULL,   -- and of those that it leads to
    step BLOB NOT NULL,
    step_bytes BIGINT NOT NULL,
    checkpoint BLOB,                 -- the checkpoint that it ends with, if it does
    checkpoint_bytes BIGINT,
    info TEXT NOT NULL,              -- figures, as JSON
    combined TEXT NOT NULL,          -- how the updates were combined, as JSON
    closed_ms BIGINT NOT NULL,
    PRIMARY KEY (run, round)
);

-- Updates of closed rounds, the refused ones among them.
CREATE TABLE IF NOT EXISTS updates (
    run BLOB NOT NULL,
    round BIGINT NOT NULL,
    position BIGINT NOT NULL,
    worker BIGINT NOT NULL,
    volunteer BLOB NOT NULL,
    backend TEXT NOT NULL,
    weight BIGINT NOT NULL,          -- millionths; 0 if it did not count
    audited BIGINT NOT NULL,
    verdict TEXT NOT NULL,           -- accepted, or what is wrong with it
    hash BLOB NOT NULL,
    bytes BIGINT NOT NULL,
    task TEXT NOT NULL,              -- what was to be done, as JSON
    PRIMARY KEY (run, round, position)
);
CREATE INDEX IF NOT EXISTS updates_by_hash ON updates (hash);

-- Candidates: parameters that may become a version of a model, and how far their evaluation is.
CREATE TABLE IF NOT EXISTS candidates (
    parameters BLOB PRIMARY KEY,     -- hash of the parameters, f32: the candidate's name
    bytes BIGINT NOT NULL,
    model TEXT NOT NULL,
    run BLOB NOT NULL,
    round BIGINT NOT NULL,
    without TEXT NOT NULL,           -- what it was made again without, as a JSON list of texts
    eval BLOB NOT NULL UNIQUE,
    incumbent BLOB,                  -- the version that it is compared with
    secret BLOB NOT NULL,            -- what windows and spot checks are drawn from
    hasty BIGINT NOT NULL,           -- whether the eval is a short one
    least_shards BIGINT NOT NULL,    -- shards of the secret windows that the gate asks for
    state TEXT NOT NULL,             -- evaluating, done, failed
    reason TEXT,                     -- why it failed
    card BLOB,                       -- hash of the eval card
    created_ms BIGINT NOT NULL
);

-- Shards of evals, as they were cut.
CREATE TABLE IF NOT EXISTS eval_shards (
    eval BLOB NOT NULL,
    shard BIGINT NOT NULL,
    parameters BLOB NOT NULL,
    items BLOB NOT NULL,
    answers BLOB,                    -- the result that counts, once all agree
    volunteers TEXT,                 -- who computed it, as JSON
    PRIMARY KEY (eval, shard)
);
CREATE INDEX IF NOT EXISTS eval_shards_by_items ON eval_shards (items);

-- What the operator switched off.
CREATE TABLE IF NOT EXISTS switches (
    kind TEXT NOT NULL,              -- kernel, project or site
    name TEXT NOT NULL,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- What is said about data sets, as JSON: see runs/manifest.rs.
CREATE TABLE IF NOT EXISTS manifests (
    dataset BLOB PRIMARY KEY,
    text TEXT NOT NULL
);
