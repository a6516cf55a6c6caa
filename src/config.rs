//! What the operator decides: one TOML file becomes one [`Config`], and every default is written here, once.
//!
//! A section's keys are declared with the `section!` macro, which turns one list into the struct, its defaults and
//! the table of [`Key`]s. From that table come the check for unknown keys (`file`), the annotated sample and the
//! configuration reference (`reference`): a key cannot exist without its explanation.
//!
//! Nothing secret is in `Debug`: connection texts and passwords are [`Secret`](crate::secret::Secret)s.

mod effective;
mod endpoint;
mod file;
mod keys;
mod listener;
mod preserve;
mod preset;
mod redaction;
pub mod reference;
mod state;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result, Side};
use crate::schedule::Schedule;
use crate::source::redis::mapping::Mapper;

pub use crate::nearest::nearest;
pub use effective::{Effective, Setting};
pub use endpoint::{Conninfo, Endpoint, RedisEnd};
pub use preserve::Preserve;
pub use redaction::{Emptied, Mask, Masking, Redaction};
pub use redis::{KeyOptions, Live, RedisOptions, RedisPreset};
pub use server::{PublicUrl, ServerOptions};
pub use state::state_directory;
pub use tables::{Pattern, Tables, written};

/// Everything that was configured, checked as far as it can be without a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from; `None` when it came from the environment.
    pub file: Option<PathBuf>,
    /// In the order of their names.
    pub pipelines: Vec<Pipeline>,
    pub log: Log,
    /// The HTTP door; `None` where it stays shut.
    pub server: Option<ServerOptions>,
}

/// One source, one target and a mode.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub name: String,
    pub mode: Mode,
    pub source: Endpoint,
    pub target: Endpoint,
    pub tables: Tables,
    /// The target's `tables_to_sync` says which tables, as in syncdata; `tables` is what it said at the start.
    pub is_whitelisted: bool,
    pub publication: String,
    pub slot: String,
    pub plugin: Plugin,
    pub copy: CopyOptions,
    pub stream: StreamOptions,
    pub archive: ArchiveOptions,
    pub spill: SpillOptions,
    pub redis: RedisOptions,
    /// What becomes of the source's keys, where it is a Redis server.
    pub mapper: Option<Arc<Mapper>>,
    pub snapshot: SnapshotOptions,
    /// What of the source a snapshot leaves out or replaces; the preset's part included.
    pub redaction: Redaction,
    /// What of the replica goes over into a fresh copy.
    pub preserve: Preserve,
    pub limits: Limits,
    pub retry: Retry,
    pub audit: Audit,
    /// The program that prints the source's schema; `None` looks for `pg_dump` in the usual places.
    pub pg_dump: Option<PathBuf>,
}

/// Declares the values that a key may have, by their names in the file.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$text:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
        pub enum $name { $($(#[$text])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl Shown for $name {
            fn toml(&self) -> Option<String> {
                self.as_str().to_owned().toml()
            }
        }
    };
}

/// Declares a section of the file: its struct, its defaults and its table of keys.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $text:literal])+ $key:ident: $type:ty = $default:expr, $shape:expr $(, $example:literal)?;)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($(#[doc = $text])+ pub $key: $type),+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),+ }
            }
        }

        impl Section for $name {
            const ABOUT: &'static str = concat!($($about, "\n"),+);

            fn values(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$((stringify!($key).trim_start_matches("r#"), self.$key.toml())),+]
            }

            fn keys() -> Vec<Key> {
                let default = Self::default();
                vec![$(Key {
                    name: stringify!($key).trim_start_matches("r#"),
                    shape: $shape,
                    default: default.$key.toml(),
                    example: concat!("" $(, $example)?),
                    text: concat!($($text, "\n"),+),
                }),+]
            }
        }
    };
}

macro_rules! shown {
    ($($type:ty: $text:expr),+ $(,)?) => {
        $(impl Shown for $type {
            fn toml(&self) -> Option<String> {
                let text: fn(&$type) -> Option<String> = $text;
                text(self)
            }
        })+
    };
}

// Below the macros that they use.
mod redis;
mod server;
mod syncdata;

choice! {
    /// How a pipeline works.
    Mode {
        /// pgdiode's own engine: initial copy, then change data capture.
        Stream = "stream",
        /// The servers' native logical replication, set up and watched by pgdiode.
        Subscription = "subscription",
        /// The whole database replaced by a fresh copy, each time that `pgdiode sync` runs.
        Snapshot = "snapshot",
    }
}

choice! {
    /// What is put in the place of what.
    SnapshotMethod {
        /// A database beside the target, which then takes its name.
        Database = "database",
        /// Schemas beside those of the target, which then take their names.
        Schema = "schema",
    }
}

choice! {
    /// How a fresh copy is compared with its source before it takes the old one's place.
    SnapshotVerify {
        /// Exact row counts.
        Counts = "counts",
        /// Digests of every row.
        Full = "full",
    }
}

choice! {
    /// A set of keys that comes with pgdiode.
    Preset {
        /// A replica of a Synapse homeserver, read by a second Synapse.
        SynapseLi = "synapse-li",
    }
}

choice! {
    /// The output plugin of the replication slot.
    Plugin {
        /// PostgreSQL's own.
        Pgoutput = "pgoutput",
        /// The extension of that name, for a slot that has it already.
        Wal2json = "wal2json",
    }
}

choice! {
    /// How change files are stored.
    Compression {
        None = "none",
        Zstd = "zstd",
    }
}

choice! {
    /// How values travel in the initial copy.
    Format {
        /// Binary where both servers agree on every type of the table, else text.
        Auto = "auto",
        Text = "text",
        Binary = "binary",
    }
}

choice! {
    /// How values travel while streaming.
    Binary {
        /// On where both servers agree on the types.
        Auto = "auto",
        On = "on",
        Off = "off",
    }
}

choice! {
    /// What follows a change of a table's shape at the source.
    SchemaDrift {
        /// Added columns are added to the target; any other drift quarantines the table.
        Follow = "follow",
        /// Any drift quarantines the table.
        Quarantine = "quarantine",
    }
}

choice! {
    /// What follows a change that does not fit what the target holds.
    OnConflict {
        /// Make the row what the source says it is, and count.
        Apply = "apply",
        /// Stop that table until it is copied again.
        Quarantine = "quarantine",
    }
}

