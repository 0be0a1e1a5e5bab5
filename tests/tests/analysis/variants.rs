//! One dictionary of every kind through the whole job, from a folder on disk to the store, each statistic compared with a slow
//! count over the activations and with arithmetic in f64 on the weights in the file.

use super::{
    brute::{Data, compare},
    rules_of,
};
use lm_saes::{
    dictionary::{
        checkpoint::{self, LoadOptions},
        normalise::{Scaling, Scratch},
    },
    runners::{LiveBench, Start, Workbench, analyze},
    settings::{AnalyzeSettings, from_tree},
    store::{self, AnalysisRecord, DictionaryKey, DictionaryRecord, Feature, FeatureAnalysis, TokenLogit},
    tensorfile::TensorFile,
    training::{BatchSource, LiveSource, Silent},
};
use lm_saes_runtime::DType;
use lm_saes_tests::{dense_codes, planned, tiny};
use serde_json::{Value, json};
use std::path::Path;

pub const S: usize = 24;
const D: usize = tiny::D_MODEL;
const K: usize = 4;
const LEN: usize = 24;
const CONTEXTS: usize = 4;
const NEIGHBOURS: usize = 4;
pub const LOGITS: usize = 3;
/// More than there are contexts.
const ROOM: usize = 256;

pub const RESID: [&str; 2] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"];
pub const MLP_IN: [&str; 2] = ["blocks.0.ln2.hook_normalized", "blocks.1.ln2.hook_normalized"];
pub const MLP_OUT: [&str; 2] = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"];

pub fn sae(change: Value) -> Value {
    let mut all = json!({
        "sae_type": "sae", "d_model": D, "expansion_factor": S as f64 / D as f64, "act_fn": "topk", "top_k": K,
        "hook_point_in": RESID[0], "hook_point_out": RESID[0],
    });
    change.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    all
}

/// What a job reads: a model, text, and a dictionary with random weights in `dir/dictionary`.
pub fn world(dir: &Path, settings: &Value) -> AnalyzeSettings {
    tiny::world(dir, 60);
    let captured = tiny::dictionary(dir, settings);
    from_tree(&json!({
        "sae": {"pretrained_name_or_path": dir.join("dictionary")}, "sae_name": "d", "sae_series": "s", "device_type": "cpu",
        "model": {"model_name": "tiny-llama", "model_from_pretrained_path": dir.join("model")},
        "datasets": {"text": {"dataset_name_or_path": dir.join("text.txt"), "sample_by": "line"}},
        "activation_factory": {
            "sources": [{"type": "dataset", "name": "text"}], "target": "activations-2d", "hook_points": captured,
            "batch_size": CONTEXTS, "context_size": LEN, "model_batch_size": 4,
        },
        "analyzer": {
            "total_analyzing_tokens": 1_000_000, "subsamples": rules_of(ROOM), "quantile_bins": 4,
            "quantile_samples": ROOM / 4, "n_coactivations": 5, "n_neighbours": NEIGHBOURS, "n_logits": LOGITS,
        },
        "store": dir.join("store.db"),
    }))
    .unwrap()
}

/// Codes of the whole text: for each layer of features, or the strongest of all heads.
fn everything(settings: &AnalyzeSettings, layers: usize) -> Vec<Data> {
    let registry = lm_saes_backends::registry();
    let (model, factory) = (settings.model.as_ref().unwrap(), &settings.activation_factory);
    let mut bench =
        Workbench::open(&registry, "cpu", model, factory, &settings.datasets, &mut Silent).unwrap();
    let options = LoadOptions { strict: true, fold: false };
    let path = &settings.sae.pretrained_name_or_path;
    let mut d = checkpoint::load(&mut bench.q, path, options).unwrap().dictionary;
    let _memory = planned(&mut bench.q, &mut *d, CONTEXTS * LEN, K, None);
    let nothing = || Data { d_sae: S, len: LEN, rows: Vec::new(), tokens: Vec::new(), mask: Vec::new() };
    let mut all: Vec<Data> = (0..layers).map(|_| nothing()).collect();
    let mut source = LiveSource { stream: bench.stream().unwrap(), model: &*bench.lm };
    while let Some(batch) = source.next(&mut bench.q).unwrap() {
        let q = &mut bench.q;
        let rows = batch.rows();
        let mut scaled = Vec::new();
        for hook in d.hook_points_in() {
            let at = source.hook_points().iter().position(|h| *h == hook).unwrap();
            let mut factors = q.empty(rows, 1, DType::F32).unwrap();
            let mut scratch = Scratch::new(q, rows).unwrap();
            let scaling = Scaling::of(&*d, &hook).unwrap();
            let raw = batch.acts[at].view();
            let mut x = q.empty(rows, D, DType::F32).unwrap();
            scaling.scale(q, raw, Some(LEN), &mut scratch, factors.view_mut(), x.view_mut()).unwrap();
            scaled.push(x);
        }
        let inputs: Vec<_> = scaled.iter().map(|x| x.view()).collect();
        d.forward(q, &inputs, Some(LEN), K).unwrap();
        let codes = dense_codes(q, d.codes());
        for (layer, data) in all.iter_mut().enumerate() {
            data.tokens.extend(&batch.tokens);
            data.mask.extend(&batch.mask);
            for row in codes.chunks(codes.len() / rows) {
                let heads: Vec<&[f32]> = row.chunks(S).collect();
                let shown = if layers > 1 { &heads[layer..=layer] } else { &heads[..] };
                let strongest = |i: usize| {
                    shown.iter().map(|h| h[i]).fold(0.0f32, |a, b| if b.abs() > a.abs() { b } else { a })
                };
                let row = (0..S as u32).map(|i| (i, strongest(i as usize))).filter(|e| e.1 != 0.0);
                data.rows.push(row.collect());
            }
        }
    }
    all
}

