//! One connection to a PostgreSQL server, speaking the wire protocol.
//!
//! Two ways to use it. [`Session::query`] and its kin are a round trip each: catalog look-ups and set-up. The
//! other way is for work: append any number of messages to [`Session::out`], [`Session::flush`] them, and read one
//! [`Reply`] per query or sync, so that nothing waits for a round trip a row.
//!
//! While it writes, a session also takes in what the server says; otherwise both could block on full socket
//! buffers, each waiting for the other to read.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

pub use crate::error::Side;
use crate::error::{Error, Kind, Result};
use crate::pg::connect::{self, Connected};
use crate::pg::conninfo::ConnInfo;
use crate::pg::tls::Stream;

/// How much is read from the socket at once; one COPY row may of course be larger.
const READ_CHUNK: usize = 64 * 1024;

/// The longest message accepted: PostgreSQL's own limit for one allocation is 1 GB.
const MESSAGE_BYTES_MAX: usize = 0x4000_0000;

pub struct Session {
    stream: Stream,
    /// Received and not yet taken.
    read: BytesMut,
    /// To be sent by the next flush.
    pub out: BytesMut,
    side: Side,
    /// `host:port/dbname as user`, for messages.
    place: String,
    parameters: HashMap<String, String>,
    server_version: u32,
    process_id: i32,
    leaves_out_details: bool,
}

/// A message from the server: its type byte and its body.
pub struct Message {
    pub tag: u8,
    pub body: Bytes,
}

/// All that a server answered up to its next `ReadyForQuery`.
#[derive(Debug, Default)]
pub struct Reply {
    pub rows: Vec<Row>,
    /// For each completed command the number of rows that it names (0 where it names none).
    pub counts: Vec<u64>,
    pub error: Option<Error>,
}

impl Reply {
    /// The reply, or its error.
    pub fn ok(self) -> Result<Reply> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self),
        }
    }
}

/// A row of a query's result, in text format.
#[derive(Debug, Clone)]
pub struct Row(Vec<Option<Bytes>>);

impl Row {
    /// The text of column `index`, `None` for null.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.0[index].as_ref().map(|bytes| std::str::from_utf8(bytes).unwrap_or("(not UTF-8)"))
    }

    /// Column `index` parsed; our own statements know what they select, so a mismatch is a bug worth a message.
    pub fn get<T: FromStr>(&self, index: usize) -> Result<T> {
        let text = self.text(index).ok_or_else(|| Error::unexpected(format!("column {index} is null")))?;
        text.parse().map_err(|_| Error::unexpected(format!("column {index} holds \"{text}\"")))
    }

    pub fn optional<T: FromStr>(&self, index: usize) -> Result<Option<T>> {
        self.0[index].as_ref().map(|_| self.get(index)).transpose()
    }

    pub fn string(&self, index: usize) -> String {
        self.text(index).unwrap_or_default().to_owned()
    }

    /// A `boolean` column; null is false.
    pub fn bool(&self, index: usize) -> bool {
        self.text(index) == Some("t")
    }
}

impl Session {
    /// Connects and authenticates. `startup` are run-time parameters sent with the start-up packet.
    pub async fn connect(conninfo: &ConnInfo, side: Side, startup: &[(&str, &str)]) -> Result<Session> {
        let connected = connect::connect(conninfo, startup).await.map_err(|error| label(error, side))?;
        let place = conninfo.display();
        let Connected { stream, buffer, parameters, process_id, .. } = connected;
        let server_version = parameters.get("server_version").map_or(0, |text| version_number(text));
        let mut session = Session {
            stream,
            read: buffer,
            out: BytesMut::new(),
            side,
            place,
            parameters,
            server_version,
            process_id,
            leaves_out_details: false,
        };
        session.outlast_timeouts().await?;
        Ok(session)
    }