choice! {
    /// Who wrote the change files that are read.
    Dialect {
        /// pgdiode, where there is a `meta/archive.json`; otherwise each file by its first line.
        Auto = "auto",
        /// pgdiode.
        Pgdiode = "pgdiode",
        /// Somebody by hand or a script: one row a line, each file one transaction.
        Seed = "seed",
        /// wal2json, in format 1 or 2.
        Wal2json = "wal2json",
    }
}

choice! {
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line, for machines.
        Json = "json",
    }
}

choice! {
    Level {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

section! {
    /// One source, one target and a mode. The section's name is the pipeline's name: lower-case letters, digits and
    /// `_`, at most 40 characters.
    PipelineKeys {
        /// How the pipeline works. `stream`: pgdiode's own engine, an initial copy and then change data capture.
        /// `subscription`: the servers' native logical replication, set up and watched by pgdiode.
        /// `snapshot`: the whole target is replaced by a fresh copy each time that `pgdiode sync` runs.
        mode: Mode = Mode::Stream, Shape::Choice(Mode::WORDS);
        /// The database that is read and never written: a libpq URI or `key=value` text, or a table
        /// `[pipeline.NAME.source]` of connection parameters. Or an archive of change files: `/path`,
        /// `sftp://user@host:port/path`, `s3://bucket/prefix`. Or a Redis server: `redis://user@host:port`, over TLS
        /// `rediss://`, over a socket `redis+unix:///path`.
        source: Option<Endpoint> = None, Shape::Connection, r#""postgresql://repl@db1/app""#;
        /// The database that becomes the mirror, or the archive that takes the change files, written in the same ways.
        target: Option<Endpoint> = None, Shape::Connection, r#""service=mirror""#;
        /// Which tables: patterns `schema.table` with `*` and `?`, names as the catalog stores them. A pattern that
        /// begins with `!` excludes, wherever it stands in the list; a part in double quotes is taken literally, dots
        /// included. `*.*` is every ordinary table outside the system schemas.
        tables: Vec<String> = vec!["*.*".into()], Shape::Texts, r#"["public.*", "!public.audit_*"]"#;
        /// The publication at the source. Left out: `pgdiode_` and the pipeline's name.
        publication: Option<String> = None, Shape::Text, r#""pgdiode_main""#;
        /// The replication slot at the source. Left out: `pgdiode_` and the pipeline's name.
        slot: Option<String> = None, Shape::Text, r#""pgdiode_main""#;
        /// The output plugin of that slot. `pgoutput`: PostgreSQL's own. `wal2json`: that extension, in format 2, into an
        /// archive alone: for a slot that has it already. It needs no publication, and says less.
        plugin: Plugin = Plugin::Pgoutput, Shape::Choice(Plugin::WORDS);
        /// The initial copy.
        copy: CopyOptions = CopyOptions::default(), Shape::of::<CopyOptions>();
        /// What follows the initial copy.
        stream: StreamOptions = StreamOptions::default(), Shape::of::<StreamOptions>();
        /// The archive of change files, where one end is one.
        archive: ArchiveOptions = ArchiveOptions::default(), Shape::of::<ArchiveOptions>();
        /// Where changes go while the target is too slow for them.
        spill: SpillOptions = SpillOptions::default(), Shape::of::<SpillOptions>();
        /// The keys of a Redis server, where the source is one, and what becomes of them.
        redis: RedisOptions = RedisOptions::default(), Shape::of::<RedisOptions>();
        /// What `pgdiode sync` keeps and checks.
        snapshot: SnapshotOptions = SnapshotOptions::default(), Shape::of::<SnapshotOptions>();
        /// What a pipeline may use.
        limits: Limits = Limits::default(), Shape::of::<Limits>();
        /// How a broken connection is tried again.
        retry: Retry = Retry::default(), Shape::of::<Retry>();
    }
}

section! {
    /// The initial copy: every table as of one snapshot of the source.
    CopyOptions {
        /// Tables, or pieces of tables, that are copied at once. 0: the number of processors, at least 2, at most 8.
        jobs: usize = 0, Shape::Whole(0, 64);
        /// Tables larger than this are copied in several pieces at once, where one worker alone would be busy with
        /// them long after the others.
        split_mb: u64 = 256, Shape::Whole(1, 1_048_576);
        /// How values travel. `auto`: binary where both servers agree on every type of the table, else text.
        format: Format = Format::Auto, Shape::Choice(Format::WORDS);
        /// `maintenance_work_mem` of each session that builds an index at the target.
        maintenance_work_mem_mb: u64 = 256, Shape::Whole(1, 1_048_576);
    }
}

section! {
    /// What follows the initial copy: transactions, in commit order.
    StreamOptions {
        /// Changes that one commit at the target holds at most, unless a single transaction is larger.
        batch_mb: u64 = 16, Shape::Whole(1, 4096);
        /// The longest time for which a batch collects transactions while the target is busy.
        batch_ms_max: u64 = 500, Shape::Whole(1, 60_000);
        /// Memory for each transaction that arrives before its commit; what exceeds it goes to `spool_dir`.
        spool_mb: u64 = 32, Shape::Whole(1, 65_536);
        /// Where large unfinished transactions wait for their commit. Left out: the system's temporary directory.
        spool_dir: Option<PathBuf> = None, Shape::Path, r#""/var/lib/pgdiode/spool""#;
        /// Whether values travel in binary. `auto`: where both servers agree on the types.
        binary: Binary = Binary::Auto, Shape::Choice(Binary::WORDS);
        /// How often the sequences' values are carried over. 0: only when the pipeline stops.
        sequences_seconds: u64 = 10, Shape::Whole(0, 86_400);
        /// Whether a table that joins the publication and matches `tables` is copied and followed by itself.
        new_tables: bool = true, Shape::Switch;
        /// How often the status stored in the target is renewed.
        status_seconds: u64 = 10, Shape::Whole(1, 3600);
        /// How often a message is written into the source's log so that an idle database's slot advances; the one
        /// thing a pipeline writes at its source. 0: never.
        heartbeat_seconds: u64 = 0, Shape::Whole(0, 86_400);
        /// What follows a change of a table's shape. `follow`: added columns are added, any other drift quarantines
        /// the table. `quarantine`: any drift does.
        schema_drift: SchemaDrift = SchemaDrift::Follow, Shape::Choice(SchemaDrift::WORDS);
        /// What follows a change that does not fit the target. `apply`: an insert of an existing key becomes an
        /// update; an update or delete of a missing row is counted and skipped. `quarantine`: the table stops until
        /// it is copied again.
        on_conflict: OnConflict = OnConflict::Apply, Shape::Choice(OnConflict::WORDS);
    }
}

section! {
    /// The archive of change files, where a pipeline's source or target is one.
    ArchiveOptions {
        /// A change file is ended once its lines take this much, at the next commit.
        file_mb: u64 = 64, Shape::Whole(1, 4096);
        /// The longest time for which committed changes wait for others before their file is sealed.
        file_seconds: u64 = 10, Shape::Whole(0, 86_400);
        /// How often a file without rows says how far an idle source is, so that its log can be let go of.
        idle_seconds: u64 = 600, Shape::Whole(1, 86_400);
        /// How change files are stored. `none`: as they are, for `jq` and for people. `zstd`: a tenth of that.
        compression: Compression = Compression::None, Shape::Choice(Compression::WORDS);
        /// zstd's level.
        compression_level: u64 = 3, Shape::Whole(1, 19);
        /// Where change files are written before they go to the archive, and read from after they have come. Left out:
        /// `stream.spool_dir`.
        spool_dir: Option<PathBuf> = None, Shape::Path, r#""/var/lib/pgdiode/archive""#;
        /// How much may wait there while the archive cannot be reached; the source is not read on beyond it.
        spool_mb: u64 = 1024, Shape::Whole(8, 1_073_741_824);
        /// Whether the first start puts a base snapshot into the archive, from which a new reader begins.
        base: bool = true, Shape::Switch;
        /// To whom a writer encrypts all rows and the schema, so that the archive's place cannot read them: recipients of
        /// `age`, of which `age-keygen` prints one with each identity that it makes.
        recipients: Vec<String> = Vec::new(), Shape::Texts, r#"["age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"]"#;
        /// A file of more recipients, one a line.
        recipients_file: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/recipients""#;
        /// With what a writer signs every manifest, so that the archive's place cannot change anything unnoticed: a private
        /// key of ed25519, as `ssh-keygen -t ed25519 -N '' -f FILE` makes it. Refused when other users can read it.
        signing_key: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/signing_key""#;
        /// With what a reader decrypts: a file of one or more identities, as `age-keygen -o FILE` makes it. Refused when
        /// other users can read it.
        identity: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/identity""#;
        /// Whose signature a reader asks of every manifest, one of several: lines of `.pub` files. Empty: nobody's. A writer
        /// names the keys here that it had before.
        signed_by: Vec<String> = Vec::new(), Shape::Texts, r#"["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"]"#;
        /// How often a reader looks for new files. 0: as soon as they are there, for a directory.
        poll_seconds: u64 = 0, Shape::Whole(0, 86_400);
        /// Who wrote the change files that a reader finds. `auto`: pgdiode, where there is a `meta/archive.json`; otherwise
        /// each file says by its first line which of the others it is. `seed`: one row a line, written by hand or by a
        /// script. `wal2json`: that plugin, in its format 1 or 2.
        dialect: Dialect = Dialect::Auto, Shape::Choice(Dialect::WORDS);
        /// How long the last file must have stayed as it is before a reader takes it, where pgdiode did not write it: there
        /// nothing else tells that it is whole.
        settle_seconds: u64 = 5, Shape::Whole(0, 86_400);
        /// The schema of the target that holds a reader's `data_sync_logs`, `data_sync_metrics` and `tables_to_sync`.
        control_schema: String = "pgdiode".to_owned(), Shape::Text, r#""public""#;
        /// How often a reader sums up its metrics by week and month, in hours.
        metrics_hours: u64 = 24, Shape::Whole(1, 8760);
        /// The time zone in which weeks and months of metrics begin, by its IANA name.
        metrics_time_zone: String = "UTC".to_owned(), Shape::Text, r#""Europe/Berlin""#;
    }
}

section! {
    /// Where the changes of a pipeline between two databases go while its target is too slow for them, so that the source
    /// can let go of its log. How change files are made is said in `archive`.
    SpillOptions {
        /// An empty directory, over SFTP or in S3 too, for this pipeline alone: written as a `target` that is an archive.
        /// What is there has been drained into the target before it is removed. Left out: the source keeps its log.
        archive: Option<Endpoint> = None, Shape::Connection, r#""/var/lib/pgdiode/spill""#;
        /// Changes go there once the target is this much of the source's log behind, and no more once it is half of that.
        after_mb: u64 = 2048, Shape::Whole(1, 1_073_741_824);
    }
}

section! {
    /// What `pgdiode sync` keeps and checks; for `mode = "snapshot"` alone.
    SnapshotOptions {
        /// `database`: a new database is filled, and renamed to the target's name. `schema`: the target database
        /// stays, and the source's schemas in it are replaced: for servers where databases cannot be created or
        /// renamed. The operating guide says what differs.
        method: SnapshotMethod = SnapshotMethod::Database, Shape::Choice(SnapshotMethod::WORDS);
        /// How many earlier copies stay beside the one that serves, for `pgdiode rollback`.
        keep: u64 = 1, Shape::Whole(0, 100);
        /// How a fresh copy is compared with the source before it serves. `counts`: exact row counts of every table.
        /// `full`: digests of every row.
        verify: SnapshotVerify = SnapshotVerify::Counts, Shape::Choice(SnapshotVerify::WORDS);
        /// A fresh copy does not serve if a table has lost more of its rows than this, in percent, against the copy
        /// that serves now.
        rows_drop_percent_max: u64 = 50, Shape::Whole(0, 100);
        /// Queries that must each answer with one true value in a fresh copy before it serves.
        checks: Vec<String> = Vec::new(), Shape::Texts, r#"["select count(*) > 0 from public.users"]"#;
        /// A query whose answer, all of its rows, must be the same at the source and in a fresh copy before it serves.
        schema_version: Option<String> = None, Shape::Text, r#""select version from schema_version""#;
        /// A fresh copy does not serve if a foreign key that is `not valid` has more rows without a parent in it than at
        /// the source. The others are validated in any case when they are made.
        refuse_orphans: bool = true, Shape::Switch;
        /// Room on the target's disk that a sync needs before it begins, in percent of the source's database or of the one
        /// that serves, whichever is larger. 0: not looked for.
        free_disk_percent_min: u64 = 200, Shape::Whole(0, 10_000);
        /// The capacity of the target's volume; what its databases and its log take is subtracted. 0: not stated; then
        /// what is free is known only where the target's server is on this host and its data directory can be read.
        disk_mb: u64 = 0, Shape::Whole(0, 1_073_741_824);
        /// A set of `tables`, `empty` and `mask` that comes with pgdiode, for one known kind of replica; `pgdiode init
        /// --preset NAME` prints it, each line with its reason. What is set here adds to it and overrides it.
        preset: Option<Preset> = None, Shape::Choice(Preset::WORDS), r#""synapse-li""#;
        /// Tables whose rows never leave the source: patterns as in `tables`. The replica has such a table, without
        /// rows. A pattern that begins with `!` takes tables out of the list again. A pattern that fits no table of the
        /// source is refused.
        empty: Vec<String> = Vec::new(), Shape::Texts, r#"["public.access_tokens"]"#;
        /// Columns whose values never leave the source, as `"schema.table.column"`, each with what the source puts in
        /// their place: `null`; `hash`, the SHA-256 of the value in hexadecimal digits, equal for equal values;
        /// `constant:TEXT`; `sql:EXPRESSION` over columns of the same row, functions outside of `pg_catalog` with their
        /// schema; or `keep`, against a preset's mask. A column that the source does not have is refused.
        mask: BTreeMap<String, String> = BTreeMap::new(), Shape::TextsByName, r#"{ "public.users.email" = "hash" }"#;
        /// A file of SQL that runs in each fresh copy before it serves, in one transaction, as the target's user: who may
        /// read it. A copy in which it fails does not serve.
        grants: Option<PathBuf> = None, Shape::Path, r#""readers.sql""#;
        /// Tables that only the replica has and that each fresh copy takes over from the one that serves, as they are:
        /// patterns as in `tables`. Where a pattern takes in a whole schema (`li_local.*`), its views, functions and
        /// types go along.
        preserve: Vec<String> = Vec::new(), Shape::Texts, r#"["li_local.*"]"#;
        /// Rows of the source's tables in which the replica's values are put into each fresh copy, by table; rows are told
        /// by the primary key, else by a unique index.
        preserve_rows: BTreeMap<String, PreservedRows> = BTreeMap::new(), Shape::Named(PreservedRows::keys), r#"{ "public.users" = { columns = ["password_hash"] } }"#;
        /// The database on the target's server that holds the lock, the history and the list of copies. Left out: the
        /// target's name and `_pgdiode`.
        control_database: Option<String> = None, Shape::Text, r#""mirror_pgdiode""#;
        /// The file that keeps a second sync off this host. Left out: `pgdiode/NAME.lock` in `$XDG_STATE_HOME`, else in
        /// `~/.local/state`; where that cannot be written, the lock in the control database does alone.
        lock_file: Option<PathBuf> = None, Shape::Path, r#""/var/lib/pgdiode/li.lock""#;
        /// The JSON file that says how the last sync ended, for whoever watches. Left out: none is written.
        checkpoint_file: Option<PathBuf> = None, Shape::Path, r#""/var/lib/pgdiode/li.json""#;
        /// When `pgdiode start` syncs: a cron expression, minute, hour, day of month, month, day of week. Left out:
        /// only `pgdiode sync` does.
        schedule: Option<String> = None, Shape::Text, r#""0 */6 * * *""#;
        /// The time zone that the schedule is read in, by its IANA name.
        time_zone: String = "UTC".to_owned(), Shape::Text, r#""Europe/Berlin""#;
        /// Each due time is put off by up to so many minutes, differently for each pipeline and time but the same in every
        /// process, so that pipelines with one schedule do not all copy at once.
        schedule_jitter_minutes: u64 = 0, Shape::Whole(0, 1440);
        /// Whether `pgdiode start` syncs at once when no sync has succeeded since the schedule's last time.
        catch_up: bool = true, Shape::Switch;
    }
}

section! {
    /// Rows of the source's tables in which the replica's values are kept.
    PreservedRows {
        /// The columns that are kept, in rows that the source still has. Left out: whole rows, and those too that the
        /// source does not have.
        columns: Vec<String> = Vec::new(), Shape::Texts, r#"["password_hash"]"#;
        /// SQL over a row's columns for which rows it is. Left out: those that were inserted or changed in the replica.
        rows: Option<String> = None, Shape::Text, r#""name like '@li-%'""#;
    }
}

section! {
    /// What a pipeline may use.
    Limits {
        /// Warn when the slot makes the source keep more write-ahead log than this.
        wal_budget_mb: u64 = 10_240, Shape::Whole(1, 1_073_741_824);
        /// Memory for changes in flight, all buffers together.
        memory_mb: u64 = 192, Shape::Whole(32, 1_048_576);
    }
}

section! {
    /// How a broken connection is tried again: the pause doubles from `first_ms` to `max_ms`, with some chance in it.
    Retry {
        /// The first pause.
        first_ms: u64 = 500, Shape::Whole(1, 3_600_000);
        /// The longest pause.
        max_ms: u64 = 30_000, Shape::Whole(1, 3_600_000);
    }
}

section! {
    /// What goes to standard error while pgdiode runs.
    Log {
        /// `text` for people, `json` for machines: one object a line.
        format: LogFormat = LogFormat::Text, Shape::Choice(LogFormat::WORDS);
        /// How much is said. `-v` and `-q` on the command line move it by one.
        level: Level = Level::Info, Shape::Choice(Level::WORDS);
    }
}

section! {
    /// The audit log, `pgdiode.audit` of the target: what pgdiode was asked to change, by whom and why.
    Audit {
        /// Begins each line about an audited operation in the log on standard error, so that they can be found there.
        /// Left empty, these lines are logged at level `debug` only.
        audit_prefix: String = String::new(), Shape::Text, r#""LI:""#;
        /// A private key of ed25519, without a passphrase, as `ssh-keygen -t ed25519` makes it: each operation then ends with
        /// a checkpoint, the log's head with a signature. `pgdiode audit verify` finds by it that the owner of the database
        /// made the log anew.
        signing_key: Option<PathBuf> = None, Shape::Path, r#""/etc/pgdiode/audit_key""#;
        /// Public keys of which one must have signed each checkpoint: lines of `.pub` files. The key of `signing_key` always
        /// counts.
        signed_by: Vec<String> = Vec::new(), Shape::Texts, r#"["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"]"#;
        /// Where checkpoints are kept: a file a pipeline, `NAME.jsonl`, that only grows. Left out: `checkpoints` in
        /// `$XDG_STATE_HOME/pgdiode`, or in `~/.local/state/pgdiode`.
        checkpoint_dir: Option<PathBuf> = None, Shape::Path, r#""/var/lib/pgdiode/checkpoints""#;
    }
}

section! {
    /// The whole file.
    Document {
        /// The pipelines, by name.
        pipeline: BTreeMap<String, PipelineKeys> = BTreeMap::new(), Shape::Named(PipelineKeys::keys);
        /// What goes to standard error.
        log: Log = Log::default(), Shape::of::<Log>();
        /// The audit log.
        audit: Audit = Audit::default(), Shape::of::<Audit>();
        /// The HTTP door: console, API and metrics.
        server: Option<ServerOptions> = None, Shape::of::<ServerOptions>();
        /// The `pg_dump` that prints the source's schema; it must not be older than the source. Left out: the newest
        /// that is found on `PATH` and in the usual places.
        pg_dump: Option<PathBuf> = None, Shape::Path, r#""/usr/lib/postgresql/17/bin/pg_dump""#;
    }
}

/// One key of the file, as the reference prints it.
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    /// As TOML; `None` when leaving the key out means something that its text explains.
    pub default: Option<String>,
    /// As TOML; empty when the default is a good example.
    pub example: &'static str,
    pub text: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy)]
