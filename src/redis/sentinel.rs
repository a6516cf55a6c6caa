//! Asking Sentinels which server is the primary at the moment.
//!
//! Source: Redis' guidelines for clients of Sentinel: the first Sentinel that knows the name is believed, and the server is
//! asked itself whether it is the primary, since a Sentinel that was cut off may name one of before.

use crate::error::{Error, Kind, Result};
use crate::redis::connection::Connection;
use crate::redis::location::{Host, Location};
use crate::redis::resp::Reply;

/// The location of the primary; a location without Sentinels is one already.
pub async fn resolved(location: &Location, name: &str) -> Result<Location> {
    let Some(primary) = &location.primary_name else { return Ok(location.clone()) };
    let mut last = None;
    for host in &location.hosts {
        match ask(location, host, primary, name).await {
            Ok(found) => {
                return Ok(Location { hosts: vec![found], primary_name: None, ..location.clone() });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::config("no Sentinel is named")))
}

async fn ask(location: &Location, sentinel: &Host, primary: &str, name: &str) -> Result<Host> {
    // Sentinels have users of their own, most often none: the server's are tried where one is asked for.
    let bare = Location { user: None, password: None, primary_name: None, ..location.clone() };
    let with = Location { primary_name: None, ..location.clone() };
    let mut connection = match Connection::open_at(&bare, sentinel, name).await {
        Err(error) if error.kind() == Kind::Refused && location.password.is_some() => {
            Connection::open_at(&with, sentinel, name).await?
        }
        connected => connected?,
    };
    let answer = connection.call(&[b"SENTINEL", b"get-master-addr-by-name", primary.as_bytes()]).await?;
    let Reply::Array(parts) = answer else {
        return Err(Error::refused(format!(
            "the Sentinel at {} knows no primary called {primary:?}",
            connection.place()
        ))
        .hint("master_name is the name behind `sentinel monitor` in its configuration."));
    };
    let port = parts.get(1).and_then(Reply::integer).and_then(|port| u16::try_from(port).ok());
    match (parts.first().and_then(Reply::text), port) {
        (Some(name), Some(port)) => Ok(Host::tcp(name, port)),
        _ => {
            Err(Error::unexpected(format!("the Sentinel at {} answers with no address", connection.place())))
        }
    }
}

/// That a server which a Sentinel named is the primary, as far as it says.
pub async fn check_primary(connection: &mut Connection) -> Result<()> {
    let answer = connection.ask(&[b"INFO", b"replication"]).await?;
    let is_replica = |info: &str| info.lines().any(|line| line.trim_end() == "role:slave");
    if answer.text().is_some_and(is_replica) {
        return Err(Error::new(
            Kind::SourceUnreachable,
            format!("the Sentinels name {} as the primary, which it is not", connection.place()),
        )
        .hint("This passes when a failover is over."));
    }
    Ok(())
}
