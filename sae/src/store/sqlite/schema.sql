-- Version 1. Rows of an analysis and of its contexts are keyed by (analysis << 32 | number).
CREATE TABLE dictionaries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    series TEXT NOT NULL,
    path TEXT NOT NULL,
    cfg TEXT NOT NULL,
    d_sae INTEGER NOT NULL,
    model_name TEXT,
    UNIQUE (series, name)
);
-- state: 0 being written, 1 finished, 2 replaced and to be deleted.
CREATE TABLE analyses (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
    name TEXT NOT NULL,
    state INTEGER NOT NULL,
    record TEXT,
    act_times BLOB,
    max_acts BLOB
);
CREATE UNIQUE INDEX analyses_finished ON analyses (dictionary, name) WHERE state = 1;
CREATE TABLE features (
    analysis INTEGER NOT NULL,
    feature INTEGER NOT NULL,
    act_times INTEGER NOT NULL,
    max_act REAL NOT NULL,
    preview BLOB NOT NULL,
    PRIMARY KEY (analysis, feature)
) WITHOUT ROWID;
CREATE INDEX features_by_act_times ON features (analysis, act_times);
CREATE INDEX features_by_max_act ON features (analysis, max_act);
CREATE TABLE details (id INTEGER PRIMARY KEY, blob BLOB NOT NULL);
CREATE TABLE contexts (id INTEGER PRIMARY KEY, blob BLOB NOT NULL);
CREATE TABLE interpretations (
    dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
    feature INTEGER NOT NULL,
    text TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (dictionary, feature)
) WITHOUT ROWID;
CREATE TABLE metrics (
    dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
    feature INTEGER NOT NULL,
    name TEXT NOT NULL,
    value REAL NOT NULL,
    PRIMARY KEY (dictionary, feature, name)
) WITHOUT ROWID;
CREATE TABLE bookmarks (
    dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
    feature INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (dictionary, feature)
) WITHOUT ROWID;
CREATE INDEX bookmarks_by_time ON bookmarks (created_at DESC);
CREATE TABLE lists (name TEXT PRIMARY KEY, notes TEXT NOT NULL);
CREATE TABLE list_members (
    list TEXT NOT NULL REFERENCES lists ON DELETE CASCADE,
    position INTEGER NOT NULL,
    dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
    feature INTEGER NOT NULL,
    PRIMARY KEY (list, position)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE explanation_texts USING fts5 (text, prefix = '2 3');
CREATE VIRTUAL TABLE token_texts USING fts5 (text, prefix = '2 3');