pub enum Shape {
    Text,
    Path,
    Texts,
    TextOrTexts,
    /// A list of whole numbers, from and up to.
    Wholes(u64, u64),
    /// A table of texts whose names the operator chooses.
    TextsByName,
    Switch,
    /// A whole number, from and up to.
    Whole(u64, u64),
    Choice(&'static [&'static str]),
    /// A text, or a table of `endpoint::parameters()`.
    Connection,
    Section(fn() -> Vec<Key>, &'static str),
    /// A table of sections whose names the operator chooses.
    Named(fn() -> Vec<Key>),
    /// A list of sections.
    Sections(fn() -> Vec<Key>, &'static str),
}

impl Shape {
    fn of<S: Section>() -> Shape {
        Shape::Section(S::keys, S::ABOUT)
    }

    fn each<S: Section>() -> Shape {
        Shape::Sections(S::keys, S::ABOUT)
    }
}

trait Section {
    const ABOUT: &'static str;
    fn keys() -> Vec<Key>;
    /// What each key has, as TOML; `None` for what is left out, and for what has keys of its own.
    fn values(&self) -> Vec<(&'static str, Option<String>)>;
}

/// A default as TOML.
trait Shown {
    fn toml(&self) -> Option<String>;
}

// A JSON text, number, switch or list is the same in TOML.
shown! {
    usize: |number| Some(number.to_string()),
    u64: |number| Some(number.to_string()),
    bool: |switch| Some(switch.to_string()),
    String: |text| serde_json::to_string(text).ok(),
    Vec<String>: |texts| serde_json::to_string(texts).ok(),
    Option<String>: |text| text.as_ref().and_then(Shown::toml),
    Option<PathBuf>: |path| path.as_ref().and_then(|path| serde_json::to_string(path).ok()),
    Option<Endpoint>: |_| None,
    Option<Preset>: |_| None,
    BTreeMap<String, String>: |_| None,
    BTreeMap<String, PreservedRows>: |_| None,
    BTreeMap<String, PipelineKeys>: |_| None,
    CopyOptions: |_| None,
    StreamOptions: |_| None,
    ArchiveOptions: |_| None,
    SpillOptions: |_| None,
    RedisOptions: |_| None,
    SnapshotOptions: |_| None,
    Limits: |_| None,
    Retry: |_| None,
    Log: |_| None,
    Audit: |_| None,
}

impl CopyOptions {
    /// `jobs`, decided.
    pub fn jobs(&self) -> usize {
        if self.jobs == 0 { processors().clamp(2, 8) } else { self.jobs }
    }
}

impl SnapshotOptions {
    /// `schedule`, in its time zone.
    fn schedule(&self) -> Result<Option<Schedule>> {
        self.schedule.as_deref().map(|text| Schedule::parse(text, &self.time_zone)).transpose()
    }
}

impl ArchiveOptions {
    /// The time zone of weeks and months.
    pub fn time_zone(&self) -> Result<jiff::tz::TimeZone> {
        crate::schedule::find_zone(&self.metrics_time_zone)
    }

    fn check(&self, at: Place<'_>) -> Result<()> {
        if !plain_name(&self.control_schema, NAME_BYTES_MAX)
            || self.control_schema.starts_with(|first: char| first.is_ascii_digit())
            || self.control_schema.starts_with("pg_")
        {
            return Err(Error::config(format!(
                "{}: \"{}\" cannot name a schema of control tables",
                at(&["archive", "control_schema"]),
                self.control_schema
            ))
            .hint("use lower-case letters, digits and _, for example control_schema = \"public\""));
        }
        self.check_keys(at)?;
        self.time_zone().map(drop).map_err(|error| error.context(at(&["archive", "metrics_time_zone"])))
    }
}

impl StreamOptions {
    /// `spool_dir`, decided.
    pub fn spool_dir(&self) -> PathBuf {
        self.spool_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Looks up an environment variable; a parameter, so that tests hold the environment.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Config {
    /// Reads the named file; without one, `PGDIODE_CONFIG`'s, `DATA_SYNC_CONFIG`'s, the pipeline that `PGDIODE_SOURCE` and
    /// `PGDIODE_TARGET` describe, the first file found in the usual places, or the pipeline that `REDIS_HOST`
    /// and `DATABASE_URL` describe, or the sync that `MAIN_DB_*` and `LI_DB_*` do.
    pub fn load(named: Option<&Path>, variable: Variable<'_>) -> Result<Config> {
        let variable: Variable<'_> = &|name| variable(name).filter(|text| !text.trim().is_empty());
        if let Some(path) =
            named.map(Path::to_owned).or_else(|| variable("PGDIODE_CONFIG").map(PathBuf::from))
        {
            return Config::read(&path, variable);
        }
        if let Some(path) = variable("DATA_SYNC_CONFIG") {
            return Config::read(&syncdata::path(&path, variable), variable);
        }
        let places = usual_places(variable);
        let found = places.iter().find(|place| place.exists());
        let described = variable("PGDIODE_SOURCE").is_some() || variable("PGDIODE_TARGET").is_some();
        match (found, described) {
            (Some(path), false) => Config::read(path, variable),
            (None, true) => Config::from_environment(variable),
            (None, false) if redis::is_described(variable) => redis::from_environment(variable),
            (None, false) if ENDS_OF_A_SYNC.iter().any(|(_, prefix)| names_end(prefix, variable)) => {
                Config::of_a_sync(variable)
            }
            (Some(path), true) => Err(Error::config(format!(
                "both {} and PGDIODE_SOURCE or PGDIODE_TARGET describe what to do",
                path.display()
            ))
            .hint("name the file with --config, or unset the variables")),
            (None, false) => Err(Error::config("no configuration found").hint(format!(
                "write one with `pgdiode init`, name one with --config or PGDIODE_CONFIG, or set PGDIODE_SOURCE and \
                 PGDIODE_TARGET; looked for {}",
                places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Reads one file.
    pub fn read(path: &Path, variable: Variable<'_>) -> Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::config(format!("cannot read {}", path.display()))
                .hint("write a sample with `pgdiode init`, or name another file with --config")
                .because(error)
        })?;
        if syncdata::describes(path, &text)? {
            let config = syncdata::parse(path, &text, variable)?;
            return Ok(config.read_at(path));
        }
        Config::parse(path, &text)
    }

    /// Understands `text`; `path` is for messages, and relative paths count from its directory.
    pub fn parse(path: &Path, text: &str) -> Result<Config> {
        let (document, places) = file::read(path, text)?;
        Ok(Config::check(document, &|key| places.of(key))?.read_at(path))
    }

    fn read_at(mut self, path: &Path) -> Config {
        self.file = Some(path.to_owned());
        let directory = path.parent().unwrap_or(Path::new(""));
        for pipeline in &mut self.pipelines {
            pipeline.anchor(directory);
        }
        if let Some(server) = &mut self.server {
            server.anchor(directory);
        }
        self
    }

    /// One pipeline, described by variables.
    fn from_environment(variable: Variable<'_>) -> Result<Config> {
        let mut keys = PipelineKeys {
            source: variable("PGDIODE_SOURCE").map(Endpoint::from_text),
            target: variable("PGDIODE_TARGET").map(Endpoint::from_text),
            ..PipelineKeys::default()
        };
        if let Some(tables) = variable("PGDIODE_TABLES") {
            keys.tables = tables.split(',').map(|pattern| pattern.trim().to_owned()).collect();
        }
        let name = variable("PGDIODE_NAME").unwrap_or_else(|| "main".into());
        let document = Document { pipeline: BTreeMap::from([(name, keys)]), ..Document::default() };
        Config::check(document, &|key| match key {
            [_, _, key @ ("source" | "target" | "tables"), ..] => format!("PGDIODE_{}", key.to_uppercase()),
            _ => "PGDIODE_NAME".into(),
        })
    }

    /// The snapshot pipeline `li`, described by `MAIN_DB_*` and `LI_DB_*`.
    fn of_a_sync(variable: Variable<'_>) -> Result<Config> {
        let end = |prefix: &str| -> Result<Endpoint> {
            let named = |key: &str| variable(&format!("{prefix}_{key}"));
            let required = |key: &str| {
                named(key).ok_or_else(|| {
                    Error::config(format!("the variable {prefix}_{key} is not set")).hint(
                        "a sync without a configuration file needs HOST, NAME and USER of both ends, and takes PORT \
                         and PASSWORD: MAIN_DB_HOST, LI_DB_HOST and so on",
                    )
                })
            };
            let mut parameters =
                vec![("host", required("HOST")?), ("dbname", required("NAME")?), ("user", required("USER")?)];
            parameters.extend(named("PORT").map(|port| ("port", port)));
            let password = format!("{prefix}_PASSWORD");
            Ok(Endpoint::from_parameters(parameters, variable(&password).map(|_| password)))
        };
        let [source, target] = ENDS_OF_A_SYNC.map(|(_, prefix)| end(prefix));
        // Whoever has made that directory wants the files there.
        let kept = |key: &str, name: &str| {
            let usual = || Path::new(STATE_OF_A_SYNC).is_dir().then(|| Path::new(STATE_OF_A_SYNC).join(name));
            variable(key).map(PathBuf::from).or_else(usual)
        };
        let snapshot = SnapshotOptions {
            lock_file: kept("PGDIODE_LOCK_FILE", "sync.lock"),
            checkpoint_file: kept("PGDIODE_CHECKPOINT_FILE", "sync_checkpoint.json"),
            ..SnapshotOptions::default()
        };
        let keys = PipelineKeys {
            mode: Mode::Snapshot,
            source: Some(source?),
            target: Some(target?),
            snapshot,
            ..PipelineKeys::default()
        };
        let audit = Audit { audit_prefix: "LI:".into(), ..Audit::default() };
        let document =
            Document { pipeline: BTreeMap::from([("li".into(), keys)]), audit, ..Document::default() };
        Config::check(document, &|key| {
            let end = ENDS_OF_A_SYNC.iter().find(|(end, _)| key.get(2) == Some(end));
            format!("{}_*", end.map_or("MAIN_DB_* and LI_DB", |(_, prefix)| prefix))
        })
    }

    fn check(document: Document, place: Place<'_>) -> Result<Config> {
        if document.pipeline.is_empty() {
            return Err(Error::config(format!("{}: no pipeline is described", place(&[])))
                .hint("add a section such as [pipeline.main]; `pgdiode init` writes a sample"));
        }
        let mut pipelines = Vec::<Pipeline>::with_capacity(document.pipeline.len());
        for (name, keys) in document.pipeline {
            let mut pipeline = Pipeline::check(name, keys, document.pg_dump.clone(), place)?;
            pipeline.audit = document.audit.clone();
            preset::add_audit_prefix(&mut pipeline);
            let twin =
                pipelines.iter().find(|other| other.slot == pipeline.slot && other.source == pipeline.source);
            if let Some(twin) = twin {
                return Err(Error::config(format!(
                    "{}: slot \"{}\" already belongs to pipeline \"{}\"",
                    place(&["pipeline", &pipeline.name, "slot"]),
                    pipeline.slot,
                    twin.name
                ))
                .hint("a replication slot serves one pipeline; name another slot"));
            }
            pipelines.push(pipeline);
        }
        document.audit.trusted().map_err(|error| error.context(place(&["audit", "signed_by"])))?;
        if let Some(server) = &document.server {
            server.check(place)?;
        }
        Ok(Config { file: None, pipelines, log: document.log, server: document.server })
    }

    /// The pipeline called `name`, or the only one.
    pub fn pipeline(&self, name: Option<&str>) -> Result<&Pipeline> {
        let names = || self.pipelines.iter().map(|pipeline| pipeline.name.as_str());
        let listed = || names().collect::<Vec<_>>().join(", ");
        match (name, self.pipelines.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(Error::config("several pipelines are configured")
                .hint(format!("choose one with --pipeline: {}", listed()))),
            (Some(name), pipelines) => pipelines
                .iter()
                .find(|pipeline| pipeline.name == name)
                .ok_or_else(|| unknown_pipeline(name, &names().collect::<Vec<_>>())),
        }
    }

    /// What works but should not stay so, each with its remedy.
    pub fn warnings(&self) -> Vec<(String, String)> {
        let Some(file) = self.file.as_deref().filter(|file| endpoint::others_can_read(file)) else {
            return Vec::new();
        };
        let ends = self.pipelines.iter().flat_map(|pipeline| {
            [(pipeline, "source", &pipeline.source), (pipeline, "target", &pipeline.target)]
        });
        ends.filter(|(_, _, end)| end.holds_password())
            .map(|(pipeline, side, _)| {
                (
                    format!(
                        "{} can be read by other users and holds the {side}'s password of pipeline \"{}\"",
                        file.display(),
                        pipeline.name
                    ),
                    format!("run `chmod 600 {}`, or use password_file or password_env", file.display()),
                )
            })
            .collect()
    }
}

/// That there is no pipeline of this name, and which is meant of those that are known.
pub fn unknown_pipeline(name: &str, known: &[&str]) -> Error {
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("configured: {}", known.join(", ")),
    };
    Error::config(format!("there is no pipeline \"{name}\"")).hint(hint)
}

/// What names the ends of a sync in the environment.
const ENDS_OF_A_SYNC: [(&str, &str); 2] = [("source", "MAIN_DB"), ("target", "LI_DB")];

/// Where such a sync keeps its files, if it is there.
const STATE_OF_A_SYNC: &str = "/var/lib/synapse-li";

fn names_end(prefix: &str, variable: Variable<'_>) -> bool {
    ["HOST", "NAME", "USER"].iter().any(|key| variable(&format!("{prefix}_{key}")).is_some())
}

/// Says where a key was written, or would be, for the front of a message.
type Place<'a> = &'a dyn Fn(&[&str]) -> String;

fn usual_places(variable: Variable<'_>) -> Vec<PathBuf> {
    let home = variable("HOME").map(|home| Path::new(&home).join(".config"));
    let user = variable("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let mut places = vec![PathBuf::from("pgdiode.toml")];
    places.extend(user.map(|user| user.join("pgdiode/pgdiode.toml")));
    places.push("/etc/pgdiode/pgdiode.toml".into());
    places
}

/// Which way a pipeline's changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a database to a database.
    Direct,
    ToArchive,
    FromArchive,
    /// From the keys of a Redis server into a database.
    FromRedis,
}

fn check_archives(mode: Mode, source: &Endpoint, target: &Endpoint, at: Place<'_>) -> Result<()> {
    let ends = [("source", source), ("target", target)];
    for (end, endpoint) in ends {
        if endpoint.is_archive() && mode != Mode::Stream {
            return Err(Error::config(format!(
                "{}: an archive has no mode = \"{}\"",
                at(&[end]),
                mode.as_str()
            ))
            .hint("changes go into an archive and out of it with mode = \"stream\""));
        }
        // What is wrong with it shows here, and not at night.
        let side = if end == "source" { Side::Source } else { Side::Target };
        endpoint.archive(side).map_err(|error| error.context(at(&[end])))?;
    }
    if ends.iter().all(|(_, endpoint)| endpoint.is_archive()) {
        return Err(Error::config(format!("{}: both ends are archives", at(&["target"])))
            .hint("an archive is copied with the tools of the place where it is"));
    }
    Ok(())
}

impl SpillOptions {
    fn check(&self, mode: Mode, is_direct: bool, keys: &ArchiveOptions, at: Place<'_>) -> Result<()> {
        let Some(archive) = &self.archive else { return Ok(()) };
        let at = at(&["spill", "archive"]);
        if mode != Mode::Stream || !is_direct {
            return Err(Error::config(format!(
                "{at}: only a stream from one database into another can spill"
            ))
            .hint("leave the section spill out"));
        }
        let is_encrypted = !keys.recipients.is_empty() || keys.recipients_file.is_some();
        if is_encrypted && keys.identity.is_none() {
            return Err(Error::config(format!(
                "{at}: what is spilled is encrypted, and is to be read again here"
            ))
            .hint("name the file of the recipients' identity: archive.identity"));
        }
        match archive.archive(Side::Target) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::config(format!("{at}: this is no place for an archive"))
                .hint("write /path, sftp://user@host:port/path, or s3://bucket/prefix")),
            Err(error) => Err(error.context(at)),
        }
    }
}

fn check_plugin(plugin: Plugin, source: &Endpoint, target: &Endpoint, at: Place<'_>) -> Result<()> {
    if plugin == Plugin::Pgoutput || (target.is_archive() && !source.is_archive()) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{}: wal2json is read on the way from a database into an archive alone",
        at(&["plugin"])
    ))
    .hint("leave the key out: pgoutput is there on every server, and says more"))
}

impl Pipeline {
    /// When it is synced by itself, jitter included.
    pub fn schedule(&self) -> Result<Option<Schedule>> {
        let minutes = self.snapshot.schedule_jitter_minutes;
        Ok(self.snapshot.schedule()?.map(|schedule| schedule.put_off(&self.name, minutes)))
    }

    pub fn way(&self) -> Way {
        if self.source.is_redis() {
            return Way::FromRedis;
        }
        match (self.source.is_archive(), self.target.is_archive()) {
            (true, _) => Way::FromArchive,
            (false, true) => Way::ToArchive,
            (false, false) => Way::Direct,
        }
    }

    /// Where change files are written and read on this host.
    pub fn archive_spool_dir(&self) -> PathBuf {
        self.archive.spool_dir.clone().unwrap_or_else(|| self.stream.spool_dir())
    }

    /// A snapshot pipeline has neither a stream nor tables of its own to be spoken of; `instead` says what there is.
    pub fn refuse_snapshot(&self, verb: &str, instead: &str) -> Result<()> {
        if self.mode != Mode::Snapshot {
            return Ok(());
        }
        let what =
            format!("pipeline \"{}\" has mode = \"snapshot\", for which there is no {verb}", self.name);
        Err(Error::config(what).hint(instead))
    }

    fn check(
        name: String,
        keys: PipelineKeys,
        pg_dump: Option<PathBuf>,
        place: Place<'_>,
    ) -> Result<Pipeline> {
        let at = |key: &[&str]| place(&[&["pipeline", name.as_str()], key].concat());
        check_name(&name, &at(&[]))?;
        check_numbers(&keys, &at)?;
        let source = required(keys.source.clone(), "source", &at)?;
        let target = required(keys.target.clone(), "target", &at)?;
        if source == target {
            return Err(Error::config(format!("{}: the target is the source itself", at(&["target"])))
                .hint("a pipeline writes its target; name another database"));
        }
        redis::check_ends(&keys, &source, &target, &at)?;
        check_archives(keys.mode, &source, &target, &at)?;
        check_plugin(keys.plugin, &source, &target, &at)?;
        keys.archive.check(&at)?;
        keys.spill.check(keys.mode, !source.is_archive() && !target.is_archive(), &keys.archive, &at)?;
        let publication = keys.publication.unwrap_or_else(|| format!("pgdiode_{name}"));
        if publication.is_empty() || publication.len() > NAME_BYTES_MAX {
            return Err(Error::config(format!(
                "{}: a publication's name has 1 to 63 bytes",
                at(&["publication"])
            ))
            .hint(format!("leave the key out to use \"pgdiode_{name}\"")));
        }
        let slot = keys.slot.unwrap_or_else(|| format!("pgdiode_{name}"));
        if !plain_name(&slot, NAME_BYTES_MAX) {
            return Err(Error::config(format!(
                "{}: \"{slot}\" cannot name a replication slot",
                at(&["slot"])
            ))
            .hint("use lower-case letters, digits and _, at most 63 characters"));
        }
        let mapper = source.is_redis().then(|| keys.redis.mapper(&at)).transpose()?.map(Arc::new);
        let mut tables = Tables::parse(&keys.tables).map_err(|error| error.context(at(&["tables"])))?;
        let mut redaction = Redaction::parse(&keys.snapshot.empty, &keys.snapshot.mask, &at)?;
        if let Some(preset) = keys.snapshot.preset {
            preset.contents()?.add_to(&mut tables, &mut redaction)?;
        }
        keys.snapshot.schedule().map_err(|error| error.context(at(&["snapshot"])))?;
        let PipelineKeys {
            mode,
            plugin,
            copy,
            stream,
            archive,
            spill,
            redis,
            mut snapshot,
            limits,
            retry,
            ..
        } = keys;
        let rows = std::mem::take(&mut snapshot.preserve_rows);
        let preserve = Preserve::parse(&snapshot.preserve, rows, &at)?;
        Ok(Pipeline {
            name,
            mode,
            source,
            target,
            tables,
            is_whitelisted: false,
            publication,
            slot,
            plugin,
            copy,
            stream,
            archive,
            spill,
            redis,
            mapper,
            snapshot,
            redaction,
            preserve,
            limits,
            retry,
            audit: Audit::default(),
            pg_dump,
        })
    }

    /// Makes relative paths count from `directory`.
    fn anchor(&mut self, directory: &Path) {
        self.source.anchor(directory);
        self.target.anchor(directory);
        if let Some(archive) = &mut self.spill.archive {
            archive.anchor(directory);
        }
        let snapshot = &mut self.snapshot;
        let paths = [
            &mut self.stream.spool_dir,
            &mut self.archive.spool_dir,
            &mut self.archive.recipients_file,
            &mut self.archive.signing_key,
            &mut self.archive.identity,
            &mut snapshot.lock_file,
            &mut snapshot.checkpoint_file,
            &mut snapshot.grants,
            &mut self.audit.signing_key,
            &mut self.audit.checkpoint_dir,
        ];
        for path in paths.into_iter().flatten() {
            *path = directory.join(&*path);
        }
        // A bare program name is looked for on PATH.
        if let Some(path) = self.pg_dump.as_mut().filter(|path| path.components().count() > 1) {
            *path = directory.join(&*path);
        }
    }
}

/// A server cuts longer identifiers (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// Leaves room for `pgdiode_` and a suffix within [`NAME_BYTES_MAX`].
const PIPELINE_NAME_MAX: usize = 40;

fn check_name(name: &str, place: &str) -> Result<()> {
    if plain_name(name, PIPELINE_NAME_MAX) {
        return Ok(());
    }
    Err(Error::config(format!("{place}: \"{name}\" cannot name a pipeline"))
        .hint("use lower-case letters, digits and _, at most 40 characters"))
}

fn plain_name(name: &str, longest: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.len() <= longest && name.bytes().all(plain)
}

fn required(end: Option<Endpoint>, key: &str, at: &dyn Fn(&[&str]) -> String) -> Result<Endpoint> {
    end.filter(|end| !end.is_empty()).ok_or_else(|| {
        Error::config(format!("{}: the pipeline has no {key}", at(&[key])))
            .hint(format!("set {key} = \"postgresql://user@host/database\""))
    })
}

/// Numbers that are fine alone and not together.
fn check_numbers(keys: &PipelineKeys, at: &dyn Fn(&[&str]) -> String) -> Result<()> {
    if keys.retry.first_ms > keys.retry.max_ms {
        return Err(Error::config(format!(
            "{}: first_ms = {} is more than max_ms = {}",
            at(&["retry", "first_ms"]),
            keys.retry.first_ms,
            keys.retry.max_ms
        ))
        .hint("pauses grow from first_ms to max_ms"));
    }
    // One batch gathers while the one before is applied.
    let buffers = 2 * keys.stream.batch_mb + keys.stream.spool_mb;
    if buffers > keys.limits.memory_mb {
        return Err(Error::config(format!(
            "{}: memory_mb = {} does not hold twice batch_mb and spool_mb, together {buffers}",
            at(&["limits", "memory_mb"]),
            keys.limits.memory_mb
        ))
        .hint("raise memory_mb, or lower stream.batch_mb or stream.spool_mb"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
