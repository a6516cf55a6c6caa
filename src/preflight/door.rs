//! What `[server]` names: the certificate and its key, the files of users and of tokens. The door reads them when it opens;
//! here all that is wrong with them is found before.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;

use crate::config::ServerOptions;
use crate::credentials::{Kept, Listed, Tokens, Users};
use crate::schedule::utc;
use crate::status::CheckReport;
use crate::wire::certificate;

/// A certificate that expires sooner is told: whoever renews it by hand has this long.
const RENEWAL: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Everything that can be found wrong; `pipelines` are those that are configured.
pub fn check_door(options: &ServerOptions, pipelines: &[&str], now: Timestamp) -> CheckReport {
    let mut report = CheckReport::default();
    certificate(options, now, &mut report);
    let users = options.users_file.as_deref().and_then(|path| listed::<Users>(path, &mut report));
    if let Some(users) = &users {
        roles(options, users, &mut report);
    }
    if let Some(tokens) = options.tokens_file.as_deref().and_then(|path| listed::<Tokens>(path, &mut report))
    {
        grants(&tokens, pipelines, now, &mut report);
    }
    report
}

fn certificate(options: &ServerOptions, now: Timestamp, report: &mut CheckReport) {
    if let Err(error) = options.tls() {
        return report.fail(&error);
    }
    let Some(path) = &options.tls_certificate else { return };
    let shown = format!("server.tls_certificate {}", path.display());
    let renew = "renew it, put certificate and key in their places, and have the daemon read them: SIGHUP";
    match options.certificate_validity() {
        None => report.warn(format!("{shown} does not say how long it counts"), renew),
        Some(validity) if validity.until <= now => {
            report.refuse(format!("{shown} has expired at {}", utc(validity.until)), renew);
        }
        Some(validity) if validity.from > now => report.refuse(
            format!("{shown} does not count before {}", utc(validity.from)),
            "set this host's clock, or wait until then",
        ),
        Some(validity) if now.duration_until(validity.until) < RENEWAL => {
            report.warn(format!("{shown} expires at {}", utc(validity.until)), renew);
        }
        Some(validity) => report.ok(format!("{shown} counts until {}", utc(validity.until))),
    }
    if let Some(host) = foreign_name(options, path) {
        report.warn(
            format!("{shown} does not name {host}, the host of server.public_url"),
            "browsers will refuse it: have one made for that name",
        );
    }
}

/// The host that people type, if the certificate is not for it.
fn foreign_name(options: &ServerOptions, path: &Path) -> Option<String> {
    let authority = options.public().ok()??.authority;
    let end = authority.rfind(':').filter(|at| !authority[*at..].contains(']')).unwrap_or(authority.len());
    let host = authority[..end].trim_matches(['[', ']']).to_owned();
    let chain = certificate::certificates("server.tls_certificate", path).ok()?;
    let own = ParsedCertificate::try_from(chain.first()?).ok()?;
    let name = ServerName::try_from(host.as_str()).ok()?;
    rustls::client::verify_server_name(&own, &name).is_err().then_some(host)
}

/// The file's lines that are right; each that is not is a finding.
fn listed<T: Listed>(path: &Path, report: &mut CheckReport) -> Option<T> {
    let (listed, wrong) = match Kept::<T>::look(path) {
        Ok(looked) => looked,
        Err(error) => {
            report.fail(&error);
            return None;
        }
    };
    for error in &wrong {
        report.fail(error);
    }
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        let shown = path.display();
        report.warn(
            format!("{} {shown} can be read by everybody on this host", T::WHAT),
            format!("it has hashes alone, but who reads them can guess at leisure: chmod 600 {shown}"),
        );
    }
    if wrong.is_empty() {
        report.ok(format!("{} {} is read", T::WHAT, path.display()));
    }
    Some(listed)
}

fn roles(options: &ServerOptions, users: &Users, report: &mut CheckReport) {
    if options.believes_proxies() {
        return;
    }
    for name in options.strangers(users) {
        report.warn(
            format!("\"{name}\" has a role in [server], and is not in users_file"),
            "add the user: pgdiode password NAME; or take the name out of operators and auditors",
        );
    }
}

