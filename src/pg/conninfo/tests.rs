use std::fs::{self, Permissions};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::error::Kind;

fn nothing() -> Environment {
    Environment::new([("", ""); 0], None, Some("os_user".to_owned()))
}

fn with(variables: &[(&str, &str)]) -> Environment {
    Environment::new(variables.iter().copied(), None, Some("os_user".to_owned()))
}

fn parse(text: &str) -> ConnInfo {
    ConnInfo::parse(text, &nothing()).unwrap()
}

fn refused(text: &str) -> Error {
    ConnInfo::parse(text, &nothing()).expect_err(text)
}

fn password(conninfo: &ConnInfo) -> Option<&str> {
    conninfo.password_for(&conninfo.hosts[0]).map(Secret::reveal)
}

#[test]
fn descriptions_of_hosts() {
    for (text, shown) in [
        ("postgresql://h", "h:5432/os_user as os_user"),
        ("postgres://h/d", "h:5432/d as os_user"),
        ("postgresql://u@h:6000/d", "h:6000/d as u"),
        ("postgresql://u:p@h1:1,h2:2/d", "h1:1,h2:2/d as u"),
        ("postgresql://h1,h2:7/d", "h1:5432,h2:7/d as os_user"),
        ("postgresql://[2001:db8::1]:7/d", "[2001:db8::1]:7/d as os_user"),
        ("postgresql://[::1],h/d", "[::1]:5432,h:5432/d as os_user"),
        ("postgresql://%2Fvar%2Frun/d", "/var/run:5432/d as os_user"),
        ("postgresql://u@/d?host=/tmp&port=7", "/tmp:7/d as u"),
        ("postgresql:///d?host=h1,h2&port=1,2", "h1:1,h2:2/d as os_user"),
        ("postgresql://h/d?user=a@b", "h:5432/d as a@b"),
        ("postgresql://h?user=a%20b", "h:5432/a b as a b"),
        ("postgresql://h/d?hostaddr=192.0.2.1", "h:5432/d as os_user"),
        ("hostaddr=192.0.2.1 dbname=d", "192.0.2.1:5432/d as os_user"),
        ("hostaddr=2001:db8::1 dbname=d", "[2001:db8::1]:5432/d as os_user"),
        ("host=h dbname=d user=u", "h:5432/d as u"),
        ("  host = h   dbname = 'a b'  ", "h:5432/a b as os_user"),
        (r"host=h dbname='it\'s' user=a\ b", "h:5432/it's as a b"),
        ("host=h1,h2 port=7", "h1:7,h2:7/os_user as os_user"),
        ("host=h dbname='' user=u", "h:5432/u as u"),
        ("host='h'dbname=d", "h:5432/d as os_user"),
        ("host=a host=b", "b:5432/os_user as os_user"),
    ] {
        assert_eq!(parse(text).display(), shown, "{text}");
    }
}

