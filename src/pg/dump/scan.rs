//! A scanner for SQL text, exact where it decides what is inside what: quotes, `E''` strings, dollar quotes, nested
//! comments, parentheses, `BEGIN ATOMIC` bodies.
//!
//! It follows the server's lexical rules (`src/backend/parser/scan.l`) and psql's rules for where a statement ends
//! (`src/fe_utils/psqlscan.l`). It never fails: what is not closed reaches to the end of the text and says so.

/// A lexical piece of the text; together they are the text, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub kind: TokenKind,
    pub text: &'a str,
    pub start: usize,
    /// False when the text ends inside of it.
    pub closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Space,
    Comment,
    /// An unquoted name or a keyword.
    Word,
    /// A name in double quotes.
    QuotedName,
    /// A string literal, whatever its quotes.
    Literal,
    /// Anything else, a character each.
    Symbol,
}

impl Token<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    /// Neither space nor comment.
    pub(super) fn counts(&self) -> bool {
        !matches!(self.kind, TokenKind::Space | TokenKind::Comment)
    }

    /// The name that a [`TokenKind::Word`] or a [`TokenKind::QuotedName`] stands for.
    pub(super) fn name(&self) -> Option<String> {
        match self.kind {
            // In a multi-byte encoding the server folds ASCII letters only.
            TokenKind::Word => Some(self.text.to_ascii_lowercase()),
            TokenKind::QuotedName => {
                let inner = self.text.strip_prefix('"')?;
                Some(inner.strip_suffix('"').unwrap_or(inner).replace("\"\"", "\""))
            }
            _ => None,
        }
    }
}

/// The tokens of `text`, in order.
pub(super) fn tokens(text: &str) -> Tokens<'_> {
    Tokens { text, at: 0 }
}

pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = &self.text[self.at..];
        let (kind, length) = first_token(rest)?;
        let closed = length.is_some();
        let text = &rest[..length.unwrap_or(rest.len())];
        let start = self.at;
        self.at += text.len();
        Some(Token { kind, text, start, closed })
    }
}

/// The kind of the token that `rest` starts with, and its length in bytes; no length when it is not closed.
fn first_token(rest: &str) -> Option<(TokenKind, Option<usize>)> {
    let bytes = rest.as_bytes();
    let next = bytes.get(1).copied().unwrap_or(0);
    Some(match *bytes.first()? {
        byte if is_space(byte) => (TokenKind::Space, Some(length_while(bytes, is_space))),
        b'-' if next == b'-' => (TokenKind::Comment, Some(line_length(bytes))),
        b'/' if next == b'*' => (TokenKind::Comment, block_comment_length(bytes)),
        b'"' => (TokenKind::QuotedName, quoted_length(bytes, b'"')),
        b'\'' => (TokenKind::Literal, quoted_length(bytes, b'\'')),
        b'e' | b'E' if next == b'\'' => {
            (TokenKind::Literal, escape_string_length(&bytes[1..]).map(|length| length + 1))
        }
        b'$' => match dollar_delimiter(rest) {
            Some(delimiter) => (TokenKind::Literal, dollar_quoted_length(rest, delimiter)),
            None => (TokenKind::Symbol, Some(1)),
        },
        byte if starts_name(byte) => (TokenKind::Word, Some(length_while(bytes, continues_name))),
        _ => (TokenKind::Symbol, Some(1)),
    })
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Space beyond ASCII is a part of names.
fn is_space_character(character: char) -> bool {
    u8::try_from(character).is_ok_and(is_space)
}

fn starts_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_name(byte: u8) -> bool {
    starts_name(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn length_while(bytes: &[u8], belongs: fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !belongs(byte)).unwrap_or(bytes.len())
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len())
}

fn block_comment_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        match bytes.get(at..at + 2)? {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    Some(at)
}

/// The length of a text in `quote`s, in which a doubled quote stands for one.
fn quoted_length(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == quote)? + 1;
        if bytes.get(at) != Some(&quote) {
            return Some(at);
        }
        at += 1;
    }
}

/// The length of what follows the `E` of an `E''` string, with its continuations on later lines.
fn escape_string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'\\' => at += 2,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => match continuation(&bytes[at + 1..]) {
                Some(offset) => at += 1 + offset,
                None => return Some(at + 1),
            },
            _ => at += 1,
        }
    }
}

/// A string goes on after space that holds a newline: the offset right after the quote that reopens it. It matters
/// for `E''` only, whose continuations keep the backslash rules.
fn continuation(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut newline) = (0, false);
    loop {
        match bytes.get(at)? {
            b'\'' if newline => return Some(at + 1),
            b'-' if bytes.get(at + 1) == Some(&b'-') => at += line_length(&bytes[at..]),
            &byte if is_space(byte) => {
                newline |= matches!(byte, b'\n' | b'\r');
                at += 1;
            }
            _ => return None,
        }
    }
}

