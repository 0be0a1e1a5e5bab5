//! A language model on a device: loading from whatever file it is in, and what it says about itself.

use super::{
    architecture::Architecture,
    config::Config,
    families,
    gguf::GgufWeights,
    identity::{Noted, Room},
    parameters::{Block, Linear, Matrix, NormWeights, Outer, Reader},
    process,
    weights::{HfDirectory, WeightSource},
};
use crate::{
    Error, Result,
    settings::{DTypeName, LanguageModelSettings},
};
use half::{bf16, f16};
use lm_saes_runtime::{Queue, Tensor};
use std::path::Path;

/// A decoder-only language model with its weights on a device. The forward is in `forward.rs`.
pub struct Lm {
    pub(super) arch: Architecture,
    pub(super) outer: Outer<Tensor>,
    pub(super) blocks: Vec<Block<Tensor>>,
    name: String,
    /// Whether it was asked for by that name, not by a path alone.
    named: bool,
    /// [`Noted::hash`].
    weights: String,
}

impl Lm {
    /// Loads a Hugging Face directory or a `.gguf` file. `settings` says how weights are stored.
    ///
    /// # Errors
    /// Whatever is missing or malformed, with file and key or tensor named.
    pub fn load(q: &mut Queue, path: &Path, settings: &LanguageModelSettings) -> Result<Self> {
        if path.is_file() {
            Self::from_source(q, &GgufWeights::open(path)?, settings)
        } else {
            Self::from_source(q, &HfDirectory::open(path)?, settings)
        }
    }

    /// Loads from any source of configuration and weights, block by block, so that the host holds one block at a time.
    pub fn from_source(
        q: &mut Queue,
        source: &dyn WeightSource,
        settings: &LanguageModelSettings,
    ) -> Result<Self> {
        let json = source.config()?;
        let config = Config::new(source.path(), &json);
        let family = families::find(&config)?;
        let arch = (family.read)(&config)?;
        config.check(&arch)?;
        let room = match q.device().info().memory {
            0 => Room::on_host(),
            free => Some(Room { free, of: "the device" }),
        };
        if let Some(room) = room {
            check_room(&arch, settings.dtype, source.path(), &room)?;
        }
        let noted = Noted::new(source);
        let reader = Reader::new(&arch, &family.layout, &noted);
        let mut up = Upload { q, dtype: settings.dtype };
        let mut outer = reader.outer()?;
        if settings.process_weights {
            process::outer(&arch, &mut outer);
        }
        let outer = up.outer(outer)?;
        let mut blocks = Vec::with_capacity(arch.n_layers);
        for i in 0..arch.n_layers {
            let mut block = reader.block(i)?;
            if settings.process_weights {
                process::block(&arch, &mut block);
            }
            blocks.push(up.block(block)?);
        }
        let (name, weights) = (name(settings), noted.hash());
        Ok(Self { arch, outer, blocks, name, named: is_named(settings), weights })
    }

    /// What the model at this path is, without loading its weights.
    pub fn read_architecture(path: &Path) -> Result<Architecture> {
        let source: Box<dyn WeightSource> = if path.is_file() {
            Box::new(GgufWeights::open(path)?)
        } else {
            Box::new(HfDirectory::open(path)?)
        };
        let json = source.config()?;
        let config = Config::new(source.path(), &json);
        (families::find(&config)?.read)(&config)
    }

    /// What the model is.
    pub fn architecture(&self) -> &Architecture {
        &self.arch
    }

    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name, where whoever loaded it said what the model is; a path alone says nothing.
    pub fn stated_name(&self) -> Option<&str> {
        self.named.then_some(&self.name)
    }

    /// A hash that tells its weights from those of other models, the same on every device and in every storage type.
    pub fn weights_hash(&self) -> &str {
        &self.weights
    }

    /// Width of a hook point's activation; 0 for `attn.hook_pattern`, whose width is the length of the tokens.
    ///
    /// # Errors
    /// [`Error::Hook`] with the list of those that exist.
    pub fn hook_width(&self, name: &str) -> Result<usize> {
        self.arch.hook_width(name).ok_or_else(|| Error::Hook {
            name: name.into(),
            model: self.name.clone(),
            available: self.arch.describe_hooks(),
        })
    }
}

