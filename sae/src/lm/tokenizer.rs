//! Text to token ids and back, over the `tokenizers` crate: loaded from a Hugging Face directory or rebuilt from the
//! metadata of a GGUF file. Owns the special ids (bos, eos, pad) and where they come from; which of them a token stream
//! puts where is the data pipeline's decision, so `encode` adds none.

use super::{chat::ChatTemplate, gguf::Gguf};
use crate::{Error, Result, files};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};
use tokenizers::{DecoderWrapper, PostProcessor};

/// Special ids: given by a user for what the tokenizer lacks, or as resolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A tokenizer with its special ids.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special: SpecialIds,
    adds_bos: bool,
    pieces: Pieces,
    /// How chats become text, where the tokenizer comes with a template: or why it cannot be used.
    chat: Option<Result<ChatTemplate, String>>,
}

/// How the strings of the vocabulary stand for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// Each character stands for one byte (GPT-2).
    ByteLevel,
    /// `▁` is a space and `<0x0A>` a byte (SentencePiece).
    SentencePiece,
    /// As written.
    Plain,
}

/// A token with the range of characters `[start, end)` of the text it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Token id.
    pub id: u32,
    /// First character.
    pub start: usize,
    /// One past the last character.
    pub end: usize,
}

/// Files that may name the special tokens, in order of authority.
const TOKEN_FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
/// Files that may give special ids as numbers, asked after the ones above and after the user.
const ID_FILES: [&str; 2] = ["config.json", "generation_config.json"];
/// End of text where nobody says otherwise (TRAINING §8).
const DEFAULT_EOS: &str = "<|endoftext|>";

impl Tokenizer {
    /// Loads from a Hugging Face directory or from one `.gguf` file. `given` supplies ids the tokenizer lacks.
    pub fn load(path: &Path, given: SpecialIds) -> Result<Self> {
        if path.is_file() {
            return Self::from_gguf(&Gguf::open(path)?, given);
        }
        Self::from_dir(path, given)
    }

