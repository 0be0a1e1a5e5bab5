//! What a decoder-only model is, in terms no family owns. Families translate their `config.json` into this; the loader and
//! the forward know nothing else.

/// Kind of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean removed, with bias.
    Layer,
    /// Root mean square only, no bias.
    Rms,
}

/// Activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    Relu,
    GeluErf,
    GeluTanh,
    Silu,
}

/// Normalisation of queries and keys before rotary positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head by itself, gain `[d_head]`.
    Head,
    /// The whole projection before it is split into heads, gain `[heads·d_head]`.
    Whole,
}

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum RotaryScaling {
    /// As trained.
    None,
    /// Every frequency divided by `factor`.
    Linear { factor: f64 },
    /// Wavelengths beyond `original_ctx/low` divided by `factor`, those below `original_ctx/high` kept, between
    /// interpolated.
    Llama3 { factor: f64, low: f64, high: f64, original_ctx: f64 },
}

/// One table of rotary positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotary {
    /// Leading coordinates of each head that turn; even.
    pub dim: usize,
    /// Wavelength base.
    pub base: f64,
    /// Stretching.
    pub scaling: RotaryScaling,
    /// Pairs are neighbours (2j, 2j+1) instead of halves (j, j + dim/2).
    pub adjacent: bool,
}

/// How the model knows positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// A learned table added to the embedding.
    Learned,
    /// Rotary tables; a layer names the one it uses.
    Rotary(Vec<Rotary>),
}

/// What may differ from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerKind {
    /// Keys a query may look back to, itself included; 0 = all.
    pub window: usize,
    /// Which rotary table.
    pub rotary: usize,
    /// Multiplies q·k.
    pub scale: f32,
}

/// Which linear maps have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Biases {
    pub qkv: bool,
    pub o: bool,
    pub mlp: bool,
    pub unembed: bool,
}

impl Biases {
    /// Biases in every block, none on the unembedding.
    pub const BLOCKS: Self = Self { qkv: true, o: true, mlp: true, unembed: false };
}

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Architecture {
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub d_head: usize,
    pub d_mlp: usize,
    pub d_vocab: usize,
    /// Longest sequence the positions were made for.
    pub n_ctx: usize,
    pub norm: NormKind,
    pub norm_eps: f32,
    /// Added to every stored gain (1 for families that store gain − 1).
    pub gain_offset: f32,
    /// Norms before the sublayers.
    pub pre_norm: bool,
    /// Norms on the sublayers' outputs.
    pub post_norm: bool,
    pub qk_norm: QkNorm,
    pub positions: Positions,
    /// Attention and MLP both read the block's input.
    pub parallel: bool,
    /// A parallel block with one norm for both sublayers.
    pub shared_norm: bool,
    pub activation: Activation,
    pub gated: bool,
    pub biases: Biases,
    /// The unembedding is the embedding.
    pub tied: bool,
    pub layers: Vec<LayerKind>,
    /// Soft cap of attention scores; 0 = none.
    pub score_cap: f32,
    /// Soft cap of logits; 0 = none.
    pub logit_cap: f32,
    /// Multiplies token embeddings.
    pub embed_scale: f32,
}

impl Architecture {
    /// A plain sequential pre-norm transformer of this shape, scores scaled by 1/√d_head; the rest is to be set.
    pub fn new(d_model: usize, n_layers: usize, n_heads: usize, d_head: usize) -> Self {
        let scale = 1.0 / (d_head.max(1) as f32).sqrt();
        Self {
            d_model,
            n_layers,
            n_heads,
            n_kv_heads: n_heads,
            d_head,
            d_mlp: 4 * d_model,
            d_vocab: 0,
            n_ctx: 0,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            gain_offset: 0.0,
            pre_norm: true,
            post_norm: false,
            qk_norm: QkNorm::None,
            positions: Positions::Learned,
            parallel: false,
            shared_norm: false,
            activation: Activation::Silu,
            gated: false,
            biases: Biases::default(),
            tied: false,
            layers: vec![LayerKind { window: 0, rotary: 0, scale }; n_layers],
            score_cap: 0.0,
            logit_cap: 0.0,
            embed_scale: 1.0,
        }
    }

    /// The same scale for the scores of every layer.
    pub fn with_score_scale(mut self, scale: f32) -> Self {
        self.layers.iter_mut().for_each(|l| l.scale = scale);
        self
    }

    /// Elements of all weight matrices; vectors are left out.
    pub fn matrix_elements(&self) -> u64 {
        self.block_elements().saturating_mul(self.n_layers as u64).saturating_add(self.outer_elements())
    }