/// The decoder of each feature in f64: `[parts][S][width]`.
fn decoders(settings: &AnalyzeSettings, sae_type: &str, layer: usize) -> Vec<Vec<Vec<f64>>> {
    let path = settings.sae.pretrained_name_or_path.join(checkpoint::WEIGHTS);
    let file = TensorFile::open(path).unwrap();
    let matrix = |name: &str| -> Vec<f64> { file.f32(name).unwrap().1.into_iter().map(f64::from).collect() };
    let rows = |all: &[f64]| -> Vec<Vec<f64>> { all.chunks(D).map(<[f64]>::to_vec).collect() };
    match sae_type {
        "crosscoder" => matrix("W_D").chunks(S * D).map(rows).collect(),
        "lorsa" => vec![rows(&matrix("W_O"))],
        "clt" => {
            let of_layer = layer * S * D..(layer + 1) * S * D;
            (layer..2).map(|t| rows(&matrix(&format!("W_D.{t}"))[of_layer.clone()])).collect()
        }
        "molt" => {
            let mut all = Vec::new();
            for rank in 1..=3 {
                let u = matrix(&format!("U_matrices.{rank}"));
                let v = matrix(&format!("V_matrices.{rank}"));
                for (u, v) in u.chunks(D * rank).zip(v.chunks(D * rank)) {
                    let entry = |a: usize, b: usize| (0..rank).map(|r| u[a * rank + r] * v[r * D + b]).sum();
                    all.push((0..D * D).map(|i| entry(i / D, i % D)).collect());
                }
            }
            vec![all]
        }
        _ => vec![rows(&matrix("W_D"))],
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn near(got: f32, want: f64, what: &str) {
    assert!((f64::from(got) - want).abs() <= 1e-4 * want.abs().max(1.0), "{what}: {got} and {want}");
}

/// Norms, similarities of heads, neighbours: everything that follows from the weights alone.
fn compare_directions(f: &FeatureAnalysis, decoders: &[Vec<Vec<f64>>], heads: bool, whose: &str) {
    let i = f.index as usize;
    let whose = &format!("{whose}, feature {i}");
    assert_eq!(f.decoder_norms.len(), decoders.len(), "{whose}");
    for (norm, part) in f.decoder_norms.iter().zip(decoders) {
        near(*norm, dot(&part[i], &part[i]).sqrt(), whose);
    }
    let n = if heads { decoders.len() } else { 0 };
    assert_eq!((f.decoder_similarities.len(), f.decoder_inner_products.len()), (n * n, n * n), "{whose}");
    for at in 0..n * n {
        let (a, b) = (&decoders[at / n][i], &decoders[at % n][i]);
        near(f.decoder_inner_products[at], dot(a, b), whose);
        near(f.decoder_similarities[at], dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(), whose);
    }
    let both = |a: usize, b: usize| -> f64 { decoders.iter().map(|part| dot(&part[a], &part[b])).sum() };
    let cosine = |j: usize| both(i, j) / (both(i, i) * both(j, j)).sqrt();
    let mut others: Vec<usize> = (0..S).filter(|&j| j != i).collect();
    others.sort_by(|&a, &b| cosine(b).total_cmp(&cosine(a)));
    assert_eq!(f.neighbours.len(), NEIGHBOURS, "{whose}");
    for (got, want) in f.neighbours.iter().zip(others) {
        assert_eq!(got.feature as usize, want, "{whose}");
        near(got.value, cosine(want), whose);
    }
}

/// Output tokens: of the last head, or of all target layers added up.
fn compare_logits(bench: &mut Workbench, f: &FeatureAnalysis, vectors: &[&Vec<f64>], whose: &str) {
    let q = &mut bench.q;
    let mut sum = vec![0f64; bench.lm.architecture().d_vocab];
    for vector in vectors {
        let row: Vec<f32> = vector.iter().map(|v| *v as f32).collect();
        let row = q.tensor(1, D, &row).unwrap();
        let logits = bench.lm.read_out(q, row.view()).unwrap();
        let logits: Vec<f32> = q.download(&logits).unwrap();
        sum.iter_mut().zip(logits).for_each(|(s, l)| *s += f64::from(l));
    }
    let mut order: Vec<u32> = (0..sum.len() as u32).collect();
    order.sort_by(|&a, &b| sum[b as usize].total_cmp(&sum[a as usize]));
    let right = |found: &[TokenLogit], ids: &mut dyn Iterator<Item = u32>| {
        assert_eq!(found.len(), LOGITS, "{whose}");
        for (t, id) in found.iter().zip(ids) {
            assert_eq!(t.token, bench.tokenizer.token_text(id), "{whose}");
            near(t.logit, sum[id as usize], whose);
        }
    };
    let logits = f.logits.as_ref().unwrap_or_else(|| panic!("{whose} has no output tokens"));
    right(&logits.top_positive, &mut order.iter().copied());
    right(&logits.top_negative, &mut order.iter().rev().copied());
}

/// The text of every sample is in the store, as the model saw it.
fn compare_contexts(found: &Feature, d: &Data) {
    for sample in found.analysis.samplings.iter().flat_map(|s| &s.samples) {
        let context = found.context(sample.context).expect("the context of a sample is there");
        let all = &d.tokens[context.id as usize * LEN..][..LEN];
        assert_eq!(context.ids[..], all[..context.ids.len()]);
        assert_eq!(context.texts.len(), context.ids.len());
        for (id, text) in context.ids.iter().zip(&context.texts).filter(|(id, _)| **id > 1) {
            assert_eq!(*text.trim(), format!("w{id}"));
        }
    }
}

/// Typed again, the text of a context gives the codes the analysis saw.
fn compare_live(
    live: &mut LiveBench<'_>,
    (dictionary, analysis): (&DictionaryRecord, &AnalysisRecord),
    d: &Data,
    whose: &str,
) {
    let mut active = 0;
    for first in (0..6).map(|i| i * 5 * LEN) {
        let ids = &d.tokens[first..first + LEN];
        let words: Vec<String> = ids.iter().filter(|id| **id > 1).map(|id| format!("w{id}")).collect();
        let found = live.run(dictionary, analysis, &words.join(" ")).unwrap();
        assert!(found.len() > words.len(), "{whose}: the first token is there too");
        for (at, token) in found.iter().enumerate() {
            assert_eq!(token.id, ids[at], "{whose}, token {at}");
            let counts = d.mask[first + at] != 0;
            assert_eq!(token.counts, counts, "{whose}, token {at}");
            let mut got = token.features.clone();
            got.sort_by_key(|f| f.0);
            let want = if counts { d.rows[first + at].clone() } else { Vec::new() };
            let index = |all: &[(u32, f32)]| all.iter().map(|f| f.0).collect::<Vec<_>>();
            assert_eq!(index(&got), index(&want), "{whose}, token {at}");
            for (got, want) in got.iter().zip(&want) {
                near(got.1, want.1.into(), whose);
            }
            active += want.len();
        }
    }
    assert!(active > 50, "{whose}: only {active} activations were compared");
}

fn check(settings: Value) {
    let dir = tempfile::tempdir().unwrap();
    let sae_type = settings["sae_type"].as_str().unwrap();
    let job = world(dir.path(), &settings);
    let report = analyze(&job, &lm_saes_backends::registry(), &mut Silent, Start::Fresh).unwrap();
    let layers = if sae_type == "clt" { 2 } else { 1 };
    let all = everything(&job, layers);
    assert!(report.complete);
    assert_eq!(report.n_analyzed_tokens, all[0].counted());
    assert_eq!(report.n_contexts, u64::from(all[0].contexts()));
    let names: Vec<String> = report.keys.iter().map(|k| k.name.clone()).collect();
    assert_eq!(names, if layers == 1 { vec!["d"] } else { vec!["d-L0", "d-L1"] });

    let registry = lm_saes_backends::registry();
    let (model, factory) = (job.model.as_ref().unwrap(), &job.activation_factory);
    let mut bench = Workbench::open(&registry, "cpu", model, factory, &job.datasets, &mut Silent).unwrap();
    let store = store::open(&job.store_address()).unwrap();
    let mut live = LiveBench::new(&registry, "cpu", None);
    for (layer, data) in all.iter().enumerate() {
        let key = DictionaryKey::new(&names[layer], "s");
        let whose = format!("{sae_type} {}", names[layer]);
        let record = &store.analyses(&key).unwrap()[0];
        assert_eq!((record.n_analyzed_tokens, record.d_sae), (data.counted(), S as u32), "{whose}");
        let at = &record.settings["analyzer"]["clt_layer"];
        assert_eq!(*at, if layers > 1 { json!(layer) } else { Value::Null }, "{whose}");
        let overview = store.overview(&key, "default").unwrap().unwrap();
        let decoders = decoders(&job, sae_type, layer);
        let mut fired = 0;
        for feature in 0..S as u32 {
            let found = store.feature(&key, "default", feature).unwrap().unwrap();
            let f = &found.analysis;
            compare(f, data, &whose);
            compare_contexts(&found, data);
            compare_directions(f, &decoders, sae_type == "crosscoder", &whose);
            if sae_type == "molt" {
                assert_eq!(f.logits, None, "a transform has no one direction to read out");
            } else {
                let last = if sae_type == "crosscoder" { decoders.len() - 1 } else { 0 };
                let vectors: Vec<&Vec<f64>> = decoders[last..].iter().map(|d| &d[feature as usize]).collect();
                compare_logits(&mut bench, f, &vectors, &whose);
            }
            assert_eq!(u64::from(overview.act_times[feature as usize]), f.act_times);
            assert_eq!(overview.max_acts[feature as usize], f.max_act);
            fired += usize::from(f.act_times > 0);
        }
        assert!(fired > S / 2, "{whose}: {fired} features fired");
        let registered = store.dictionary(&key).unwrap().unwrap();
        compare_live(&mut live, (&registered, record), data, &whose);
    }
}

#[test]
fn an_sae_and_a_transcoder() {
    check(sae(json!({})));
    check(sae(json!({"act_fn": "jumprelu", "hook_point_in": MLP_IN[1], "hook_point_out": MLP_OUT[1]})));
}

#[test]
fn signed_activations_rank_by_their_size() {
    check(sae(json!({"act_fn": "abstopk"})));
}

#[test]
fn a_gated_and_a_matryoshka_sae() {
    check(sae(json!({"sae_type": "gated", "act_fn": "relu"})));
    check(sae(json!({"sae_type": "matryoshka", "widths": [6, 12, S]})));
}

#[test]
fn a_lorsa_dictionary() {
    check(sae(json!({
        "sae_type": "lorsa", "hook_point_in": "blocks.1.ln1.hook_normalized", "hook_point_out": "blocks.1.hook_attn_out",
        "n_qk_heads": 8, "d_qk_head": 12, "rotary_dim": 12, "rotary_adjacent_pairs": false, "n_ctx": LEN,
    })));
}

#[test]
fn every_layer_of_a_cross_layer_transcoder_in_one_pass() {
    let mut settings = sae(json!({"sae_type": "clt", "hook_points_in": MLP_IN, "hook_points_out": MLP_OUT}));
    let own = settings.as_object_mut().unwrap();
    own.retain(|key, _| key != "hook_point_in" && key != "hook_point_out");
    check(settings);
}

#[test]
fn a_crosscoder_with_its_heads() {
    let mut settings = sae(json!({"sae_type": "crosscoder", "hook_points": RESID}));
    let own = settings.as_object_mut().unwrap();
    own.retain(|key, _| key != "hook_point_in" && key != "hook_point_out");
    check(settings);
}

#[test]
fn a_mixture_of_linear_transforms() {
    check(sae(json!({
        "sae_type": "molt", "hook_point_in": MLP_IN[1], "hook_point_out": MLP_OUT[1],
        "rank_counts": {"1": 8, "2": 10, "3": 6},
    })));
}

/// A layer named in the settings is analysed alone, under the name in the settings.
#[test]
fn one_layer_of_a_cross_layer_transcoder() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = sae(json!({"sae_type": "clt", "hook_points_in": MLP_IN, "hook_points_out": MLP_OUT}));
    settings.as_object_mut().unwrap().retain(|key, _| key != "hook_point_in" && key != "hook_point_out");
    let mut job = world(dir.path(), &settings);
    job.analyzer.clt_layer = Some(1);
    let registry = lm_saes_backends::registry();
    let report = analyze(&job, &registry, &mut Silent, Start::Fresh).unwrap();
    assert_eq!((report.keys, report.d_sae), (vec![DictionaryKey::new("d", "s")], S));
    let store = store::open(&job.store_address()).unwrap();
    let data = &everything(&job, 2)[1];
    for feature in 0..S as u32 {
        let found = store.feature(&DictionaryKey::new("d", "s"), "default", feature).unwrap().unwrap();
        compare(&found.analysis, data, "layer 1");
        compare_directions(&found.analysis, &decoders(&job, "clt", 1), false, "layer 1");
    }
    job.analyzer.clt_layer = Some(2);
    let e = analyze(&job, &registry, &mut Silent, Start::Fresh).unwrap_err().to_string();
    assert!(e.contains("analyzer.clt_layer") && e.contains("0 to 1"), "{e}");
}
