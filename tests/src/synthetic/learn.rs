//! Training on a world, and what a dictionary then takes its features to be.

use super::{Design, Feature, LAYERS, TRUE, World, attention};
use lm_saes::{
    Result,
    activations::Batch,
    dictionary::{Dictionary, build},
    settings::{DictionarySettings, InitializerSettings, TrainerSettings, from_tree},
    training::{BatchSource, Silent, Trainer, initialise, schedules::Schedules},
};
use lm_saes_runtime::{Queue, RandomKind};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// Rows of a batch.
const ROWS: usize = 1024;

/// Settings of a dictionary of the form that fits a world, with as many features as the world has and `own` added.
pub fn settings(world: &World, own: &Value) -> Value {
    let hooks = &world.hooks;
    let each = if world.design == Design::Layers { TRUE.div_ceil(LAYERS) } else { TRUE };
    let mut all = match world.design {
        Design::Sae => json!({"sae_type": "sae", "hook_point_in": hooks[0], "hook_point_out": hooks[0]}),
        Design::Transcoder => {
            json!({"sae_type": "sae", "hook_point_in": hooks[0], "hook_point_out": hooks[1]})
        }
        Design::Crosscoder => json!({"sae_type": "crosscoder", "hook_points": hooks}),
        Design::Layers => json!({
            "sae_type": "clt", "hook_points_in": hooks[..LAYERS], "hook_points_out": hooks[LAYERS..],
        }),
        Design::Transforms => json!({
            "sae_type": "molt", "hook_point_in": hooks[0], "hook_point_out": hooks[1],
            "rank_counts": {"1": TRUE.div_ceil(3), "2": TRUE.div_ceil(3), "4": TRUE / 3},
        }),
        Design::Attention => json!({
            "sae_type": "lorsa", "hook_point_in": hooks[0], "hook_point_out": hooks[1], "n_qk_heads": 4,
            "d_qk_head": attention::KEY, "n_ctx": attention::LEN, "rotary_dim": 0, "positional_embedding_type": "none",
        }),
    };
    all["d_model"] = world.d.into();
    // The product is cut off to a whole number.
    all["expansion_factor"] = ((each as f64 + 0.5) / world.d as f64).into();
    own.as_object().into_iter().flatten().for_each(|(key, v)| all[key] = v.clone());
    all
}

/// The rows, round and round.
struct Rows<'a> {
    world: &'a World,
    next: usize,
}

impl BatchSource for Rows<'_> {
    fn hook_points(&self) -> &[String] {
        &self.world.hooks
    }
    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        let d = self.world.d;
        let mut acts = Vec::new();
        for rows in &self.world.rows {
            let from = self.next * ROWS * d % rows.len();
            acts.push(q.tensor(ROWS, d, &rows[from..from + ROWS * d])?);
        }
        self.next += 1;
        let contexts = self.world.context.map(|len| (ROWS / len, len));
        Ok(Some(Batch { acts, tokens: vec![0; ROWS], mask: vec![1; ROWS], contexts, n_valid: ROWS }))
    }
    fn save_state(&self, _: &mut Queue, _: &Path) -> Result<()> {
        Ok(())
    }
    fn load_state(&mut self, _: &mut Queue, _: &Path) -> Result<()> {
        Ok(())
    }
}

/// How a training ended.
pub struct Trained {
    /// Active features of a row over the last twentieth of the steps; of each head where heads have their own.
    pub l0: f64,
    /// Explained variance of the same.
    pub explained: f64,
    /// The features.
    pub features: Vec<Feature>,
    /// The dictionary, folded.
    pub dictionary: Box<dyn Dictionary>,
}

