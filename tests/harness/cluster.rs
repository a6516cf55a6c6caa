//! A throw-away PostgreSQL: its own directory, its own loopback port, gone when dropped.
//!
//! `initdb` runs once per version and test process; each cluster is a copy of that, with a system identifier of
//! its own, because what is tested here tells servers apart by it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;

use super::version::{Tools, Version};
use super::{ground, wait_for};

const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "100"),
    ("max_prepared_transactions", "20"),
    // A killed server loses nothing to fsync=off, only a killed machine would.
    ("fsync", "off"),
    ("shared_buffers", "16MB"),
    ("max_wal_size", "256MB"),
    ("listen_addresses", "127.0.0.1"),
    // In the data directory, so that a killed server leaves nothing in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_replication_commands", "on"),
    ("log_line_prefix", "%m [%p] %q%u@%d %a "),
    ("lc_messages", "C"),
    ("timezone", "UTC"),
];

const PORT_TRIES: usize = 5;
const LOG_TAIL_LINES: usize = 60;

pub struct Cluster {
    version: Version,
    directory: PathBuf,
    port: u16,
    postmaster: Mutex<Option<Child>>,
}

/// A psql in the background.
pub struct PsqlRun {
    child: Child,
}

impl Cluster {
    /// A running cluster. `settings` go over the defaults, in `postgresql.conf`'s words.
    pub fn start(version: Version, settings: &[(&str, &str)]) -> Cluster {
        let directory = ground::fresh_directory("c");
        template::copy(version, &directory.join("data"));
        let mut cluster = Cluster { version, directory, port: 0, postmaster: Mutex::new(None) };
        cluster.configure(DEFAULTS);
        cluster.configure(&[("unix_socket_directories", &cluster.directory.display().to_string())]);
        cluster.configure(settings);
        for attempt in 1..=PORT_TRIES {
            cluster.port = ground::free_port();
            cluster.configure(&[("port", &cluster.port.to_string())]);
            match cluster.try_start() {
                Ok(()) => return cluster,
                Err(log) if log.contains("could not bind") && attempt < PORT_TRIES => {}
                Err(log) => panic!("{version} does not start:\n{log}"),
            }
        }
        unreachable!("the last attempt returns or panics")
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tools(&self) -> Tools {
        self.version.tools()
    }

    /// What the cluster keeps: `data/`, its Unix socket, `log`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A libpq URI over TCP, as the superuser `postgres`.
    pub fn conninfo(&self, database: &str) -> String {
        self.conninfo_as("postgres", database)
    }

    pub fn conninfo_as(&self, user: &str, database: &str) -> String {
        conninfo(user, database, self.port)
    }

    /// A libpq URI over the Unix socket.
    pub fn socket_conninfo(&self, database: &str) -> String {
        let host = percent_encoded(&self.directory.display().to_string());
        format!("postgresql://postgres@{host}:{}/{}", self.port, percent_encoded(database))
    }

    /// Appends to `postgresql.conf`; the last word on a setting wins. Takes effect at `restart` or `reload`.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let path = self.data_directory().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(&path).expect("postgresql.conf is there");
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''"))
                .expect("postgresql.conf can be written");
        }
    }

    /// Makes the server read its files again, and waits until new sessions go by them.
    pub fn reload(&self) {
        let before = self.psql("postgres", "select pg_conf_load_time()");
        self.psql("postgres", "select pg_reload_conf()");
        self.wait_until("postgres", &format!("select pg_conf_load_time() <> '{before}'"), "the reload");
    }

    /// A file in the data directory that the server may read and nobody else: a key, a certificate.
    pub fn place(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.data_directory().join(name);
        fs::write(&path, contents).expect("the data directory can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        ground::give_to_service_user(&path);
        path
    }

    /// A role that must give its password (SCRAM) on TCP connections, replication included.
    pub fn add_scram_user(&self, user: &str, password: &str, attributes: &str) {
        let quoted = user.replace('"', "\"\"");
        let secret = password.replace('\'', "''");
        self.psql("postgres", &format!(r#"create role "{quoted}" login {attributes} password '{secret}';"#));
        let lines = ["all", "replication"]
            .map(|database| format!("host {database} \"{user}\" 127.0.0.1/32 scram-sha-256\n"))
            .concat();
        self.put_first_in_hba(&lines);
    }

    /// Puts lines before all others of `pg_hba.conf`, where the first match decides, and reloads.
    pub fn put_first_in_hba(&self, lines: &str) {
        let path = self.data_directory().join("pg_hba.conf");
        let rest = fs::read_to_string(&path).expect("pg_hba.conf is there");
        fs::write(&path, format!("{lines}{rest}")).expect("pg_hba.conf can be written");
        let wrong = self.psql("postgres", "select error from pg_hba_file_rules where error is not null");
        assert!(wrong.is_empty(), "the server refuses pg_hba.conf: {wrong}\n{lines}");
        self.reload();
    }

    /// Runs the statements of `sql` one by one; their output, unaligned and without headings. Panics at an error.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        match self.try_psql(database, sql) {
            Ok(output) => output,
            Err(error) => {
                panic!("{} on {database}: {error}\nwhile running:\n{}", self.version, shortened(sql))
            }
        }
    }

    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        self.try_psql_at(&self.conninfo(database), sql)
    }

    /// The same through any way to a server: another user, a proxy.
    pub fn try_psql_at(&self, conninfo: &str, sql: &str) -> Result<String, String> {
        self.spawn_psql_at(conninfo, sql).wait()
    }

    pub fn spawn_psql(&self, database: &str, sql: &str) -> PsqlRun {
        self.spawn_psql_at(&self.conninfo(database), sql)
    }

    pub fn spawn_psql_at(&self, conninfo: &str, sql: &str) -> PsqlRun {
        let mut child = self
            .tools()
            .command("psql")
            .args(["-wXAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", conninfo])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("stdin is piped");
        let sql = sql.to_owned();
        // In a thread of its own: psql may fill its output before it has read all of its input, or end early.
        thread::spawn(move || drop(input.write_all(sql.as_bytes())));
        PsqlRun { child }
    }

    /// Runs `pgbench ARGS` against a database and gives its output.
    pub fn pgbench(&self, database: &str, args: &[&str]) -> String {
        let output = self.pgbench_command(database, args).output().expect("pgbench starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "pgbench {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    pub fn spawn_pgbench(&self, database: &str, args: &[&str]) -> PsqlRun {
        let child = self
            .pgbench_command(database, args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pgbench starts");
        PsqlRun { child }
    }

    fn pgbench_command(&self, database: &str, args: &[&str]) -> Command {
        let mut command = self.tools().command("pgbench");
        let port = self.port.to_string();
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(args).arg(database);
        command
    }

    /// Waits until `sql` answers `t`; a connection that fails counts as "not yet".
    pub fn wait_until(&self, database: &str, sql: &str, what: &str) {
        let mut last = String::new();
        let met = wait_for(|| {
            let answer = self.try_psql(database, sql);
            let is_met = answer.as_ref().is_ok_and(|answer| answer == "t");
            last = answer.unwrap_or_else(|error| error);
            is_met.then_some(())
        });
        assert!(
            met.is_some(),
            "{}: waited in vain for {what}\n  {sql}\n  last answer: {last}\n{}",
            self.version,
            self.log()
        );
    }

    /// Ends sessions, writes a checkpoint, stops.
    pub fn stop_fast(&self) {
        self.stop_by("INT");
    }

    /// Stops without a checkpoint; the next start recovers.
    pub fn stop_immediate(&self) {
        self.stop_by("QUIT");
    }

    fn stop_by(&self, signal: &str) {
        let Some(mut postmaster) = self.take_postmaster() else { return };
        ground::signal(signal, &[postmaster.id()]);
        let ended = wait_for(|| postmaster.try_wait().expect("the postmaster is our child"));
        assert!(ended.is_some(), "{} does not stop:\n{}", self.version, self.log());
    }

    /// What a power cut looks like to clients: the postmaster and all its processes are gone at once.
    pub fn kill9(&self) {
        let Some(mut postmaster) = self.take_postmaster() else { return };
        // Stopped first, so that it starts no process that the list misses.
        ground::signal("STOP", &[postmaster.id()]);
        let children = ground::children(postmaster.id());
        ground::signal("KILL", &[postmaster.id()]);
        ground::signal("KILL", &children);
        postmaster.wait().expect("the postmaster is our child");
        let gone = wait_for(|| (!children.iter().any(|pid| ground::is_running(*pid))).then_some(()));
        assert!(gone.is_some(), "the processes of a killed {} stay", self.version);
    }

    /// Starts a stopped or killed cluster on its old port, and waits until it takes connections.
    pub fn start_again(&self) {
        if let Err(log) = self.try_start() {
            panic!("{} does not start again:\n{log}", self.version);
        }
    }

    pub fn restart(&self) {
        self.stop_fast();
        self.start_again();
    }

    /// Lets no file of a server process that starts from now on grow beyond this; `None`: as large as it likes. With a
    /// limit that splits a page the server writes a part of one, which it takes for a full disk.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = fs::read_to_string(self.data_directory().join("postmaster.pid")).expect("the server runs");
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let limited = ground::service_command(Path::new("/usr/bin/prlimit"))
            .args(["--pid", pid.lines().next().unwrap_or_default(), &format!("--fsize={limit}:")])
            .status()
            .expect("prlimit runs");
        assert!(limited.success(), "prlimit --fsize={limit}");
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let text = fs::read(self.directory.join("log")).unwrap_or_default();
        tail(&String::from_utf8_lossy(&text), LOG_TAIL_LINES)
    }

    fn take_postmaster(&self) -> Option<Child> {
        self.postmaster.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    fn try_start(&self) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(self.directory.join("log"));
        let log: File = log.expect("the log can be opened");
        let mut postmaster = ground::service_command(&self.version.bin().join("postgres"))
            .arg("-D")
            .arg(self.data_directory())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{} cannot be run: {error}\n  hint: run scripts/install", self.version)
            });
        let pid = postmaster.id();
        let started = wait_for(|| {
            let ended = postmaster.try_wait().expect("the postmaster is our child").is_some();
            (ended || self.is_ready(pid)).then_some(!ended)
        });
        if started == Some(true) {
            *self.postmaster.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(postmaster);
            return Ok(());
        }
        drop(postmaster.kill());
        drop(postmaster.wait());
        Err(self.log())
    }

    /// The postmaster writes "ready" into the eighth line of its pid file; `pg_ctl -w` waits for the same.
    fn is_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data_directory().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    /// A killed server leaves a small System V segment; its number is the second of the pid file's seventh line.
    fn remove_shared_memory(&self) {
        let text = fs::read_to_string(self.data_directory().join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            drop(Command::new("ipcrm").args(["-m", id]).output());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} on port {} ---\n{}", self.version, self.port, self.log());
        }
        if let Some(mut postmaster) = self.take_postmaster() {
            ground::signal("QUIT", &[postmaster.id()]);
            let ended = wait_for(|| postmaster.try_wait().ok().flatten());
            if ended.is_none() {
                drop(postmaster.kill());
            }
        } else {
            self.remove_shared_memory();
        }
        drop(fs::remove_dir_all(&self.directory));
    }
}

