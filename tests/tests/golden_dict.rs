//! Golden cases of dictionaries: normalisation, codes, reconstruction, every loss term, gradients, dead features, metrics, and
//! folding, which must give the exact values also where the reference system's own folding does not.

use lm_saes::{
    dictionary::{
        Codes, Coefficients, DeadFeatures, Dictionary, LossTerms, StepInput,
        checkpoint::{self, LoadOptions},
        normalise::{Scaling, Scratch},
        variants::Variant,
    },
    tensorfile::TensorFile,
    training::{LossSettings, SparsityLoss, metrics::MetricWindow},
};
use lm_saes_runtime::{Arena, DType, Queue, Tensor};
use lm_saes_tests::{
    dense_codes,
    golden::{self, Case, Differences, Outcome, Tolerance},
    gradients, interleave, queue,
};
use serde_json::Value;
use std::collections::BTreeMap;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[test]
fn golden_dict_cases_agree() {
    golden::run("dict", |case| check(case).map_err(|e| e.to_string()));
}

fn check(case: &Case) -> Result<Outcome> {
    let config: Value = serde_json::from_str(&std::fs::read_to_string(case.path("config.json"))?)?;
    let sae_type = config["sae_type"].as_str().unwrap_or_default();
    if !Variant::TAGS.contains(&sae_type) {
        return Ok(Outcome::NotYet(format!("sae_type {sae_type}")));
    }
    let mut q = queue();
    let mut found = Differences::default();
    let batch = Batch::read(case, &mut q)?;
    let expected = case.open("expected.safetensors")?;
    all_is_understood(&expected)?;

    let step = Step::run(case, &mut q, &batch, Definitions::REFERENCE)?;
    compare_inputs(case, &mut q, &batch, &expected, &step, &mut found)?;
    compare_losses(case, &expected, &step, &mut found)?;
    compare_gradients(case, &expected, "grad.", &step, &mut found)?;
    compare_dead(&expected, &step, &mut found)?;
    compare_z_patterns(case, &mut q, &batch, &expected, &step, &mut found)?;
    compare_metrics(case, &step, &mut found)?;
    compare_alternatives(case, &mut q, &batch, &expected, &mut found)?;
    compare_folded(case, &mut q, &batch, &expected, &mut found)?;
    Ok(found.outcome()?)
}

/// A tensor that nothing compares is a case that is not understood.
fn all_is_understood(expected: &TensorFile) -> Result<()> {
    const KNOWN: &[&str] = &[
        "hidden_pre",
        "feature_acts",
        "reconstructed",
        "loss",
        "l_rec",
        "l_s",
        "l_s_mean",
        "l_p",
        "l_aux",
        "decoder_norm",
        "tokens_since_last_activation_after",
        "is_dead",
        "alt.l_p_gated",
        // Of Lorsa, compared through the z patterns, which are made of them.
        "attn_pattern",
        "v",
        "q_post_rot",
        "k_post_rot",
    ];
    const PREFIXES: &[&str] = &[
        "normalized.",
        "scale_factor.",
        "reconstructed_raw.",
        "grad.",
        "alt.loss_alt_aux_error_detached.grad.",
    ];
    let unknown: Vec<String> = expected
        .list()
        .into_iter()
        .map(|t| t.name)
        .filter(|n| !KNOWN.contains(&n.as_str()) && !PREFIXES.iter().any(|p| n.starts_with(p)))
        .collect();
    if unknown.is_empty() { Ok(()) } else { Err(format!("tensors not understood: {unknown:?}").into()) }
}

/// Raw activations `[B, d]` by hook point, and the mask.
struct Batch {
    raw: BTreeMap<String, Tensor>,
    rows: usize,
    /// Length of a context, for inputs with one.
    context: Option<usize>,
    mask: Option<Vec<u8>>,
    since: Option<Vec<u32>>,
}