    /// Elements of the largest piece that is loaded at a time: a block, or the embeddings.
    pub fn largest_piece(&self) -> u64 {
        self.block_elements().max(self.outer_elements())
    }

    fn block_elements(&self) -> u64 {
        let [d, head, mlp] = [self.d_model, self.d_head, self.d_mlp].map(|n| n as u64);
        let attention = (2 * d).saturating_mul(head).saturating_mul((self.n_heads + self.n_kv_heads) as u64);
        let maps = if self.gated { 3 } else { 2 };
        (maps * d).saturating_mul(mlp).saturating_add(attention)
    }

    fn outer_elements(&self) -> u64 {
        let maps = if self.tied { 1 } else { 2 };
        (maps * self.d_vocab as u64).saturating_mul(self.d_model as u64)
    }

    /// Hook points of one block without the `blocks.{i}.` prefix, in the order of the forward, with their widths.
    /// `attn.hook_pattern` is `[batch·heads·len, len]`: its width depends on the tokens and is given as 0.
    pub fn block_hooks(&self) -> Vec<(&'static str, usize)> {
        let (d, wide) = (self.d_model, self.n_heads * self.d_head);
        let narrow = self.n_kv_heads * self.d_head;
        let mut hooks = vec![("hook_resid_pre", d)];
        let mut add = |when: bool, more: &[(&'static str, usize)]| {
            if when {
                hooks.extend_from_slice(more);
            }
        };
        let rotary = matches!(self.positions, Positions::Rotary(_));
        let norm2 = [("ln2.hook_scale", 1), ("ln2.hook_normalized", d)];
        add(self.pre_norm, &[("ln1.hook_scale", 1), ("ln1.hook_normalized", d)]);
        add(true, &[("attn.hook_q", wide), ("attn.hook_k", narrow), ("attn.hook_v", narrow)]);
        add(rotary, &[("attn.hook_rot_q", wide), ("attn.hook_rot_k", narrow)]);
        add(true, &[("attn.hook_pattern", 0), ("attn.hook_z", wide)]);
        add(self.pre_norm && self.parallel, &norm2);
        add(self.post_norm, &[("ln1_post.hook_scale", 1), ("ln1_post.hook_normalized", d)]);
        add(true, &[("hook_attn_out", d)]);
        add(!self.parallel, &[("hook_resid_mid", d)]);
        add(self.pre_norm && !self.parallel, &norm2);
        add(true, &[("mlp.hook_in", d), ("mlp.hook_pre", self.d_mlp)]);
        add(self.gated, &[("mlp.hook_pre_linear", self.d_mlp)]);
        add(true, &[("mlp.hook_post", self.d_mlp)]);
        add(self.post_norm, &[("ln2_post.hook_scale", 1), ("ln2_post.hook_normalized", d)]);
        add(true, &[("hook_mlp_out", d), ("hook_resid_post", d)]);
        hooks
    }

    /// Hook points outside the blocks, with their widths: before the first and after the last block.
    pub fn outer_hooks(&self) -> [Vec<(&'static str, usize)>; 2] {
        let d = self.d_model;
        let mut before = vec![("hook_embed", d)];
        if self.positions == Positions::Learned {
            before.push(("hook_pos_embed", d));
        }
        [before, vec![("ln_final.hook_scale", 1), ("ln_final.hook_normalized", d)]]
    }

    /// Width of a hook point's activation (see [`Architecture::block_hooks`]), or `None` when it does not exist.
    pub fn hook_width(&self, name: &str) -> Option<usize> {
        let find = |hooks: &[(&str, usize)], name: &str| hooks.iter().find(|h| h.0 == name).map(|h| h.1);
        match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((layer, hook)) => {
                let i: usize = layer.parse().ok()?;
                // Only the canonical spelling exists: "blocks.07" is not "blocks.7".
                (i < self.n_layers && i.to_string() == layer)
                    .then(|| find(&self.block_hooks(), hook))
                    .flatten()
            }
            None => self.outer_hooks().iter().find_map(|hooks| find(hooks, name)),
        }
    }

    /// All hook points in one line, blocks written once.
    pub fn describe_hooks(&self) -> String {
        let join = |hooks: &[(&str, usize)]| hooks.iter().map(|h| h.0).collect::<Vec<_>>().join(", ");
        let [before, after] = self.outer_hooks();
        format!(
            "{}, {} and, for i from 0 to {}, blocks.{{i}}. followed by {}",
            join(&before),
            join(&after),
            self.n_layers - 1,
            join(&self.block_hooks())
        )
    }
}
