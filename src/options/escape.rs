//! Where does a list of options, or of paths, split, and what does each piece spell?
//!
//! `\,` `\:` and `\\` stand for the character; any other backslash is one of a name's bytes.

/// The options of one `-o` word, without empty ones. A quoted security context, as podman
/// writes it (`context="u:r:t:s0:c1,c2"`), keeps its commas.
pub(super) fn split_options(list: &[u8]) -> Vec<&[u8]> {
    let mut options = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let end = end_of_context(rest).unwrap_or(0);
        let end = find_unescaped(rest, b',', end).unwrap_or(rest.len());
        options.push(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    options.retain(|option| !option.is_empty());
    options
}

/// The paths of a list, escapes still in them.
pub(super) fn split_paths(list: &[u8]) -> Vec<&[u8]> {
    let mut paths = Vec::new();
    let mut rest = list;
    while let Some(end) = find_unescaped(rest, b':', 0) {
        paths.push(&rest[..end]);
        rest = &rest[end + 1..];
    }
    paths.push(rest);
    paths
}

/// What an escaped piece spells.
pub(super) fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = bytes.next_if(|next| byte == b'\\' && matches!(next, b',' | b':' | b'\\'));
        plain.push(escaped.unwrap_or(byte));
    }
    plain
}

/// What a whole option's value spells that is no list of paths: only `\,` and `\\` stand for something else.
pub(super) fn unescape_option(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escaped = bytes.next_if(|next| byte == b'\\' && matches!(next, b',' | b'\\'));
        plain.push(escaped.unwrap_or(byte));
    }
    plain
}

/// Where `wanted` stands at or after `from` without a backslash before it.
fn find_unescaped(bytes: &[u8], wanted: u8, from: usize) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == wanted => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// Where a quoted context that `rest` begins with ends. Only contexts are ever quoted: in a
/// path, a quote is one of the name's bytes.
fn end_of_context(rest: &[u8]) -> Option<usize> {
    const QUOTED: [&[u8]; 4] = [b"context=\"", b"fscontext=\"", b"defcontext=\"", b"rootcontext=\""];
    let start = QUOTED.iter().find(|start| rest.starts_with(start))?.len();
    let length = rest[start..].iter().position(|&byte| byte == b'"')?;
    Some(start + length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings<T: AsRef<[u8]>>(pieces: &[T]) -> Vec<String> {
        pieces.iter().map(|piece| String::from_utf8_lossy(piece.as_ref()).into_owned()).collect()
    }

    #[test]
    fn options_split_at_plain_commas() {
        for (list, pieces) in [
            ("", &[][..]),
            (",,", &[]),
            ("a", &["a"]),
            ("a,b=c,", &["a", "b=c"]),
            (r"a\,b,c", &[r"a\,b", "c"]),
            (r"a\\,c", &[r"a\\", "c"]),
            (r"a\", &[r"a\"]),
            ("context=\"x:c1,c2\",ro", &["context=\"x:c1,c2\"", "ro"]),
            ("context=\"x,ro", &["context=\"x", "ro"]),
            ("upperdir=\"x,ro", &["upperdir=\"x", "ro"]),
        ] {
            assert_eq!(strings(&split_options(list.as_bytes())), pieces, "{list}");
        }
    }

    #[test]
    fn paths_split_at_plain_colons() {
        for (list, pieces) in [
            ("", &[""][..]),
            ("a:b", &["a", "b"]),
            (r"a\:b:c", &[r"a\:b", "c"]),
            (r"a\\:c", &[r"a\\", "c"]),
            (":a:", &["", "a", ""]),
        ] {
            assert_eq!(strings(&split_paths(list.as_bytes())), pieces, "{list}");
        }
    }

    #[test]
    fn only_our_own_escapes_are_taken_away() {
        for (escaped, plain) in
            [(r"a\:b\,c\\d", r"a:b,c\d"), (r"a\b\", r"a\b\"), (r"\\:", r"\:"), (r"\\\:", r"\:")]
        {
            assert_eq!(strings(&[unescape(escaped.as_bytes())]), [plain], "{escaped}");
        }
    }
}