impl Batch {
    fn read(case: &Case, q: &mut Queue) -> Result<Self> {
        let file = case.open("inputs.safetensors")?;
        let shape: Vec<usize> = serde_json::from_value(case.json["settings"]["batch_shape"].clone())?;
        let rows = shape.iter().product();
        let mut raw = BTreeMap::new();
        let ints = ["mask", "tokens", "tokens_since_last_activation"];
        for name in file.list().into_iter().map(|t| t.name).filter(|n| !ints.contains(&n.as_str())) {
            let (_, values) = file.f32(&name)?;
            raw.insert(name, q.tensor(rows, values.len() / rows, &values)?);
        }
        let ints = |name| file.contains(name).then(|| file.i64(name).map(|(_, v)| v)).transpose();
        Ok(Self {
            raw,
            rows,
            context: shape.get(1).copied(),
            mask: ints("mask")?.map(|m| m.into_iter().map(|v| v as u8).collect()),
            since: ints("tokens_since_last_activation")?.map(|v| v.into_iter().map(|v| v as u32).collect()),
        })
    }

    fn weight(&self) -> (Vec<f32>, usize) {
        let mask = self.mask.clone().unwrap_or_else(|| vec![1; self.rows]);
        let n = mask.iter().map(|&m| usize::from(m)).sum::<usize>();
        (mask.iter().map(|&m| f32::from(m) / n as f32).collect(), n)
    }
}

/// Which of the doubtful definitions a step uses.
#[derive(Clone, Copy)]
struct Definitions {
    lp_gated: bool,
    auxk_detached: bool,
}

impl Definitions {
    const REFERENCE: Self = Self { lp_gated: false, auxk_detached: false };
    const CORRECTED: Self = Self { lp_gated: true, auxk_detached: true };
}

/// Everything one training step leaves behind, on the host.
struct Step {
    factors: BTreeMap<String, Vec<f32>>,
    normalised: BTreeMap<String, Vec<f32>>,
    codes: Vec<f32>,
    reconstruction: Vec<f32>,
    /// By output hook point.
    raw_reconstruction: BTreeMap<String, Vec<f32>>,
    terms: LossTerms,
    row_penalty: Option<Vec<f32>>,
    grads: Vec<(String, Vec<f32>)>,
    decoder_norms: Vec<f32>,
    since: Option<Vec<u32>>,
    dead: Option<Vec<u8>>,
    metrics: Vec<(String, f64)>,
}

fn loss_settings(case: &Case, d: Definitions) -> Result<LossSettings> {
    let l = &case.json["settings"]["loss"];
    let number = |key: &str| l[key].as_f64().ok_or_else(|| format!("no number settings.loss.{key}"));
    Ok(LossSettings {
        sparsity: serde_json::from_value::<Option<SparsityLoss>>(l["sparsity_loss_type"].clone())?,
        tanh_stretch: number("tanh_stretch_coefficient")? as f32,
        frequency_scale: number("frequency_scale")? as f32,
        p: number("p")? as f32,
        lp: number("lp_coefficient")? > 0.0,
        auxk: number("auxk_coefficient")? > 0.0,
        k_aux: number("k_aux")? as usize,
        lp_gated: d.lp_gated,
        auxk_detached: d.auxk_detached,
        ..Default::default()
    })
}

fn current_k(case: &Case, dictionary: &dyn Dictionary) -> usize {
    case.json["settings"]["current_k"].as_u64().map_or(dictionary.settings().top_k(), |k| k as usize)
}

fn load(case: &Case, q: &mut Queue, folder: &str, fold: bool) -> Result<Box<dyn Dictionary>> {
    let options = LoadOptions { strict: true, fold };
    Ok(checkpoint::load(q, &case.path(folder), options)?.dictionary)
}