fn grants(tokens: &Tokens, pipelines: &[&str], now: Timestamp, report: &mut CheckReport) {
    let mut grants: Vec<_> = tokens.grants().collect();
    grants.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    for grant in grants {
        let name = &grant.name;
        if let Some(expired) = grant.expires.filter(|expires| *expires <= now) {
            report.warn(
                format!("token \"{name}\" has expired at {}", utc(expired)),
                "make another: pgdiode token NAME; and remove its line",
            );
        }
        let scope = grant.pipelines.iter().flatten();
        for unknown in scope.filter(|pipeline| !pipelines.contains(&pipeline.as_str())) {
            report.warn(
                format!("token \"{name}\" is for pipeline \"{unknown}\", which is not configured"),
                format!("configured are: {}", pipelines.join(", ")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::credentials::Password;
    use crate::secret::Secret;
    use crate::status::Level;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            Files(tempfile::tempdir().unwrap())
        }

        fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        /// For `localhost`, from March to December 2026.
        fn certificate(&self) -> ServerOptions {
            let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            parameters.not_before = rcgen::date_time_ymd(2026, 3, 1);
            parameters.not_after = rcgen::date_time_ymd(2026, 12, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap().pem();
            ServerOptions {
                tls_certificate: Some(self.write("crt", &certificate, 0o644)),
                tls_key: Some(self.write("key", &key.serialize_pem(), 0o600)),
                ..ServerOptions::default()
            }
        }
    }

    fn found(options: &ServerOptions, now: &str) -> Vec<(Level, String)> {
        let report = check_door(options, &["main", "orders"], now.parse().unwrap());
        assert!(report.findings.iter().all(|one| one.level == Level::Ok || one.hint.is_some()), "{report:?}");
        assert_eq!(report.refusal.is_some(), report.count(Level::Refused) > 0);
        report.findings.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    fn finds(options: &ServerOptions, now: &str, level: Level, what: &str) {
        let found = found(options, now);
        assert!(found.iter().any(|(is, said)| *is == level && said.contains(what)), "{what}: {found:?}");
    }

    #[test]
    fn a_door_without_files_has_nothing_to_find() {
        assert_eq!(found(&ServerOptions::default(), "2026-06-01T00:00:00Z"), []);
    }

    #[test]
    fn a_certificate_is_looked_at_as_of_now() {
        let files = Files::new();
        let options = files.certificate();
        finds(&options, "2026-06-01T00:00:00Z", Level::Ok, "counts until 2026-12-01T00:00:00Z");
        finds(&options, "2026-11-16T23:59:59Z", Level::Ok, "counts until");
        finds(&options, "2026-11-17T00:00:01Z", Level::Warning, "expires at 2026-12-01T00:00:00Z");
        finds(&options, "2026-12-01T00:00:00Z", Level::Refused, "has expired at 2026-12-01T00:00:00Z");
        finds(&options, "2026-02-28T00:00:00Z", Level::Refused, "does not count before 2026-03-01T00:00:00Z");
        for (url, is_foreign) in [
            ("https://localhost:8443", false),
            ("https://replica.example.com", true),
            ("https://[::1]:8443", true),
        ] {
            let options = ServerOptions { public_url: Some(url.into()), ..options.clone() };
            let found = found(&options, "2026-06-01T00:00:00Z");
            let is_found = found.iter().any(|(level, what)| {
                *level == Level::Warning && what.contains("the host of server.public_url")
            });
            assert_eq!(is_found, is_foreign, "{url}: {found:?}");
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_shown_is_refused() {
        let files = Files::new();
        let good = files.certificate();
        let now = "2026-06-01T00:00:00Z";
        let missing = ServerOptions { tls_certificate: Some(files.0.path().join("none")), ..good.clone() };
        finds(&missing, now, Level::Refused, "cannot read server.tls_certificate");
        let other = Files::new().certificate();
        assert!(other.tls_key.is_some());
        let stranger = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let misfit = ServerOptions { tls_key: Some(files.write("other", &stranger, 0o600)), ..good.clone() };
        finds(&misfit, now, Level::Refused, "does not fit the certificate");
        let open = ServerOptions { tls_key: Some(files.write("open", &stranger, 0o644)), ..good.clone() };
        finds(&open, now, Level::Refused, "can be read by others");
        let no_key = ServerOptions { tls_key: Some(files.write("text", "nothing", 0o600)), ..good };
        finds(&no_key, now, Level::Refused, "server.tls_key");
    }

    #[test]
    fn every_line_that_lets_nobody_in_is_found() {
        let files = Files::new();
        let now = "2026-06-01T00:00:00Z";
        let hash = "0".repeat(64);
        let text = format!(
            "ci:{hash}:chief:never\nold:{}:viewer:2026-01-01T00:00:00Z\nfar:{}:viewer:never:main,ordres\nbroken\n",
            "1".repeat(64),
            "2".repeat(64)
        );
        let tokens = files.write("tokens", &text, 0o644);
        let options = ServerOptions { tokens_file: Some(tokens), ..ServerOptions::default() };
        finds(&options, now, Level::Refused, "the role is none of viewer, operator, auditor");
        finds(&options, now, Level::Refused, "tokens:4: the line has too few parts");
        finds(&options, now, Level::Warning, "token \"old\" has expired at 2026-01-01T00:00:00Z");
        finds(&options, now, Level::Warning, "for pipeline \"ordres\", which is not configured");
        finds(&options, now, Level::Warning, "can be read by everybody");
        let password = Password::new(&Secret::new("korrekt pferd")).unwrap();
        let alice = format!("alice:{}\n", password.as_str());
        let users = files.write("users", &format!("{alice}bob:secret\n"), 0o600);
        let options = ServerOptions {
            users_file: Some(users),
            operators: vec!["alice".into(), "carol".into()],
            ..ServerOptions::default()
        };
        finds(&options, now, Level::Refused, "users:2: user \"bob\"");
        finds(&options, now, Level::Warning, "\"carol\" has a role in [server]");
        assert_eq!(found(&options, now).len(), 2, "alice is fine");
        let missing =
            ServerOptions { users_file: Some(files.0.path().join("none")), ..ServerOptions::default() };
        finds(&missing, now, Level::Refused, "cannot read users_file");
        let good = files.write("good", &alice, 0o600);
        let good = ServerOptions { users_file: Some(good), ..ServerOptions::default() };
        finds(&good, now, Level::Ok, "is read");
    }
}
