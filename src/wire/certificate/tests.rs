use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

use super::*;

/// A certificate that signs itself, the way the PostgreSQL documentation makes one: a common name, no other names.
fn self_signed(common_name: &str, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2040, 1, 1);
    parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

/// Seconds since 1970 of about the middle of a year.
fn year(year: u64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs((year - 1970) * 31_557_600 + 15_000_000))
}

fn verify(
    certificate: &CertificateDer<'static>,
    roots: &[CertificateDer<'static>],
    name: NameCheck,
    host: &str,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ChainVerifier::new(roots.to_vec(), Vec::new(), name, "a test", &provider).unwrap();
    let host = ServerName::try_from(host.to_owned()).unwrap();
    verifier.verify_server_cert(certificate, &[], &host, &[], now).map(|_| ())
}

#[test]
fn a_certificate_that_signs_itself_vouches_for_itself() {
    let certificate = self_signed("db.example", &[]);
    let roots = [certificate.clone()];
    let verify_at = |name, host, now| verify(&certificate, &roots, name, host, now);
    assert_eq!(verify_at(NameCheck::Verify, "db.example", year(2030)), Ok(()));
    assert_eq!(verify_at(NameCheck::Verify, "DB.Example", year(2030)), Ok(()));
    assert!(verify_at(NameCheck::Verify, "other.example", year(2030)).is_err());
    assert_eq!(verify_at(NameCheck::Skip, "other.example", year(2030)), Ok(()));
    for name in [NameCheck::Verify, NameCheck::Skip] {
        let expired = verify_at(name, "db.example", year(2041));
        assert_eq!(expired, Err(CertificateError::Expired.into()));
        let early = verify_at(name, "db.example", year(2019));
        assert_eq!(early, Err(CertificateError::NotValidYet.into()));
    }
    let stranger = self_signed("db.example", &[]);
    assert!(verify(&stranger, &roots, NameCheck::Skip, "db.example", year(2030)).is_err());
}

#[test]
fn a_common_name_counts_only_without_alternative_names() {
    let certificate = self_signed("db.example", &["other.example"]);
    let roots = [certificate.clone()];
    assert!(verify(&certificate, &roots, NameCheck::Verify, "db.example", year(2030)).is_err());
    assert_eq!(verify(&certificate, &roots, NameCheck::Verify, "other.example", year(2030)), Ok(()));
}

#[test]
fn a_star_stands_for_one_label() {
    for (pattern, host, matches) in [
        ("db.example", "db.example", true),
        ("db.example", "db.example.", true),
        ("*.example.com", "db.example.com", true),
        ("*.example.com", "a.db.example.com", false),
        ("*.example.com", "example.com", false),
        ("*.com", "example.com", false),
        ("*", "example", false),
        ("d*.example.com", "db.example.com", false),
    ] {
        assert_eq!(name_matches(pattern, host), matches, "{pattern} {host}");
    }
}
