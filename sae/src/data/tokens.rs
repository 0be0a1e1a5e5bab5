//! Several weighted sources as one stream of token batches: text, or activations kept on disk with their tokens. Which source
//! comes next depends on the seed and the number of draws alone, so the whole position is a small cursor and going there costs
//! nothing.

use super::{ChunkReader, ContextReader, Place, TokenBatch, TokenPolicy, random};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One source of a [`TokenStream`].
pub struct WeightedSource {
    /// Its name in the settings.
    pub name: String,
    /// Relative frequency of its model batches.
    pub weight: f64,
    /// Its contexts.
    pub reader: Reader,
}

/// What a source reads.
pub enum Reader {
    /// Text; its activations take a model.
    Text(ContextReader),
    /// Cached activations; a chunk is a batch.
    Chunks(ChunkReader),
}

impl From<ContextReader> for Reader {
    fn from(r: ContextReader) -> Self {
        Self::Text(r)
    }
}

impl From<ChunkReader> for Reader {
    fn from(r: ChunkReader) -> Self {
        Self::Chunks(r)
    }
}

impl Reader {
    fn next_batch(&mut self, n: usize) -> Result<Option<TokenBatch>> {
        match self {
            Self::Text(r) => {
                let contexts = r.take(n)?;
                Ok((!contexts.is_empty()).then(|| r.policy().batch(&contexts)))
            }
            Self::Chunks(r) => r.next_batch(),
        }
    }

    /// How contexts are made.
    pub fn policy(&self) -> &TokenPolicy {
        match self {
            Self::Text(r) => r.policy(),
            Self::Chunks(r) => r.policy(),
        }
    }

    fn at_end(&self) -> bool {
        match self {
            Self::Text(r) => r.at_end(),
            Self::Chunks(r) => r.at_end(),
        }
    }

    fn share(&self) -> Option<f64> {
        match self {
            Self::Text(r) => r.share(),
            Self::Chunks(r) => Some(r.place().record as f64 / r.records().max(1) as f64),
        }
    }

    /// Where it is on disk.
    fn path(&self) -> &Path {
        match self {
            Self::Text(r) => r.source().path(),
            Self::Chunks(r) => r.path(),
        }
    }

    /// Records or chunks, and bytes.
    fn extent(&self) -> (u64, u64) {
        match self {
            Self::Text(r) => r.source().extent(),
            Self::Chunks(r) => (r.records(), r.bytes()),
        }
    }

    fn place(&self) -> Place {
        match self {
            Self::Text(r) => r.place(),
            Self::Chunks(r) => r.place(),
        }
    }

    fn seek(&mut self, place: Place) -> Result<()> {
        match self {
            Self::Text(r) => r.seek(place)?,
            Self::Chunks(r) => r.seek(place),
        }
        Ok(())
    }

    fn revision(&self) -> Option<&str> {
        match self {
            Self::Text(r) => r.source().revision(),
            Self::Chunks(_) => None,
        }
    }
}

/// Token batches from weighted sources, until all of them end.
pub struct TokenStream {
    sources: Vec<WeightedSource>,
    seed: u64,
    model_batch_size: usize,
    draws: u64,
    tokens: u64,
    /// The source of the last batch.
    last: usize,
}

/// The position of a [`TokenStream`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCursor {
    /// Sources drawn so far.
    pub draws: u64,
    /// Tokens given so far, padding not counted.
    pub tokens: u64,
    /// Each source's place.
    pub sources: Vec<SourceCursor>,
}

/// The position in one source, with what shows that the source is still the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCursor {
    /// Name in the settings.
    pub name: String,
    /// Number of records when the cursor was taken.
    pub records: u64,
    /// Bytes of text when the cursor was taken.
    pub bytes: u64,
    /// Version of text that is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Where the next context starts.
    pub place: Place,
}

impl TokenStream {
    /// Batches of `model_batch_size` contexts, each from one source; the last one of a source may have fewer.
    pub fn new(sources: Vec<WeightedSource>, seed: u64, model_batch_size: usize) -> Result<Self> {
        let key = "activation_factory.sources";
        if let Some(bad) = sources.iter().find(|s| !(s.weight.is_finite() && s.weight >= 0.0)) {
            let what = format!("sample_weights of {} is {}; it must be 0 or more", bad.name, bad.weight);
            return Err(Error::setting(key, what));
        }
        if !sources.iter().any(|s| s.weight > 0.0) {
            return Err(Error::setting(key, "no source with a sample_weights above 0; add one"));
        }
        if sources.iter().any(|s| s.reader.policy() != sources[0].reader.policy()) {
            return Err(Error::setting(key, "all sources of a stream must share one token policy"));
        }
        if model_batch_size == 0 {
            return Err(Error::setting("activation_factory.model_batch_size", "must be at least 1"));
        }
        Ok(Self { sources, seed, model_batch_size, draws: 0, tokens: 0, last: 0 })
    }

