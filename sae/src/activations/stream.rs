//! The stream from text to training batches. It pulls: a batch is made when asked for, by running as many model batches as
//! it takes. Its cursor and the rows waiting in its buffer are its whole state.

use super::{Batch, Part, Producer, Target, ahead::Ahead, buffer::RowBuffer};
use crate::{
    Error, Result,
    data::{TokenCursor, TokenPolicy, TokenStream},
};
use lm_saes_runtime::{Queue, Tensor, View};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What comes out of an [`ActivationStream`] (TRAINING §7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// What a row is.
    pub target: Target,
    /// Where activations are taken; none for [`Target::Tokens`].
    pub hook_points: Vec<String>,
    /// Tokens of a batch in 1-D, contexts otherwise.
    pub batch_size: usize,
    /// Rows to collect before shuffling them; none leaves them in order.
    pub buffer_size: Option<usize>,
    /// Seed of the order of the rows.
    pub shuffle_seed: u64,
}

/// Position of an [`ActivationStream`] without the rows in its buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamCursor {
    /// Position in the text.
    pub tokens: TokenCursor,
    /// Times the buffer was shuffled.
    pub refills: u64,
    /// Whether the buffer gives batches until it is half empty; otherwise it fills.
    pub draining: bool,
    /// Batches given.
    pub batches: u64,
    /// Tokens given that count.
    pub emitted: u64,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Batches given.
    pub batches: u64,
    /// Tokens given that count.
    pub emitted: u64,
    /// Tokens the model has run on, padding not counted.
    pub consumed: u64,
    /// Share of the text read; none when it repeats.
    pub share: Option<f64>,
    /// About how many tokens that count the text has; none when it repeats or nothing was read yet.
    pub estimated_total: Option<u64>,
}

/// Batches of activations.
///
/// Rows wait in a buffer in device memory. Without `buffer_size` they leave it in order. With it, rows collect until there
/// are `buffer_size`, all are permuted, and batches leave while at least half of them (and one batch) remain; then it
/// fills again. At the end of the data the rest leaves in order, the last batch possibly smaller (TRAINING §7.4).
/// The permutation depends on the seed and the number of shuffles only.
pub struct ActivationStream {
    pub(super) settings: StreamSettings,
    pub(super) tokens: TokenStream,
    pub(super) buffer: RowBuffer,
    /// Model batches that were run and are not in the buffer yet.
    pub(super) ahead: VecDeque<Ahead>,
    pub(super) at: StreamCursor,
}

/// Model batches in a row without a token that counts, after which the data is taken to have none.
const MAX_BARREN: usize = 1000;

impl ActivationStream {
    /// Starts at the beginning of `tokens`.
    pub fn new(settings: StreamSettings, tokens: TokenStream) -> Result<Self> {
        let unit = check(&settings, tokens.policy())?;
        let reserve = rows_held(&settings, tokens.policy(), tokens.model_batch_size());
        let buffer = RowBuffer::new(unit, reserve);
        Ok(Self { settings, tokens, buffer, ahead: VecDeque::new(), at: StreamCursor::default() })
    }

    /// The next batch, or none when the data has ended.
    pub fn next_batch(&mut self, q: &mut Queue, model: &dyn Producer) -> Result<Option<Batch>> {
        let mut barren = 0;
        while !self.ready() {
            let Some(run) = self.next_run(q, model)? else {
                return self.rest(q);
            };
            barren = if run.tokens.n_valid() == 0 { barren + 1 } else { 0 };
            if barren == MAX_BARREN {
                let what = format!(
                    "{MAX_BARREN} model batches in a row had no token that counts; \
                     see ignore_token_ids and the special ids of the model"
                );
                return Err(Error::Data { what });
            }
            self.take(q, &run)?;
            self.shuffle_when_full();
        }
        self.emit(q, self.settings.batch_size).map(Some)
    }

    fn ready(&mut self) -> bool {
        let waiting = self.buffer.len();
        if let Some(size) = self.settings.buffer_size {
            self.at.draining &= waiting >= size / 2 && waiting >= self.settings.batch_size;
            self.at.draining
        } else {
            waiting >= self.settings.batch_size
        }
    }

    fn shuffle_when_full(&mut self) {
        if let Some(size) = self.settings.buffer_size
            && self.buffer.len() >= size
        {
            self.buffer.shuffle(self.settings.shuffle_seed, self.at.refills);
            self.at.refills += 1;
            self.at.draining = true;
        }
    }

    /// What is left when the data has ended.
    fn rest(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        match self.buffer.len().min(self.settings.batch_size) {
            0 => Ok(None),
            n => self.emit(q, n).map(Some),
        }
    }

    fn emit(&mut self, q: &mut Queue, n: usize) -> Result<Batch> {
        let mut batch = self.buffer.take(q, n)?;
        if self.settings.target != Target::Activations1d {
            let rows = batch.rows();
            let by_token = |act: Tensor| {
                let d = act.len() / rows.max(1);
                act.reshaped(rows, d)
            };
            batch.acts = batch.acts.into_iter().map(by_token).collect::<Result<_, _>>()?;
            batch.contexts = Some((n, self.buffer.unit));
        }
        self.at.batches += 1;
        self.at.emitted += batch.n_valid as u64;
        Ok(batch)
    }

