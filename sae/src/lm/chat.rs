//! Chats as one text, by the template a tokenizer comes with: Jinja, in the dialect that `transformers` gives it. Templates come
//! with downloaded models and are programs: they run in an interpreter that reaches nothing, and for a limited number of steps.
//!
//! Today's date is not among what templates are given: the same chat has to give the same tokens tomorrow. Templates that ask for it
//! only where it is defined use their fixed one.
//!
//! One difference to Python's Jinja is known: a macro called with an undefined argument takes the default of its parameter.

use minijinja::{
    Environment, Error, ErrorKind, Output, State,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value, ValueKind},
};
use serde_json::{Map, Value as Json};
use std::panic::{self, AssertUnwindSafe};

/// Steps of a template before it is taken to run forever.
const STEPS: u64 = 50_000_000;
/// The one template of the environment.
const NAME: &str = "chat";

/// A template, ready to be used.
pub struct ChatTemplate {
    env: Environment<'static>,
    /// `bos_token` and the like.
    tokens: Map<String, Json>,
}

impl ChatTemplate {
    /// Parses a template; `tokens` are the special tokens it may name.
    ///
    /// # Errors
    /// What its language does not allow.
    pub fn new(source: &str, tokens: Map<String, Json>) -> Result<Self, String> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| said(&e))?);
        env.set_fuel(Some(STEPS));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_formatter(as_python);
        env.add_function("raise_exception", |what: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, what))
        });
        env.add_filter("tojson", to_json);
        let source = without_generation_tags(source);
        guarded(|| env.add_template_owned(NAME, source).map_err(|e| said(&e)))?;
        Ok(Self { env, tokens })
    }

    /// The text of a chat: a list of messages with `role` and `content` (or, as some data sets have it, `from` and `value`).
    ///
    /// # Errors
    /// What is no list of messages, or what the template refuses.
    pub fn render(&self, messages: &Json, add_generation_prompt: bool) -> Result<String, String> {
        let messages = messages.as_array().filter(|m| !m.is_empty()).ok_or("is no list of messages")?;
        let messages = messages.iter().map(message).collect::<Result<Vec<Json>, _>>()?;
        let mut context = self.tokens.clone();
        context.insert("messages".into(), Json::Array(messages));
        context.insert("add_generation_prompt".into(), Json::Bool(add_generation_prompt));
        for absent in ["tools", "documents"] {
            context.insert(absent.into(), Json::Null);
        }
        guarded(|| {
            let template = self.env.get_template(NAME).map_err(|e| said(&e))?;
            template.render(Value::from(Serde(&context))).map_err(|e| said(&e))
        })
    }
}

/// Templates come from others: a mistake of the interpreter must not end a run.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let none = |_| Err("is no template: its interpreter gave up on it".into());
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(none)
}

/// A message under the names templates use.
fn message(message: &Json) -> Result<Json, String> {
    let map = message.as_object().ok_or("holds a message that is no object with role and content")?;
    if map.contains_key("role") {
        return Ok(message.clone());
    }
    let (Some(from), Some(value)) = (map.get("from").and_then(Json::as_str), map.get("value")) else {
        let keys = map.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(format!("holds a message with {keys}; it needs role and content"));
    };
    let role = match from {
        "human" => "user",
        "gpt" => "assistant",
        other => other,
    };
    Ok(serde_json::json!({"role": role, "content": value}))
}

/// An error with what caused it, without the name of our one template.
fn said(e: &Error) -> String {
    let mut text = e.detail().map_or_else(|| e.kind().to_string(), String::from);
    if let Some(line) = e.line() {
        text += &format!(" (line {line} of the template)");
    }
    text
}

/// `{% generation %}` marks what a model said, for training it; here it changes nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let Some(length) = rest[at + 2..].find("%}").map(|n| n + 2) else { break };
        let (before, tag) = (&rest[..at], &rest[at + 2..at + length]);
        out.push_str(before);
        let word = tag.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", tag.replacen(word, "if true", 1))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", tag.replacen(word, "endif", 1))),
            _ => out.push_str(&rest[at..at + length + 2]),
        }
        rest = &rest[at + length + 2..];
    }
    out + rest
}