    /// A role or database may end sessions that wait or transactions that are long; ours are either. Older servers
    /// refuse a start-up packet that names what they do not know, so these are set afterwards.
    async fn outlast_timeouts(&mut self) -> Result<()> {
        let sql = match self.server_major() {
            ..=13 => return Ok(()),
            14..=16 => "set idle_session_timeout = 0",
            17.. => "set idle_session_timeout = 0; set transaction_timeout = 0",
        };
        self.query(sql).await.map(drop)
    }

    /// `150018` for 15.18.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// `15` for 15.18.
    pub fn server_major(&self) -> u32 {
        self.server_version / 10_000
    }

    /// A parameter that the server reports, such as `server_encoding`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    /// The backend's process id at the server.
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Errors of the server come without their detail from now on, which may hold values of rows.
    pub fn leave_out_details(&mut self) {
        self.leaves_out_details = true;
    }

    /// Runs one or more statements by the simple protocol; the rows of all of them.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        Ok(self.round_trip(sql).await?.rows)
    }

    /// Runs one statement with parameters, each given as text or null.
    pub async fn query_with(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Vec<Row>> {
        let encoded = (|| {
            frontend::parse("", sql, [], &mut self.out)?;
            let bound = frontend::bind(
                "",
                "",
                [],
                parameters,
                |parameter, out| match parameter {
                    Some(text) => {
                        out.put_slice(text.as_bytes());
                        Ok(postgres_protocol::IsNull::No)
                    }
                    None => Ok(postgres_protocol::IsNull::Yes),
                },
                [],
                &mut self.out,
            );
            if let Err(frontend::BindError::Serialization(error)) = bound {
                return Err(error);
            }
            frontend::execute("", 0, &mut self.out)?;
            frontend::sync(&mut self.out);
            Ok(())
        })();
        encoded.map_err(|error| Error::unexpected("a statement cannot be encoded").because(error))?;
        self.flush().await?;
        Ok(self.reply().await?.ok()?.rows)
    }

    /// Runs statements and says how many rows the last of them touched.
    pub async fn execute(&mut self, sql: &str) -> Result<u64> {
        Ok(self.round_trip(sql).await?.counts.last().copied().unwrap_or(0))
    }

    /// The only row of a query that returns exactly one.
    pub async fn one(&mut self, sql: &str) -> Result<Row> {
        let mut rows = self.query(sql).await?;
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Ok(row),
            _ => {
                Err(Error::unexpected(format!("the {} did not answer with one row: {sql}", self.side.name())))
            }
        }
    }

    async fn round_trip(&mut self, sql: &str) -> Result<Reply> {
        self.send_query(sql)?;
        self.flush().await?;
        self.reply().await?.ok()
    }

    /// Appends a simple query; its reply is to be read after a flush.
    pub fn send_query(&mut self, sql: &str) -> Result<()> {
        frontend::query(sql, &mut self.out)
            .map_err(|error| Error::unexpected("a statement holds a zero byte").because(error))
    }

    /// Sends all of [`Session::out`].
    pub async fn flush(&mut self) -> Result<()> {
        let mut out = std::mem::take(&mut self.out);
        let result = self.send(&mut out).await;
        out.clear();
        self.out = out;
        result
    }

    /// Sends all of `data`, taking in whatever the server says meanwhile.
    pub async fn send(&mut self, data: &mut impl Buf) -> Result<()> {
        poll_fn(|context| self.poll_send(context, data)).await.map_err(|error| self.lost(error))
    }

    fn poll_send(&mut self, context: &mut Context<'_>, data: &mut impl Buf) -> Poll<std::io::Result<()>> {
        while data.has_remaining() {
            match Pin::new(&mut self.stream).poll_write(context, data.chunk()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => data.advance(sent),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => ready!(self.poll_receive(context))?,
            }
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Reads once into the buffer.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut chunk = [0; 4096];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.read.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }

    /// The next message that is not a notice or a parameter report. Cancel safe.
    pub async fn message(&mut self) -> Result<Message> {
        loop {
            let message = self.any_message().await?;
            match message.tag {
                b'N' => {
                    tracing::debug!(server = self.place, "{}", ServerReport::parse(&message.body).message);
                }
                b'S' => self.note_parameter(&message.body),
                b'A' => {}
                _ => return Ok(message),
            }
        }
    }

    async fn any_message(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.buffered_message()? {
                return Ok(message);
            }
            self.receive().await?;
        }
    }

    /// A message that is already here, complete. Notices and the like come out too.
    pub fn buffered_message(&mut self) -> Result<Option<Message>> {
        let Some(length) = self.buffered_length()? else { return Ok(None) };
        if self.read.len() < length + 1 {
            self.read.reserve(length + 1 - self.read.len());
            return Ok(None);
        }
        let tag = self.read[0];
        let mut body = self.read.split_to(length + 1);
        body.advance(5);
        Ok(Some(Message { tag, body: body.freeze() }))
    }

    /// The length word of the buffered message, once it is here.
    fn buffered_length(&self) -> Result<Option<usize>> {
        let Some(header) = self.read.get(1..5) else { return Ok(None) };
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if (4..MESSAGE_BYTES_MAX).contains(&length) {
            return Ok(Some(length));
        }
        Err(Error::new(
            self.side.unreachable(),
            format!(
                "the {} sent a message of {length} bytes: this is not PostgreSQL's protocol",
                self.side.name()
            ),
        ))
    }

    /// Waits for bytes and buffers them. Cancel safe.
    pub async fn receive(&mut self) -> Result<()> {
        self.read.reserve(READ_CHUNK);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(self.lost(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// What has been received and not taken: for relaying frames without unpacking them.
    pub fn received(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// Reads up to the next `ReadyForQuery`. Not cancel safe: a dropped reply leaves the session out of step.
    pub async fn reply(&mut self) -> Result<Reply> {
        let mut reply = Reply::default();
        loop {
            let message = self.message().await?;
            match message.tag {
                b'Z' => return Ok(reply),
                b'D' => reply.rows.push(data_row(&message.body)?),
                b'C' => reply.counts.push(command_count(&message.body)),
                b'E' => {
                    let error = self.server_error(&message.body);
                    // A terminated backend says so and hangs up without getting ready again.
                    if error.sqlstate().is_some_and(|state| state.starts_with("57P0")) {
                        return Err(error);
                    }
                    reply.error.get_or_insert(error);
                }
                // Row description, parse, bind, close, no data, empty query, copy responses.
                _ => {}
            }
        }
    }

    /// An `ErrorResponse` as our error, its kind by SQLSTATE.
    pub fn server_error(&self, body: &[u8]) -> Error {
        let report = ServerReport::parse(body);
        let kind = match report.code.as_str() {
            "53100" => Kind::Capacity,
            code if is_transient(code) => self.side.unreachable(),
            _ => Kind::Unexpected,
        };
        let mut what = report.message;
        if !report.detail.is_empty() && !self.leaves_out_details {
            what = format!("{what} ({})", report.detail);
        }
        let error = Error::new(kind, format!("{} ({}): {what}", self.side.name(), self.place))
            .with_sqlstate(report.code);
        if kind == Kind::Capacity {
            return error
                .hint(format!("Free disk space at the {}; nothing was half-written.", self.side.name()));
        }
        if report.hint.is_empty() { error } else { error.hint(report.hint) }
    }

    /// What a `NoticeResponse` says.
    pub fn notice_text(body: &[u8]) -> String {
        ServerReport::parse(body).message
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let mut parts = body.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            self.parameters.insert(name, value);
        }
    }

    fn lost(&mut self, cause: std::io::Error) -> Error {
        // The reason is often already here: "terminating connection due to administrator command".
        while let Ok(Some(message)) = self.buffered_message() {
            if message.tag == b'E' {
                return self.server_error(&message.body).with_kind(self.side.unreachable());
            }
        }
        Error::new(
            self.side.unreachable(),
            format!("the connection to the {} ({}) broke", self.side.name(), self.place),
        )
        .because(cause)
        .hint("It is tried again; if this repeats, look at that server's log.")
    }
}

fn label(error: Error, side: Side) -> Error {
    if error.retries() {
        error.with_kind(side.unreachable()).context(side.name())
    } else {
        error.context(side.name())
    }
}

/// SQLSTATEs after which the same work can succeed without anybody changing anything: connection exceptions,
/// rollbacks by deadlock or serialization, resources, lock not available, operator intervention (but a cancelled
/// or timed-out statement counts: it was not the data's fault). Two of those classes are the data's fault: a binary
/// value that is shorter than its type here (08P01), and a file that a function or extension names and that is not
/// there (58P01).
fn is_transient(code: &str) -> bool {
    let is_of_a_class = ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class));
    is_of_a_class && !["08P01", "58P01"].contains(&code) || ["55P03", "55006"].contains(&code)
}

