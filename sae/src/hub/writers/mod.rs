//! Our dictionaries in other tools' forms. A form that has no word for something a dictionary does is refused with that
//! property's name; what can be rewritten without another function (norms of the data set, a bias taken off the input) is.

mod circuit_tracer;
mod dictionary_learning;
mod saelens;
mod sparsify;
mod upstream;

use crate::{
    Error, Result,
    dictionary::{Dictionary, checkpoint::Loaded, variants::Variant},
    settings::{ActFn, DTypeName, DictionarySettings, NormActivation},
};
use lm_saes_runtime::Queue;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A form to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Ours: the reference system's with a few settings more.
    Own,
    /// The reference system's.
    Upstream,
    /// SAELens 6.
    SaeLens,
    /// eai-sparsify.
    Sparsify,
    /// dictionary_learning.
    DictionaryLearning,
    /// circuit-tracer.
    CircuitTracer,
}

impl Format {
    /// Names on the command line.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("lm-saes", Self::Own),
        ("upstream", Self::Upstream),
        ("saelens", Self::SaeLens),
        ("sparsify", Self::Sparsify),
        ("dictionary-learning", Self::DictionaryLearning),
        ("circuit-tracer", Self::CircuitTracer),
    ];

    /// A format by name.
    ///
    /// # Errors
    /// An unknown name, with the known ones.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, format)| *format);
        found.ok_or_else(|| {
            let names = Self::NAMES.map(|(n, _)| n).join(", ");
            Error::setting("to-format", format!("{name:?} is no format; there are {names}"))
        })
    }

    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Own => "this program's form",
            Self::Upstream => "the reference system's form",
            Self::SaeLens => "SAELens' form",
            Self::Sparsify => "sparsify's form",
            Self::DictionaryLearning => "dictionary_learning's form",
            Self::CircuitTracer => "circuit-tracer's form",
        }
    }
}

/// Writes into `dir` and says where: some forms want a folder of their own inside.
///
/// # Errors
/// What the form cannot express, by name, before anything is written; or what the file system refuses.
pub fn write(
    q: &mut Queue,
    loaded: &mut Loaded,
    dir: &Path,
    format: Format,
    dtype: DTypeName,
) -> Result<PathBuf> {
    if !matches!(format, Format::Own | Format::Upstream)
        && loaded.dictionary.settings().norm_activation() == NormActivation::DatasetWise
    {
        // The other forms have no place for average norms; in the weights they are the same function.
        loaded.dictionary.fold(q)?;
    }
    let out = Out { q, d: &mut *loaded.dictionary, extras: &loaded.extras, dtype, format };
    match format {
        Format::Own => upstream::write_own(out, dir),
        Format::Upstream => upstream::write(out, dir),
        Format::SaeLens => saelens::write(out, dir),
        Format::Sparsify => sparsify::write(out, dir),
        Format::DictionaryLearning => dictionary_learning::write(out, dir),
        Format::CircuitTracer => circuit_tracer::write(out, dir),
    }
}

/// What a writer works on.
struct Out<'a> {
    q: &'a mut Queue,
    d: &'a mut dyn Dictionary,
    extras: &'a Map<String, Value>,
    dtype: DTypeName,
    format: Format,
}

/// What SAEs have that other forms may lack.
struct Features {
    act_fn: ActFn,
    centred: bool,
    skip: bool,
    glu: bool,
    transcoder: bool,
    gated: bool,
}