    /// Loads `tokenizer.json` of a Hugging Face directory; special ids come from `tokenizer_config.json` or
    /// `special_tokens_map.json`, then `given`, then `config.json` or `generation_config.json`, then the defaults of
    /// TRAINING §8 (eos `<|endoftext|>`; pad and bos as eos).
    pub fn from_dir(dir: &Path, given: SpecialIds) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::format(dir, missing(dir)));
        }
        let text = files::read_text(&path)?;
        let mut sources = Vec::new();
        for name in TOKEN_FILES.iter().chain(&ID_FILES) {
            sources.push(read_json(&dir.join(name))?);
        }
        let (tokens, ids) = sources.split_at(TOKEN_FILES.len());
        let built = Self::build(&path, text.as_bytes(), |inner| {
            let named = |key: &str| tokens.iter().flatten().find_map(|v| token_id(inner, v.get(key)?));
            let numbered = |key: &str| ids.iter().flatten().find_map(|v| number(v.get(key)?));
            [("bos", given.bos), ("eos", given.eos), ("pad", given.pad)].map(|(name, given)| {
                named(&format!("{name}_token")).or(given).or_else(|| numbered(&format!("{name}_token_id")))
            })
        })?;
        let source = chat_source(dir, tokens.first().and_then(Option::as_ref))?;
        Ok(built.with_chat(source.as_deref(), token_texts(tokens)))
    }

    /// With a chat template, where there is one; `tokens` are the texts of the special tokens it may name.
    pub(crate) fn with_chat(mut self, source: Option<&str>, tokens: Map<String, Value>) -> Self {
        self.chat = source.map(|source| ChatTemplate::new(source, tokens));
        self
    }

    /// The text of a chat, a JSON list of messages, as this tokenizer's template says it.
    ///
    /// # Errors
    /// A tokenizer without a template, and what the template refuses.
    pub fn chat_text(&self, messages: &str, add_generation_prompt: bool) -> Result<String> {
        let bad = |what: String| Error::format(&self.path, what);
        let template = match &self.chat {
            Some(Ok(template)) => template,
            Some(Err(why)) => return Err(bad(format!("its chat template cannot be used: {why}"))),
            None => {
                return Err(bad(
                    "has no chat template, so it is none of a model for chats; put one into tokenizer_config.json \
                     (chat_template) or chat_template.jinja beside it, or read plain text (leave messages_field out)"
                        .into(),
                ));
            }
        };
        let messages: Value = serde_json::from_str(messages)
            .map_err(|e| Error::Data { what: format!("a chat is no JSON: {e}") })?;
        template.render(&messages, add_generation_prompt).map_err(|what| Error::Data {
            what: format!("a chat was refused by the template of {}: {what}", self.path.display()),
        })
    }

    /// Builds from the text of a `tokenizer.json`; `ids` answers bos, eos and pad as far as known.
    pub(crate) fn build(
        path: &Path,
        json: &[u8],
        ids: impl FnOnce(&tokenizers::Tokenizer) -> [Option<u32>; 3],
    ) -> Result<Self> {
        let unusable =
            |e: &dyn std::fmt::Display| Error::format(path, format!("not a usable tokenizer: {e}"));
        // The crate panics on text that is not JSON, so that is found out first.
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| unusable(&e))?;
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(json)).map_err(|e| unusable(&e))?;
        // A file saved after use may carry a length limit or padding of that use; contexts are cut by the data pipeline.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::format(path, e.to_string()))?;
        let [bos, eos, pad] = ids(&inner);
        let eos = eos.or_else(|| inner.token_to_id(DEFAULT_EOS));
        let special = SpecialIds { bos: bos.or(eos), eos, pad: pad.or(eos) };
        let pieces = pieces_of(inner.get_decoder());
        let mut out = Self { inner, path: path.into(), special, adds_bos: false, pieces, chat: None };
        out.adds_bos = out.first_added().is_some_and(|id| Some(id) == special.bos);
        Ok(out)
    }

    /// First id the tokenizer's own post-processor puts before a text, when it puts any.
    fn first_added(&self) -> Option<u32> {
        let processor = self.inner.get_post_processor()?;
        if processor.added_tokens(false) == 0 {
            return None;
        }
        let (with, without) = (self.encode_marked("a").ok()?, self.encode("a").ok()?);
        let first = *with.first()?;
        (with.len() > without.len() && without.first() != Some(&first)).then_some(first)
    }

    /// Token ids of a text, with no special token added. Special tokens written out in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.run(text, false)?.get_ids().to_vec())
    }

    /// Token ids of a text with the special tokens the tokenizer itself adds.
    pub fn encode_marked(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.run(text, true)?.get_ids().to_vec())
    }

    fn run(&self, text: &str, special: bool) -> Result<tokenizers::Encoding> {
        guarded(|| self.inner.encode_fast(text, special)).map_err(|e| self.failed("encode", &*e))
    }

    /// Token ids of many texts, in parallel, in the order given; as [`Tokenizer::encode`].
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|t| self.encode(t.as_ref())).collect()
    }

    /// Tokens with the characters they stand for; as [`Tokenizer::encode`].
    pub fn encode_pieces(&self, text: &str) -> Result<Vec<Piece>> {
        let e = guarded(|| self.inner.encode_char_offsets(text, false))
            .map_err(|e| self.failed("encode", &*e))?;
        Ok(e.get_ids()
            .iter()
            .zip(e.get_offsets())
            .map(|(&id, &(start, end))| Piece { id, start, end })
            .collect())
    }

    /// Text of token ids; special tokens are written out. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        guarded(|| self.inner.decode(ids, false)).map_err(|e| self.failed("decode", &*e))
    }

    /// One token as a reader should see it: spaces as spaces, bytes of a partial character as U+FFFD. Ids outside the
    /// vocabulary (embedding rows nobody uses) give `<id>`.
    pub fn token_text(&self, id: u32) -> String {
        let Some(token) = self.inner.id_to_token(id) else { return format!("<{id}>") };
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return token;
        }
        match self.pieces {
            Pieces::Plain => token,
            Pieces::SentencePiece => match hex_byte(&token) {
                Some(byte) => String::from_utf8_lossy(&[byte]).into_owned(),
                None => token.replace('▁', " "),
            },
            Pieces::ByteLevel => match token.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => token,
            },
        }
    }

    /// Id of a token by its exact vocabulary string.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Resolved special ids.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Beginning-of-text id.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// End-of-text id.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// Padding id.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Whether the tokenizer's own settings put BOS before every text.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, doing: &str, e: &(dyn std::error::Error + Send + Sync)) -> Error {
        Error::format(&self.path, format!("cannot {doing}: {e}"))
    }
}

