//! One text source as a sequence of contexts. Its place in the text is three numbers; going there costs one record, not
//! the way to it. Records are tokenised some way ahead, in parallel.

use super::{Content, Overflow, TextSource, TokenPolicy, random};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc};

/// Text to token ids.
pub trait Tokenize: Send + Sync {
    /// Token ids of a text, no special token added; special tokens written out in the text are recognised.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// Token ids of a chat, a JSON list of messages, as the model's own template says it.
    ///
    /// # Errors
    /// A tokenizer without a template.
    fn encode_chat(&self, _messages: &str) -> Result<Vec<u32>> {
        Err(Error::Data { what: "this tokenizer has no chat template".into() })
    }
}

impl Tokenize for crate::lm::Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Self::encode(self, text)
    }
    fn encode_chat(&self, messages: &str) -> Result<Vec<u32>> {
        Self::encode(self, &self.chat_text(messages, false)?)
    }
}

/// A place in a text source: what the next context starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Times the source was read to its end.
    pub epoch: u64,
    /// Record.
    pub record: u64,
    /// Tokens of the record already used.
    pub token: u64,
}

/// In which order records come, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Start again at the end, for as long as contexts are asked for.
    pub repeat: bool,
    /// Seed of a random order of the records, another one in every epoch; without it they come as they stand.
    pub shuffle_seed: Option<u64>,
}

/// Contexts of one text source.
pub struct ContextReader {
    source: Arc<TextSource>,
    tokenizer: Arc<dyn Tokenize>,
    policy: TokenPolicy,
    order: Order,
    at: Place,
    /// Tokens of the records from `at.record` on, as far as read.
    ahead: VecDeque<Vec<u32>>,
    /// Records in a row that had no token.
    barren: u64,
}

/// Records tokenised at a time.
const BLOCK: usize = 32;

impl ContextReader {
    /// Starts at the first record.
    pub fn new(
        source: Arc<TextSource>,
        tokenizer: Arc<dyn Tokenize>,
        policy: TokenPolicy,
        order: Order,
    ) -> Result<Self> {
        policy.check()?;
        let at = Place::default();
        Ok(Self { source, tokenizer, policy, order, at, ahead: VecDeque::new(), barren: 0 })
    }

    /// Where the next context starts.
    pub fn place(&self) -> Place {
        self.at
    }

    /// Continues at a place told by [`ContextReader::place`].
    ///
    /// # Errors
    /// Text elsewhere that cannot be fetched as far as that.
    pub fn seek(&mut self, place: Place) -> Result<()> {
        (self.at, self.barren) = (place, 0);
        self.ahead.clear();
        self.source.has(place.record).map(drop)
    }

    /// The text.
    pub fn source(&self) -> &TextSource {
        &self.source
    }

    /// How contexts are made.
    pub fn policy(&self) -> &TokenPolicy {
        &self.policy
    }

    /// Whether no context is left.
    pub fn at_end(&self) -> bool {
        // What cannot be fetched now is an error on reading.
        !self.order.repeat && !self.source.has(self.at.record).unwrap_or(true)
    }

    /// Share of the text already read; none when it repeats.
    pub fn share(&self) -> Option<f64> {
        let Place { record, .. } = self.at;
        (!self.order.repeat).then(|| match self.order.shuffle_seed {
            Some(_) => record as f64 / self.source.records().unwrap_or(record).max(1) as f64,
            None => self.source.bytes_before(record) as f64 / self.source.bytes() as f64,
        })
    }

    /// Up to `n` contexts, unpadded; fewer only at the end of the data.
    pub fn take(&mut self, n: usize) -> Result<Vec<Vec<u32>>> {
        let mut out = Vec::with_capacity(n);
        while out.len() < n
            && let Some(context) = self.context()?
        {
            out.push(context);
        }
        Ok(out)
    }

    fn context(&mut self) -> Result<Option<Vec<u32>>> {
        let (room, overflow) = (self.policy.room(), self.policy.overflow);
        let mut text = Vec::new();
        while text.len() < room && self.find_tokens()? {
            let Some(record) = self.ahead.front() else { break };
            let from = self.at.token as usize;
            let to = record.len().min(from + room - text.len());
            text.extend_from_slice(&record[from..to]);
            if to == record.len() || overflow == Overflow::Truncate {
                self.next_record();
            } else {
                self.at.token = to as u64;
            }
            if overflow != Overflow::Pack {
                break;
            }
        }
        Ok((!text.is_empty()).then(|| self.policy.context(&text)))
    }

