//! Finding a `pg_dump` and running it. Where to connect and the password go through the environment only, since any
//! user of the machine can read a command line.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::change::TableName;
use crate::error::{Error, Kind, Result};
use crate::pg::quote;

/// What to dump.
#[derive(Debug, Clone, Default)]
pub struct DumpOptions {
    /// Both sections when `None`.
    pub section: Option<Section>,
    /// An exported snapshot's identifier, as `pg_export_snapshot()` gives it.
    pub snapshot: Option<String>,
    /// Only these, each of which must exist; everything when empty. `pg_dump` then leaves out what tables need
    /// but do not own: schemas, types, functions, extensions.
    pub tables: Vec<TableName>,
    /// Not these.
    pub excluded: Vec<TableName>,
    /// Only these schemas, with all that is in them; counts where no tables are named.
    pub schemas: Vec<String>,
    pub tablespaces: Tablespaces,
    /// How long `pg_dump` may queue for a table's lock; a queueing lock holds up everybody behind it.
    pub lock_wait_ms_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    PreData,
    PostData,
}

/// Whether the target has the source's tablespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tablespaces {
    #[default]
    Drop,
    Keep,
}

/// Half a gigabyte of DDL is some half a million tables; what is larger is not a schema.
const DUMP_BYTES_MAX: u64 = 512 << 20;
/// Enough for what `pg_dump` says when it fails.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// Runs `pg_dump` and gives what it writes. `environment` is all that it knows of `PG*`: variables of this process
/// that start so are not passed on. Dropping the future kills the process.
pub async fn run(pg_dump: &Path, environment: &[(String, String)], options: &DumpOptions) -> Result<String> {
    let mut child = spawn(pg_dump, environment, options)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (output, message) =
        tokio::join!(read_up_to(stdout, DUMP_BYTES_MAX), read_up_to(stderr, MESSAGE_BYTES_MAX));
    let failed = |error| Error::unexpected(format!("cannot read from {}", pg_dump.display())).because(error);
    let (output, message) = (output.map_err(failed)?, message.map_err(failed)?);
    let status = child.wait().await.map_err(failed)?;
    let message = String::from_utf8_lossy(&message);
    if !status.success() {
        return Err(failure(pg_dump, &status.to_string(), message.trim()));
    }
    // For one, that a table needs a function that comes after the keys: such a schema does not split in sections.
    for warning in message.lines() {
        tracing::warn!("{warning}");
    }
    if output.len() as u64 == DUMP_BYTES_MAX {
        return Err(Error::new(
            Kind::Capacity,
            format!("the source's schema is larger than {DUMP_BYTES_MAX} bytes"),
        )
        .hint("list the tables to mirror instead of taking all"));
    }
    String::from_utf8(output).map_err(|error| {
        Error::refused("the source's schema holds text that is not UTF-8")
            .because(error)
            .hint("rename or repair it at the source; a database in SQL_ASCII lets such text in")
    })
}

fn spawn(pg_dump: &Path, environment: &[(String, String)], options: &DumpOptions) -> Result<Child> {
    let mut command = Command::new(pg_dump);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments(options))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        // Its messages are told apart by their English words.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Error::config(format!("cannot run {}", pg_dump.display()))
                .because(error)
                .hint("name a pg_dump in PGDIODE_PG_DUMP or in the configuration")
        })
}

fn arguments(options: &DumpOptions) -> Vec<String> {
    // Names that are keywords to one version only differ between versions: quote all. `--no-password`: never ask.
    let fixed =
        ["--schema-only", "--no-owner", "--no-password", "--encoding=UTF8", "--quote-all-identifiers"];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).to_vec();
    match options.section {
        Some(Section::PreData) => arguments.push("--section=pre-data".to_owned()),
        Some(Section::PostData) => arguments.push("--section=post-data".to_owned()),
        None => {}
    }
    if options.tablespaces == Tablespaces::Drop {
        arguments.push("--no-tablespaces".to_owned());
    }
    arguments.extend(options.snapshot.iter().map(|snapshot| format!("--snapshot={snapshot}")));
    arguments.extend(options.lock_wait_ms_max.map(|wait| format!("--lock-wait-timeout={wait}")));
    if !options.tables.is_empty() || !options.schemas.is_empty() {
        arguments.push("--strict-names".to_owned());
    }
    arguments.extend(options.tables.iter().map(|table| format!("--table={}", pattern(table))));
    arguments.extend(options.excluded.iter().map(|table| format!("--exclude-table={}", pattern(table))));
    arguments.extend(options.schemas.iter().map(|schema| format!("--schema={}", quote::identifier(schema))));
    arguments
}