impl Step {
    fn run(case: &Case, q: &mut Queue, batch: &Batch, definitions: Definitions) -> Result<Self> {
        let mut d = load(case, q, "", false)?;
        let loss = loss_settings(case, definitions)?;
        let (rows, k) = (batch.rows, current_k(case, &*d));
        let mut metrics = plan(&mut *d, q, rows, k, Some(&loss))?.ok_or("no metrics planned")?;

        let (mut factors, mut normalised) = (BTreeMap::new(), BTreeMap::new());
        let (mut scratch, mut factor) = (Scratch::new(q, rows)?, q.empty(rows, 1, DType::F32)?);
        for (hook_point, raw) in &batch.raw {
            let scaling = Scaling::of(&*d, hook_point)?;
            let mut x = q.empty(rows, raw.cols(), DType::F32)?;
            scaling.scale(q, raw.view(), batch.context, &mut scratch, factor.view_mut(), x.view_mut())?;
            factors.insert(hook_point.clone(), q.download(&factor)?);
            normalised.insert(hook_point.clone(), x);
        }
        let (weight, n_tokens) = batch.weight();
        let weight_t = q.tensor(rows, 1, &weight)?;
        let mask = batch.mask.as_ref().map(|m| q.tensor(1, rows, m)).transpose()?;
        let l = &case.json["settings"]["loss"];
        let coefficient = |key: &str| l[key].as_f64().unwrap_or(0.0) as f32;
        let coefficients = Coefficients {
            k,
            l1: coefficient("l1_coefficient"),
            lp: coefficient("lp_coefficient"),
            auxk: coefficient("auxk_coefficient"),
        };
        let mut dead = dead_features(case, q, batch, d.d_sae())?;
        let view = |hooks: Vec<String>| -> Vec<_> { hooks.iter().map(|h| normalised[h].view()).collect() };
        let input = StepInput {
            inputs: view(d.hook_points_in()),
            labels: view(d.hook_points_out()),
            context: batch.context,
            mask: mask.as_ref().map(|m| m.view()),
            weight: weight_t.view(),
            n_tokens,
        };
        // The reference system's cross-layer loss ignores the mask; its metrics do not.
        let all = q.tensor(rows, 1, &vec![1.0 / rows as f32; rows])?;
        let unmasked = StepInput {
            inputs: input.inputs.clone(),
            labels: input.labels.clone(),
            weight: all.view(),
            mask: None,
            n_tokens: rows,
            ..input
        };
        let lossy = if d.settings().sae_type() == "clt" { &unmasked } else { &input };
        let terms = d.train_step(q, lossy, &loss, coefficients, dead.as_mut())?;
        metrics.observe(q, &mut *d, &input, &weight)?;

        let mut raw_reconstruction = BTreeMap::new();
        for (hook, y) in d.hook_points_out().into_iter().zip(d.reconstruction()) {
            let mut raw = q.empty(rows, y.cols(), DType::F32)?;
            let (scaling, pair) = (Scaling::of(&*d, &hook)?, (batch.raw[&hook].view(), y));
            scaling.restore(q, pair, batch.context, &mut scratch, factor.view_mut(), raw.view_mut())?;
            raw_reconstruction.insert(hook, q.download(&raw)?);
        }
        let mut host = |tensors: BTreeMap<String, Tensor>| -> Result<BTreeMap<String, Vec<f32>>> {
            tensors.into_iter().map(|(k, t)| Ok((k, q.download(&t)?))).collect()
        };
        let normalised = host(normalised)?;
        let held = gradients(q, &mut *d);
        let stored = d.params().into_iter().zip(&held);
        let grads = stored.map(|(p, held)| (p.name.clone(), p.to_stored(held).into_owned())).collect();
        Ok(Self {
            factors,
            normalised,
            codes: dense_codes(q, d.codes()),
            reconstruction: reconstruction(q, &*d, rows)?,
            raw_reconstruction,
            terms,
            row_penalty: d.row_penalty().map(|p| q.download(p)).transpose()?,
            grads,
            since: dead.as_ref().map(|d| q.download(&d.since)).transpose()?,
            dead: dead.as_ref().map(|d| q.download(&d.dead)).transpose()?,
            metrics: metrics.quality(q)?,
            decoder_norms: d.decoder_norms(q)?,
        })
    }
}

