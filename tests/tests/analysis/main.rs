//! Feature analysis against a slow count of everything, on data small enough to keep it all; then the same through batches,
//! threads and a state that is saved and taken up again.

mod brute;
mod logits;
mod variants;

use brute::{Data, Numbers, compare, peak, sampling};
use lm_saes::{
    analysis::{Analyzer, Decoders, HostCodes, NON_ACTIVATING, Rules, Seen},
    lm::{Lm, Run, Tokens},
    runners::{Start, analyze, train},
    settings::{
        AnalyzerSettings, LanguageModelSettings, SubsampleSettings, TrainSettings, from_tree, load_analysis,
    },
    store::{self, DictionaryKey, Sample},
    training::Silent,
};
use lm_saes_runtime::View;
use lm_saes_tests::{queue, tiny};
use std::{collections::BTreeMap, path::Path};

const D_SAE: usize = 24;
const LEN: usize = 8;
const PAD: u32 = 999;

fn nothing() -> Data {
    Data { d_sae: D_SAE, len: LEN, rows: Vec::new(), tokens: Vec::new(), mask: Vec::new() }
}

/// `contexts` contexts; feature 0 never fires, feature 1 always, feature 2 has negative activations; the last tokens of some
/// contexts are padding, and one token does not count though features are active on it.
fn data(contexts: usize) -> Data {
    let mut n = Numbers(7);
    let mut d = nothing();
    for context in 0..contexts {
        let real = if context % 4 == 3 { LEN - 3 } else { LEN };
        for at in 0..LEN {
            let mut row = vec![(1u32, 0.5 + at as f32)];
            for f in 2..D_SAE as u32 {
                if n.below(u64::from(f) + 3) == 0 {
                    let v = 2f32.powf(n.below(600) as f32 / 100.0 - 3.0);
                    row.push((f, if f == 2 { -v } else { v }));
                }
            }
            d.rows.push(row);
            d.tokens.push(if at < real { n.below(500) as u32 } else { PAD });
            d.mask.push(u8::from(at < real && (context, at) != (2, 1)));
        }
    }
    d
}

/// The samplings [`compare`] knows, of `n` contexts each.
fn rules_of(n: usize) -> BTreeMap<String, SubsampleSettings> {
    let of = |proportion| SubsampleSettings { proportion, n_samples: n, max_length: None };
    [("top_activations", 1.0), ("subsampling_60%", 0.6), (NON_ACTIVATING, 0.3)]
        .map(|(name, p)| (name.to_string(), of(p)))
        .into()
}

fn rules(n: usize, quantile_samples: usize) -> Rules {
    let mut s = AnalyzerSettings::of_tokens(1);
    s.subsamples = rules_of(n);
    (s.quantile_bins, s.quantile_samples) = (4, quantile_samples);
    s.n_coactivations = 5;
    Rules::new(&s)
}

fn add(a: &mut Analyzer, d: &Data, contexts: std::ops::Range<usize>) {
    let rows = contexts.start * LEN..contexts.end * LEN;
    let codes = HostCodes::collect(d.rows[rows.clone()].iter().map(|r| r.iter().copied()));
    let (tokens, mask) = (&d.tokens[rows.clone()], &d.mask[rows]);
    a.add(&Seen { codes: &codes, tokens, mask, len: LEN, pad: PAD }).unwrap();
}

fn analysed(d: &Data, rules: Rules, batch: usize) -> Analyzer {
    let mut a = Analyzer::new(D_SAE, rules);
    let contexts = d.rows.len() / LEN;
    for start in (0..contexts).step_by(batch) {
        add(&mut a, d, start..(start + batch).min(contexts));
    }
    a
}

#[test]
fn every_statistic_is_what_a_slow_count_gives() {
    let d = data(60);
    // Room for every context, so that each rule has one right answer.
    let a = analysed(&d, rules(60, 15), 7);
    assert_eq!(a.n_analyzed_tokens(), d.counted());
    assert_eq!((a.n_tokens(), a.n_contexts(), a.alive()), (60 * LEN as u64, 60, D_SAE - 1));
    for feature in 0..D_SAE as u32 {
        compare(&a.feature(feature), &d, "made up");
    }
}