    /// Moves to the next record with an unused token; false at the end of the data.
    fn find_tokens(&mut self) -> Result<bool> {
        loop {
            if !self.source.has(self.at.record)? {
                if !self.order.repeat {
                    return Ok(false);
                }
                self.at = Place { epoch: self.at.epoch + 1, ..Place::default() };
            }
            if self.ahead.is_empty() {
                self.read_ahead()?;
            }
            if self.ahead.front().is_some_and(|record| record.len() as u64 > self.at.token) {
                self.barren = 0;
                return Ok(true);
            }
            self.barren += 1;
            if self.barren > self.source.known() {
                let what = format!("{}: no record gives a token", self.source.path().display());
                return Err(Error::Data { what });
            }
            self.next_record();
        }
    }

    fn next_record(&mut self) {
        self.ahead.pop_front();
        self.at = Place { record: self.at.record + 1, token: 0, ..self.at };
    }

    fn read_ahead(&mut self) -> Result<()> {
        let texts = match self.order.shuffle_seed {
            Some(seed) => self.shuffled_texts(seed)?,
            None => self.source.read(self.at.record, BLOCK)?,
        };
        let tokens = texts.par_iter().map(|text| self.tokens(text)).collect::<Result<Vec<_>>>()?;
        self.ahead = tokens.into();
        Ok(())
    }

    /// Texts of the next records in this epoch's random order.
    fn shuffled_texts(&self, seed: u64) -> Result<Vec<String>> {
        let Place { epoch, record, .. } = self.at;
        let n = self.source.records()?;
        let mut texts = Vec::with_capacity(BLOCK);
        for r in record..n.min(record + BLOCK as u64) {
            texts.extend(self.source.read(random::shuffled_index(seed, epoch, n, r), 1)?);
        }
        Ok(texts)
    }