/// Reconstructions in the order of the files: `[B, H, d]`, but `[L, B, d]` for the layers of a clt.
fn reconstruction(q: &mut Queue, d: &dyn Dictionary, rows: usize) -> Result<Vec<f32>> {
    let mut heads: Vec<Vec<f32>> = Vec::new();
    for y in d.reconstruction() {
        heads.push(q.download(y)?);
    }
    Ok(if d.settings().sae_type() == "clt" { heads.concat() } else { interleave(&heads, rows) })
}

/// Gives the dictionary, and with a loss a metric window too, memory of the size a first pass adds up.
fn plan(
    d: &mut dyn Dictionary,
    q: &mut Queue,
    rows: usize,
    k: usize,
    loss: Option<&LossSettings>,
) -> Result<Option<MetricWindow>> {
    let mut arena = Arena::planning("step");
    for pass in 0..2 {
        d.plan(&mut arena, rows, k, loss)?;
        let window = loss.map(|_| MetricWindow::plan(&mut arena, d, rows)).transpose()?;
        if pass == 1 {
            return Ok(match window {
                Some(mut w) => {
                    w.reset(q)?;
                    Some(w)
                }
                None => None,
            });
        }
        arena = Arena::build(&arena, q.device())?;
    }
    Ok(None)
}

fn dead_features(case: &Case, q: &mut Queue, batch: &Batch, s: usize) -> Result<Option<DeadFeatures>> {
    let (Some(since), Some(threshold)) = (&batch.since, case.json["settings"]["dead_threshold"].as_u64())
    else {
        return Ok(None);
    };
    Ok(Some(DeadFeatures {
        since: q.tensor(1, s, since)?,
        fired: q.zeros(1, s, DType::U32)?,
        dead: q.zeros(1, s, DType::U8)?,
        threshold: threshold as u32,
    }))
}

fn compare_inputs(
    case: &Case,
    q: &mut Queue,
    batch: &Batch,
    expected: &TensorFile,
    step: &Step,
    found: &mut Differences,
) -> Result<()> {
    let tol = case.tolerance("/tolerance")?;
    for name in batch.raw.keys() {
        let (_, want) = expected.f32(&format!("scale_factor.{name}"))?;
        // One factor for all, one a context, or one a row.
        let each = batch.rows / want.len();
        let want: Vec<f32> = want.iter().flat_map(|&w| vec![w; each]).collect();
        found.compare(&format!("scale_factor.{name}"), &step.factors[name], &want, tol);
        let name_n = format!("normalized.{name}");
        found.compare(&name_n, &step.normalised[name], &expected.f32(&name_n)?.1, tol);
    }
    for (hook, got) in &step.raw_reconstruction {
        let name = format!("reconstructed_raw.{hook}");
        found.compare(&name, got, &expected.f32(&name)?.1, tol);
    }
    for (name, got) in [
        ("feature_acts", &step.codes),
        ("reconstructed", &step.reconstruction),
        ("decoder_norm", &step.decoder_norms),
    ] {
        found.compare(name, got, &expected.f32(name)?.1, tol);
    }
    // Inference must agree with training.
    let mut d = load(case, q, "", false)?;
    let k = current_k(case, &*d);
    plan(&mut *d, q, batch.rows, k, None)?;
    let mut inputs = Vec::new();
    for hook in d.hook_points_in() {
        let values = &step.normalised[&hook];
        inputs.push(q.tensor(batch.rows, values.len() / batch.rows, values)?);
    }
    let inputs: Vec<_> = inputs.iter().map(Tensor::view).collect();
    d.forward(q, &inputs, batch.context, k)?;
    found.same("codes of forward and of train_step", dense_codes(q, d.codes()), step.codes.clone());
    let again = reconstruction(q, &*d, batch.rows)?;
    found.same("forward and train_step", again, step.reconstruction.clone());
    Ok(())
}

