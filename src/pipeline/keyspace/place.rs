//! Where the source of a pipeline out of Redis is.

use std::time::Duration;

use crate::config::Pipeline;
use crate::error::{Error, Result};
use crate::redis::location::Location;

/// With the password looked up.
pub fn location(pipeline: &Pipeline) -> Result<Location> {
    let Some(end) = pipeline.source.redis()? else {
        return Err(Error::unexpected(format!(
            "the source of pipeline \"{}\" is no Redis server",
            pipeline.name
        )));
    };
    let told = |error: Error| error.context(format!("source of pipeline \"{}\"", pipeline.name));
    let mut location = Location::parse(end.text.reveal()).map_err(told)?;
    if let Some(password) = end.password {
        location = location.with_password(password);
    }
    for (name, value) in &end.parameters {
        let value = value.reveal();
        let tls = || location.tls.clone().unwrap_or_default();
        match name.as_str() {
            "user" => location = location.with_user(value),
            "sslrootcert" => {
                let mut tls = tls();
                tls.root_certificates = Some(value.into());
                location.tls = Some(tls);
            }
            "sslcert" | "sslkey" => {
                let (Some(certificate), Some(key)) =
                    (end.parameters.get("sslcert"), end.parameters.get("sslkey"))
                else {
                    return Err(told(
                        Error::config("sslcert and sslkey go together")
                            .hint("name the client's certificate and its key"),
                    ));
                };
                let mut tls = tls();
                tls.client = Some((certificate.reveal().into(), key.reveal().into()));
                location.tls = Some(tls);
            }
            "connect_timeout" => {
                let seconds =
                    value.parse().map_err(|_| told(Error::config("connect_timeout is no number")))?;
                location.connect_timeout = Duration::from_secs(seconds);
            }
            _ => {}
        }
    }
    refuse_other_database(pipeline, &location).map_err(told)?;
    Ok(location)
}

/// Which databases are mapped is said in one place.
fn refuse_other_database(pipeline: &Pipeline, location: &Location) -> Result<()> {
    match location.database {
        Some(database) if !pipeline.redis.databases.contains(&u64::from(database)) => Err(Error::config(
            format!("the location names database {database}, which is not among redis.databases"),
        )
        .hint(format!("leave it out of the location, or set redis.databases = [{database}]"))),
        _ => Ok(()),
    }
}
