//! Tokenizers small enough to check by hand, written to temporary directories.

use super::*;
use serde_json::json;
use std::fs;

/// Byte-level BPE over a, b, the space and both halves of `é`, with merges `ab` and ` ab`.
fn byte_level() -> Value {
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "normalizer": null,
        "added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1, "b": 2, "Ġ": 3, "Ã": 4, "©": 5, "ab": 6, "Ġab": 7,
            "Ċ": 8}, "merges": [["a", "b"], ["Ġ", "ab"]]}
    })
}

/// SentencePiece-like BPE with byte fallback and a post-processor that puts `<s>` in front.
fn sentence_piece() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
            "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "▁": 3, "a": 4, "▁a": 5}, "merges": [["▁", "a"]]}
    })
}

fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn load(files: &[(&str, Value)], given: SpecialIds) -> Tokenizer {
    Tokenizer::from_dir(folder(files).path(), given).unwrap()
}

#[test]
fn encode_adds_nothing_and_ignores_a_saved_length_limit() {
    let t = load(&[("tokenizer.json", byte_level())], SpecialIds::default());
    assert_eq!(t.encode("ab ab\nb").unwrap(), [6, 7, 8, 2]);
    assert_eq!(t.encode("ab<|endoftext|>ab").unwrap(), [6, 0, 6]);
    assert_eq!(t.encode_batch(&["ab", "", " ab"]).unwrap(), [vec![6], vec![], vec![7]]);
    assert!(!t.adds_bos());
    assert_eq!(t.vocab_size(), 9);
}

#[test]
fn decode_reverses_encode() {
    for json in [byte_level(), sentence_piece()] {
        let t = load(&[("tokenizer.json", json)], SpecialIds::default());
        for text in ["a a", "a\na", "  a"] {
            assert_eq!(t.decode(&t.encode(text).unwrap()).unwrap(), text);
        }
    }
}

#[test]
fn token_text_shows_spaces_newlines_and_partial_characters() {
    let t = load(&[("tokenizer.json", byte_level())], SpecialIds::default());
    let shown: Vec<String> = [0, 7, 8, 4, 99].map(|id| t.token_text(id)).into();
    assert_eq!(shown, ["<|endoftext|>", " ab", "\n", "\u{FFFD}", "<99>"]);
    let t = load(&[("tokenizer.json", sentence_piece())], SpecialIds::default());
    assert_eq!([1, 2, 5].map(|id| t.token_text(id)), ["<s>", "\n", " a"]);
}

#[test]
fn every_byte_has_one_character() {
    let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
    assert_eq!(['A', 'Ġ', 'Ċ', 'Ń'].map(byte_of), [Some(b'A'), Some(b' '), Some(b'\n'), Some(0xAD)]);
}

#[test]
fn pieces_carry_character_offsets() {
    let t = load(&[("tokenizer.json", byte_level())], SpecialIds::default());
    let ranges: Vec<_> = t.encode_pieces("éab").unwrap().iter().map(|p| (p.id, p.start, p.end)).collect();
    assert_eq!(ranges, [(4, 0, 1), (5, 0, 1), (6, 1, 3)]);
}

#[test]
fn a_tokenizer_that_adds_bos_says_so() {
    let t = load(
        &[("tokenizer.json", sentence_piece()), ("tokenizer_config.json", json!({"bos_token": "<s>"}))],
        SpecialIds::default(),
    );
    assert!(t.adds_bos());
    assert_eq!((t.encode("a").unwrap(), t.encode_marked("a").unwrap()), (vec![5], vec![1, 5]));
}

#[test]
fn special_ids_come_from_the_tokenizer_then_the_user_then_the_model_then_the_default() {
    let given = SpecialIds { bos: Some(1), eos: Some(2), pad: None };
    let named = json!({"eos_token": {"content": "ab"}, "pad_token": null});
    let numbered = json!({"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": 8});
    let all = [("tokenizer.json", byte_level()), ("tokenizer_config.json", named), ("config.json", numbered)];
    assert_eq!(load(&all, given).special(), SpecialIds { bos: Some(1), eos: Some(6), pad: Some(8) });
    let numbers = [all[0].clone(), all[2].clone()];
    assert_eq!(load(&numbers, SpecialIds::default()).special().eos, Some(4));
    let bare = load(&all[..1], SpecialIds::default()).special();
    assert_eq!(bare, SpecialIds { bos: Some(0), eos: Some(0), pad: Some(0) });
}

#[test]
fn a_missing_tokenizer_names_the_directory_and_the_files() {
    let dir = folder(&[("config.json", json!({}))]);
    let message = Tokenizer::from_dir(dir.path(), SpecialIds::default()).err().unwrap().to_string();
    assert!(message.contains(&*dir.path().to_string_lossy()), "{message}");
    assert!(message.contains("looked for tokenizer.json and found config.json"), "{message}");
}

#[test]
fn a_broken_tokenizer_names_the_file() {
    let dir = folder(&[("tokenizer.json", json!({"model": 3}))]);
    let message = Tokenizer::from_dir(dir.path(), SpecialIds::default()).err().unwrap().to_string();
    assert!(message.contains("tokenizer.json: not a usable tokenizer"), "{message}");
}