#[test]
fn a_uri_may_carry_everything() {
    let conninfo = parse(
        "postgresql://al%69ce:p%40ss%2Fw%25rd+@h/d?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=1\
         &application_name=a%3Db&target_session_attrs=prefer-standby&channel_binding=require&keepalives=0\
         &options=-c%20work_mem%3D1MB&load_balance_hosts=random&sslnegotiation=direct&sslsni=0",
    );
    assert_eq!(conninfo.user, "alice");
    assert_eq!(password(&conninfo), Some("p@ss/w%rd+"));
    assert_eq!(conninfo.sslmode, SslMode::VerifyFull);
    assert_eq!(conninfo.sslrootcert, Some(RootCertificates::File("/ca.pem".into())));
    assert_eq!(conninfo.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(conninfo.application_name.as_deref(), Some("a=b"));
    assert_eq!(conninfo.options.as_deref(), Some("-c work_mem=1MB"));
    assert_eq!(conninfo.target_session_attrs, TargetSessionAttrs::PreferStandby);
    assert_eq!(conninfo.channel_binding, ChannelBindingMode::Require);
    assert_eq!(conninfo.load_balance_hosts, LoadBalance::Random);
    assert_eq!(conninfo.sslnegotiation, SslNegotiation::Direct);
    assert!(!conninfo.keepalives.enabled);
    assert!(!conninfo.sslsni);
}

#[test]
fn defaults_are_those_of_libpq_but_for_the_timeout() {
    let conninfo = parse("");
    assert_eq!(conninfo.user, "os_user");
    assert_eq!(conninfo.dbname, "os_user");
    assert_eq!(conninfo.sslmode, SslMode::Prefer);
    assert_eq!(conninfo.channel_binding, ChannelBindingMode::Prefer);
    assert_eq!(conninfo.connect_timeout, Some(DEFAULT_CONNECT_TIMEOUT));
    assert_eq!(conninfo.hosts.len(), 1);
    assert_eq!(conninfo.hosts[0].port, DEFAULT_PORT);
    assert!(conninfo.keepalives.enabled);
    assert_eq!(parse("connect_timeout=0").connect_timeout, None);
    assert_eq!(parse("connect_timeout=-1").connect_timeout, None);
    assert_eq!(parse("postgresql://h/?ssl=true").sslmode, SslMode::Require);
}

#[test]
fn the_systems_authorities_imply_full_verification() {
    let conninfo = parse("host=h sslrootcert=system");
    assert_eq!(conninfo.sslmode, SslMode::VerifyFull);
    assert_eq!(conninfo.sslrootcert, Some(RootCertificates::System));
    assert!(refused("host=h sslrootcert=system sslmode=require").what().contains("sslmode=require"));
}

#[test]
fn what_is_wrong_is_said_with_a_way_out() {
    for (text, what, hint) in [
        ("host=h sslmod=require", "unknown connection parameter \"sslmod\"", "sslmode"),
        ("Host=h", "\"Host\"", "did you mean host?"),
        ("ssl-mode=require", "\"ssl-mode\"", "did you mean sslmode?"),
        ("frobnicate=1", "\"frobnicate\"", "names are those of libpq"),
        ("host=h krbsrvname=x", "krbsrvname is not supported", "GSSAPI"),
        ("host=h replication=database", "replication is not supported", "leave it out"),
        ("host=h gssencmode=require", "gssencmode=\"require\"", "sslmode"),
        ("host=h client_encoding=LATIN1", "client_encoding", "UTF8"),
        ("host=h sslmode=yes", "sslmode=\"yes\"", "verify-full"),
        ("host=h port=x", "invalid port number", "1 to 65535"),
        ("host=h port=0", "invalid port number", "1 to 65535"),
        ("host=h port=65536", "invalid port number", "1 to 65535"),
        ("host=h,i port=1,2,3", "2 hosts but 3 port numbers", "one port"),
        ("host=h hostaddr=192.0.2.1,192.0.2.2", "1 host names but 2 hostaddr", "as many"),
        ("hostaddr=example.com", "not an address", "into host"),
        ("host=h connect_timeout=soon", "not a number", "integer"),
        ("host", "without '='", "name=value"),
        ("host=h password=two words", "without '='", "quote"),
        ("host='h", "not closed", "quote"),
        ("postgresql://[::1/d", "no ']'", "[2001:db8::1]"),
        ("postgresql://[]/d", "IPv6", "[2001:db8::1]"),
        ("postgresql://[::1]x/d", "IPv6", "[2001:db8::1]"),
        ("postgresql://h/d?sslmode", "name=value pairs", "?name=value"),
        ("postgresql://h/d?options=a=b", "name=value pairs", "%3D"),
        ("postgresql://h/%zz", "percent-encoding", "%25"),
        ("postgresql://h/%2", "percent-encoding", "%25"),
        ("postgresql://h/%00", "percent-encoding", "%25"),
        ("postgresql://h/%ff", "percent-encoding", "%25"),
        ("host=h sslnegotiation=direct", "sslmode=prefer", "sslmode=require"),
    ] {
        let error = refused(text);
        assert_eq!(error.kind(), Kind::Config, "{text}");
        assert!(error.what().contains(what), "{text}: {error:?}");
        assert!(error.hint_text().unwrap().contains(hint), "{text}: {error:?}");
    }
}

#[test]
fn a_password_that_is_not_encoded_is_refused_and_not_repeated() {
    for text in [
        "postgresql://u:sesame@open@h/d",
        "postgresql://u:sesame/open@h/d",
        "postgresql://u:12/sesame@h/d",
        "postgresql://u:sesame%open@h/d",
        "host=h password=two sesame",
        "host=h password=two sesame=1",
        "host=h password='sesame",
        "postgresql://u:p@a?sesame=1@h/d",
        "postgresql://u:p/?sesame@h:5/d?sslmode=require",
        "postgresql://u:1/?sesame=1@h/d",
        "postgresql://u:1@sesame/open@h/d",
    ] {
        let error = format!("{:?}", refused(text));
        assert!(!error.contains("sesame") && !error.contains("open@"), "{text}: {error}");
    }
}

#[test]
fn debug_shows_no_password() {
    assert!(!format!("{:?}", parse("host=h password=sesame")).contains("sesame"));
}

#[test]
fn pairs_of_a_table_resolve_like_text() {
    let pairs = [("host", "h"), ("port", "7"), ("password", "it's = \\ a"), ("dbname", "d")];
    let conninfo = ConnInfo::from_parameters(pairs, &nothing()).unwrap();
    assert_eq!(conninfo.display(), "h:7/d as os_user");
    assert_eq!(password(&conninfo), Some("it's = \\ a"));
    assert!(ConnInfo::from_parameters([("prot", "7")], &nothing()).is_err());
}

#[test]
fn variables_fill_what_is_not_said() {
    let environment = with(&[
        ("PGHOST", "ph"),
        ("PGPORT", "7"),
        ("PGDATABASE", "pd"),
        ("PGUSER", "pu"),
        ("PGPASSWORD", "sesame"),
        ("PGSSLMODE", "disable"),
        ("PGAPPNAME", ""),
        ("PGCLIENTENCODING", "LATIN1"),
    ]);
    let conninfo = ConnInfo::parse("", &environment).unwrap();
    assert_eq!(conninfo.display(), "ph:7/pd as pu");
    assert_eq!(conninfo.sslmode, SslMode::Disable);
    assert_eq!(password(&conninfo), Some("sesame"));
    assert_eq!(conninfo.application_name, None);
    let conninfo = ConnInfo::parse("host=h user=u", &environment).unwrap();
    assert_eq!(conninfo.display(), "h:7/pd as u");
    let error = ConnInfo::parse("", &with(&[("PGREQUIREPEER", "postgres")])).unwrap_err();
    assert!(error.what().contains("PGREQUIREPEER"), "{error:?}");
}

fn home(files: &[(&str, &str, u32)]) -> (TempDir, Environment) {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    for (name, text, mode) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
    }
    // A directory without a service file, so that the machine's own has no say.
    let system = home.path().to_str().unwrap().to_owned();
    let environment = Environment::new(
        [("PGSYSCONFDIR".to_owned(), system)],
        Some(home.path().to_owned()),
        Some("os_user".to_owned()),
    );
    (home, environment)
}