/// z patterns of every feature in every context: pattern of its QK head times its value at the source.
fn compare_z_patterns(
    case: &Case,
    q: &mut Queue,
    batch: &Batch,
    expected: &TensorFile,
    step: &Step,
    found: &mut Differences,
) -> Result<()> {
    if !expected.contains("attn_pattern") {
        return Ok(());
    }
    let (shape, pattern) = expected.f32("attn_pattern")?;
    let (_, values) = expected.f32("v")?;
    let [contexts, n_qk, len, _] = shape[..] else { return Err("attn_pattern has four axes".into()) };
    let d = load(case, q, "", false)?;
    let (s, hook_in) = (d.d_sae(), d.hook_points_in().remove(0));
    let x = q.tensor(batch.rows, d.settings().d_model(), &step.normalised[&hook_in])?;
    let features: Vec<usize> = (0..s).collect();
    for b in 0..contexts {
        let got = d.z_patterns(q, x.rows_view(b * len..(b + 1) * len), &features)?;
        for (i, got) in features.iter().zip(got) {
            let head = b * n_qk + i / (s / n_qk);
            let at = |t: usize, k: usize| pattern[(head * len + t) * len + k] * values[(b * len + k) * s + i];
            let want: Vec<f32> = (0..len * len).map(|e| at(e / len, e % len)).collect();
            let tol = case.tolerance("/tolerance")?;
            found.compare(&format!("z pattern of {i} in context {b}"), &q.download::<f32>(&got)?, &want, tol);
        }
    }
    Ok(())
}

fn compare_losses(case: &Case, expected: &TensorFile, step: &Step, found: &mut Differences) -> Result<()> {
    let tol = case.tolerance("/tolerance")?;
    let t = &step.terms;
    for (name, got) in [
        ("loss", Some(t.loss)),
        ("l_rec", Some(t.l_rec)),
        ("l_s_mean", t.l_s),
        ("l_p", t.l_p),
        ("l_aux", t.l_aux),
    ] {
        let got: Vec<f32> = got.into_iter().collect();
        let want = if expected.contains(name) { expected.f32(name)?.1 } else { Vec::new() };
        found.compare(name, &got, &want, tol);
    }
    if expected.contains("l_s") {
        let scalar = t.l_s.map(|v| vec![v]);
        let got = step.row_penalty.clone().or(scalar).ok_or("no sparsity loss")?;
        found.compare("l_s", &got, &expected.f32("l_s")?.1, tol);
    }
    Ok(())
}

fn compare_gradients(
    case: &Case,
    expected: &TensorFile,
    prefix: &str,
    step: &Step,
    found: &mut Differences,
) -> Result<()> {
    // "abs difference <= A * max(largest entry of that parameter's gradient, B * largest gradient entry of the case)"
    let text = case.text("/tolerance/grad")?;
    let numbers: Vec<f64> = text.split([' ', ',', '(', ')']).filter_map(|w| w.parse().ok()).collect();
    let [share, floor] = numbers[..] else { return Err(format!("gradient tolerance {text:?}").into()) };
    let largest = |v: &[f32]| v.iter().fold(0.0, |m: f64, &x| m.max(f64::from(x).abs()));
    let mut wants = Vec::new();
    for (name, got) in &step.grads {
        wants.push((format!("{prefix}{name}"), got, expected.f32(&format!("{prefix}{name}"))?.1));
    }
    let of_case = wants.iter().fold(0.0, |m: f64, (_, _, want)| m.max(largest(want)));
    for (name, got, want) in &wants {
        let atol = share * largest(want).max(floor * of_case);
        found.compare(name, got, want, Tolerance::abs(atol));
    }
    let count = expected.list().iter().filter(|t| t.name.starts_with(prefix)).count();
    found.same("number of gradients", wants.len(), count);
    Ok(())
}

fn compare_dead(expected: &TensorFile, step: &Step, found: &mut Differences) -> Result<()> {
    let ints = |name: &str| -> Result<Option<Vec<u32>>> {
        Ok(match expected.contains(name) {
            true => Some(expected.i64(name)?.1.into_iter().map(|v| v as u32).collect()),
            false => None,
        })
    };
    let after = "tokens_since_last_activation_after";
    found.same(after, step.since.clone(), ints(after)?);
    let dead: Option<Vec<u32>> = step.dead.as_ref().map(|d| d.iter().map(|&v| v.into()).collect());
    found.same("is_dead", dead, ints("is_dead")?);
    Ok(())
}