/// `--table`'s pattern for exactly this table: inside of double quotes a pattern folds no case and knows no wildcard
/// (`processSQLNamePattern`), so it is a quoted name.
fn pattern(table: &TableName) -> String {
    quote::table(table)
}

/// All of it, or as much as `bytes_max`; what follows is read and dropped, so that the writer can end.
async fn read_up_to(pipe: Option<impl AsyncRead + Unpin>, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(bytes_max).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

fn failure(pg_dump: &Path, status: &str, message: &str) -> Error {
    // Several lines begin on one of their own.
    let gap = if message.contains('\n') { "\n" } else { " " };
    let what = format!("{} failed ({status}):{gap}{message}", pg_dump.display());
    let lost =
        ["connection to server", "server closed the connection", "lost synchronization", "SSL SYSCALL"];
    if lost.iter().any(|words| message.contains(words)) {
        Error::new(Kind::SourceUnreachable, what)
            .hint("check that the source accepts connections from here with the configured user")
    } else if message.contains("permission denied") {
        Error::refused(what)
            .hint("grant pgdiode's user at the source select on what it mirrors, usage on its schemas")
    } else if message.contains("no matching tables were found") {
        Error::refused(what)
            .hint("a listed table does not exist at the source: correct the list or create it")
    } else {
        Error::unexpected(what)
    }
}

/// The variable that names the `pg_dump` to use.
const PG_DUMP_VARIABLE: &str = "PGDIODE_PG_DUMP";

/// Finds a `pg_dump` whose major version is at least the server's: it refuses newer servers. The one of the
/// configuration, else of `PGDIODE_PG_DUMP`, is taken or refused; else `PATH` and the distributions' places are
/// searched, newest first.
pub async fn find_pg_dump(explicit: Option<&Path>, server_major: u32) -> Result<PathBuf> {
    let variable = std::env::var_os(PG_DUMP_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let candidates = match explicit.map(Path::to_owned).or(variable) {
        Some(named) => vec![named],
        None => candidates(&std::env::var_os("PATH").unwrap_or_default(), Path::new("/usr")),
    };
    find_among(&candidates, server_major).await
}

pub(super) async fn find_among(candidates: &[PathBuf], server_major: u32) -> Result<PathBuf> {
    let mut found = Vec::new();
    for candidate in candidates {
        match version_of(candidate).await {
            Ok(version) if leading_number(&version).is_some_and(|major| major >= server_major) => {
                return Ok(candidate.clone());
            }
            Ok(version) => found.push(format!("{} is version {version}", candidate.display())),
            Err(error) => found.push(error.chain()),
        }
    }
    let found = if found.is_empty() { "none was found".to_owned() } else { found.join("; ") };
    Err(Error::config(format!("no pg_dump for PostgreSQL {server_major} or newer: {found}")).hint(format!(
        "install the PostgreSQL {server_major} client programs, or name a pg_dump in {PG_DUMP_VARIABLE}"
    )))
}

/// The version as `pg_dump --version` says it: `17.2`, `18beta1`.
async fn version_of(pg_dump: &Path) -> Result<String> {
    let failed = || Error::config(format!("cannot run {} --version", pg_dump.display()));
    let output = Command::new(pg_dump)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed().because(error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().find(|word| leading_number(word).is_some());
    version.filter(|_| output.status.success()).map(str::to_owned).ok_or_else(failed)
}

/// The number that a version starts with.
pub(super) fn leading_number(version: &str) -> Option<u32> {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().ok()
}

/// The programs named `pg_dump` on `PATH`, then where Debian and the PGDG RPMs put them.
pub(super) fn candidates(path: &std::ffi::OsStr, usr: &Path) -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::split_paths(path)
        .map(|directory| directory.join("pg_dump"))
        .filter(|file| is_program(file))
        .collect();
    candidates.extend(installed(&usr.join("lib/postgresql"), ""));
    candidates.extend(installed(usr, "pgsql-"));
    candidates
}

/// Debian's wrapper chooses a version by the environment, so that it may run another one than it answered with.
fn is_program(file: &Path) -> bool {
    file.is_file() && !file.canonicalize().is_ok_and(|real| real.ends_with("pg_wrapper"))
}

/// `directory/<prefix><version>/bin/pg_dump`, newest first.
fn installed(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let major = leading_number(name.to_str()?.strip_prefix(prefix)?)?;
            Some((major, entry.path().join("bin/pg_dump"))).filter(|(_, file)| file.is_file())
        })
        .collect();
    versions.sort_by(|one, other| other.cmp(one));
    versions.into_iter().map(|(_, file)| file).collect()
}