/// Refuses a model before any of its weights is read, if they cannot fit.
fn check_room(arch: &Architecture, dtype: DTypeName, path: &Path, room: &Room) -> Result<()> {
    let stored = arch.matrix_elements().saturating_mul(dtype.dtype().bytes() as u64);
    // A piece is read as f32 before it is stored.
    let bytes = stored.saturating_add(arch.largest_piece().saturating_mul(4));
    if bytes <= room.free {
        return Ok(());
    }
    let gib = |n: u64| n as f64 / f64::from(1 << 30);
    let half = match dtype {
        DTypeName::F32 => {
            format!("; with model.dtype = \"bfloat16\" it takes {:.1} GiB", gib(bytes - stored / 2))
        }
        _ => String::new(),
    };
    Err(Error::Unsupported {
        what: format!("a model of {:.1} billion parameters here", arch.matrix_elements() as f64 / 1e9),
        why: format!(
            "loading {} takes {:.1} GiB in {dtype}, {} has {:.1} GiB free{half}",
            path.display(),
            gib(bytes),
            room.of,
            gib(room.free)
        ),
    })
}

/// Moves host parameters to the device: matrices in the chosen type, vectors in f32.
struct Upload<'q> {
    q: &'q mut Queue,
    dtype: DTypeName,
}

impl Upload<'_> {
    fn matrix(&mut self, m: Matrix) -> Result<Tensor> {
        let (rows, cols, values) = (m.rows, m.cols, m.values);
        let q = &mut *self.q;
        Ok(match self.dtype {
            DTypeName::F32 => q.tensor(rows, cols, &values)?,
            DTypeName::Bf16 => {
                let low: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
                q.tensor(rows, cols, &low)?
            }
            DTypeName::F16 => {
                let low: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
                q.tensor(rows, cols, &low)?
            }
        })
    }

    fn vector(&mut self, m: Option<Matrix>) -> Result<Option<Tensor>> {
        m.map(|m| Ok(self.q.tensor(m.rows, m.cols, &m.values)?)).transpose()
    }

    fn linear(&mut self, l: Linear<Matrix>) -> Result<Linear<Tensor>> {
        Ok(Linear { w: self.matrix(l.w)?, b: self.vector(l.b)? })
    }

    fn norm(&mut self, n: NormWeights<Matrix>) -> Result<NormWeights<Tensor>> {
        Ok(NormWeights { gain: self.vector(n.gain)?, bias: self.vector(n.bias)? })
    }

    fn outer(&mut self, o: Outer<Matrix>) -> Result<Outer<Tensor>> {
        Ok(Outer {
            embed: self.matrix(o.embed)?,
            pos_embed: o.pos_embed.map(|m| self.matrix(m)).transpose()?,
            ln_final: self.norm(o.ln_final)?,
            unembed: o.unembed.map(|m| self.matrix(m)).transpose()?,
            unembed_bias: self.vector(o.unembed_bias)?,
        })
    }

    fn block(&mut self, b: Block<Matrix>) -> Result<Block<Tensor>> {
        Ok(Block {
            ln1: b.ln1.map(|n| self.norm(n)).transpose()?,
            q: self.linear(b.q)?,
            k: self.linear(b.k)?,
            v: self.linear(b.v)?,
            q_norm: self.vector(b.q_norm)?,
            k_norm: self.vector(b.k_norm)?,
            o: self.linear(b.o)?,
            ln1_post: b.ln1_post.map(|n| self.norm(n)).transpose()?,
            ln2: b.ln2.map(|n| self.norm(n)).transpose()?,
            mlp_gate: b.mlp_gate.map(|l| self.linear(l)).transpose()?,
            mlp_in: self.linear(b.mlp_in)?,
            mlp_out: self.linear(b.mlp_out)?,
            ln2_post: b.ln2_post.map(|n| self.norm(n)).transpose()?,
        })
    }
}

/// What messages and checkpoints call the model. The default name is another model's, so a path alone names it by its last part.
fn name(settings: &LanguageModelSettings) -> String {
    let path = settings.model_from_pretrained_path.as_ref().filter(|_| !is_named(settings));
    let folder = path.and_then(|p| p.file_name());
    folder.map_or_else(|| settings.model_name.clone(), |f| f.to_string_lossy().into_owned())
}

fn is_named(settings: &LanguageModelSettings) -> bool {
    let given = settings.model_name != LanguageModelSettings::default().model_name;
    given || settings.model_from_pretrained_path.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_cannot_fit_is_refused_with_numbers() {
        let arch = Architecture { d_mlp: 4096, d_vocab: 50_000, ..Architecture::new(1024, 24, 16, 64) };
        let room = |free| Room { free, of: "the device" };
        let check = |dtype, free| check_room(&arch, dtype, Path::new("m/config.json"), &room(free));
        let e = check(DTypeName::F32, 1 << 30).unwrap_err().to_string();
        assert!(e.contains("m/config.json") && e.contains("the device has 1.0 GiB free"), "{e}");
        assert!(e.contains("billion parameters") && e.contains("bfloat16"), "{e}");
        let needed = 2 * arch.matrix_elements() + 4 * 2 * 50_000 * 1024;
        assert!(check(DTypeName::Bf16, needed).is_ok());
        assert!(check(DTypeName::Bf16, needed - 1).is_err());
    }
}
