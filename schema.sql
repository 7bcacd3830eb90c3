-- The format of a sqlfuse volume, version 1.4. Executed verbatim to make one, and
-- the only place where a table is described.
--
-- Words: an EPOCH is the counter that snapshots and replication advance. A row says
-- in `born` the epoch since which it holds. Changing a row that a snapshot shows
-- first copies it to the table's *_past twin with `died`, the epoch that changed it;
-- any other row is changed in place. A past epoch E is read with
-- `born <= E AND E < died` from the twin, together with the live rows with born <= E.
-- Times are nanoseconds since 1970, negative before it. Names are bytes.

PRAGMA application_id = 0x53514c46; -- "SQLF"
PRAGMA user_version = 1;            -- major format version; meta.format has the whole of it

-- Every constant of the volume. Keys:
--   format         semver text; a newer major is not opened
--   volume_id      16 random bytes, the same in every replica
--   replica_id     random 63-bit integer, this copy's own: `origin` of what it makes
--   block_size     bytes, for files made from now on (each file keeps its own)
--   compression    how files that do not say otherwise are compressed: none, fast or strong (since 1.1)
--   epoch          the current epoch, from 1
--   changed        the last epoch in which anything was changed: an automatic snapshot is made only where that is
--                  the current one (since 1.2)
--   retention      JSON: which automatic snapshots stay, in the words of src/core/retention.ts; only where it was
--                  ever set (since 1.2)
--   next_serial    from it on no inode number and entry id is used (one counter serves both)
--   next_block     the same for block.id; a crash leaves a gap of numbers that were set aside
--   created_ns     time of creation
--   head           number of the last commit and 16 random hexadecimal digits that name it, with a space between; only
--                  where the volume was ever mounted with a head file, and changed by such mounts alone
--   features       JSON list of names a reader may ignore
--   features_incompatible  JSON list of names a reader must know, or refuse the volume:
--                  compression: a block may have a codec other than 0 (since 1.1)
--                  block-size: a block size may be other than a power of two (since 1.2)
--                  replica: this copy is changed by what it pulls alone (since 1.3); its replica_id is its source's
--                  partial: a replica that does not have the content of all its blocks (since 1.4)
--   partial_limit  of a partial replica: bytes of content that may go again which it has at most; 0: any (since 1.4)
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- A file of any type. ino 1 is the root directory. Numbers are never reused.
CREATE TABLE inode (
  ino        INTEGER PRIMARY KEY,
  mode       INTEGER NOT NULL, -- st_mode: S_IFMT and permission bits
  nlink      INTEGER NOT NULL, -- entries that name it; a directory has 2 + its subdirectories. 0: unlinked
                               -- but in use, or left by a crash; such an inode belongs to no epoch from `born` on
  uid        INTEGER NOT NULL,
  gid        INTEGER NOT NULL,
  rdev       INTEGER NOT NULL, -- Linux dev_t (32 bits) of a device, else 0
  size       INTEGER NOT NULL, -- bytes; of a symlink the length of its target, of a directory 0
  block_size INTEGER NOT NULL, -- bytes per block of a regular file, fixed at its creation, a multiple of 128; else 0
  extents    INTEGER NOT NULL, -- rows in extent. Stored twice so that st_blocks needs no scan
  parent     INTEGER NOT NULL, -- of a directory: the directory that holds it (root: itself; unlinked: 0).
                               -- Else 0. Stored twice so that ".." and the loop check of rename need no index
  generation INTEGER NOT NULL, -- random 32 bits: after a crash a number that nobody saw committed may come back
  atime_ns   INTEGER NOT NULL, -- relatime. Outside epochs: changing it alone neither moves the row nor logs it
  mtime_ns   INTEGER NOT NULL,
  ctime_ns   INTEGER NOT NULL,
  btime_ns   INTEGER NOT NULL,
  born       INTEGER NOT NULL, -- epoch
  origin     INTEGER NOT NULL, -- global id, first half: replica_id of the maker. 0: made here
  serial     INTEGER,          -- global id, second half: its number at its maker. NULL: ino
  version    BLOB,             -- version vector. NULL while only its maker ever changed it
  target     BLOB              -- of a symlink, else NULL
) STRICT;
-- What a crash left unlinked, and what waits to be purged.
CREATE INDEX inode_unlinked ON inode (ino) WHERE nlink = 0;
CREATE UNIQUE INDEX inode_global ON inode (origin, serial) WHERE origin <> 0;
-- A volume that was ever asked what changed since when has INDEX inode_born ON inode (born), dirent_ino ON dirent (ino)
-- and dirent_past_ino ON dirent_past (ino) as well. Any reader may make or drop them.