/// `15.18 (Debian …)` -> 150018, `18beta1` -> 180000.
fn version_number(text: &str) -> u32 {
    let mut numbers =
        text.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let major: u32 = numbers.next().unwrap_or(0);
    let minor: u32 = if text.contains('.') { numbers.next().unwrap_or(0) } else { 0 };
    major * 10_000 + minor
}

fn data_row(body: &Bytes) -> Result<Row> {
    let malformed = || Error::unexpected("a row of a result is malformed");
    let mut rest = body.clone();
    let columns = rest.try_get_u16().map_err(|_| malformed())?;
    let mut values = Vec::with_capacity(usize::from(columns));
    for _ in 0..columns {
        let length = rest.try_get_i32().map_err(|_| malformed())?;
        values.push(match usize::try_from(length) {
            Ok(length) if length <= rest.len() => Some(rest.split_to(length)),
            Ok(_) => return Err(malformed()),
            Err(_) => None,
        });
    }
    Ok(Row(values))
}

/// The row count that ends a command tag: `INSERT 0 5`, `COPY 7`, `UPDATE 2`; 0 for `BEGIN`.
fn command_count(body: &[u8]) -> u64 {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    let word = tag.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The fields of an error or notice that we show.
#[derive(Default)]
struct ServerReport {
    code: String,
    message: String,
    detail: String,
    hint: String,
}

impl ServerReport {
    fn parse(body: &[u8]) -> ServerReport {
        let mut report = ServerReport::default();
        for field in body.split(|&byte| byte == 0).filter(|field| !field.is_empty()) {
            let text = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'C' => report.code = text,
                b'M' => report.message = text,
                b'D' => report.detail = text,
                b'H' => report.hint = text,
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_become_numbers() {
        for (text, number) in [
            ("15.18 (Debian 15.18-0+deb12u1)", 150_018),
            ("18.4", 180_004),
            ("19beta2", 190_000),
            ("14.0", 140_000),
        ] {
            assert_eq!(version_number(text), number, "{text}");
        }
    }

    #[test]
    fn counts_come_from_command_tags() {
        for (tag, count) in [("INSERT 0 5\0", 5), ("COPY 7\0", 7), ("BEGIN\0", 0), ("", 0)] {
            assert_eq!(command_count(tag.as_bytes()), count, "{tag}");
        }
    }

    #[test]
    fn rows_that_lie_about_their_length_are_refused() {
        assert!(data_row(&Bytes::from_static(b"\x00\x01\x00\x00\x00\x05ab")).is_err());
        assert!(data_row(&Bytes::from_static(b"\x00")).is_err());
        let row = data_row(&Bytes::from_static(b"\x00\x02\x00\x00\x00\x02ab\xff\xff\xff\xff")).unwrap();
        assert_eq!((row.text(0), row.text(1)), (Some("ab"), None));
    }
}