impl Out<'_> {
    /// The form has no word for this.
    fn cannot(&self, property: impl std::fmt::Display, why: &str) -> Error {
        Error::Unsupported { what: format!("{property} in {}", self.format.shown()), why: why.into() }
    }

    /// The form has no such activation function.
    fn cannot_act(&self, why: &str) -> Error {
        let name = serde_json::to_value(self.settings().act_fn()).unwrap_or_default();
        self.cannot(format!("act_fn {name}"), why)
    }

    fn settings(&self) -> &DictionarySettings {
        self.d.settings()
    }

    /// `[d_in, S, d_out]`.
    fn sizes(&self) -> [usize; 3] {
        let s = self.settings();
        [s.d_model(), s.d_sae(), s.d_out()]
    }

    fn hooks(&self) -> (String, String) {
        let one = |hooks: Vec<String>| hooks.into_iter().next().unwrap_or_default();
        (one(self.d.hook_points_in()), one(self.d.hook_points_out()))
    }

    fn model_name(&self) -> String {
        let name = self.extras.get("model_name").and_then(Value::as_str);
        let nested = self.extras.get("model").and_then(|m| m["model_name"].as_str());
        name.or(nested).unwrap_or("unknown").into()
    }

    /// Refuses what is no SAE or transcoder with one code a token.
    fn features(&self) -> Result<Features> {
        let s = self.settings();
        let (hook_in, hook_out) = self.hooks();
        // A selection over the batch that learned a threshold is a JumpReLU at inference, unless it is to stay one.
        let limited = s.act_fn() == ActFn::BatchTopK
            && self.d.running_thresholds().values().is_some()
            && !s.common.batch_selection_at_inference;
        let mut f = Features {
            act_fn: if limited { ActFn::JumpRelu } else { s.act_fn() },
            centred: false,
            skip: false,
            glu: false,
            transcoder: hook_in != hook_out,
            gated: s.gated(),
        };
        match &s.variant {
            Variant::Sae(own) => {
                (f.centred, f.skip, f.glu) =
                    (own.apply_b_dec_to_input, own.use_skip_connection, own.use_glu_encoder);
            }
            Variant::Gated(own) => f.centred = own.apply_b_dec_to_input,
            Variant::Matryoshka(own) => f.centred = own.apply_b_dec_to_input,
            _ => {
                let what = format!("sae_type {}", s.sae_type());
                return Err(self.cannot(what, "it has SAEs and transcoders only"));
            }
        }
        if f.glu {
            return Err(self.cannot("use_glu_encoder", "its encoders are linear"));
        }
        Ok(f)
    }

    fn is_gated_sae(&self) -> bool {
        matches!(self.settings().variant, Variant::Gated(_))
    }

    /// Refuses scaling of activations at run time.
    fn raw_only(&self) -> Result<()> {
        match self.settings().norm_activation() {
            NormActivation::Inference => Ok(()),
            mode => {
                let mode = serde_json::to_value(mode).unwrap_or_default();
                Err(self.cannot(
                    format!("norm_activation {mode}"),
                    "its dictionaries take activations as they are",
                ))
            }
        }
    }

    /// Refuses a selection by `h·n` unless every n is 1, where it is one by h.
    fn unit_norms(&mut self) -> Result<()> {
        let norms = self.d.decoder_norms(self.q)?;
        match norms.iter().all(|n| (n - 1.0).abs() <= 1e-5) {
            true => Ok(()),
            false => Err(self.cannot(
                "sparsity_include_decoder_norm with decoder rows not of norm 1",
                "it selects by the activation itself; rewrite the dictionary with --unit-decoder-norm, which keeps its \
                 reconstructions and multiplies activations by the norms",
            )),
        }
    }

    /// Values as in our files.
    fn stored(&mut self, name: &str) -> Result<Vec<f32>> {
        let params = self.d.params();
        let p = params.into_iter().find(|p| p.name == name);
        let p = p.ok_or_else(|| Error::Data { what: format!("the dictionary has no {name}") })?;
        let held: Vec<f32> = self.q.download(&p.value)?;
        Ok(p.to_stored(&held).into_owned())
    }

    /// Values as held: matrices of encoders `[S, d]`.
    fn held(&mut self, name: &str) -> Result<Vec<f32>> {
        let params = self.d.params();
        let p = params.into_iter().find(|p| p.name == name);
        let p = p.ok_or_else(|| Error::Data { what: format!("the dictionary has no {name}") })?;
        Ok(self.q.download(&p.value)?)
    }

    fn has(&self, name: &str) -> bool {
        self.d.params().iter().any(|p| p.name == name)
    }

    /// `b_D`, zeros where there is none.
    fn decoder_bias(&mut self) -> Result<Vec<f32>> {
        if self.has("b_D") { self.stored("b_D") } else { Ok(vec![0.0; self.sizes()[2]]) }
    }

    /// Thresholds of h, whatever is compared here and however they are kept.
    fn thresholds(&mut self) -> Result<Vec<f32>> {
        let limit = self.d.running_thresholds().values().and_then(|v| v.first().copied());
        let mut theta = match (limit, self.has(super::reading::THRESHOLD)) {
            (Some(limit), _) => vec![limit; self.settings().d_sae()],
            (None, true) => self.stored(super::reading::THRESHOLD)?,
            (None, false) => {
                let logs = self.stored("activation_function.log_jumprelu_threshold")?;
                logs.into_iter().map(f32::exp).collect()
            }
        };
        if self.settings().gated() {
            let norms = self.d.decoder_norms(self.q)?;
            for (theta, n) in theta.iter_mut().zip(norms) {
                // With a decoder of zeros h·n never passes.
                *theta = if n > 0.0 { *theta / n } else { f32::MAX };
            }
        }
        Ok(theta)
    }

    /// `b_D·W_E`, what taking `b_D` off the input takes off the pre-activations.
    fn bias_through_encoder(&mut self) -> Result<Vec<f32>> {
        let (w, b) = (self.held("W_E")?, self.decoder_bias()?);
        let dot = |row: &[f32]| row.iter().zip(&b).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum::<f64>();
        Ok(w.chunks_exact(b.len()).map(|row| dot(row) as f32).collect())
    }
}

/// The layer of a hook point `blocks.L.…`, and the rest.
fn layer_of(hook: &str) -> Option<(usize, &str)> {
    let (layer, rest) = hook.strip_prefix("blocks.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}