/// Trains on batches of 1024 rows; `own` is added to the dictionary's settings, `trainer` to the trainer's. Without steps
/// the dictionary is as it starts.
///
/// # Errors
/// Settings that cannot be.
pub fn train(q: &mut Queue, world: &World, own: &Value, trainer: &Value, steps: usize) -> Result<Trained> {
    let settings: DictionarySettings = from_tree(&settings(world, own))?;
    let mut training = json!({
        "total_training_tokens": steps.max(1) * ROWS, "lr": 2e-3, "lr_warm_up_steps": 0.05, "k_warmup_steps": 0,
        "n_checkpoints": 0,
    });
    trainer.as_object().into_iter().flatten().for_each(|(key, v)| training[key] = v.clone());
    let training: TrainerSettings = from_tree(&training)?;
    let searched = matches!(world.design, Design::Sae | Design::Transcoder | Design::Crosscoder);
    let starting = InitializerSettings {
        grid_search_init_norm: searched,
        init_encoder_with_decoder_transpose: searched && world.design != Design::Transcoder,
        init_log_jumprelu_threshold_value: Some(-1.0),
        ..Default::default()
    };
    let mut source = Rows { world, next: 0 };
    let top_k = settings.act_fn().has_k().then(|| settings.top_k());
    let schedules = Schedules::resolve(&training, ROWS as u64, top_k)?;
    let dictionary = build(q, &settings)?;
    let mut trainer = Trainer::new(q, dictionary, training, schedules, ROWS)?;
    initialise(q, trainer.dictionary_mut(), &starting, &mut source, None, &mut Silent)?;
    let (mut l0, mut explained, last) = (0.0, 0.0, (steps / 20).max(1));
    for step in 0..steps {
        let Some(mut batch) = source.next(q)? else { break };
        let quality = trainer.step(q, &world.hooks, &mut batch)?.quality.unwrap_or_default();
        if step + last >= steps {
            (l0, explained) = (l0 + quality.0 / last as f64, explained + quality.1 / last as f64);
        }
    }
    let mut dictionary = trainer.into_dictionary();
    // In the scale of the rows, so that decoders of several hook points can be compared with the truth.
    dictionary.fold(q)?;
    Ok(Trained { l0, explained, features: features(q, world, &*dictionary)?, dictionary })
}

/// The features of a dictionary whose decoder is drawn at random.
///
/// # Errors
/// None but the device's.
pub fn random(q: &mut Queue, world: &World) -> Result<Vec<Feature>> {
    let settings: DictionarySettings = from_tree(&settings(world, &json!({"act_fn": "topk"})))?;
    let mut d = build(q, &settings)?;
    for (i, p) in d.params_mut().into_iter().enumerate() {
        q.random(RandomKind::Normal, (0.0, 1.0), 29 + i as u64, 0, &mut p.value)?;
    }
    features(q, world, &*d)
}

/// What a dictionary's decoders say its features are.
///
/// # Errors
/// None but the device's.
pub fn features(q: &mut Queue, world: &World, dictionary: &dyn Dictionary) -> Result<Vec<Feature>> {
    let (d, s) = (world.d, dictionary.d_sae());
    let mut all: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for p in dictionary.params() {
        all.insert(&p.name, q.download(&p.value)?);
    }
    let row = |name: &str, i: usize| &all[name][i * d..(i + 1) * d];
    let one = |vector: Vec<f32>| Feature { site: 0, vector };
    Ok(match world.design {
        Design::Sae | Design::Transcoder => (0..s).map(|i| one(row("W_D", i).to_vec())).collect(),
        Design::Attention => (0..s).map(|i| one(row("W_O", i).to_vec())).collect(),
        Design::Crosscoder => (0..s).map(|i| one([row("W_D", i), row("W_D", s + i)].concat())).collect(),
        Design::Layers => {
            let nothing = vec![0.0; d];
            let written = |from: usize, to: usize, i: usize| match to < from {
                true => nothing.clone(),
                false => row(&format!("W_D.{to}"), from * s + i).to_vec(),
            };
            let of = |from: usize, i: usize| Feature {
                site: from,
                vector: (0..LAYERS).flat_map(|to| written(from, to, i)).collect(),
            };
            (0..LAYERS).flat_map(|from| (0..s).map(move |i| (from, i))).map(|(from, i)| of(from, i)).collect()
        }
        Design::Transforms => {
            let of_rank = |rank: usize| {
                let (u, v) = (&all[&*format!("U_matrices.{rank}")], &all[&*format!("V_matrices.{rank}")]);
                u.chunks(rank * d)
                    .zip(v.chunks(rank * d))
                    .map(|(u, v)| one(product(u, v, d)))
                    .collect::<Vec<_>>()
            };
            [1, 2, 4].into_iter().flat_map(of_rank).collect()
        }
    })
}

/// Sum of the outer products of rows of `u` and `v`, `[d, d]`.
fn product(u: &[f32], v: &[f32], d: usize) -> Vec<f32> {
    let mut sum = vec![0.0; d * d];
    for (u, v) in u.chunks(d).zip(v.chunks(d)) {
        for (row, u) in sum.chunks_mut(d).zip(u) {
            row.iter_mut().zip(v).for_each(|(x, v)| *x += u * v);
        }
    }
    sum
}
