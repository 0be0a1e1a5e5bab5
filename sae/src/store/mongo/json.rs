//! Between JSON and documents, for settings and logits: objects, lists, texts, numbers.

use mongodb::bson::{Bson, Document};
use serde_json::Value;

/// Integers stay integers.
pub(super) fn to_bson(value: &Value) -> Bson {
    match value {
        Value::Null => Bson::Null,
        Value::Bool(b) => Bson::Boolean(*b),
        Value::Number(n) => match n.as_i64() {
            Some(i) => i32::try_from(i).map_or(Bson::Int64(i), Bson::Int32),
            None => Bson::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => Bson::String(s.clone()),
        Value::Array(items) => Bson::Array(items.iter().map(to_bson).collect()),
        Value::Object(map) => {
            Bson::Document(map.iter().map(|(k, v)| (k.clone(), to_bson(v))).collect::<Document>())
        }
    }
}

/// What has no form in JSON becomes its text.
pub(super) fn to_json(value: &Bson) -> Value {
    match value {
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::Boolean(b) => (*b).into(),
        Bson::Int32(i) => (*i).into(),
        Bson::Int64(i) => (*i).into(),
        Bson::Double(v) => (*v).into(),
        Bson::String(s) => s.clone().into(),
        Bson::Array(items) => items.iter().map(to_json).collect(),
        Bson::Document(d) => {
            d.iter().map(|(k, v)| (k.clone(), to_json(v))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.to_string().into(),
    }
}
