//! JSON out of what language models write: in fences, with words around it, with a comma too many, cut off at the end.

use serde_json::{Map, Value};

/// The first JSON object in a text, repaired where that is safe.
///
/// # Errors
/// There is none.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    let from = text.find('{').ok_or_else(|| format!("the answer holds no JSON object: {:?}", head(text)))?;
    let text = &text[from..];
    let mut whole = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let found = match whole.next() {
        Some(Ok(v)) => Some(v),
        _ => serde_json::from_str(&repaired(text)).ok(),
    };
    match found {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(format!("the answer's JSON cannot be read: {:?}", head(text))),
    }
}

fn head(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The object without commas before a closing bracket, what is open closed, what follows it left out.
fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let (mut open, mut quoted, mut escaped) = (Vec::new(), false, false);
    for c in text.chars() {
        if quoted {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                '\n' => {
                    out.push_str("\\n");
                    continue;
                }
                _ => {}
            }
            out.push(c);
            continue;
        }
        match c {
            '"' => quoted = true,
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => {
                drop_comma(&mut out);
                if open.pop() != Some(c) {
                    return out;
                }
            }
            _ => {}
        }
        out.push(c);
        if open.is_empty() {
            return out;
        }
    }
    if escaped {
        out.pop();
    }
    if quoted {
        out.push('"');
    }
    drop_comma(&mut out);
    out.extend(open.iter().rev());
    out
}

fn drop_comma(out: &mut String) {
    let kept = out.trim_end();
    if let Some(kept) = kept.strip_suffix(',') {
        out.truncate(kept.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_found_whatever_is_around_it() {
        let want = json!({"a": [1, 2], "b": "x}{"});
        for text in [
            r#"{"a": [1, 2], "b": "x}{"}"#,
            "Sure! Here it is:\n```json\n{\"a\": [1, 2], \"b\": \"x}{\"}\n```\nI hope {this} helps.",
            r#"{"a": [1, 2,], "b": "x}{", }"#,
            r#"{"a": [1, 2], "b": "x}{""#,
        ] {
            assert_eq!(Value::Object(object(text).unwrap()), want, "{text}");
        }
        let lines = object("{\"a\": \"one\ntwo\", }").unwrap();
        assert_eq!(lines["a"], "one\ntwo");
    }

    #[test]
    fn what_is_no_object_is_an_error_that_quotes_it() {
        for text in ["I cannot help with that.", "[true, false]", "{\"a\": tru", "{]", "{"] {
            let found = object(text);
            assert!(found.is_err() || text == "{" && found.unwrap().is_empty(), "{text}");
        }
        assert!(object("no").unwrap_err().contains("\"no\""));
    }

    #[test]
    fn no_cut_of_an_answer_makes_reading_fail_loudly_or_invent_keys() {
        let text = r#"{"steps": ["a \" é", {"x": [1]}], "answers": [true, false], "n": 1.5e3}"#;
        for cut in (0..text.len()).filter(|&i| text.is_char_boundary(i)) {
            if let Ok(found) = object(&text[..cut]) {
                let known = ["steps", "answers", "n"];
                assert!(found.keys().all(|k| known.contains(&k.as_str())), "{cut}: {found:?}");
            }
        }
    }
}