/// Turns a panic inside the `tokenizers` crate into an error: it indexes and unwraps where a `tokenizer.json` is well formed
/// but inconsistent (a post-processor naming a token that does not exist, for example).
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(format!("inconsistent settings: {said}").into())
    })
}

fn missing(dir: &Path) -> String {
    if !dir.is_dir() {
        return "no tokenizer: this is not a directory with tokenizer.json".into();
    }
    let mut found: Vec<&str> = TOKEN_FILES.into_iter().chain(ID_FILES).collect();
    found.extend(["vocab.json", "merges.txt", "tokenizer.model"]);
    found.retain(|name| dir.join(name).exists());
    let found = if found.is_empty() { "nothing".into() } else { found.join(", ") };
    format!(
        "no tokenizer: looked for tokenizer.json and found {found}; \
         save one there with transformers' AutoTokenizer.save_pretrained"
    )
}

/// A JSON file that need not exist.
fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|e| Error::format(path, format!("not JSON: {e}")))
}

/// The id of a token written as `"<s>"` or `{"content": "<s>", …}`.
fn token_id(inner: &tokenizers::Tokenizer, v: &Value) -> Option<u32> {
    let content = v.as_str().or_else(|| v.get("content")?.as_str())?;
    inner.token_to_id(content)
}

/// The chat template beside a tokenizer: in a file of its own, or in its settings, where several have names.
fn chat_source(dir: &Path, config: Option<&Value>) -> Result<Option<String>> {
    let file = dir.join("chat_template.jinja");
    if file.is_file() {
        return files::read_text(&file).map(Some);
    }
    let beside = read_json(&dir.join("chat_template.json"))?;
    let template = beside.as_ref().or(config).and_then(|v| v.get("chat_template"));
    Ok(template.and_then(|t| match t {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|t| t["name"] == "default").or(named.first());
            default.and_then(|t| t["template"].as_str()).map(String::from)
        }
        _ => None,
    }))
}

/// `bos_token` and the like as text, by the first file that names them.
fn token_texts(sources: &[Option<Value>]) -> Map<String, Value> {
    let mut texts = Map::new();
    for (key, value) in sources.iter().flatten().filter_map(Value::as_object).flatten() {
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        if let (true, Some(text)) = (key.ends_with("_token") && !texts.contains_key(key), text) {
            texts.insert(key.clone(), text.into());
        }
    }
    texts
}

/// An id written as a number or as a list of them (the first counts).
fn number(v: &Value) -> Option<u32> {
    v.as_u64().or_else(|| v.as_array()?.first()?.as_u64()).and_then(|n| n.try_into().ok())
}

fn pieces_of(decoder: Option<&DecoderWrapper>) -> Pieces {
    match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => Pieces::ByteLevel,
        Some(DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_) | DecoderWrapper::Replace(_)) => {
            Pieces::SentencePiece
        }
        Some(DecoderWrapper::Sequence(all)) => all
            .get_decoders()
            .iter()
            .map(|d| pieces_of(Some(d)))
            .find(|&p| p != Pieces::Plain)
            .unwrap_or(Pieces::Plain),
        _ => Pieces::Plain,
    }
}

/// The byte of a `<0x0A>` token.
pub(crate) fn hex_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte a character of a byte-level vocabulary stands for: printable bytes stand for themselves, the 68 others are
/// numbered from U+0100 in order.
fn byte_of(c: char) -> Option<u8> {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(c);
    match u8::try_from(code) {
        Ok(b) => plain(b).then_some(b),
        Err(_) => (0..=255u8).filter(|&b| !plain(b)).nth((code - 256) as usize),
    }
}

#[cfg(test)]
mod tests;