impl PsqlRun {
    /// Waits for its end: its output, or what it wrote to stderr.
    pub fn wait(self) -> Result<String, String> {
        let output = self.child.wait_with_output().expect("the program is our child");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the program is our child").is_none()
    }

    /// Kills the client; its server process finds out by itself.
    pub fn kill(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A libpq URI for any port on loopback.
pub fn conninfo(user: &str, database: &str, port: u16) -> String {
    format!("postgresql://{}@127.0.0.1:{port}/{}", percent_encoded(user), percent_encoded(database))
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(["%".to_owned(), format!("{byte:02X}")]);
        }
        encoded
    })
}

pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn shortened(sql: &str) -> &str {
    const SHOWN: usize = 2_000;
    let mut end = sql.len().min(SHOWN);
    while !sql.is_char_boundary(end) {
        end -= 1;
    }
    &sql[..end]
}

mod template {
    //! The initdb that clusters are copies of.

    use super::{Path, PathBuf, Version, fs, ground};
    use std::sync::OnceLock;

    pub(super) fn copy(version: Version, data: &Path) {
        let output = ground::service_command(Path::new("/bin/cp"))
            .arg("-a")
            .arg(of(version))
            .arg(data)
            .output()
            .expect("/bin/cp runs");
        assert!(output.status.success(), "copying a cluster: {}", String::from_utf8_lossy(&output.stderr));
        set_system_identifier(data, fastrand::u64(1..=u64::MAX >> 1));
    }