#[test]
fn few_samples_keep_to_their_rules() {
    let d = data(400);
    let a = analysed(&d, rules(5, 3), 16);
    for feature in 1..D_SAE as u32 {
        let (f, truth) = (a.feature(feature), d.by_context(feature));
        let max = truth.values().map(|acts| peak(acts)).fold(0.0, f32::max);
        for s in f.samplings.iter().filter(|s| s.name != NON_ACTIVATING).flat_map(|s| &s.samples) {
            assert_eq!(truth[&s.context], s.acts, "a sample has all activations of its context");
            let ids = a.context(s.context).expect("the tokens of a sample are there");
            let row = s.context as usize * LEN;
            assert_eq!(ids, &d.tokens[row..row + ids.len()]);
            assert!(
                d.tokens[row + ids.len()..row + LEN].iter().all(|&t| t == PAD),
                "only padding is cut off"
            );
        }
        let mut peaks: Vec<f32> = truth.values().map(|acts| peak(acts)).collect();
        peaks.sort_by(|a, b| b.total_cmp(a));
        let of = |s: &[Sample]| s.iter().map(|s| peak(&s.acts)).collect::<Vec<_>>();
        assert_eq!(of(sampling(&f, "top_activations")), peaks[..5.min(peaks.len())], "feature {feature}");
        let below = of(sampling(&f, "subsampling_60%"));
        let possible = peaks.iter().filter(|p| **p <= 0.6 * max).count();
        assert!(below.iter().all(|p| *p <= 0.6 * max), "feature {feature}: {below:?} of {max}");
        assert_eq!(below.len(), possible.min(5), "feature {feature}");
        assert!(below.is_sorted_by(|a, b| a >= b));
        let drawn: usize =
            f.samplings.iter().filter(|s| s.name.starts_with("quantile")).map(|s| s.samples.len()).sum();
        assert_eq!(drawn, 12.min(truth.len()), "feature {feature}");
        for s in sampling(&f, NON_ACTIVATING) {
            assert!(!truth.contains_key(&s.context) && s.acts.is_empty(), "feature {feature}");
        }
    }
}

/// The reference system compares with the maximum so far: what came before the maximum is lost to it.
#[test]
fn a_maximum_that_comes_late_does_not_cost_earlier_samples() {
    let mut d = nothing();
    for context in 0..20 {
        let value = if context == 19 { 100.0 } else { 50.0 - context as f32 };
        for at in 0..LEN {
            d.rows.push(if at == 0 { vec![(3, value)] } else { Vec::new() });
            d.tokens.push(1);
            d.mask.push(1);
        }
    }
    let f = analysed(&d, rules(5, 3), 1).feature(3);
    let found = sampling(&f, "subsampling_60%");
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|s| s.acts[0].1 > 40.0), "{found:?}");
}

#[test]
fn threads_do_not_matter_and_a_saved_state_goes_on_exactly() {
    let d = data(120);
    let all = |a: &Analyzer| (0..D_SAE as u32).map(|f| a.feature(f)).collect::<Vec<_>>();
    let whole = all(&analysed(&d, rules(4, 3), 8));
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    assert_eq!(pool(1).install(|| all(&analysed(&d, rules(4, 3), 8))), whole);
    assert_eq!(pool(5).install(|| all(&analysed(&d, rules(4, 3), 8))), whole);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut a = Analyzer::new(D_SAE, rules(4, 3));
    for start in (0..120).step_by(8) {
        add(&mut a, &d, start..start + 8);
        a.save(&path).unwrap();
        a = Analyzer::new(D_SAE, rules(4, 3));
        a.load(&path).unwrap();
    }
    assert_eq!(all(&a), whole);
    let e = Analyzer::new(D_SAE, rules(5, 3)).load(&path).unwrap_err().to_string();
    assert!(e.contains("other analyzer settings"), "{e}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(Analyzer::new(D_SAE, rules(4, 3)).load(&path).is_err());
}

#[test]
fn activations_that_are_not_finite_are_refused() {
    let rows = vec![vec![(3, f32::NAN)]; LEN];
    let d = Data { rows, tokens: vec![41; LEN], mask: vec![1; LEN], ..nothing() };
    let codes = HostCodes::collect(d.rows.iter().map(|r| r.iter().copied()));
    let seen = Seen { codes: &codes, tokens: &d.tokens, mask: &d.mask, len: LEN, pad: PAD };
    let e = Analyzer::new(D_SAE, rules(1, 1)).add(&seen).unwrap_err().to_string();
    assert!(e.contains("feature 3") && e.contains("NaN"), "{e}");
}

#[test]
fn the_strongest_of_several_heads_counts() {
    let head = |e: &[(u32, f32)]| HostCodes::collect([e.to_vec()].into_iter());
    let both = HostCodes::strongest(&[head(&[(1, 2.0), (5, 1.0)]), head(&[(1, -3.0), (2, 0.5)])]);
    assert_eq!(both.row(0), [(1, -3.0), (2, 0.5), (5, 1.0)]);
}

#[test]
fn neighbours_are_the_largest_cosines() {
    let mut q = queue();
    let (s, d) = (50, 6);
    let mut n = Numbers(3);
    let mut w: Vec<f32> = (0..s * d).map(|_| n.below(2000) as f32 / 1000.0 - 1.0).collect();
    w[7 * d..8 * d].fill(0.0);
    let t = q.tensor(s, d, &w).unwrap();
    let dot = |a: usize, b: usize| -> f64 {
        (0..d).map(|i| f64::from(w[a * d + i]) * f64::from(w[b * d + i])).sum()
    };
    let found = Decoders::from_parts(vec![View::from(&t)], false).neighbours(&mut q, 5, |_| {}).unwrap();
    for f in 0..s {
        let mut all: Vec<(f64, u32)> = (0..s)
            .filter(|&g| g != f && g != 7 && f != 7)
            .map(|g| (dot(f, g) / (dot(f, f) * dot(g, g)).sqrt(), g as u32))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        all.truncate(5);
        assert_eq!(found[f].len(), all.len(), "feature {f}");
        for (got, want) in found[f].iter().zip(all) {
            assert_eq!(got.feature, want.1, "feature {f}");
            assert!((f64::from(got.value) - want.0).abs() < 1e-5, "feature {f}");
        }
    }
}

/// Reading out the model's own last residual stream has to give the model's own logits.
#[test]
fn vectors_are_read_out_as_the_model_reads_its_own() {
    let mut q = queue();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/assets/quickstart");
    let lm = Lm::load(&mut q, &model, &LanguageModelSettings::default()).unwrap();
    let last = format!("blocks.{}.hook_resid_post", lm.architecture().n_layers - 1);
    let ids = [5, 60, 7, 300, 2];
    let tokens = Tokens { ids: &ids, batch: 1, len: 5, mask: None };
    let out = lm.run(&mut q, &tokens, Run { capture: &[&last], logits: true, ..Run::default() }).unwrap();
    let logits = lm.read_out(&mut q, out.captured[&last].view()).unwrap();
    let (got, want): (Vec<f32>, Vec<f32>) =
        (q.download(&logits).unwrap(), q.download(&out.logits.unwrap()).unwrap());
    assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4), "logits differ");
}