/// `$$` or `$tag$`, when `rest` starts with it.
fn dollar_delimiter(rest: &str) -> Option<&str> {
    let tag = rest.get(1..)?;
    let length = tag.find('$')?;
    let bytes = &tag.as_bytes()[..length];
    let valid =
        bytes.first().is_none_or(|&byte| starts_name(byte)) && bytes.iter().all(|&byte| continues_name(byte));
    valid.then(|| &rest[..length + 2])
}

fn dollar_quoted_length(rest: &str, delimiter: &str) -> Option<usize> {
    rest[delimiter.len()..].find(delimiter).map(|body| body + 2 * delimiter.len())
}

/// What stands at the top level of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A statement with its semicolon.
    Statement(&'a str),
    /// The end of the text inside a statement: no semicolon, or something left open.
    Unfinished(&'a str),
    /// A comment between statements.
    Comment(&'a str),
    /// A line for psql, such as `\restrict`.
    Meta(&'a str),
}

/// Everything in `text` but the space between statements.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut open: Option<Statement> = None;
    let mut tokens = tokens(text);
    while let Some(token) = tokens.next() {
        if let Some(statement) = &mut open {
            if statement.ends_with(token) {
                pieces.push(Piece::Statement(&text[statement.start..token.end()]));
                open = None;
            }
        } else if token.is_symbol("\\") {
            let length = line_length(&text.as_bytes()[token.start..]);
            pieces.push(Piece::Meta(&text[token.start..token.start + length]));
            tokens.at = token.start + length;
        } else if token.kind == TokenKind::Comment {
            pieces.push(if token.closed {
                Piece::Comment(token.text)
            } else {
                Piece::Unfinished(token.text)
            });
        } else if token.counts() && !token.is_symbol(";") {
            let mut statement = Statement::starting_at(token.start);
            statement.ends_with(token);
            open = Some(statement);
        }
    }
    if let Some(statement) = open {
        pieces.push(Piece::Unfinished(text[statement.start..].trim_end_matches(is_space_character)));
    }
    pieces
}

/// Splits a text into its statements, each with its semicolon; a last one may lack it. Comments before, between and
/// after statements, psql's lines and empty statements are left out.
pub fn statements(sql: &str) -> Vec<&str> {
    pieces(sql)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Statement(text) => Some(text),
            Piece::Unfinished(text) if !text.starts_with("/*") => Some(text),
            Piece::Unfinished(_) | Piece::Comment(_) | Piece::Meta(_) => None,
        })
        .collect()
}

/// What must be known of a statement's beginning to tell which semicolon ends it.
struct Statement<'a> {
    start: usize,
    parentheses: usize,
    /// `create [or replace] {function | procedure}`, as far as it has been read.
    opening: Opening,
    /// Of `BEGIN ATOMIC` and, inside it, `CASE`: each waits for its `END`.
    bodies: usize,
    previous: Option<Token<'a>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Nothing,
    Create,
    Routine,
    Other,
}

impl<'a> Statement<'a> {
    fn starting_at(start: usize) -> Self {
        Statement { start, parentheses: 0, opening: Opening::Nothing, bodies: 0, previous: None }
    }

    /// Takes the next token; true when it is the semicolon that ends the statement.
    fn ends_with(&mut self, token: Token<'a>) -> bool {
        if !token.counts() {
            return false;
        }
        self.read_opening(token);
        match token.kind {
            TokenKind::Symbol => match token.text {
                "(" => self.parentheses += 1,
                ")" => self.parentheses = self.parentheses.saturating_sub(1),
                // The actions of a rule are a list in parentheses.
                ";" if self.parentheses == 0 && self.bodies == 0 => return true,
                _ => {}
            },
            TokenKind::Word if self.opening == Opening::Routine => self.read_body_word(token),
            _ => {}
        }
        self.previous = Some(token);
        false
    }

    fn read_opening(&mut self, token: Token<'a>) {
        self.opening = match self.opening {
            Opening::Nothing if token.is_word("create") => Opening::Create,
            Opening::Create if token.is_word("or") || token.is_word("replace") => Opening::Create,
            Opening::Create if token.is_word("function") || token.is_word("procedure") => Opening::Routine,
            Opening::Routine => Opening::Routine,
            _ => Opening::Other,
        };
    }

    fn read_body_word(&mut self, word: Token<'a>) {
        // After `as` and `.` even a reserved word is a name.
        let is_name = self.previous.is_some_and(|token| token.is_symbol(".") || token.is_word("as"));
        let begins = word.is_word("atomic") && self.previous.is_some_and(|token| token.is_word("begin"));
        if self.bodies == 0 {
            self.bodies = usize::from(begins && self.parentheses == 0);
        } else if !is_name && word.is_word("case") {
            self.bodies += 1;
        } else if !is_name && word.is_word("end") {
            self.bodies -= 1;
        }
    }
}
