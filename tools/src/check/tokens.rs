//! A small Rust tokeniser: enough to tell code from strings and comments, and test code from the rest.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Identifier or keyword; raw identifiers without their `r#`.
    Ident,
    /// One character of punctuation; `::` is one token.
    Punct,
    /// String literal, without quotes.
    Text,
    /// Comment, with its slashes.
    Comment,
    /// Character and number literals, lifetimes.
    Other,
}

/// A token of a source file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub(crate) test: bool,
    /// Number of inline modules around it.
    pub(crate) depth: usize,
}

impl Token<'_> {
    /// True for this identifier or punctuation.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Ident | Kind::Punct) && self.text == text
    }
}

/// Splits a source file.
pub(crate) fn tokenize(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < bytes.len() {
        let start = i;
        let c = bytes[i];
        let kind = if c.is_ascii_whitespace() {
            line += usize::from(c == b'\n');
            i += 1;
            continue;
        } else if c == b'/' && at(i + 1) == b'/' {
            i = source[i..].find('\n').map_or(bytes.len(), |n| i + n);
            Kind::Comment
        } else if c == b'/' && at(i + 1) == b'*' {
            i = end_of_block_comment(bytes, i);
            Kind::Comment
        } else if let Some((open, hashes, raw)) = string_start(bytes, i) {
            i = end_of_string(bytes, open, hashes, raw);
            let text = &source[open..i.saturating_sub(1 + hashes).max(open)];
            tokens.push(Token { kind: Kind::Text, text, line, test: false, depth: 0 });
            line += source[start..i].matches('\n').count();
            continue;
        } else if c == b'\'' || (c == b'b' && at(i + 1) == b'\'') {
            i = end_of_char(bytes, i + usize::from(c == b'b'));
            Kind::Other
        } else if is_word(c) {
            let raw = c == b'r' && at(i + 1) == b'#' && is_word(at(i + 2));
            let word = if raw { i + 2 } else { i };
            i = word;
            while is_word(at(i)) {
                i += 1;
            }
            let kind = if c.is_ascii_digit() { Kind::Other } else { Kind::Ident };
            tokens.push(Token { kind, text: &source[word..i], line, test: false, depth: 0 });
            continue;
        } else {
            i += if c == b':' && at(i + 1) == b':' { 2 } else { 1 };
            while !source.is_char_boundary(i) {
                i += 1;
            }
            Kind::Punct
        };
        tokens.push(Token { kind, text: &source[start..i], line, test: false, depth: 0 });
        line += source[start..i].matches('\n').count();
    }
    mark_items(&mut tokens);
    tokens
}

fn is_word(c: u8) -> bool {
    c == b'_' || c.is_ascii_alphanumeric() || c >= 0x80
}

fn end_of_block_comment(bytes: &[u8], mut i: usize) -> usize {
    let mut depth = 0usize;
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    bytes.len()
}

/// Where a string literal that starts at `i` has its content, how many hashes close it, and whether it is raw.
fn string_start(bytes: &[u8], i: usize) -> Option<(usize, usize, bool)> {
    let rest = &bytes[i..];
    let prefix = rest.iter().take(2).take_while(|c| matches!(c, b'b' | b'c' | b'r')).count();
    let raw = rest[..prefix].ends_with(b"r");
    let hashes = if raw { rest[prefix..].iter().take_while(|&&c| c == b'#').count() } else { 0 };
    (rest.get(prefix + hashes) == Some(&b'"')).then_some((i + prefix + hashes + 1, hashes, raw))
}

fn end_of_string(bytes: &[u8], mut i: usize, hashes: usize, raw: bool) -> usize {
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if !raw => i += 2,
            b'"' if bytes[i + 1..].iter().take(hashes).filter(|&&c| c == b'#').count() == hashes => {
                return i + 1 + hashes;
            }
            _ => i += 1,
        }
    }
    bytes.len()
}

/// End of a character literal or lifetime whose quote is at `i`.
fn end_of_char(bytes: &[u8], i: usize) -> usize {
    let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
    if at(i + 1) == b'\\' {
        let close = bytes.iter().skip(i + 3).position(|&c| c == b'\'');
        return close.map_or(bytes.len(), |n| i + 4 + n);
    }
    let mut end = i + 1;
    while is_word(at(end)) {
        end += 1;
    }
    if end == i + 1 {
        end += 1;
    }
    if at(end) == b'\'' { end + 1 } else { end }
}

/// Fills in `test` and `depth` by following braces.
fn mark_items(tokens: &mut [Token<'_>]) {
    // Per open brace: does it open a module, and is its content test code.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let mut pending_test = false;
    let code: Vec<usize> = (0..tokens.len()).filter(|&i| !matches!(tokens[i].kind, Kind::Comment)).collect();
    for (n, &i) in code.iter().enumerate() {
        let follows = |words: &[&str]| {
            words.iter().enumerate().all(|(k, w)| code.get(n + k).is_some_and(|&j| tokens[j].is(w)))
        };
        if follows(&["#", "[", "cfg", "(", "test", ")", "]"])
            || follows(&["#", "[", "cfg", "(", "all", "(", "test"])
        {
            pending_test = true;
        }
        if tokens[i].is("{") {
            let module = n >= 2 && tokens[code[n - 2]].is("mod");
            open.push((module, pending_test || open.last().is_some_and(|o| o.1)));
            pending_test = false;
        } else if tokens[i].is("}") {
            open.pop();
        } else if tokens[i].is(";") {
            pending_test = false;
        }
        let test = pending_test || open.last().is_some_and(|o| o.1);
        let depth = open.iter().filter(|o| o.0).count();
        (tokens[i].test, tokens[i].depth) = (test, depth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idents(source: &str) -> Vec<&str> {
        tokenize(source).iter().filter(|t| t.kind == Kind::Ident).map(|t| t.text).collect()
    }

    #[test]
    fn strings_comments_and_lifetimes_are_no_code() {
        assert_eq!(idents("let a = \"unsafe \\\" x\"; // unsafe\n/* /* y */ unsafe */ b"), ["let", "a", "b"]);
        assert_eq!(idents("r#\"unsafe \" \"# c br\"z\" c\"w\" r#type"), ["c", "type"]);
        assert_eq!(
            idents("fn f<'a>(x: &'a u8) -> char { '\\'' ; 'y' ; b'{' ; ':' ; '\\u{7f}' } g"),
            ["fn", "f", "x", "u8", "char", "g"]
        );
    }

    #[test]
    fn lines_tests_and_modules_are_known() {
        let source = "a\n\"x\ny\" b\n#[cfg(test)]\nmod tests {\n  fn c() {}\n}\nmod d { e }\nf";
        let tokens = tokenize(source);
        let find = |text: &str| tokens.iter().find(|t| t.text == text).copied().unwrap();
        assert_eq!((find("b").line, find("c").line, find("f").line), (3, 6, 9));
        assert!(find("c").test && !find("e").test && !find("f").test);
        assert_eq!((find("b").depth, find("c").depth, find("e").depth, find("f").depth), (0, 1, 1, 0));
    }
}
