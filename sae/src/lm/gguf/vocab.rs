//! Rebuilds a tokenizer from the `tokenizer.ggml.*` metadata of a GGUF file by writing the `tokenizer.json` it came from:
//! byte-level BPE ("gpt2") with the pre-tokenizer named in the file, and SentencePiece with scores ("llama").

use super::{Gguf, Value};
use crate::{
    Error, Result,
    lm::tokenizer::{SpecialIds, Tokenizer},
};
use serde_json::{Map, json};
use std::collections::HashMap;

/// Token types of ggml that matter here.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const NORMAL: i64 = 1;

/// How text is cut before byte-level BPE.
struct PreTokenizer {
    /// Names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Every digit stands alone, before anything else is cut.
    digits: bool,
    /// The pattern of pieces; `None` is GPT-2's own.
    pattern: Option<&'static str>,
    /// Whether text is brought to NFC first.
    nfc: bool,
    /// Whether a piece that is in the vocabulary is taken whole, whatever the merges say.
    whole: bool,
    /// Whether BOS is added when the file does not say.
    bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PRE_TOKENIZERS: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &["gpt-2", "default", "phi-2"],
        digits: false,
        pattern: None,
        nfc: false,
        whole: false,
        bos: false,
    },
    // GPT-NeoX tokenizers (Pythia, OLMo) carry this name.
    PreTokenizer { names: &["olmo"], digits: false, pattern: None, nfc: true, whole: false, bos: false },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact"],
        digits: true,
        pattern: None,
        nfc: false,
        whole: false,
        bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        digits: false,
        pattern: Some(LLAMA3),
        nfc: false,
        whole: true,
        bos: true,
    },
    PreTokenizer {
        names: &["qwen2"],
        digits: false,
        pattern: Some(QWEN2),
        nfc: true,
        whole: false,
        bos: false,
    },
];

impl Tokenizer {
    /// Rebuilds the tokenizer of a GGUF file. Special ids come from the file, then from `given`, then from the defaults
    /// of TRAINING §8.
    ///
    /// # Errors
    /// No tokenizer in the file, or one of a kind that is not supported (the known ones are listed).
    pub fn from_gguf(file: &Gguf, given: SpecialIds) -> Result<Self> {
        let Some(model) = file.text("tokenizer.ggml.model")? else {
            return Err(Error::format(
                file.path(),
                "no tokenizer: the metadata key tokenizer.ggml.model is missing",
            ));
        };
        if !matches!(model, "gpt2" | "llama") {
            return Err(Error::Unsupported {
                what: format!("{}: tokenizer.ggml.model {model:?}", file.path().display()),
                why: "known are gpt2 and llama; use the model's Hugging Face directory instead".into(),
            });
        }
        let tokens = texts(file, "tokenizer.ggml.tokens")?;
        let types = match file.get("tokenizer.ggml.token_type") {
            None => vec![NORMAL; tokens.len()],
            Some(Value::Ints(t)) if t.len() == tokens.len() => t.clone(),
            Some(_) => return Err(file.wrong("tokenizer.ggml.token_type", "one integer per token")),
        };
        let vocab = Vocab { file, tokens, types };
        let (json, bos_default) =
            if model == "gpt2" { vocab.byte_level()? } else { (vocab.sentence_piece()?, true) };
        let json = vocab.with_special_tokens(json, bos_default)?;
        let ids = [("bos", given.bos), ("eos", given.eos), ("padding", given.pad)]
            .map(|(name, given)| Ok(vocab.special_id(name)?.or(given)))
            .into_iter()
            .collect::<Result<Vec<Option<u32>>>>()?;
        let built = Self::build(file.path(), json.to_string().as_bytes(), |_| [ids[0], ids[1], ids[2]])?;
        let named = [("bos_token", built.bos()), ("eos_token", built.eos()), ("pad_token", built.pad())];
        let token = |id: u32| vocab.tokens.get(id as usize).cloned();
        let named = named.into_iter().filter_map(|(key, id)| Some((key.to_string(), token(id?)?.into())));
        Ok(built.with_chat(file.text("tokenizer.chat_template")?, named.collect()))
    }
}

fn texts<'a>(file: &'a Gguf, key: &str) -> Result<&'a [String]> {
    match file.get(key) {
        Some(Value::Texts(list)) => Ok(list),
        Some(_) => Err(file.wrong(key, "an array of strings")),
        None => Err(Error::format(file.path(), format!("no tokenizer: the metadata key {key} is missing"))),
    }
}

struct Vocab<'a> {
    file: &'a Gguf,
    tokens: &'a [String],
    types: Vec<i64>,
}

