//! A small client of our own: blocking, RESP2, one connection. What is tested is not used to test.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::super::PATIENCE;

/// How many commands go out before their answers are read: neither side's buffers fill.
const PIPELINE_COMMANDS: usize = 500;

pub struct RedisClient {
    stream: BufReader<TcpStream>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl RedisClient {
    /// Of a server or a proxy on this machine, as the server's default user.
    pub fn connect(port: u16) -> io::Result<RedisClient> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(RedisClient { stream: BufReader::new(stream) })
    }

    /// The answer to one command. Panics at an error.
    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Reply {
        self.try_call(command).unwrap_or_else(|error| panic!("{}: {error}", shown(command)))
    }

    /// A broken connection is an error like those that the server has.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Reply, String> {
        match self.send(command).and_then(|()| self.read()) {
            Ok(Reply::Error(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Many commands, without waiting for each; the answers in their order. Panics where the connection breaks; errors
    /// are among the answers.
    pub fn pipeline<C, A>(&mut self, commands: C) -> Vec<Reply>
    where
        C: IntoIterator,
        C::Item: AsRef<[A]>,
        A: AsRef<[u8]>,
    {
        self.try_pipeline(commands).expect("the connection holds")
    }

    pub fn try_pipeline<C, A>(&mut self, commands: C) -> io::Result<Vec<Reply>>
    where
        C: IntoIterator,
        C::Item: AsRef<[A]>,
        A: AsRef<[u8]>,
    {
        let (mut replies, mut bytes, mut sent) = (Vec::new(), Vec::new(), 0);
        for command in commands {
            encode(command.as_ref(), &mut bytes);
            sent += 1;
            if sent == PIPELINE_COMMANDS {
                self.exchange(&mut bytes, &mut sent, &mut replies)?;
            }
        }
        self.exchange(&mut bytes, &mut sent, &mut replies)?;
        Ok(replies)
    }

    fn exchange(
        &mut self,
        bytes: &mut Vec<u8>,
        sent: &mut usize,
        replies: &mut Vec<Reply>,
    ) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        bytes.clear();
        for _ in 0..std::mem::take(sent) {
            replies.push(self.read()?);
        }
        Ok(())
    }

    pub fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(command, &mut bytes);
        self.stream.get_mut().write_all(&bytes)
    }

    /// The next answer, or what a subscription says. Nothing for a minute is an error.
    pub fn read(&mut self) -> io::Result<Reply> {
        let line = self.read_line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| malformed(&line))?;
        match kind {
            "+" => Ok(Reply::Status(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => rest.parse().map(Reply::Integer).map_err(|_| malformed(&line)),
            "$" => match rest.parse::<i64>().map_err(|_| malformed(&line))? {
                length if length < 0 => Ok(Reply::Nil),
                length => {
                    let mut bytes = vec![0; usize::try_from(length).expect("it is not negative") + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(bytes.len() - 2);
                    Ok(Reply::Bulk(bytes))
                }
            },
            "*" => match rest.parse::<i64>().map_err(|_| malformed(&line))? {
                length if length < 0 => Ok(Reply::Nil),
                length => (0..length).map(|_| self.read()).collect::<io::Result<_>>().map(Reply::Array),
            },
            _ => Err(malformed(&line)),
        }
    }

    /// A field of `INFO section`.
    pub fn info(&mut self, section: &str, field: &str) -> Option<String> {
        let text = self.try_call(&["INFO", section]).ok()?.to_string();
        let prefix = format!("{field}:");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches("\r\n").to_owned())
    }
}

fn encode<A: AsRef<[u8]>>(command: &[A], bytes: &mut Vec<u8>) {
    bytes.extend(format!("*{}\r\n", command.len()).as_bytes());
    for word in command {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no RESP: {line:?}"))
}

fn shown<A: AsRef<[u8]>>(command: &[A]) -> String {
    let words: Vec<_> = command.iter().map(|word| String::from_utf8_lossy(word.as_ref())).collect();
    words.join(" ")
}

impl Reply {
    /// The elements of an array.
    pub fn items(self) -> Vec<Reply> {
        match self {
            Reply::Array(items) => items,
            other => panic!("no array: {other:?}"),
        }
    }

    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(number) => *number,
            other => panic!("no number: {other:?}"),
        }
    }
}

impl fmt::Display for Reply {
    /// As `redis-cli` writes it into a pipe: nothing for nil, a line for each element.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Status(text) => formatter.write_str(text),
            Reply::Error(text) => write!(formatter, "(error) {text}"),
            Reply::Integer(number) => write!(formatter, "{number}"),
            Reply::Bulk(bytes) => formatter.write_str(&String::from_utf8_lossy(bytes)),
            Reply::Nil => Ok(()),
            Reply::Array(items) => {
                let lines: Vec<String> = items.iter().map(Reply::to_string).collect();
                formatter.write_str(&lines.join("\n"))
            }
        }
    }
}