#[test]
fn a_service_stands_between_text_and_variables() {
    let file = "# services\n[other]\nhost=no\n\n[live]\n host=sh\nport=7\ndbname=sd\n[last]\nport=8\n";
    let (_home, environment) = home(&[(".pg_service.conf", file, 0o644)]);
    let conninfo = ConnInfo::parse("service=live dbname=d", &environment).unwrap();
    assert_eq!(conninfo.display(), "sh:7/d as os_user");
    let error = ConnInfo::parse("service=missing", &environment).unwrap_err();
    assert!(error.what().contains("missing") && error.hint_text().unwrap().contains(".pg_service.conf"));
}

#[test]
fn a_services_mistakes_are_refused() {
    for (file, what) in [
        ("[live]\nservice=other\n", "line 2 refers to another service"),
        ("[live]\nhost\n", "line 2 is not name=value"),
        ("[live]\nhots=h\n", "unknown connection parameter \"hots\""),
    ] {
        let (_home, environment) = home(&[(".pg_service.conf", file, 0o644)]);
        let error = ConnInfo::parse("service=live", &environment).unwrap_err();
        assert!(error.what().contains(what), "{error:?}");
    }
}

#[test]
fn the_password_file_is_matched_line_by_line() {
    let file = "#h1:1:d:u:comment\nh1:1:d:u:first\nh1:*:d:u:any\\:port\\\\\nlocalhost:*:*:u:local\n\
                192.0.2.1:*:*:*:address\n*:9:*:*:*\n";
    let (_home, environment) = home(&[(".pgpass", file, 0o600)]);
    for (text, expected) in [
        ("host=h1 port=1 dbname=d user=u", Some("first")),
        ("host=h1 port=2 dbname=d user=u", Some("any:port\\")),
        ("host=h1 port=2 dbname=d user=other", None),
        ("host=/var/run/postgresql dbname=d user=u", Some("local")),
        ("host=/srv/sockets dbname=d user=u", None),
        ("hostaddr=192.0.2.1", Some("address")),
        ("host=x port=9", Some("*")),
        ("host=x port=9 password=said", Some("said")),
    ] {
        let conninfo = ConnInfo::parse(text, &environment).unwrap();
        assert_eq!(password(&conninfo), expected, "{text}");
    }
    let both = ConnInfo::parse("host=h1,x port=1,9 dbname=d user=u", &environment).unwrap();
    assert_eq!(both.password_for(&both.hosts[1]).map(Secret::reveal), Some("*"));
}