    /// The next batch, or none when every source has ended.
    pub fn next_batch(&mut self) -> Result<Option<TokenBatch>> {
        while let Some(source) = self.draw() {
            let batch = self.sources[source].reader.next_batch(self.model_batch_size)?;
            (self.draws, self.last) = (self.draws + 1, source);
            // A source may find only on reading that nothing was left; then it is at its end and not drawn again.
            if let Some(batch) = batch {
                self.tokens += batch.lengths.iter().sum::<usize>() as u64;
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// A cache among the sources that holds single tokens.
    pub fn singles(&self) -> Option<&ChunkReader> {
        self.sources.iter().find_map(|s| match &s.reader {
            Reader::Chunks(r) => Some(r).filter(|r| r.singles()),
            Reader::Text(_) => None,
        })
    }

    /// The cache from which the last batch came, if it came from one.
    pub fn cached(&self) -> Option<&ChunkReader> {
        match &self.sources[self.last].reader {
            Reader::Chunks(r) => Some(r),
            Reader::Text(_) => None,
        }
    }

    /// The source of the next batch, drawn from those that go on.
    fn draw(&self) -> Option<usize> {
        let live = || self.sources.iter().enumerate().filter(|(_, s)| s.weight > 0.0 && !s.reader.at_end());
        let total: f64 = live().map(|(_, s)| s.weight).sum();
        let mut left = random::unit(self.seed, random::Use::Source, self.draws) * total;
        let mut drawn = None;
        for (i, s) in live() {
            drawn = Some(i);
            left -= s.weight;
            if left < 0.0 {
                break;
            }
        }
        drawn
    }

    /// How contexts are made.
    pub fn policy(&self) -> &TokenPolicy {
        self.sources[0].reader.policy()
    }

    /// The sources.
    pub fn sources(&self) -> &[WeightedSource] {
        &self.sources
    }

    /// Most contexts of a batch.
    pub fn model_batch_size(&self) -> usize {
        self.model_batch_size
    }

    /// Tokens given so far, padding not counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Share of the text already read; none when a source repeats.
    pub fn share(&self) -> Option<f64> {
        let (mut read, mut all) = (0.0, 0.0);
        for s in self.sources.iter().filter(|s| s.weight > 0.0) {
            let bytes = s.reader.extent().1 as f64;
            read += s.reader.share()? * bytes;
            all += bytes;
        }
        Some(read / all)
    }

    /// The position now.
    pub fn cursor(&self) -> TokenCursor {
        let sources = self.sources.iter().map(|s| {
            let (records, bytes) = s.reader.extent();
            let revision = s.reader.revision().map(String::from);
            SourceCursor { name: s.name.clone(), records, bytes, revision, place: s.reader.place() }
        });
        TokenCursor { draws: self.draws, tokens: self.tokens, sources: sources.collect() }
    }

    /// Continues at a cursor taken from a stream with the same settings and data.
    ///
    /// # Errors
    /// Refuses a cursor of other sources, or of data that has changed since.
    pub fn seek(&mut self, cursor: &TokenCursor) -> Result<()> {
        let names = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join(", ");
        let ours = names(&mut self.sources.iter().map(|s| s.name.as_str()));
        let theirs = names(&mut cursor.sources.iter().map(|s| s.name.as_str()));
        if ours != theirs {
            let what = format!("the snapshot was taken with sources {theirs}, the settings have {ours}");
            return Err(Error::Data { what });
        }
        for (s, c) in self.sources.iter().zip(&cursor.sources) {
            if let (Some(ours), Some(theirs)) = (s.reader.revision(), &c.revision)
                && ours != theirs
            {
                let what = format!(
                    "{} has moved from {theirs} to {ours} since the snapshot was taken; go on with what it was: revision = \"{theirs}\" in \
                     the table of this data set",
                    s.reader.path().display()
                );
                return Err(Error::Data { what });
            }
            let (records, bytes) = s.reader.extent();
            if (records, bytes) != (c.records, c.bytes) {
                let what = format!(
                    "{} has {} records and {} bytes, but {} and {} when the snapshot was taken; \
                     a run can only go on with the same data",
                    s.reader.path().display(),
                    records,
                    bytes,
                    c.records,
                    c.bytes
                );
                return Err(Error::Data { what });
            }
        }
        for (s, c) in self.sources.iter_mut().zip(&cursor.sources) {
            s.reader.seek(c.place)?;
        }
        (self.draws, self.tokens) = (cursor.draws, cursor.tokens);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        super::{
            Overflow,
            contexts::tests::{Letters, repeated, source},
            policy::tests::policy,
        },
        *,
    };
    use std::sync::Arc;

    /// Sources named by their letter: `letter` repeated, one context a record.
    fn stream(dir: &tempfile::TempDir, sources: &[(&str, usize, f64, bool)], seed: u64) -> TokenStream {
        let sources = sources.iter().map(|&(letter, n, weight, repeat)| {
            let text = source(dir, &format!("{letter}.txt"), &vec![letter; n]);
            let p = policy(2, Overflow::Truncate);
            let reader = ContextReader::new(text, Arc::new(Letters::default()), p, repeated(repeat)).unwrap();
            WeightedSource { name: letter.into(), weight, reader: reader.into() }
        });
        TokenStream::new(sources.collect(), seed, 4).unwrap()
    }

    fn letters(stream: &mut TokenStream, n: usize) -> String {
        let mut out = String::new();
        for _ in 0..n {
            let Some(batch) = stream.next_batch().unwrap() else { break };
            out.push(char::from_u32(batch.ids[1]).unwrap());
        }
        out
    }

    #[test]
    fn sources_come_as_often_as_their_weights_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut s = stream(&dir, &[("a", 3, 1.0, true), ("b", 3, 3.0, true), ("c", 3, 0.0, true)], 5);
        let drawn = letters(&mut s, 2000);
        let share = drawn.matches('b').count() as f64 / 2000.0;
        assert!(!drawn.contains('c'));
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }

    #[test]
    fn all_of_every_source_is_given_and_then_the_stream_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut s = stream(&dir, &[("a", 10, 1.0, false), ("b", 4, 5.0, false)], 5);
        let mut contexts = 0;
        assert_eq!(s.share(), Some(0.0));
        while let Some(batch) = s.next_batch().unwrap() {
            contexts += batch.batch;
        }
        assert_eq!((contexts, s.tokens(), s.share()), (14, 28, Some(1.0)));
        assert!(s.next_batch().unwrap().is_none());
    }

    #[test]
    fn the_order_depends_on_the_seed_only() {
        let dir = tempfile::tempdir().unwrap();
        let run = |seed| letters(&mut stream(&dir, &[("a", 3, 1.0, true), ("b", 3, 1.0, true)], seed), 60);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_stream_set_to_a_cursor_goes_on_as_the_one_that_gave_it() {
        let dir = tempfile::tempdir().unwrap();
        let parts = [("a", 30, 1.0, false), ("b", 3, 0.5, true), ("c", 9, 2.0, false)];
        let mut straight = stream(&dir, &parts, 9);
        for _ in 0..60 {
            let mut moved = stream(&dir, &parts, 9);
            let json = serde_json::to_string(&straight.cursor()).unwrap();
            moved.seek(&serde_json::from_str(&json).unwrap()).unwrap();
            assert_eq!(moved.next_batch().unwrap(), straight.next_batch().unwrap());
            assert_eq!(moved.cursor(), straight.cursor());
        }
    }

    #[test]
    fn a_cursor_of_other_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cursor = stream(&dir, &[("a", 3, 1.0, false)], 9).cursor();
        let other = stream(&dir, &[("b", 3, 1.0, false)], 9).seek(&cursor).unwrap_err().to_string();
        assert!(other.contains("sources a") && other.contains("have b"), "{other}");
        let longer = stream(&dir, &[("a", 4, 1.0, false)], 9).seek(&cursor).unwrap_err().to_string();
        assert!(longer.contains("a.txt has 4 records"), "{longer}");
    }

    #[test]
    fn impossible_weights_are_refused() {
        for weight in [0.0, -1.0, f64::NAN] {
            assert!(TokenStream::new(Vec::new(), 0, 1).is_err());
            let dir = tempfile::tempdir().unwrap();
            let mut s = stream(&dir, &[("a", 3, 1.0, false)], 9).sources;
            s[0].weight = weight;
            assert!(TokenStream::new(s, 0, 1).err().unwrap().to_string().contains("sample_weights"));
        }
    }
}