    /// Buffers what counts of one model batch.
    fn take(&mut self, q: &mut Queue, Ahead { tokens, part, .. }: &Ahead) -> Result<()> {
        let flat = self.settings.target == Target::Activations1d;
        let valid: Vec<u32> = (0..).zip(&tokens.mask).filter(|&(_, &m)| m != 0).map(|(row, _)| row).collect();
        if flat && valid.is_empty() {
            return Ok(());
        }
        let hooks = &self.settings.hook_points;
        let (rows, unit) = (tokens.ids.len(), self.buffer.unit);
        let acts: Vec<View<'_>> = part.iter().flat_map(Part::views).collect();
        if acts.len() != hooks.len() || acts.iter().any(|a| a.rows() != rows) {
            let shapes: Vec<_> = acts.iter().map(|a| (a.rows(), a.cols())).collect();
            let what =
                format!("the model gave {shapes:?} for {rows} tokens and hook points {}", hooks.join(", "));
            return Err(Error::Data { what });
        }
        let views: Vec<View<'_>> = acts.iter().map(|a| a.reshaped(rows / unit, a.cols() * unit)).collect();
        let only = (flat && valid.len() < rows).then_some(valid.as_slice());
        self.buffer.append(q, &views, tokens, only)
    }

    /// The hook points, in the order of [`Batch::acts`].
    pub fn hook_points(&self) -> &[String] {
        &self.settings.hook_points
    }

    /// What comes out.
    pub fn settings(&self) -> &StreamSettings {
        &self.settings
    }

    /// How contexts are made.
    pub fn policy(&self) -> &TokenPolicy {
        self.tokens.policy()
    }

    /// How far the stream is.
    pub fn progress(&self) -> Progress {
        let share = self.tokens.share();
        let ahead: usize = self.ahead.iter().map(|a| a.tokens.n_valid()).sum();
        let counted = (self.at.emitted + (self.buffer.valid_tokens() + ahead) as u64) as f64;
        let estimated_total = share.filter(|&s| s > 0.0).map(|s| (counted / s).round() as u64);
        Progress {
            batches: self.at.batches,
            emitted: self.at.emitted,
            consumed: self.ahead.front().map_or(self.tokens.tokens(), |a| a.before.tokens),
            share,
            estimated_total,
        }
    }

    /// The position behind what is in the buffer, without its rows; [`ActivationStream::save_state`] has both.
    pub fn cursor(&self) -> StreamCursor {
        let tokens = self.ahead.front().map_or_else(|| self.tokens.cursor(), |a| a.before.clone());
        StreamCursor { tokens, ..self.at.clone() }
    }

    /// Device bytes the buffer holds now.
    pub fn held_bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Device bytes the buffer will take for hook points of these widths, known before any data is touched.
    pub fn buffer_bytes(
        settings: &StreamSettings,
        policy: &TokenPolicy,
        model_batch_size: usize,
        widths: &[usize],
    ) -> Result<usize> {
        let unit = check(settings, policy)?;
        let width: usize = widths.iter().sum();
        Ok(rows_held(settings, policy, model_batch_size) * unit * width * size_of::<f32>())
    }
}

/// Checks settings against the policy; gives the tokens of a row.
fn check(settings: &StreamSettings, policy: &TokenPolicy) -> Result<usize> {
    let wrong = |key: &str, what: &str| Err(Error::setting(format!("activation_factory.{key}"), what));
    if settings.batch_size == 0 {
        return wrong("batch_size", "must be at least 1");
    }
    if settings.buffer_size == Some(0) {
        return wrong("buffer_size", "must be at least 1; leave it out for no shuffling");
    }
    match settings.target {
        Target::Tokens if !settings.hook_points.is_empty() => {
            return wrong("hook_points", "must be empty with target tokens, which has no activations");
        }
        Target::Activations1d | Target::Activations2d if settings.hook_points.is_empty() => {
            return wrong("hook_points", "is empty; name at least one, such as blocks.6.hook_resid_post");
        }
        _ => {}
    }
    let hooks = &settings.hook_points;
    if let Some(twice) = hooks.iter().enumerate().find_map(|(i, h)| hooks[..i].contains(h).then_some(h)) {
        return wrong(
            "hook_points",
            &format!("names {twice} twice; each is captured once and can serve as input and output"),
        );
    }
    match (settings.target, policy.context_size) {
        (Target::Activations1d, _) => Ok(1),
        (_, Some(size)) => Ok(size),
        (_, None) => {
            wrong("context_size", "is needed for this target: contexts of a batch must be equally long")
        }
    }
}

/// Most rows waiting at a time: one short of a full buffer, and a model batch on top.
fn rows_held(settings: &StreamSettings, policy: &TokenPolicy, model_batch_size: usize) -> usize {
    let fill = settings.buffer_size.unwrap_or(0).max(settings.batch_size);
    let len = policy.context_size.unwrap_or(policy.max_length);
    let item =
        if settings.target == Target::Activations1d { model_batch_size * len } else { model_batch_size };
    fill - 1 + item
}
