//! Opening a connection: the first server of the list that answers and suits, up to its first `ReadyForQuery`.

use std::collections::HashMap;

use bytes::BytesMut;

use super::conninfo::{ConnInfo, Host};
pub use super::tls::Stream;
use crate::error::{Error, Result};

/// An authenticated connection, idle.
pub struct Connected {
    pub stream: Stream,
    /// Bytes that were read behind `ReadyForQuery`.
    pub buffer: BytesMut,
    /// The last `ParameterStatus` of each parameter.
    pub parameters: HashMap<String, String>,
    pub process_id: i32,
    pub secret_key: i32,
    pub tls: bool,
    /// The server of the list that it is, with the address that answered.
    pub host: Host,
}

/// `startup` are further startup parameters: `("replication", "database")`, or `("options", …)`, which is appended to
/// the description's own options.
#[expect(clippy::unused_async)]
pub async fn connect(_conninfo: &ConnInfo, _startup: &[(&str, &str)]) -> Result<Connected> {
    Err(Error::unexpected("not built yet"))
}

/// Asks the server at `host` to cancel what the connection `process_id` is doing.
#[expect(clippy::unused_async)]
pub async fn cancel(_conninfo: &ConnInfo, _host: &Host, _process_id: i32, _secret_key: i32) -> Result<()> {
    Err(Error::unexpected("not built yet"))
}
