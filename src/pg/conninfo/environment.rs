//! What a connection description may look at outside its own text: environment variables, the home directory, the
//! service file and the password file. Tests give an [`Environment`] of their own, so none changes the process's.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Host;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Where servers put their socket: Debian's choice, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Debian's; others set `PGSYSCONFDIR`.
const SYSTEM_CONFIGURATION_DIRECTORY: &str = "/etc/postgresql-common";

/// Without `Debug`: `PGPASSWORD` is among the variables.
#[derive(Clone, Default)]
pub struct Environment {
    variables: HashMap<String, String>,
    home: Option<PathBuf>,
    user: Option<String>,
}

impl Environment {
    /// The variables, home directory and user of this process.
    pub fn of_process() -> Self {
        // A variable that is not UTF-8 cannot name anything that we could use.
        let variables: HashMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let account = account_of_process();
        let set = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
        let home = set("HOME").map(PathBuf::from).or_else(|| account.as_ref().map(|it| it.home.clone()));
        let user = account.map(|it| it.user).or_else(|| set("USER")).or_else(|| set("LOGNAME"));
        Environment { variables, home, user }
    }

    /// An environment of nothing but what is given.
    pub fn new<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
        home: Option<PathBuf>,
        user: Option<String>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment { variables, home, user }
    }

    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The file under the home directory, if it is there.
    pub(super) fn existing(&self, relative: &str) -> Option<PathBuf> {
        let path = self.home.as_ref()?.join(relative);
        path.exists().then_some(path)
    }

    #[expect(clippy::unused_self, reason = "part of what is outside the text")]
    pub(super) fn default_host(&self) -> String {
        let existing = SOCKET_DIRECTORIES.iter().find(|directory| Path::new(directory).is_dir());
        (*existing.unwrap_or(&"localhost")).to_owned()
    }

    /// The pairs of `[service]` in the first file that has it: the user's, then the system's.
    pub(super) fn service(&self, service: &str, file: Option<PathBuf>) -> Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        files.extend(
            file.or_else(|| self.variable("PGSERVICEFILE").map(PathBuf::from))
                .or_else(|| self.home.as_ref().map(|home| home.join(".pg_service.conf"))),
        );
        let system =
            self.variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_CONFIGURATION_DIRECTORY.to_owned());
        files.push(Path::new(&system).join("pg_service.conf"));
        for path in &files {
            let text = match fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(Error::config(format!("cannot read the service file {}", path.display()))
                        .because(error)
                        .hint("check the file's permissions and that it is UTF-8"));
                }
            };
            if let Some(pairs) = section(&text, service).map_err(|error| error.context(path.display()))? {
                return Ok(pairs);
            }
        }
        let looked: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        Err(Error::config(format!("service {service:?} is not defined"))
            .hint(format!("looked for [{service}] in {}", looked.join(" and "))))
    }
}

struct Account {
    user: String,
    home: PathBuf,
}

/// The account that owns this process, from `/etc/passwd`.
fn account_of_process() -> Option<Account> {
    let uid = fs::metadata("/proc/self").ok()?.uid().to_string();
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2) == Some(&uid.as_str())).then(|| Account {
            user: fields[0].to_owned(),
            home: fields.get(5).copied().unwrap_or("/").into(),
        })
    })
}

fn section(text: &str, service: &str) -> Result<Option<Vec<(String, String)>>> {
    let mut found: Option<Vec<(String, String)>> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = header.strip_suffix(']').filter(|name| *name == service).map(|_| Vec::new());
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let problem = |what: &str| Error::config(format!("line {} {what}", index + 1));
        let (name, value) = line.split_once('=').ok_or_else(|| {
            problem("is not name=value").hint("a service file has one name=value pair a line")
        })?;
        if matches!(name, "service" | "servicefile") {
            return Err(problem("refers to another service").hint("a service cannot build on another one"));
        }
        pairs.push((name.to_owned(), value.to_owned()));
    }
    Ok(found)
}

/// `host:port:database:user:password` a line; `*` matches anything, `\` escapes `:` and `\`.
pub(super) struct PasswordFile(String);

impl PasswordFile {
    /// `None`, with a warning like libpq's, when others could read it; silently when it is not there.
    pub(super) fn open(path: &Path) -> Option<PasswordFile> {
        let metadata = fs::metadata(path).ok()?;
        if !metadata.is_file() {
            tracing::warn!("password file {} is ignored: it is not a plain file", path.display());
            return None;
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(
                "password file {} is ignored: group or others have access to it; permissions should be 0600",
                path.display()
            );
            return None;
        }
        match fs::read(path) {
            Ok(bytes) => Some(PasswordFile(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) => {
                tracing::warn!("password file {} is ignored: {error}", path.display());
                None
            }
        }
    }

    pub(super) fn find(&self, host: &Host, dbname: &str, user: &str) -> Option<Secret> {
        let address = host.address.map(|address| address.to_string());
        let name = match host.name.as_str() {
            "" => address.as_deref().unwrap_or("localhost"),
            directory if SOCKET_DIRECTORIES.contains(&directory) => "localhost",
            name => name,
        };
        let port = host.port.to_string();
        self.0.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
            let fields = fields(line);
            let [of_host, of_port, of_database, of_user, password, ..] = fields.as_slice() else {
                return None;
            };
            let wanted = [(of_host, name), (of_port, port.as_str()), (of_database, dbname), (of_user, user)];
            let matches = wanted.iter().all(|(field, text)| field.raw == "*" || field.text == **text);
            (matches && !password.text.is_empty()).then(|| Secret::new(password.text.clone()))
        })
    }
}

struct Field<'a> {
    /// As written: only a bare `*` matches everything.
    raw: &'a str,
    text: String,
}

fn fields(line: &str) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let (mut start, mut text) = (0, String::new());
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => {
                fields.push(Field { raw: &line[start..at], text: std::mem::take(&mut text) });
                start = at + 1;
            }
            '\\' => text.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            plain => text.push(plain),
        }
    }
    fields.push(Field { raw: &line[start..], text });
    fields
}
