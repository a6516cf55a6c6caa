//! A client of HTTP that sends exactly what it is told, headers of doubtful origin too.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// No answer of ours takes longer; a test that waits for ever says nothing.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone)]
pub struct Http {
    port: u16,
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Http {
    /// Of a server on this host.
    pub fn new(port: u16) -> Http {
        Http { port, headers: Vec::new() }
    }

    /// The same, with a header in each request.
    pub fn with(&self, name: &str, value: &str) -> Http {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// What is there as JSON; panics if it is not.
    pub fn json(&self, path: &str) -> Value {
        self.get(path).success()
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("Content-Type", "application/json")], &body.to_string())
    }

    /// A request with headers of its own; a `Host` among them replaces the right one.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.try_send(method, path, headers, body).expect("the server answers")
    }

    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<Answer> {
        let mut answer = Vec::new();
        self.open(method, path, headers, body)?.read_to_end(&mut answer)?;
        Ok(Answer::parse(&String::from_utf8_lossy(&answer)))
    }

    /// The lines of an answer, as they come: of events.
    pub fn lines(&self, path: &str) -> impl Iterator<Item = String> + use<> {
        let stream = self.open("GET", path, &[], "").expect("the server is there");
        BufReader::new(stream).lines().map_while(Result::ok)
    }

    /// The oldest version: the answer ends with the connection, and comes as it is.
    fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut sent: Vec<(&str, &str)> = own.chain(headers.iter().copied()).collect();
        let host = format!("127.0.0.1:{}", self.port);
        if !sent.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            sent.push(("Host", &host));
        }
        let mut request = format!("{method} {path} HTTP/1.0\r\n");
        for (name, value) in sent {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        request.push_str(body);
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }
}

impl Answer {
    fn parse(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Answer {
            status: status.unwrap_or_else(|| panic!("no answer of HTTP: {text}")),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
            body: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The JSON of an answer with this status; panics with what it said otherwise.
    pub fn with_status(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn success(self) -> Value {
        self.with_status(200)
    }
}