/// A Lorsa dictionary trained on the tiny model: its samples say where every activation comes from.
#[test]
fn contributions_of_other_positions_add_up_to_the_activation() {
    let dir = tempfile::tempdir().unwrap();
    tiny::world(dir.path(), 400);
    let more = [
        "sae.sae_type=lorsa",
        "sae.hook_point_in=blocks.1.ln1.hook_normalized",
        "sae.hook_point_out=blocks.1.hook_attn_out",
        "activation_factory.hook_points=[\"blocks.1.ln1.hook_normalized\",\"blocks.1.hook_attn_out\"]",
        "sae.n_qk_heads=8",
        "sae.d_qk_head=12",
        "sae.rotary_dim=12",
        "sae.rotary_adjacent_pairs=false",
        "sae.n_ctx=24",
        "activation_factory.target=activations-2d",
        "activation_factory.batch_size=4",
        "initializer.init_encoder_with_decoder_transpose=false",
        "initializer.grid_search_init_norm=false",
        "eval=false",
    ];
    let registry = lm_saes_backends::registry();
    let tree = tiny::job(dir.path(), "lorsa", &more);
    let path = dir.path().join("train.json");
    std::fs::write(&path, tree.to_string()).unwrap();
    let job: TrainSettings = from_tree(&tree).unwrap();
    train(&job, &registry, &mut Silent, Start::Fresh).unwrap();
    let settings = load_analysis(&path, None, Some(4000), &[]).unwrap();
    let report = analyze(&settings, &registry, &mut Silent, Start::Fresh).unwrap();
    assert!(report.complete && report.alive > 0);

    let store = store::open(&settings.store_address()).unwrap();
    let key = DictionaryKey::new("tiny", "test");
    let mut seen = 0;
    for index in 0..report.d_sae as u32 {
        let f = store.feature(&key, "default", index).unwrap().unwrap().analysis;
        for sample in sampling(&f, "top_activations") {
            for &(at, act) in &sample.acts {
                let from: Vec<_> = sample.z_pattern.iter().filter(|z| z.0 == at).collect();
                assert!(from.iter().all(|z| z.1 <= at), "no position sees what comes after it");
                let sum: f32 = from.iter().map(|z| z.2).sum();
                // What is left out is less than a hundredth a position.
                assert!((sum - act).abs() <= 0.01 * (at + 1) as f32 * act.abs() + 1e-3, "{sum} for {act}");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}