/// Nothing and truth as Python spells them.
fn as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let spelled = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        // Python prints these in its own notation, which is no text of a chat; and a namespace that holds itself has no end.
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain => {
            let what = "prints a list or structure, which is no text; print what is in it, or its tojson";
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        _ => return minijinja::escape_formatter(out, state, value),
    };
    out.write_str(spelled).map_err(|_| Error::new(ErrorKind::WriteFailure, "the text could not be written"))
}

/// JSON as Python writes it: a space after commas and colons, nothing escaped that need not be.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("cannot be written as JSON: {e}")))?;
    let mut text = String::new();
    write_json(&json, indent, 0, sorted == Some(true), &mut text);
    Ok(Value::from_safe_string(text))
}

fn write_json(value: &Json, indent: Option<usize>, depth: usize, sorted: bool, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        Json::Array(all) if !all.is_empty() => {
            out.push('[');
            for (i, v) in all.iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                write_json(v, indent, depth + 1, sorted, out);
            }
            line(depth, out);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            if sorted {
                entries.sort_by_key(|(k, _)| k.as_str());
            }
            out.push('{');
            for (i, (k, v)) in entries.into_iter().enumerate() {
                out.push_str(if i > 0 { comma } else { "" });
                line(depth + 1, out);
                out.push_str(&Json::String(k.clone()).to_string());
                out.push_str(": ");
                write_json(v, indent, depth + 1, sorted, out);
            }
            line(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: Json) -> Result<String, String> {
        let tokens = json!({"bos_token": "<s>"}).as_object().cloned().unwrap_or_default();
        ChatTemplate::new(source, tokens)?.render(&messages, false)
    }

    #[test]
    fn both_ways_to_name_speaker_and_words_are_read() {
        let source = "{% for m in messages %}{{ m.role }}={{ m['content'] }};{% endfor %}";
        let said = json!([{"from": "human", "value": "a"}, {"role": "assistant", "content": "b"}]);
        assert_eq!(render(source, said).unwrap(), "user=a;assistant=b;");
        assert!(render(source, json!([{"text": "a"}])).unwrap_err().contains("role and content"));
        assert!(render(source, json!([])).unwrap_err().contains("no list of messages"));
    }

    #[test]
    fn what_a_template_refuses_is_the_error() {
        let e =
            render("{{ raise_exception('no systems here') }}", json!([{"role": "system", "content": ""}]));
        assert!(e.unwrap_err().contains("no systems here"));
        assert!(ChatTemplate::new("{% for %}", Map::new()).err().unwrap().contains("line 1"));
    }

    #[test]
    fn what_is_no_text_is_not_printed() {
        let chat = || json!([{"role": "user", "content": [1]}]);
        for source in
            ["{{ messages }}", "{{ messages[0] }}", "{% set n = namespace() %}{% set n.n = n %}{{ n }}"]
        {
            assert!(render(source, chat()).unwrap_err().contains("tojson"), "{source}");
        }
        let forever = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(render(forever, chat()).is_err());
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let forever = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ '' }}\
                       {% endfor %}{% endfor %}{% endfor %}";
        assert!(render(forever, json!([{"role": "user", "content": ""}])).is_err());
    }

    #[test]
    fn marks_of_generation_change_nothing_and_others_stay() {
        let source = "a {%- generation -%} b {% endgeneration %}{% set x = 1 %}{{ x }}";
        let plain = "a {%- if true -%} b {% endif %}{% set x = 1 %}{{ x }}";
        assert_eq!(without_generation_tags(source), plain);
        assert_eq!(without_generation_tags("{%} {% x"), "{%} {% x");
    }

    #[test]
    fn todays_date_is_not_there() {
        let source = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}fixed{% endif %}";
        assert_eq!(render(source, json!([{"role": "user", "content": ""}])).unwrap(), "fixed");
    }
}
