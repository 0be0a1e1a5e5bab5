//! Addresses of pages. A dictionary is one path segment, `series:name`, so that names of any kind, `..` included, stay names.

use lm_saes::store::DictionaryKey;
use std::fmt::Write as _;

/// `text` as part of a path or query.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => out.push(b.into()),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
}

/// The path segment of a dictionary, before encoding: colons and backslashes of the series are escaped.
pub fn segment(key: &DictionaryKey) -> String {
    let series = key.series.replace('\\', "\\\\").replace(':', "\\:");
    format!("{series}:{}", key.name)
}

/// Series and name of a decoded path segment; without a colon it is a name in whichever series has it.
pub fn parse_segment(segment: &str) -> (Option<String>, String) {
    let mut series = String::new();
    let mut chars = segment.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => series.extend(chars.next()),
            ':' => return (Some(series), chars.as_str().into()),
            c => series.push(c),
        }
    }
    (None, segment.into())
}

/// `/d/…` of a dictionary.
pub fn dictionary(key: &DictionaryKey) -> String {
    format!("/d/{}", encode(&segment(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_the_way_through_an_address() {
        for (name, series) in
            [("gpt2/l6", "default"), ("..", ""), ("a:b", "x\\:y"), ("", ""), ("<script>", "é ü"), (":", "\\")]
        {
            let key = DictionaryKey::new(name, series);
            let segment = segment(&key);
            assert_eq!(parse_segment(&segment), (Some(series.to_owned()), name.to_owned()));
            assert!(
                !encode(&segment).contains(['/', '?', '#', '<', ' ', '%'].as_slice())
                    || segment != encode(&segment)
            );
        }
        assert_eq!(parse_segment("gpt2"), (None, "gpt2".to_owned()));
        assert_eq!(dictionary(&DictionaryKey::new("a/b", "s")), "/d/s:a%2Fb");
    }
}
