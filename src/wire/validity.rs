//! From when until when a certificate counts.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// The moments between which all certificates of a chain count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Validity {
    /// Of a chain: clients refuse it as soon as one of them does not count. `None` where one cannot be read.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Validity> {
        let each = chain.iter().map(|certificate| {
            let validity = Certificate::from_der(certificate).ok()?.tbs_certificate.validity;
            let moment = |time: x509_cert::time::Time| {
                Timestamp::from_second(i64::try_from(time.to_unix_duration().as_secs()).ok()?).ok()
            };
            Some(Validity { from: moment(validity.not_before)?, until: moment(validity.not_after)? })
        });
        let all: Vec<Validity> = each.collect::<Option<_>>()?;
        Some(Validity {
            from: all.iter().map(|one| one.from).max()?,
            until: all.iter().map(|one| one.until).min()?,
        })
    }
}

/// Whose a certificate is, and whose word for it counts: distinguished names, as RFC 4514 writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub subject: String,
    pub issuer: String,
}

impl Names {
    /// Of the first certificate of a chain, which is the server's own.
    pub fn of(chain: &[CertificateDer<'_>]) -> Option<Names> {
        let own = Certificate::from_der(chain.first()?).ok()?.tbs_certificate;
        Some(Names { subject: own.subject.to_string(), issuer: own.issuer.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: (i32, u8), until: (i32, u8)) -> CertificateDer<'static> {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(from.0, from.1, 1);
        parameters.not_after = rcgen::date_time_ymd(until.0, until.1, 1);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_its_own_and_who_vouches_for_it() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "replica.internal");
        let own = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone();
        let names = Names::of(&[own, certificate((2026, 3), (2026, 12))]).unwrap();
        assert_eq!(names.subject, "CN=replica.internal");
        assert_eq!(names.issuer, names.subject);
        assert_eq!(Names::of(&[]), None);
    }

    #[test]
    fn a_chain_counts_for_as_long_as_each_of_it() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let own = certificate((2026, 3), (2026, 12));
        let above = certificate((2026, 1), (2026, 9));
        let one = Validity { from: at("2026-03-01T00:00:00Z"), until: at("2026-12-01T00:00:00Z") };
        assert_eq!(Validity::of(std::slice::from_ref(&own)), Some(one));
        let both = Validity { until: at("2026-09-01T00:00:00Z"), ..one };
        assert_eq!(Validity::of(&[own.clone(), above]), Some(both));
        // After 2049 a certificate writes its time in another way.
        let long = certificate((2026, 3), (2199, 1));
        assert_eq!(Validity::of(&[long]).unwrap().until, at("2199-01-01T00:00:00Z"));
        assert_eq!(Validity::of(&[own, CertificateDer::from(vec![1, 2, 3])]), None);
        assert_eq!(Validity::of(&[]), None);
    }
}
