//! A connection description as text: a URI or a `key=value` string, taken apart into pairs. What the pairs mean is
//! decided elsewhere. No error repeats a piece of the text that can belong to a password.

use crate::error::{Error, Result};
use crate::wire::percent;

type Pairs = Vec<(String, String)>;

pub(super) fn pairs(text: &str) -> Result<Pairs> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => key_values(text),
    }
}

/// `[user[:password]@][host[:port],…][/dbname][?name=value&…]`
fn uri(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text;
    // Like libpq, the first '@' before any '/' ends the credentials.
    let credentials_end = text.find(['@', '/']).filter(|at| text[*at..].starts_with('@'));
    if let Some(end) = credentials_end {
        let (user, password) = text[..end].split_once(':').unwrap_or((&text[..end], ""));
        rest = &text[end + 1..];
        push_decoded(&mut pairs, "user", user)?;
        push_decoded(&mut pairs, "password", password)?;
    }
    // `user:pass/word@host`: libpq would take the password for a port, a database or a parameter, and show it.
    let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = behind.split('?').next().unwrap_or_default();
    if path.contains('@') || (credentials_end.is_none() && authority.contains(':') && behind.contains('@')) {
        return Err(Error::config("the connection URI has an '@' behind a '/' or a '?'").hint(
            "in user names, passwords, database names and values write '@' as %40, '/' as %2F and '?' as %3F",
        ));
    }
    rest = network_locations(rest, &mut pairs)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let dbname = path.strip_prefix('/').unwrap_or(path);
    push_decoded(&mut pairs, "dbname", dbname)?;
    query_parameters(query, &mut pairs)?;
    Ok(pairs)
}

/// Reads `host[:port],…` and returns what follows, which begins with `/` or `?` or is empty.
fn network_locations<'a>(text: &'a str, pairs: &mut Pairs) -> Result<&'a str> {
    let mut rest = text;
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    loop {
        let host;
        (host, rest) = host_of(rest)?;
        hosts.push(host);
        let mut port = "";
        if let Some(behind) = rest.strip_prefix(':') {
            (port, rest) = behind.split_at(behind.find(['/', '?', ',']).unwrap_or(behind.len()));
        }
        ports.push(port);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    for (name, list) in [("host", hosts), ("port", ports)] {
        if list.iter().any(|text| !text.is_empty()) {
            push_decoded(pairs, name, &list.join(","))?;
        }
    }
    Ok(rest)
}

fn host_of(text: &str) -> Result<(&str, &str)> {
    let Some(bracketed) = text.strip_prefix('[') else {
        return Ok(text.split_at(text.find([':', '/', '?', ',']).unwrap_or(text.len())));
    };
    let hint = "an IPv6 address in a connection URI is written [2001:db8::1]:5432";
    let (address, rest) = bracketed
        .split_once(']')
        .ok_or_else(|| Error::config("a '[' in the connection URI has no ']'").hint(hint))?;
    if address.is_empty() || !(rest.is_empty() || rest.starts_with([':', '/', '?', ','])) {
        return Err(Error::config("malformed IPv6 address in the connection URI").hint(hint));
    }
    Ok((address, rest))
}

fn query_parameters(query: &str, pairs: &mut Pairs) -> Result<()> {
    if query.is_empty() {
        return Ok(());
    }
    for parameter in query.split('&') {
        let malformed = || {
            Error::config("the parameters of the connection URI are not name=value pairs")
                .hint("write ?name=value&name=value; inside a value, '=' is %3D and '&' is %26")
        };
        let (name, value) = parameter.split_once('=').ok_or_else(malformed)?;
        if value.contains('=') {
            return Err(malformed());
        }
        let (name, value) = (decoded(name)?, decoded(value)?);
        // JDBC's spelling, which libpq accepts.
        if (name.as_str(), value.as_str()) == ("ssl", "true") {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((name, value));
        }
    }
    Ok(())
}

fn push_decoded(pairs: &mut Pairs, name: &str, text: &str) -> Result<()> {
    if !text.is_empty() {
        pairs.push((name.to_owned(), decoded(text)?));
    }
    Ok(())
}

/// Percent-decoded. A `+` is a plus sign.
fn decoded(text: &str) -> Result<String> {
    percent::decoded(text).ok_or_else(|| {
        Error::config("malformed percent-encoding in the connection URI")
            .hint("a '%' is followed by two hexadecimal digits, not 00; a '%' itself is written %25")
    })
}

/// `name = value name = 'quoted value'`, with `\` before any character that stands for itself.
fn key_values(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let name_end = rest.find(|it: char| it == '=' || it.is_ascii_whitespace()).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(name_end);
        let behind = behind.trim_ascii_start().strip_prefix('=').ok_or_else(|| {
            Error::config("the connection string has a word without '='")
                .hint("write name=value pairs; quote a value that has spaces: password='two words'")
        })?;
        let value;
        (value, rest) = value_of(behind.trim_ascii_start())?;
        pairs.push((name.to_owned(), value));
        rest = rest.trim_ascii_start();
    }
    Ok(pairs)
}

fn value_of(text: &str) -> Result<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            blank if !quoted && blank.is_ascii_whitespace() => return Ok((value, &text[at..])),
            plain => value.push(plain),
        }
    }
    if quoted {
        return Err(Error::config("the connection string has a quote that is not closed")
            .hint("inside quotes write a quote as \\' and a backslash as \\\\"));
    }
    Ok((value, ""))
}