CREATE TABLE inode_past (
  ino        INTEGER NOT NULL,
  mode       INTEGER NOT NULL,
  nlink      INTEGER NOT NULL,
  uid        INTEGER NOT NULL,
  gid        INTEGER NOT NULL,
  rdev       INTEGER NOT NULL,
  size       INTEGER NOT NULL,
  block_size INTEGER NOT NULL,
  extents    INTEGER NOT NULL,
  parent     INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  atime_ns   INTEGER NOT NULL,
  mtime_ns   INTEGER NOT NULL,
  ctime_ns   INTEGER NOT NULL,
  btime_ns   INTEGER NOT NULL,
  born       INTEGER NOT NULL,
  origin     INTEGER NOT NULL,
  serial     INTEGER,
  version    BLOB,
  target     BLOB,
  died       INTEGER NOT NULL, -- epoch that changed it: it held while born <= E < died
  PRIMARY KEY (ino, died)
) STRICT, WITHOUT ROWID;
CREATE INDEX inode_past_died ON inode_past (died);

-- A name in a directory. "." and ".." are not stored.
CREATE TABLE dirent (
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL,    -- 1..255 bytes, no NUL, no '/'
  id     INTEGER NOT NULL, -- readdir's cookie, > 2 and unique in the volume; kept by rename, so that a
                           -- scan under way meets a renamed entry at most once
  ino    INTEGER NOT NULL,
  type   INTEGER NOT NULL, -- S_IFMT bits of the inode. Stored twice so that a listing reads no inode
  born   INTEGER NOT NULL,
  PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
-- Listings come from here alone: it holds every column that they need.
CREATE UNIQUE INDEX dirent_by_id ON dirent (parent, id, ino, type);

CREATE TABLE dirent_past (
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL,
  id     INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  type   INTEGER NOT NULL,
  born   INTEGER NOT NULL,
  died   INTEGER NOT NULL,
  PRIMARY KEY (parent, name, died)
) STRICT, WITHOUT ROWID;
CREATE INDEX dirent_past_died ON dirent_past (died);
-- Listings of the past (since 1.2).
CREATE INDEX dirent_past_by_id ON dirent_past (parent, id);

-- Extended attributes, POSIX ACLs among them, under their full names. user.sqlfuse.compression (none, fast or strong)
-- is how the file's blocks are compressed from now on; what is made in a directory inherits its.
CREATE TABLE xattr (
  ino   INTEGER NOT NULL,
  name  BLOB NOT NULL, -- 1..255 bytes
  value BLOB NOT NULL, -- 0..65,536 bytes
  born  INTEGER NOT NULL,
  PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE xattr_past (
  ino   INTEGER NOT NULL,
  name  BLOB NOT NULL,
  value BLOB NOT NULL,
  born  INTEGER NOT NULL,
  died  INTEGER NOT NULL,
  PRIMARY KEY (ino, name, died)
) STRICT, WITHOUT ROWID;
CREATE INDEX xattr_past_died ON xattr_past (died);

-- Block number `idx` of a file (its bytes idx * block_size on) is the stored block
-- `block`. No row: a hole. Rows past the end of the file are what fallocate reserved.
CREATE TABLE extent (
  ino    INTEGER NOT NULL,
  idx    INTEGER NOT NULL,
  block  INTEGER NOT NULL, -- block.id; 0: allocated but never written, reads as zeros
  shared INTEGER NOT NULL, -- 1: another extent, live or past, may name the same block. Set on both sides when
                           -- a block is shared, never cleared; the block is then never overwritten in place
  born   INTEGER NOT NULL,
  PRIMARY KEY (ino, idx)
) STRICT, WITHOUT ROWID;
-- Only a shared block can have more than one extent, so only they are searched by block.
CREATE INDEX extent_shared ON extent (block) WHERE shared = 1;

CREATE TABLE extent_past (
  ino    INTEGER NOT NULL,
  idx    INTEGER NOT NULL,
  block  INTEGER NOT NULL,
  shared INTEGER NOT NULL,
  born   INTEGER NOT NULL,
  died   INTEGER NOT NULL,
  PRIMARY KEY (ino, idx, died)
) STRICT, WITHOUT ROWID;
CREATE INDEX extent_past_shared ON extent_past (block) WHERE shared = 1;
CREATE INDEX extent_past_died ON extent_past (died);

-- Closed epochs that are kept (since 1.2). A past row that holds in none of them is not needed any more, nor is a block
-- that then no extent names.
CREATE TABLE snapshot (
  epoch      INTEGER PRIMARY KEY,
  name       TEXT,             -- NULL: deleted, and the rows that only it needed are still to be pruned
  created_ns INTEGER NOT NULL,
  protected  INTEGER NOT NULL, -- 1: is not deleted until somebody says 0
  automatic  INTEGER NOT NULL  -- 1: made at an interval, so that meta.retention may delete it
) STRICT;
CREATE UNIQUE INDEX snapshot_name ON snapshot (name);

-- File data. A block may be shorter than its file's block size: what is missing
-- reads as zeros. It never reaches past the end of its file.
--
-- codec 0: data is the content. Else it is method | length << 8, where length is the bytes of the content, 1 to
-- 1,048,576, and data is the content compressed by method 1, an LZ4 block without frame or length, or 2, Brotli.
CREATE TABLE block (
  id    INTEGER PRIMARY KEY, -- > 0
  codec INTEGER NOT NULL,
  hash  BLOB,                -- keyed hash of the content, set when its epoch is closed and shipped; NULL after a change
  data  BLOB NOT NULL
) STRICT;

-- Where the log of this volume is kept, and how far it is there (since 1.3; src/log/format.ts says what a log is). The
-- epoch that was pushed last is kept as a snapshot named pushed-EPOCH: by it the next push finds what was changed and
-- deleted since. A replica has one row, of where it pulls from. Who first adds one makes the index inode_born as well.
CREATE TABLE remote (
  id         INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  url        TEXT NOT NULL,    -- a path
  log        BLOB NOT NULL,    -- 16 random bytes that name the log
  secret     BLOB NOT NULL,    -- 32 random bytes: all keys of the log are derived from them
  writer     INTEGER NOT NULL, -- replica_id of who writes the log
  epoch      INTEGER NOT NULL, -- the last that is there; of a replica, that is here. 0: none
  segment    INTEGER NOT NULL, -- number of the segment that brought it; 0: none
  hash       BLOB NOT NULL,    -- SHA-256 of that segment; empty: none
  pending    BLOB NOT NULL,    -- SHA-256 of the next segment, while it is being put there; else empty
  pending_epoch INTEGER NOT NULL, -- the epoch that is being pushed; 0: none
  synced_ns  INTEGER NOT NULL, -- when it was last found to have everything; 0: never
  key_salt   BLOB NOT NULL     -- salt of this volume when the key file there was written; another one now: a rekey
) STRICT;

-- The objects there that hold blocks.
CREATE TABLE remote_object (
  number INTEGER PRIMARY KEY,
  remote INTEGER NOT NULL, -- remote.id
  name   BLOB NOT NULL,    -- SHA-256 of the object, which is its name
  salt   BLOB NOT NULL     -- 32 bytes: of its key
) STRICT;
CREATE UNIQUE INDEX remote_object_name ON remote_object (remote, name);

-- Which content is there, and where in which object.
CREATE TABLE remote_block (
  remote INTEGER NOT NULL, -- remote.id
  id     BLOB NOT NULL,    -- keyed hash of the content
  object INTEGER NOT NULL, -- remote_object.number
  place  INTEGER NOT NULL, -- byte of the object at which it begins
  length INTEGER NOT NULL, -- bytes of the block as it is stored, before it was sealed
  codec  INTEGER NOT NULL, -- as block.codec
  PRIMARY KEY (remote, id)
) STRICT, WITHOUT ROWID;

-- Of a partial replica (since 1.4): all its blocks. The content of one that is not here is asked of the remote.
CREATE TABLE partial_block (
  block  INTEGER PRIMARY KEY, -- as block.id
  id     BLOB NOT NULL,       -- keyed hash of its content: where that is says remote_block
  length INTEGER NOT NULL,    -- bytes of the block as it is stored
  used   INTEGER NOT NULL,    -- 0: not here; else when it was used last, in seconds since 1970
  keep   INTEGER NOT NULL     -- 1: of a small or pinned file, and always here
) STRICT;
CREATE INDEX partial_block_used ON partial_block (used) WHERE keep = 0 AND used > 0;
CREATE INDEX partial_block_due ON partial_block (block) WHERE keep = 1 AND used = 0;

-- Of a partial replica: the files that are always here, and directories with all that is in them.
CREATE TABLE pin (ino INTEGER PRIMARY KEY) STRICT;
