//! The connection parameters that libpq knows: their names, their variables, the words they take, and whether we
//! support them. A parameter of libpq that is not supported is refused by name, with the reason.

/// One connection parameter of libpq (up to version 18).
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) variable: Option<&'static str>,
    /// Why it is refused, and what to do instead.
    pub(super) unsupported: Option<&'static str>,
}

const fn known(name: &'static str, variable: &'static str) -> Parameter {
    Parameter { name, variable: Some(variable), unsupported: None }
}

const fn without_variable(name: &'static str) -> Parameter {
    Parameter { name, variable: None, unsupported: None }
}

const fn refused(name: &'static str, variable: Option<&'static str>, reason: &'static str) -> Parameter {
    Parameter { name, variable, unsupported: Some(reason) }
}

const GSSAPI: &str = "GSSAPI is not supported: use a password or a client certificate";
const OAUTH: &str = "OAuth is not supported: use a password or a client certificate";
const SCRAM_KEYS: &str = "give the password itself";

/// `PGCLIENTENCODING` and `PGSERVICEFILE` are missing on purpose: the first has no say here, the second is read with
/// the service file.
pub(super) const ALL: &[Parameter] = &[
    known("service", "PGSERVICE"),
    without_variable("servicefile"),
    known("user", "PGUSER"),
    known("password", "PGPASSWORD"),
    known("passfile", "PGPASSFILE"),
    known("channel_binding", "PGCHANNELBINDING"),
    known("connect_timeout", "PGCONNECT_TIMEOUT"),
    known("dbname", "PGDATABASE"),
    known("host", "PGHOST"),
    known("hostaddr", "PGHOSTADDR"),
    known("port", "PGPORT"),
    without_variable("client_encoding"),
    known("options", "PGOPTIONS"),
    known("application_name", "PGAPPNAME"),
    without_variable("fallback_application_name"),
    without_variable("keepalives"),
    without_variable("keepalives_idle"),
    without_variable("keepalives_interval"),
    without_variable("keepalives_count"),
    without_variable("tcp_user_timeout"),
    known("sslmode", "PGSSLMODE"),
    known("sslnegotiation", "PGSSLNEGOTIATION"),
    // TLS compression is never used, by servers neither.
    known("sslcompression", "PGSSLCOMPRESSION"),
    known("sslcert", "PGSSLCERT"),
    known("sslkey", "PGSSLKEY"),
    known("sslcertmode", "PGSSLCERTMODE"),
    without_variable("sslpassword"),
    known("sslrootcert", "PGSSLROOTCERT"),
    known("sslcrl", "PGSSLCRL"),
    known("sslsni", "PGSSLSNI"),
    known("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    known("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    known("min_protocol_version", "PGMINPROTOCOLVERSION"),
    known("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    known("gssencmode", "PGGSSENCMODE"),
    known("target_session_attrs", "PGTARGETSESSIONATTRS"),
    known("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    refused("sslcrldir", Some("PGSSLCRLDIR"), "give one file of revocation lists as sslcrl"),
    refused("sslkeylogfile", None, "session keys are not written to files"),
    refused(
        "requirepeer",
        Some("PGREQUIREPEER"),
        "use a socket directory that only the server's user can write",
    ),
    refused("require_auth", Some("PGREQUIREAUTH"), "use channel_binding=require, or a client certificate"),
    refused("requiressl", Some("PGREQUIRESSL"), "use sslmode=require"),
    refused("replication", None, "replication connections are opened as needed: leave it out"),
    refused("krbsrvname", Some("PGKRBSRVNAME"), GSSAPI),
    refused("gsslib", Some("PGGSSLIB"), GSSAPI),
    refused("gssdelegation", Some("PGGSSDELEGATION"), GSSAPI),
    refused("scram_client_key", None, SCRAM_KEYS),
    refused("scram_server_key", None, SCRAM_KEYS),
    refused("oauth_issuer", None, OAUTH),
    refused("oauth_client_id", None, OAUTH),
    refused("oauth_client_secret", None, OAUTH),
    refused("oauth_scope", None, OAUTH),
];

pub(super) fn find(name: &str) -> Option<&'static Parameter> {
    ALL.iter().find(|parameter| parameter.name == name)
}

pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter_map(|parameter| parameter.variable)
}

/// The known name at most two edits away from `name`, or equal to it but for case and separators.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    // Longer than any parameter: a distance would only cost time.
    if name.len() > 40 {
        return None;
    }
    let plain = name.to_lowercase().replace(['-', '_'], "");
    ALL.iter()
        .map(|parameter| (distance(&plain, &parameter.name.replace('_', "")), parameter.name))
        .min()
        .filter(|(distance, _)| *distance <= 2 && *distance < plain.chars().count().div_ceil(2))
        .map(|(_, name)| name)
}

/// Levenshtein's.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, character) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *other);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

/// A parameter whose value is one of a few words.
pub(super) trait Keyword: Copy + 'static {
    const WORDS: &'static [&'static str];
    fn from_word(word: &str) -> Option<Self>;
}

macro_rules! keyword {
    ($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$note])* $variant,)+ }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        impl Keyword for $name {
            const WORDS: &'static [&'static str] = &[$($word,)+];

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

keyword! {
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

impl SslMode {
    pub fn demands_tls(self) -> bool {
        matches!(self, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull)
    }

    pub fn demands_roots(self) -> bool {
        matches!(self, SslMode::VerifyCa | SslMode::VerifyFull)
    }
}

keyword! {
    SslNegotiation {
        Postgres = "postgres",
        /// TLS from the first byte (servers from version 17).
        Direct = "direct",
    }
}

keyword! {
    /// Whether the client's certificate is sent to a server that asks for one.
    SslCertMode {
        Disable = "disable",
        Allow = "allow",
    }
}

keyword! {
    /// Versions below 1.2 are accepted as words, so that old descriptions stay valid, and never spoken.
    TlsVersion {
        Tls10 = "TLSv1",
        Tls11 = "TLSv1.1",
        Tls12 = "TLSv1.2",
        Tls13 = "TLSv1.3",
    }
}

keyword! {
    ChannelBindingMode {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

keyword! {
    /// Which servers of a list are wanted.
    TargetSessionAttrs {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
    }
}

keyword! {
    LoadBalance {
        Disable = "disable",
        Random = "random",
    }
}