fn compare_metrics(case: &Case, step: &Step, found: &mut Differences) -> Result<()> {
    let tol = case.tolerance("/tolerance")?;
    for (name, want) in case.json["metrics_by_definition"].as_object().ok_or("no metrics")? {
        let got = step.metrics.iter().find(|(n, _)| n == name).ok_or_else(|| format!("no metric {name}"))?;
        let want = want.as_f64().ok_or("a metric that is no number")?;
        found.compare(name, &[got.1 as f32], &[want as f32], tol);
    }
    Ok(())
}

/// The corrected definitions, which are the defaults here.
fn compare_alternatives(
    case: &Case,
    q: &mut Queue,
    batch: &Batch,
    expected: &TensorFile,
    found: &mut Differences,
) -> Result<()> {
    let tol = case.tolerance("/tolerance")?;
    let (gated, detached) = ("alt.l_p_gated", "alt.loss_alt_aux_error_detached.grad.");
    let has_detached = expected.list().iter().any(|t| t.name.starts_with(detached));
    if !expected.contains(gated) && !has_detached {
        return Ok(());
    }
    let step = Step::run(case, q, batch, Definitions::CORRECTED)?;
    if expected.contains(gated) {
        let got = step.terms.l_p.ok_or("no threshold penalty")?;
        found.compare(gated, &[got], &expected.f32(gated)?.1, tol);
    }
    if has_detached {
        found.compare("l_aux, detached", &[step.terms.loss], &expected.f32("loss")?.1, tol);
        compare_gradients(case, expected, detached, &step, found)?;
    }
    Ok(())
}

fn compare_folded(
    case: &Case,
    q: &mut Queue,
    batch: &Batch,
    expected: &TensorFile,
    found: &mut Differences,
) -> Result<()> {
    if !case.has("folded") {
        return Ok(());
    }
    let tol = case.tolerance("/tolerance")?;
    // Our fold gives what the unfolded dictionary reconstructs, in every case.
    let mut ours = load(case, q, "", true)?;
    let (codes, _) = on_raw(case, q, batch, &mut *ours)?;
    for (hook, y) in ours.hook_points_out().into_iter().zip(ours.reconstruction()) {
        let name = format!("reconstructed_raw.{hook}");
        found.compare(&format!("folded {name}"), &q.download(y)?, &expected.f32(&name)?.1, tol);
    }
    // A checkpoint folded by the reference system computes what it does there; where that fold is exact, so does ours.
    let theirs = case.open("expected_folded.safetensors")?;
    let exact = case.json["fold"]["function_preserving"].as_bool().ok_or("fold.function_preserving")?;
    if exact {
        found.compare("codes after our fold", &codes, &theirs.f32("feature_acts")?.1, tol);
    }
    let mut read = load(case, q, "folded", false)?;
    let (codes, reconstruction) = on_raw(case, q, batch, &mut *read)?;
    found.compare("codes of the folded checkpoint", &codes, &theirs.f32("feature_acts")?.1, tol);
    found.compare("the folded checkpoint", &reconstruction, &theirs.f32("reconstructed")?.1, tol);
    Ok(())
}

/// Codes and reconstruction of raw activations.
fn on_raw(case: &Case, q: &mut Queue, batch: &Batch, d: &mut dyn Dictionary) -> Result<(Vec<f32>, Vec<f32>)> {
    let k = current_k(case, d);
    plan(d, q, batch.rows, k, None)?;
    let hooks = d.hook_points_in();
    let inputs: Vec<_> = hooks.iter().map(|h| batch.raw[h].view()).collect();
    d.forward(q, &inputs, batch.context, k)?;
    for codes in d.codes() {
        if let Codes::Sparse(s) = codes {
            assert_eq!(s.n, d.d_sae());
        }
    }
    Ok((dense_codes(q, d.codes()), reconstruction(q, d, batch.rows)?))
}