    /// Text tokens of a record: no BOS (contexts get theirs), and EOS only where it separates packed records.
    fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = match self.source.content() {
            Content::Text(_) => self.tokenizer.encode(text)?,
            // A row without a list.
            _ if text.is_empty() => Vec::new(),
            Content::Messages(_) => self.tokenizer.encode_chat(text)?,
            Content::Tokens(field) => serde_json::from_str(text).map_err(|e| {
                let what = format!("{field} of {} holds no token ids: {e}", self.source.path().display());
                Error::Data { what }
            })?,
        };
        if self.policy.bos.is_some() && ids.first().copied() == self.policy.bos {
            ids.remove(0);
        }
        if self.policy.overflow == Overflow::Pack && !ids.is_empty() {
            ids.extend(self.policy.eos.filter(|eos| ids.last() != Some(eos)));
        }
        Ok(ids)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        super::{TextOptions, policy::tests::policy},
        *,
    };
    use std::{fs, path::PathBuf};

    /// Every character is a token, its code its id; `^` is BOS. Counts the texts it has seen.
    #[derive(Default)]
    pub(crate) struct Letters {
        pub(crate) seen: std::sync::atomic::AtomicUsize,
    }

    impl Tokenize for Letters {
        fn encode(&self, text: &str) -> Result<Vec<u32>> {
            self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(text.chars().filter(|&c| c != '_').map(|c| if c == '^' { 1 } else { c.into() }).collect())
        }
    }

    pub(crate) fn source(dir: &tempfile::TempDir, name: &str, lines: &[&str]) -> Arc<TextSource> {
        let path: PathBuf = dir.path().join(name);
        fs::write(&path, lines.join("\n")).unwrap();
        Arc::new(TextSource::open(&path, &TextOptions::default()).unwrap())
    }

    pub(crate) fn repeated(repeat: bool) -> Order {
        Order { repeat, ..Order::default() }
    }

    fn shown(contexts: &[Vec<u32>]) -> Vec<String> {
        let letter = |&id: &u32| match id {
            1 => '^',
            2 => '$',
            _ => char::from_u32(id).unwrap(),
        };
        contexts.iter().map(|c| c.iter().map(letter).collect()).collect()
    }

    fn all(lines: &[&str], policy: TokenPolicy) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let source = source(&dir, "a.txt", lines);
        let mut reader =
            ContextReader::new(source, Arc::new(Letters::default()), policy, Order::default()).unwrap();
        let contexts = reader.take(1000).unwrap();
        assert!(reader.at_end() || !contexts.is_empty());
        shown(&contexts)
    }

    const LINES: [&str; 4] = ["abcdefgh", "_", "^ij", "k"];

    #[test]
    fn truncate_makes_one_context_of_each_record() {
        assert_eq!(all(&LINES, policy(4, Overflow::Truncate)), ["^abc", "^ij", "^k"]);
    }

    #[test]
    fn split_makes_consecutive_contexts_of_a_long_record() {
        assert_eq!(all(&LINES, policy(4, Overflow::Split)), ["^abc", "^def", "^gh", "^ij", "^k"]);
    }

    #[test]
    fn pack_fills_every_context_across_records() {
        assert_eq!(all(&LINES, policy(4, Overflow::Pack)), ["^abc", "^def", "^gh$", "^ij$", "^k$"]);
    }

    #[test]
    fn an_unwanted_bos_is_taken_away_and_a_wanted_one_is_not_doubled() {
        let unwanted = TokenPolicy { prepend_bos: false, ..policy(4, Overflow::Truncate) };
        assert_eq!(all(&["^ij", "abcdefg"], unwanted), ["ij", "abcd"]);
        assert_eq!(all(&["^ij"], policy(4, Overflow::Truncate)), ["^ij"]);
    }

    #[test]
    fn max_length_cuts_when_the_context_is_longer() {
        let p = TokenPolicy { max_length: 3, ..policy(6, Overflow::Truncate) };
        assert_eq!(all(&["abcdefg"], p), ["^ab"]);
    }

    #[test]
    fn repeated_data_goes_on_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let p = policy(4, Overflow::Pack);
        let source = source(&dir, "a.txt", &["ab", "cde"]);
        let mut reader = ContextReader::new(source, Arc::new(Letters::default()), p, repeated(true)).unwrap();
        assert_eq!(shown(&reader.take(5).unwrap()), ["^ab$", "^cde", "^$ab", "^$cd", "^e$a"]);
        assert_eq!(reader.place(), Place { epoch: 2, record: 0, token: 1 });
        assert_eq!(reader.share(), None);
    }

    #[test]
    fn a_random_order_takes_every_record_once_an_epoch_and_differs_between_epochs() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> = ('a'..='z').map(String::from).collect();
        let source = source(&dir, "a.txt", &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let order = Order { repeat: true, shuffle_seed: Some(5) };
        let p = policy(2, Overflow::Truncate);
        let mut reader = ContextReader::new(source, Arc::new(Letters::default()), p, order).unwrap();
        let mut epoch = || shown(&reader.take(26).unwrap()).concat().replace('^', "");
        let (first, second) = (epoch(), epoch());
        let sorted = |s: &str| {
            let mut letters: Vec<char> = s.chars().collect();
            letters.sort_unstable();
            letters.into_iter().collect::<String>()
        };
        assert_eq!((sorted(&first), sorted(&second)), (lines.concat(), lines.concat()));
        assert!(first != second && first != lines.concat(), "{first} {second}");
    }

    #[test]
    fn data_without_a_token_is_an_error_and_no_endless_loop() {
        let dir = tempfile::tempdir().unwrap();
        for repeat in [true, false] {
            let source = source(&dir, "a.txt", &["_", "__"]);
            let p = policy(4, Overflow::Split);
            let mut reader =
                ContextReader::new(source, Arc::new(Letters::default()), p, repeated(repeat)).unwrap();
            match reader.take(1) {
                Ok(contexts) => assert!(!repeat && contexts.is_empty()),
                Err(e) => assert!(repeat && e.to_string().contains("a.txt: no record gives a token")),
            }
        }
    }

    #[test]
    fn a_reader_set_anywhere_goes_on_as_the_one_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> =
            (0..100).map(|i| "abcdefghijklmnop"[..i * 7 % 16].to_string() + "z").collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let source = source(&dir, "a.txt", &lines);
        for overflow in [Overflow::Truncate, Overflow::Split, Overflow::Pack] {
            for order in [Order::default(), repeated(true), Order { repeat: true, shuffle_seed: Some(3) }] {
                let open = |tokenizer| {
                    ContextReader::new(source.clone(), tokenizer, policy(5, overflow), order).unwrap()
                };
                let mut straight = open(Arc::new(Letters::default()));
                for _ in 0..150 {
                    let tokenizer = Arc::new(Letters::default());
                    let mut moved = open(tokenizer.clone());
                    moved.seek(straight.place()).unwrap();
                    assert_eq!(moved.take(3).unwrap(), straight.take(3).unwrap());
                    assert!(tokenizer.seen.load(std::sync::atomic::Ordering::Relaxed) <= 2 * BLOCK);
                }
            }
        }
    }
}
