//! One text field out of one JSON record, without building the rest of the record in memory; or a list of it.

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Value, error::Category};
use std::fmt;

/// The string under `field` of the JSON object `json`; the error says what is wrong with the record.
pub fn text_field(json: &str, field: &str) -> Result<String, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let text = Field(field).deserialize(&mut reader).and_then(|text| reader.end().map(|()| text));
    text.map_err(|e| {
        // A record is one line here, so "line 1" would mislead next to the line of the file.
        let what = e.to_string().replace("at line 1 column", "at column");
        match e.classify() {
            Category::Data => what.rsplit_once(" at column").map_or(what.clone(), |(what, _)| what.into()),
            _ => format!("not JSON: {what}"),
        }
    })
}

/// The list under `field` of the JSON object `json`, as JSON; `key` is the setting that names the field.
pub fn list_field(json: &str, field: &str, key: &str) -> Result<String, String> {
    let record: Value = serde_json::from_str(json).map_err(|e| format!("not JSON: {e}"))?;
    match record.get(field) {
        Some(list @ Value::Array(_)) => Ok(list.to_string()),
        Some(_) => Err(format!("{field:?} is no list")),
        None => {
            let others = record.as_object().map(|r| r.keys().cloned().collect::<Vec<_>>().join(", "));
            Err(format!(
                "no field {field:?} (the record has {}); set {key} to the one that holds it",
                others.unwrap_or_else(|| "none".into())
            ))
        }
    }
}

struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<String, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON object with a string {:?}", self.0)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<String, M::Error> {
        let (mut text, mut others) = (None, Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                text = Some(map.next_value::<String>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
                others.push(key);
            }
        }
        text.ok_or_else(|| {
            M::Error::custom(format!(
                "no field {:?} (the record has {}); set text_field to the one that holds the text",
                self.0,
                if others.is_empty() { "none".into() } else { others.join(", ") }
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_field_is_read_wherever_it_stands() {
        let json = r#"{"meta": {"text": "no", "list": [1, {"a": null}]}, "text": "a\u00e9\n", "n": 3}"#;
        assert_eq!(text_field(json, "text").unwrap(), "aé\n");
    }

    #[test]
    fn a_record_without_the_field_says_which_it_has() {
        let e = text_field(r#"{"content": "x", "id": 1}"#, "text").unwrap_err();
        assert!(e.contains("\"text\"") && e.contains("content, id") && e.contains("text_field"), "{e}");
    }

    #[test]
    fn broken_records_are_refused() {
        for json in ["{\"text\": \"a\"", "{\"text\": 3}", "[1]", "{\"text\": \"a\"} x", "nonsense", ""] {
            assert!(text_field(json, "text").is_err(), "{json}");
        }
        assert!(text_field("nonsense", "text").unwrap_err().starts_with("not JSON: "));
    }
}