impl Vocab<'_> {
    /// An id the file gives, inside the vocabulary.
    fn special_id(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match self.file.count(&key)? {
            Some(id) if id >= self.tokens.len() => {
                Err(self.file.wrong(&key, &format!("an id below {}", self.tokens.len())))
            }
            id => Ok(id.map(|id| id as u32)),
        }
    }

    fn ids(&self) -> Map<String, serde_json::Value> {
        self.tokens.iter().enumerate().map(|(id, t)| (t.clone(), id.into())).collect()
    }

    /// `tokenizer.json` of a byte-level BPE, and whether it adds BOS when the file does not say.
    fn byte_level(&self) -> Result<(serde_json::Value, bool)> {
        let name = self.file.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let pre = PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
            Error::Unsupported {
                what: format!("{}: tokenizer.ggml.pre {name:?}", self.file.path().display()),
                why: format!(
                    "known are {}; use the model's Hugging Face directory instead",
                    known.join(", ")
                ),
            }
        })?;
        let mut cut = Vec::new();
        if pre.digits {
            cut.push(json!({"type": "Digits", "individual_digits": true}));
        }
        if let Some(pattern) = pre.pattern {
            cut.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
        }
        cut.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": pre.pattern.is_none()}));
        let normalizer = if pre.nfc { json!({"type": "NFC"}) } else { json!(null) };
        let mut merges = Vec::new();
        for m in texts(self.file, "tokenizer.ggml.merges")? {
            // A space cannot be part of a byte-level token, but the first character of the left half may look like one.
            let at = m.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let at =
                at.ok_or_else(|| self.file.wrong("tokenizer.ggml.merges", "pairs separated by a space"))?;
            merges.push(json!([m[..at], m[at + 1..]]));
        }
        let json = json!({
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cut},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": self.ids(), "merges": merges, "ignore_merges": pre.whole},
        });
        Ok((json, pre.bos))
    }

    /// `tokenizer.json` of a SentencePiece BPE: the pairs that make up a token merge in the order of its score.
    fn sentence_piece(&self) -> Result<serde_json::Value> {
        let prefix = self.file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let unknown = match self.special_id("unknown")? {
            Some(id) => Some(id as usize),
            None => self.types.iter().position(|&t| t == UNKNOWN),
        };
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "vocab": self.ids(), "merges": self.merges_of_scores()?,
                "unk_token": unknown.map(|id| &self.tokens[id]), "fuse_unk": true, "byte_fallback": true},
        }))
    }

    /// Every way to make a normal token of two others, best score first; among equals longer left parts first.
    fn merges_of_scores(&self) -> Result<Vec<serde_json::Value>> {
        let key = "tokenizer.ggml.scores";
        let scores = match self.file.get(key) {
            Some(Value::Floats(s)) if s.len() == self.tokens.len() && s.iter().all(|s| s.is_finite()) => s,
            _ => return Err(self.file.wrong(key, "one finite number per token")),
        };
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, t)| (t.as_str(), id)).collect();
        let mut merges: Vec<(f64, &str, &str)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| self.types[*id] == NORMAL) {
            let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut ways: Vec<_> =
                splits.filter_map(|(l, r)| Some((ids.get(l)?, ids.get(r)?, (scores[id], l, r)))).collect();
            ways.sort_by_key(|(l, r, _)| (**l, **r));
            merges.extend(ways.into_iter().map(|(_, _, way)| way));
        }
        let lengths = |m: &(f64, &str, &str)| (m.1.chars().count(), m.2.chars().count());
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| lengths(b).cmp(&lengths(a))));
        Ok(merges.into_iter().map(|(_, l, r)| json!([l, r])).collect())
    }

    /// Adds control and user-defined tokens, and the post-processor that puts BOS and EOS where the file wants them.
    fn with_special_tokens(
        &self,
        mut json: serde_json::Value,
        bos_default: bool,
    ) -> Result<serde_json::Value> {
        let added = self.tokens.iter().zip(&self.types).enumerate().filter_map(|(id, (content, &kind))| {
            let special = matches!(kind, CONTROL | UNKNOWN);
            (special || kind == USER_DEFINED).then(|| {
                json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special})
            })
        });
        json["added_tokens"] = added.collect();
        json["version"] = json!("1.0");
        let ends = [("bos", bos_default), ("eos", false)];
        let mut template = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut special = Map::new();
        for (at, (name, default)) in ends.into_iter().enumerate() {
            let wanted = self.file.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default);
            let Some(id) = self.special_id(name)?.filter(|_| wanted) else { continue };
            let token = &self.tokens[id as usize];
            let place = if at == 0 { 0 } else { template.len() };
            template.insert(place, json!({"SpecialToken": {"id": token, "type_id": 0}}));
            special.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        if !special.is_empty() {
            json["post_processor"] = json!({"type": "TemplateProcessing", "single": template, "special_tokens": special,
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]});
        }
        Ok(json)
    }
}
