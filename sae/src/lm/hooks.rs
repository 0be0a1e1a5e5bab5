//! What a caller wants from a forward: activations captured and replaced by hook name. The forward offers every hook it passes;
//! this file decides, and ends the forward once nothing more is wanted.

use crate::{Error, Result};
use lm_saes_runtime::{DType, Queue, Tensor};
use std::collections::{HashMap, HashSet};

/// Replaces an activation in place: given the hook's name and its tensor, which must keep its shape.
pub type EditFn<'a> = dyn FnMut(&mut Queue, &str, &mut Tensor) -> Result<()> + 'a;

/// Replacement at some hooks.
pub struct Edit<'a> {
    /// Where.
    pub hooks: &'a [&'a str],
    /// With what.
    pub apply: &'a mut EditFn<'a>,
}

/// What one forward should give.
#[derive(Default)]
pub struct Run<'a> {
    /// Hook points to return, captured after any replacement there.
    pub capture: &'a [&'a str],
    /// Replacements.
    pub edit: Option<Edit<'a>>,
    /// Whether logits are wanted; without them the forward stops after the last hook named above.
    pub logits: bool,
}

/// What a forward gave. Rows are tokens, `[batch·len, width]`; heads lie side by side in a row.
pub struct Output {
    /// By hook name. `hook_scale` is `[batch·len, 1]`, `attn.hook_pattern` is `[batch·heads·len, len]`.
    pub captured: HashMap<String, Tensor>,
    /// `[batch·len, vocab]`.
    pub logits: Option<Tensor>,
}

/// Why a forward ended before its end.
pub(super) enum Halt {
    /// Everything wanted is there.
    Done,
    Failed(Error),
}

impl Halt {
    /// The error of a pass that was to run to the end.
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(e) => e,
            Self::Done => Error::Data { what: "the forward stopped before its end".into() },
        }
    }
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

/// The state of the caller's wishes during a forward.
pub(super) struct Hooks<'a> {
    capture: HashSet<&'a str>,
    edits: HashSet<&'a str>,
    apply: Option<&'a mut EditFn<'a>>,
    /// Hooks still to come; at 0 the forward may stop, unless it runs to the end anyway.
    left: usize,
    to_the_end: bool,
    pub captured: HashMap<String, Tensor>,
}

impl<'a> Hooks<'a> {
    pub fn new(capture: &'a [&'a str], edit: Option<Edit<'a>>, to_the_end: bool) -> Self {
        let capture: HashSet<&str> = capture.iter().copied().collect();
        let (edits, apply) = match edit {
            Some(e) => (e.hooks.iter().copied().collect(), Some(e.apply)),
            None => (HashSet::new(), None),
        };
        let left = capture.union(&edits).count();
        Self { capture, edits, apply, left, to_the_end, captured: HashMap::new() }
    }

    /// Whether nothing at all is wanted.
    pub fn is_idle(&self) -> bool {
        self.left == 0 && !self.to_the_end
    }

    pub fn wants(&self, name: &str) -> bool {
        self.capture.contains(name) || self.edits.contains(name)
    }

    pub fn edits(&self, name: &str) -> bool {
        self.edits.contains(name)
    }

    /// Offers the activation at a hook: it may be replaced and copied out. Ends the forward after the last wanted one.
    pub fn at(&mut self, q: &mut Queue, name: &str, t: &mut Tensor) -> Result<(), Halt> {
        if !self.wants(name) {
            return Ok(());
        }
        if let Some(apply) = self.apply.as_mut().filter(|_| self.edits.contains(name)) {
            let shape = (t.rows(), t.cols(), t.dtype());
            apply(q, name, t)?;
            let after = (t.rows(), t.cols(), t.dtype());
            if after != shape {
                return Err(Halt::Failed(Error::Unsupported {
                    what: format!("replacing {name} {shape:?} by {after:?}"),
                    why: "a replacement keeps rows, columns and type".into(),
                }));
            }
        }
        self.left -= 1;
        let last = self.left == 0 && !self.to_the_end;
        if self.capture.contains(name) {
            let mut copy =
                if last { q.empty(0, 0, DType::F32)? } else { q.empty(t.rows(), t.cols(), t.dtype())? };
            if last {
                // Nothing runs after this, so the activation itself can be handed out.
                std::mem::swap(&mut copy, t);
            } else {
                q.copy(&*t, &mut copy)?;
            }
            self.captured.insert(name.into(), copy);
        }
        if last { Err(Halt::Done) } else { Ok(()) }
    }
}
