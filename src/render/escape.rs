//! Hostile names made printable: one line stays one line, and no escape sequence gets through.

use std::borrow::Cow;
use std::fmt::Write;

/// Appends bytes of a name. UTF-8 that prints stays as it is; the rest becomes `\n`, `\x1b` (a byte) or
/// `\u{202e}` (a character), as do the delimiters `\` `"` `<` `>`.
pub fn escape_bytes(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), out);
        for byte in chunk.invalid() {
            hex(*byte, out);
        }
    }
}

/// As [`escape_bytes`], of a text.
pub fn escape_text(text: &str, out: &mut String) {
    let plain =
        |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b'"' | b'<' | b'>');
    // Nearly every name; the loop below is for the others.
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '\0'..='\x1f' | '\x7f' => hex(u8::try_from(c).unwrap_or_default(), out),
            _ if is_unprintable(c) => push(out, format_args!("\\u{{{:x}}}", u32::from(c))),
            _ => out.push(c),
        }
    }
}

/// As [`escape_text`], as a text of its own.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    escape_text(text, &mut out);
    out
}

/// A message that may quote what others chose: all that a terminal would obey is escaped, the ends of lines stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    without(text, |c| c != '\n' && is_unprintable(c))
}

/// As [`printable`], for a message of one line, which it stays.
#[must_use]
pub fn printable_line(text: &str) -> Cow<'_, str> {
    without(text, is_unprintable)
}

fn without(text: &str, obeyed: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match u8::try_from(c) {
            _ if !obeyed(c) => out.push(c),
            Ok(byte) if byte.is_ascii() => hex(byte, &mut out),
            _ => push(&mut out, format_args!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

/// Characters beyond ASCII that a terminal obeys, or that print as nothing: C1 controls, separators,
/// direction marks and overrides, zero-width characters, the byte order mark, tags.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn hex(byte: u8, out: &mut String) {
    push(out, format_args!("\\x{byte:02x}"));
}

/// Appends formatted text; a `String` takes all.
pub(super) fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelled(bytes: &[u8]) -> String {
        let mut out = String::new();
        escape_bytes(bytes, &mut out);
        out
    }

    #[test]
    fn hostile_names_are_spelled_out() {
        assert_eq!(spelled(b"plain name.txt"), "plain name.txt");
        assert_eq!(spelled("größe.txt".as_bytes()), "größe.txt");
        assert_eq!(spelled(b"a\nb\tc\rd\0"), r"a\nb\tc\rd\x00");
        assert_eq!(spelled(b"\x1b[31mred"), r"\x1b[31mred");
        assert_eq!(spelled(b"say \"hi\" \\ <x>"), r#"say \"hi\" \\ \x3cx\x3e"#);
        assert_eq!(spelled(b"bad\xff\xfe"), r"bad\xff\xfe");
        assert_eq!(
            spelled("\u{202e}gpj.exe\u{9b}".as_bytes()),
            r"\u{202e}gpj.exe\u{9b}"
        );
    }

    proptest! {
        #[test]
        fn what_comes_out_is_one_printable_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = spelled(&bytes);
            prop_assert!(!text.chars().any(is_unprintable));
        }

        #[test]
        fn different_names_stay_different(a in proptest::collection::vec(any::<u8>(), 0..6),
                                          b in proptest::collection::vec(any::<u8>(), 0..6)) {
            prop_assert_eq!(a == b, spelled(&a) == spelled(&b));
        }
    }
}