    fn of(version: Version) -> &'static Path {
        static TEMPLATES: [OnceLock<PathBuf>; Version::ALL.len()] =
            [const { OnceLock::new() }; Version::ALL.len()];
        let place = Version::ALL.iter().position(|each| *each == version).expect("ALL holds every version");
        TEMPLATES[place].get_or_init(|| initdb(version))
    }

    fn initdb(version: Version) -> PathBuf {
        let data = ground::fresh_directory("t").join("data");
        let output = ground::service_command(&version.bin().join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap_or_else(|error| {
                panic!("initdb of {version} cannot be run: {error}\n  hint: run scripts/install")
            });
        assert!(
            output.status.success(),
            "initdb of {version}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        data
    }

    /// Two places hold the identifier: the control file's first eight bytes, under a CRC-32C that ends the
    /// structure, and the long header of the first WAL page, at offset 24.
    fn set_system_identifier(data: &Path, identifier: u64) {
        let path = data.join("global/pg_control");
        let mut control = fs::read(&path).expect("the copy has a control file");
        let end = crc_offset(&control).expect("the control file carries its CRC-32C");
        control[..8].copy_from_slice(&identifier.to_ne_bytes());
        let crc = crc32c(&control[..end]).to_ne_bytes();
        control[end..end + 4].copy_from_slice(&crc);
        fs::write(&path, control).expect("the control file can be written");
        for entry in fs::read_dir(data.join("pg_wal")).expect("the copy has WAL").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let mut segment = fs::read(entry.path()).expect("a segment can be read");
                segment[24..32].copy_from_slice(&identifier.to_ne_bytes());
                fs::write(entry.path(), segment).expect("a segment can be written");
            }
        }
    }

    /// The structure's length differs between versions; the CRC tells where it ends.
    fn crc_offset(control: &[u8]) -> Option<usize> {
        (64..512).step_by(4).find(|end| control[*end..*end + 4] == crc32c(&control[..*end]).to_ne_bytes())
    }

    fn crc32c(bytes: &[u8]) -> u32 {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
        })
    }
}
