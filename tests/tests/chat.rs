//! Chats as text: what transformers makes of the same chats with the same templates (`fixtures/chat/make.py`), and a stream of
//! tokens from a file of chats.

use lm_saes::{
    data::{Content, ContextReader, Order, Overflow, TextOptions, TextSource, TokenPolicy},
    lm::{ChatTemplate, SpecialIds, Tokenizer},
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

fn cases() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chat/cases.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn chats_become_the_text_that_transformers_makes_of_them() {
    let all = cases();
    let tokens = all["tokens"].as_object().unwrap();
    let (mut same, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in all["cases"].as_array().unwrap() {
        let [template, chat] = ["template", "chat"].map(|k| case[k].as_str().unwrap());
        let source = all["templates"][template].as_str().unwrap();
        let prompt = case["prompt"].as_bool().unwrap();
        let found =
            ChatTemplate::new(source, tokens.clone()).and_then(|t| t.render(&all["chats"][chat], prompt));
        match (&found, case["text"].as_str()) {
            (Ok(found), Some(expected)) if found == expected => same += 1,
            (Err(_), None) => refused += 1,
            // A list printed as Python prints lists is no text of a chat; it is refused.
            (Err(_), Some(expected)) if expected.contains("[{'type'") => refused += 1,
            _ => wrong.push(format!("{template} {chat} {prompt}: {found:?}\n  expected {case}")),
        }
    }
    assert!(wrong.is_empty(), "{same} agree; these do not:\n{}", wrong.join("\n"));
    assert!(same >= 50 && refused > 0, "{same} {refused}");
}

/// A folder with a tokenizer of letters and a template.
fn tokenizer(template: Option<&str>) -> (tempfile::TempDir, Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    let mut vocab = serde_json::Map::new();
    for (i, token) in ["<s>", "</s>", "<u>", "<a>"].iter().enumerate() {
        vocab.insert((*token).into(), json!(i));
    }
    for (i, c) in ('a'..='z').enumerate() {
        vocab.insert(c.to_string(), json!(4 + i));
    }
    let special = |id: usize, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let model = json!({"type": "BPE", "vocab": vocab, "merges": []});
    let added = [special(0, "<s>"), special(1, "</s>"), special(2, "<u>"), special(3, "<a>")];
    let text = json!({"version": "1.0", "added_tokens": added, "model": model}).to_string();
    fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    let mut config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    if let Some(template) = template {
        config["chat_template"] = json!([
            {"name": "tool_use", "template": "never"},
            {"name": "default", "template": template},
        ]);
    }
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::load(dir.path(), SpecialIds::default()).unwrap();
    (dir, tokenizer)
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}\
                        {{ '<u>' if m.role == 'user' else '<a>' }}{{ m.content }}{% endfor %}{{ eos_token }}";

fn reader(dir: &Path, tokenizer: Tokenizer, text: &str) -> ContextReader {
    let path = dir.join("chats.jsonl");
    fs::write(&path, text).unwrap();
    let options = TextOptions { content: Content::Messages("messages".into()), ..TextOptions::default() };
    reader_of(Arc::new(TextSource::open(&path, &options).unwrap()), tokenizer)
}

fn reader_of(source: Arc<TextSource>, tokenizer: Tokenizer) -> ContextReader {
    let policy = TokenPolicy {
        context_size: Some(12),
        max_length: 12,
        prepend_bos: true,
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        pad: 1,
        overflow: Overflow::Truncate,
        ignore_token_ids: Vec::new(),
        mask_first_position: false,
    };
    ContextReader::new(source, Arc::new(tokenizer), policy, Order::default()).unwrap()
}

#[test]
fn a_file_of_chats_becomes_contexts_with_one_bos() {
    let (dir, tokenizer) = tokenizer(Some(TEMPLATE));
    let text = concat!(
        r#"{"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]}"#,
        "\n",
        r#"{"messages": [{"from": "human", "value": "d"}]}"#,
        "\n"
    );
    let contexts = reader(dir.path(), tokenizer, text).take(9).unwrap();
    assert_eq!(contexts, [vec![0, 2, 4, 5, 3, 6, 1], vec![0, 2, 7, 1]]);
}

#[test]
fn a_file_of_token_ids_needs_no_text() {
    let (dir, tokens) = tokenizer(None);
    let path = dir.path().join("ids.jsonl");
    fs::write(&path, "{\"input_ids\": [0, 5, 6, 1]}\n{\"input_ids\": [7]}\n").unwrap();
    let options = TextOptions { content: Content::Tokens("input_ids".into()), ..TextOptions::default() };
    let source = |path: &Path| Arc::new(TextSource::open(path, &options).unwrap());
    assert_eq!(reader_of(source(&path), tokens).take(9).unwrap(), [vec![0, 5, 6, 1], vec![0, 7]]);
    let (_other, tokens) = tokenizer(None);
    fs::write(&path, "{\"input_ids\": [\"a\"]}\n").unwrap();
    let e = reader_of(source(&path), tokens).take(1).unwrap_err().to_string();
    assert!(e.contains("input_ids") && e.contains("no token ids"), "{e}");
}

#[test]
fn a_model_without_a_template_says_so_and_a_file_of_its_own_counts() {
    let chat = r#"{"messages": [{"role": "user", "content": "ab"}]}"#;
    let (dir, plain) = tokenizer(None);
    let e = reader(dir.path(), plain, chat).take(1).unwrap_err().to_string();
    assert!(e.contains("chat_template") && e.contains("tokenizer.json"), "{e}");
    let (dir, broken) = tokenizer(Some("{% if %}"));
    let e = reader(dir.path(), broken, chat).take(1).unwrap_err().to_string();
    assert!(e.contains("cannot be used"), "{e}");
    let (dir, _) = tokenizer(Some("never"));
    fs::write(dir.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let own = Tokenizer::load(dir.path(), SpecialIds::default()).unwrap();
    assert_eq!(own.chat_text(r#"[{"role": "user", "content": "ab"}]"#, false).unwrap(), "<s><u>ab</s>");
}
