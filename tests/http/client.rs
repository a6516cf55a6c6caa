//! The least that speaks HTTP, so that a test says every byte that is sent and sees every header that comes back.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// A request that is put together; `send` says nothing but what was given.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    from: IpAddr,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

pub fn get(target: &str) -> Request {
    request("GET", target)
}

pub fn post(target: &str) -> Request {
    request("POST", target)
}

pub fn request(method: &str, target: &str) -> Request {
    let from = IpAddr::from([127, 0, 0, 1]);
    Request { method: method.into(), target: target.into(), headers: Vec::new(), body: None, from }
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From another address of this host.
    pub fn from(mut self, address: [u8; 4]) -> Self {
        self.from = IpAddr::from(address);
        self
    }

    pub fn body(mut self, media_type: &str, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self.header("Content-Type", media_type)
    }

    pub fn form(self, body: &str) -> Self {
        self.body("application/x-www-form-urlencoded", body)
    }

    pub fn json(self, body: &str) -> Self {
        self.body("application/json", body)
    }

    /// As a browser that shows pages.
    pub fn browser(self) -> Self {
        self.header("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
    }

    /// Without a header `Host` that was given, it is the server's address.
    pub async fn send(self, server: SocketAddr) -> Answer {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(self.from, 0)).unwrap();
        let mut stream = socket.connect(server).await.unwrap();
        let mut text = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            text.push_str(&format!("Host: {server}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(self.body.as_deref().unwrap_or_default());
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refusal may come before all was sent; then the connection is reset after it.
        let _ = stream.read_to_end(&mut answer).await;
        Answer::of(&String::from_utf8(answer).unwrap())
    }
}

impl Answer {
    fn of(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: body.to_owned() }
    }

    /// Each value of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
