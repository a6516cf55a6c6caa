//! As much reading of Rust as the rules need: comments, texts and test modules blanked out, the rest searched.

/// Code of which every byte stands where it stood in the file; what is blanked is spaces.
pub(super) struct Code {
    text: String,
}

/// A path into this crate, from `crate::` or enough `super::`s.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl Code {
    pub(super) fn new(source: &str) -> Code {
        let mut code = Code { text: blank_comments_and_texts(source) };
        code.blank_tests();
        code
    }

    pub(super) fn mentions(&self, module: &[String]) -> Vec<Mention> {
        let mut mentions = Vec::new();
        for (start, name) in self.words() {
            let mut at = start + name.len();
            let is_root = match name {
                "crate" => true,
                "super" if !self.text[..start].trim_end().ends_with("::") => {
                    self.reaches_root(&mut at, module.len())
                }
                _ => false,
            };
            if is_root && skip_token(&self.text, &mut at, "::") {
                self.read_tree(&mut at, &[], &mut mentions);
            }
        }
        mentions.retain(|mention| !mention.path.is_empty());
        mentions
    }

    /// Whether the `super`s from here on climb to the crate's root; `at` moves behind the last of them.
    fn reaches_root(&self, at: &mut usize, depth: usize) -> bool {
        let mut climbed = 1;
        loop {
            let mut next = *at;
            if !(skip_token(&self.text, &mut next, "::") && skip_token(&self.text, &mut next, "super")) {
                return climbed == depth;
            }
            *at = next;
            climbed += 1;
        }
    }

    /// Reads `a::b`, `a::{b, c::d}`, `*`: every leaf is a mention.
    fn read_tree(&self, at: &mut usize, prefix: &[String], mentions: &mut Vec<Mention>) {
        if skip_token(&self.text, at, "{") {
            while !skip_token(&self.text, at, "}") && *at < self.text.len() {
                self.read_tree(at, prefix, mentions);
                while *at < self.text.len() && !self.text[*at..].starts_with([',', '}']) {
                    *at += self.text[*at..].chars().next().map_or(1, char::len_utf8);
                }
                skip_token(&self.text, at, ",");
            }
            return;
        }
        skip_spaces(&self.text, at);
        let start = *at;
        let name = word_at(&self.text, start);
        *at += name.len();
        let mut path = prefix.to_vec();
        if !name.is_empty() && name != "self" {
            path.push(name.to_owned());
        }
        if !name.is_empty() && skip_token(&self.text, at, "::") {
            self.read_tree(at, &path, mentions);
        } else {
            mentions.push(Mention { path, line: self.line_of(start) });
        }
    }

    pub(super) fn lines_with(&self, needle: &str) -> Vec<usize> {
        self.text.match_indices(needle).map(|(at, _)| self.line_of(at)).collect()
    }

    /// The names that follow one of these keywords.
    pub(super) fn names_after(&self, keywords: &[&str]) -> Vec<(String, usize)> {
        let words = self.words();
        let pairs = words.windows(2).filter(|pair| keywords.contains(&pair[0].1));
        pairs.map(|pair| (pair[1].1.to_owned(), self.line_of(pair[1].0))).collect()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let words = self.words();
        let mut functions = Vec::new();
        for pair in words.windows(2).filter(|pair| pair[0].1 == "fn") {
            let (start, (name_at, name)) = (pair[0].0, pair[1]);
            // `fn(u8)` is a type; a trait's method may end without a body.
            if self.text[start + 2..name_at].trim().is_empty()
                && let Some(end) = self.end_of_item(name_at)
            {
                let line = self.line_of(start);
                functions.push(Function { name: name.to_owned(), line, lines: self.line_of(end) - line + 1 });
            }
        }
        functions
    }

    fn blank_tests(&mut self) {
        const ATTRIBUTE: &str = "#[cfg(test)]";
        while let Some(start) = self.text.find(ATTRIBUTE) {
            let end = self.end_of_item(start + ATTRIBUTE.len()).map_or(self.text.len(), |end| end + 1);
            let blanked = spaces(&self.text[start..end]);
            self.text.replace_range(start..end, &blanked);
        }
    }

    /// Where the item ends that starts at `from`: its closing brace, or a semicolon before any brace.
    fn end_of_item(&self, from: usize) -> Option<usize> {
        let (mut depth, mut brackets) = (0_usize, 0_usize);
        for (at, byte) in self.text.bytes().enumerate().skip(from) {
            match byte {
                b'[' | b'(' if depth == 0 => brackets += 1,
                b']' | b')' if depth == 0 => brackets = brackets.saturating_sub(1),
                b';' if depth == 0 && brackets == 0 => return Some(at),
                b'{' => depth += 1,
                b'}' if depth <= 1 => return Some(at),
                b'}' => depth -= 1,
                _ => {}
            }
        }
        None
    }

    fn words(&self) -> Vec<(usize, &str)> {
        let mut words = Vec::new();
        let mut at = 0;
        while at < self.text.len() {
            let word = word_at(&self.text, at);
            if word.is_empty() {
                at += self.text[at..].chars().next().map_or(1, char::len_utf8);
            } else {
                words.push((at, word));
                at += word.len();
            }
        }
        words
    }

    fn line_of(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }
}

fn word_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    &rest[..rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '_')).unwrap_or(rest.len())]
}

fn skip_spaces(text: &str, at: &mut usize) {
    *at += text[*at..].len() - text[*at..].trim_start().len();
}

fn skip_token(text: &str, at: &mut usize, token: &str) -> bool {
    let mut next = *at;
    skip_spaces(text, &mut next);
    let found = text[next..].starts_with(token);
    if found {
        *at = next + token.len();
    }
    found
}

/// As long as `text`, with its line ends.
fn spaces(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

fn blank_comments_and_texts(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let length = blank_length(rest, code.chars().next_back());
        if length > 0 {
            code.push_str(&spaces(&rest[..length]));
            rest = &rest[length..];
        } else {
            let letter = rest.chars().next().expect("the rest is not empty");
            code.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    code
}

/// How long the comment or literal is that `rest` starts with; 0 if it starts with neither.
fn blank_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return comment_length(rest);
    }
    let is_inside_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if !is_inside_word && (rest.starts_with('r') || rest.starts_with("br")) {
        let hashes = rest.trim_start_matches(['b', 'r']).chars().take_while(|letter| *letter == '#').count();
        let open = rest.find('r').unwrap_or(0) + 1 + hashes;
        if rest[open.min(rest.len())..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            return rest[open + 1..].find(&close).map_or(rest.len(), |end| open + 1 + end + close.len());
        }
    }
    if rest.starts_with('"') {
        return text_length(rest);
    }
    if let Some(quoted) = rest.strip_prefix('\'') {
        return character_length(quoted);
    }
    0
}

fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are characters; `'a` is a lifetime.
fn character_length(quoted: &str) -> usize {
    let mut letters = quoted.char_indices();
    match letters.next() {
        Some((_, '\\')) => quoted[2..].find('\'').map_or(0, |end| 1 + 2 + end + 1),
        Some((_, letter)) if quoted[letter.len_utf8()..].starts_with('\'') => 1 + letter.len_utf8() + 1,
        _ => 0,
    }
}