#[test]
fn a_password_file_that_others_can_read_is_ignored() {
    let (home, environment) = home(&[(".pgpass", "*:*:*:*:sesame", 0o640), ("good", "*:*:*:*:good", 0o600)]);
    assert_eq!(password(&ConnInfo::parse("host=h", &environment).unwrap()), None);
    let text = format!("host=h passfile={}", home.path().join("good").display());
    assert_eq!(password(&ConnInfo::parse(&text, &environment).unwrap()), Some("good"));
}

#[test]
fn certificates_in_the_home_directory_are_found() {
    let (home, environment) =
        home(&[(".postgresql/root.crt", "", 0o644), (".postgresql/postgresql.crt", "", 0o644)]);
    let conninfo = ConnInfo::parse("host=h", &environment).unwrap();
    let root = home.path().join(".postgresql/root.crt");
    assert_eq!(conninfo.sslrootcert, Some(RootCertificates::File(root)));
    assert_eq!(conninfo.sslcert, Some(home.path().join(".postgresql/postgresql.crt")));
    assert_eq!(conninfo.sslkey, None);
}

#[test]
fn the_variables_lead_back_to_the_same_description() {
    for text in [
        "host=h1,h2 port=1,2 dbname=d user=u password=p sslmode=verify-ca sslrootcert=/r sslcert=/c sslkey=/k",
        "hostaddr=192.0.2.1 connect_timeout=0 channel_binding=disable options='-c a=b' application_name=a",
        "host=h,i hostaddr=192.0.2.1,192.0.2.2 load_balance_hosts=random target_session_attrs=standby sslsni=0",
        "host=h sslmode=require sslnegotiation=direct sslcertmode=disable ssl_min_protocol_version=TLSv1.3",
    ] {
        let conninfo = parse(text);
        let environment = Environment::new(conninfo.to_libpq_env(), None, None);
        let again = ConnInfo::parse("", &environment).unwrap();
        assert_eq!(format!("{again:?}"), format!("{conninfo:?}"), "{text}");
        assert_eq!(password(&again), password(&conninfo), "{text}");
    }
}

#[test]
fn a_prepared_command_inherits_no_other_connection() {
    let mut command = std::process::Command::new("env");
    command.env_clear().env("PGSERVICE", "elsewhere").env("PGSSLCRL", "/x").env("KEPT", "1");
    parse("host=h user=u").prepare_command(&mut command);
    let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(output.contains("PGHOST=h\n") && output.contains("KEPT=1\n"), "{output}");
    assert!(!output.contains("PGSERVICE") && !output.contains("PGSSLCRL"), "{output}");
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in ".{0,60}", uri in "[a-z:/@?&=%,\\[\\]0-9 ']{0,40}") {
        let _ = ConnInfo::parse(&text, &nothing());
        let _ = ConnInfo::parse(&format!("postgresql://{uri}"), &nothing());
        let _ = ConnInfo::parse(&uri, &nothing());
    }

    /// Letters that no other part of the texts has, so that each find is a leak.
    #[test]
    fn no_error_repeats_a_password(word in "[A-Z]{6}", odd in "[@/:?&=%' \\\\]{1,3}", tail in "[A-Z]{6}") {
        let password = format!("{word}{odd}{tail}");
        for text in [
            format!("postgresql://u:{password}@h:5/d?sslmode=require"),
            format!("postgresql://u:{password}@h/d?nonsense=1"),
            format!("host=h password={password} nonsense=1"),
            format!("host=h password='{password} nonsense=1"),
            format!("password={password} port=x"),
        ] {
            if let Err(error) = ConnInfo::parse(&text, &nothing()) {
                let shown = format!("{error:?}");
                prop_assert!(!shown.contains(&word) && !shown.contains(&tail), "{}: {}", text, shown);
            }
        }
    }

    #[test]
    fn quoting_and_encoding_keep_every_password(secret in "[^\\x00]{1,20}") {
        let quoted = secret.replace('\\', "\\\\").replace('\'', "\\'");
        let said = parse(&format!("host=h password='{quoted}' dbname=d"));
        prop_assert_eq!(password(&said), Some(secret.as_str()));
        let encoded = secret.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02X}"));
        let said = parse(&format!("postgresql://u:{encoded}@h/d"));
        prop_assert_eq!(password(&said), Some(secret.as_str()));
        prop_assert_eq!(said.display(), "h:5432/d as u");
    }
}
