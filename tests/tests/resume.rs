//! A run that is cut off anywhere and taken up again ends with the same bits, and a run that goes wrong loses nothing.

use lm_saes::{
    Error, Result,
    activations::Batch,
    dictionary::{Dictionary, build},
    settings::{ActFn, DictionarySettings, InitializerSettings, TrainerSettings, from_tree},
    training::{
        BatchSource, Ended, Fit, Observer, Progress, Replay, Silent, Trainer, initialise, resume_point,
        schedules::Schedules,
        snapshot,
        trackers::{JsonLines, Tracker},
        trainer_identity,
    },
};
use lm_saes_runtime::Queue;
use lm_saes_tests::queue;
use serde_json::{Value, json};
use std::{ops::ControlFlow, path::Path};

const ROWS: usize = 48;
const D: usize = 16;
const STEPS: u64 = 24;

/// Batches that depend on their number only.
struct Synthetic {
    hook_points: Vec<String>,
    next: u64,
    end: u64,
    nan_at: Option<u64>,
}

impl Synthetic {
    fn new(end: u64) -> Self {
        Self { hook_points: vec!["h".into()], next: 0, end, nan_at: None }
    }
}

impl BatchSource for Synthetic {
    fn hook_points(&self) -> &[String] {
        &self.hook_points
    }
    fn next(&mut self, q: &mut Queue) -> Result<Option<Batch>> {
        if self.next == self.end {
            return Ok(None);
        }
        let mut state = self.next.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut values: Vec<f32> = (0..ROWS * D).map(|i| draw() * (1.0 + (i % D) as f32)).collect();
        if self.nan_at == Some(self.next) {
            values[5] = f32::NAN;
        }
        let mask: Vec<u8> = (0..ROWS).map(|r| u8::from(!(r as u64 + self.next).is_multiple_of(7))).collect();
        let n_valid = mask.iter().filter(|&&m| m == 1).count();
        self.next += 1;
        let tokens = (0..ROWS as u32).map(|r| r * 70_001).collect();
        Ok(Some(Batch { acts: vec![q.tensor(ROWS, D, &values)?], tokens, mask, contexts: None, n_valid }))
    }
    fn save_state(&self, _: &mut Queue, path: &Path) -> Result<()> {
        snapshot::write_json(path, &self.next)
    }
    fn load_state(&mut self, _: &mut Queue, path: &Path) -> Result<()> {
        self.next = snapshot::read_json(path)?;
        Ok(())
    }
}

/// Breaks off after a step.
struct StopAfter(u64);
impl Observer for StopAfter {
    fn step(&mut self, p: &Progress) -> ControlFlow<()> {
        if p.step == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn sae(act_fn: &str) -> DictionarySettings {
    from_tree(&json!({
        "sae_type": "sae", "hook_point_in": "h", "hook_point_out": "h", "d_model": D, "expansion_factor": 4,
        "act_fn": act_fn, "top_k": 5,
    }))
    .unwrap()
}

fn settings(root: &Path, more: Value) -> TrainerSettings {
    let mut tree = json!({
        "total_training_tokens": STEPS * ROWS as u64, "lr": 1e-3, "lr_warm_up_steps": 4, "initial_k": 12,
        "k_warmup_steps": 10, "log_frequency": 5, "snapshot_frequency": 0, "n_checkpoints": 3,
        "exp_result_path": root,
    });
    more.as_object().unwrap().iter().for_each(|(k, v)| tree[k] = v.clone());
    from_tree(&tree).unwrap()
}

/// One process's part of a run: from the newest snapshot, or from the start.
fn run(
    act_fn: &str,
    settings: &TrainerSettings,
    source: &mut Synthetic,
    observer: &mut dyn Observer,
) -> Result<(Ended, Vec<Vec<u32>>)> {
    let mut q = queue();
    let q = &mut q;
    let dictionary = build(q, &sae(act_fn))?;
    let identity = json!({"trainer": trainer_identity(settings), "sae": sae(act_fn), "data": source.end});
    let top_k = sae(act_fn).act_fn().has_k().then_some(5);
    let schedules = Schedules::resolve(settings, ROWS as u64, top_k)?;
    let mut trainer = Trainer::new(q, dictionary, settings.clone(), schedules, ROWS)?;
    let mut trackers: Vec<Box<dyn Tracker>> =
        vec![Box::new(JsonLines::new(settings.exp_result_path.join("metrics.jsonl")))];
    let ended = match resume_point(settings, true)? {
        Some(dir) => {
            let mut source = Replay::new(Vec::new(), source);
            assert!(trainer.restore(q, &mut source, &identity, &dir)?);
            let trackers = &mut trackers;
            trainer.fit(
                q,
                Fit { source: &mut source, trackers, observer, evaluate: None, identity: &identity },
            )?
        }
        None => {
            let starting = InitializerSettings {
                grid_search_init_norm: true,
                init_log_jumprelu_threshold_value: Some(-2.0),
                ..Default::default()
            };
            let done = initialise(q, trainer.dictionary_mut(), &starting, source, None, observer)?;
            let mut source = Replay::new(done.batches, source);
            let trackers = &mut trackers;
            trainer.fit(
                q,
                Fit { source: &mut source, trackers, observer, evaluate: None, identity: &identity },
            )?
        }
    };
    Ok((ended, bits(q, trainer.dictionary())))
}

fn bits(q: &mut Queue, dictionary: &dyn Dictionary) -> Vec<Vec<u32>> {
    let running = dictionary.running_thresholds().values().unwrap_or_default().to_vec();
    assert_eq!(running.len(), usize::from(dictionary.settings().act_fn() == ActFn::BatchTopK));
    let params = dictionary.params().into_iter().map(|p| q.download::<f32>(&p.value).unwrap());
    params.chain([running]).map(|values| values.iter().map(|v| v.to_bits()).collect()).collect()
}

fn same_bits_after_stopping(act_fn: &str, more: Value) {
    let whole = tempfile::tempdir().unwrap();
    let s = settings(whole.path(), more.clone());
    let (ended, want) = run(act_fn, &s, &mut Synthetic::new(1000), &mut Silent).unwrap();
    assert_eq!(ended, Ended::Complete);
    let log = std::fs::read_to_string(whole.path().join("metrics.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4);
    // Inside the batches the initialiser took, between records, on a record, and twice in one run.
    for stops in [vec![2], vec![12], vec![15], vec![7, 21]] {
        let dir = tempfile::tempdir().unwrap();
        let s = settings(dir.path(), more.clone());
        for &stop in &stops {
            let (ended, _) = run(act_fn, &s, &mut Synthetic::new(1000), &mut StopAfter(stop)).unwrap();
            assert_eq!(ended, Ended::Stopped);
        }
        let (ended, got) = run(act_fn, &s, &mut Synthetic::new(1000), &mut Silent).unwrap();
        assert_eq!(ended, Ended::Complete);
        assert!(got == want, "{act_fn}: weights differ after stopping at {stops:?}");
        let resumed = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert_eq!(resumed, log, "{act_fn}: records differ after stopping at {stops:?}");
    }
}

#[test]
fn a_topk_run_with_dead_features_and_clipping_resumes_to_the_same_bits() {
    same_bits_after_stopping(
        "topk",
        json!({"auxk_coefficient": 0.03, "k_aux": 8, "dead_threshold": 90, "clip_grad_norm": 0.01}),
    );
}

#[test]
fn a_jumprelu_run_resumes_to_the_same_bits() {
    same_bits_after_stopping(
        "jumprelu",
        json!({"sparsity_loss_type": "tanh", "lp_coefficient": 1e-4, "jumprelu_lr_factor": 0.1}),
    );
}

#[test]
fn a_batchtopk_run_with_sparse_adam_resumes_to_the_same_bits() {
    same_bits_after_stopping("batchtopk", json!({"optimizer_class": "sparseadam"}));
}

#[test]
fn a_run_with_resampling_and_a_run_with_a_falling_exponent_resume_to_the_same_bits() {
    let resampling = json!({"resample_frequency": 4, "resample_until": 20, "dead_threshold": 30});
    same_bits_after_stopping("topk", resampling.clone());
    let annealed = json!({
        "sparsity_loss_type": "power-sum", "p_end": 0.3, "n_sparsity_updates": 6, "l1_coefficient": 1e-2,
    });
    same_bits_after_stopping("relu", annealed);
    // The first of them is about something: features died and were resampled.
    let dir = tempfile::tempdir().unwrap();
    run("topk", &settings(dir.path(), resampling), &mut Synthetic::new(1000), &mut Silent).unwrap();
    let log = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let resampled = last.to_string();
    let count =
        resampled.split("sparsity/resampled_features\":").nth(1).and_then(|t| t.split([',', '}']).next());
    assert!(count.and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.0), "{resampled}");
}

#[test]
fn a_run_cut_off_between_snapshots_goes_back_to_the_last_one() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let every_four = json!({"snapshot_frequency": 4});
    let (_, want) =
        run("topk", &settings(whole.path(), every_four.clone()), &mut Synthetic::new(1000), &mut Silent)
            .unwrap();
    let s = settings(cut.path(), every_four);
    // The data source fails in step 15, as if the process died there: nothing is written after step 12.
    let mut failing = Synthetic::new(1000);
    failing.nan_at = Some(14);
    let e = run("topk", &s, &mut failing, &mut Silent).err().unwrap();
    assert!(matches!(e, Error::NonFinite { step: 15, .. }), "{e}");
    let newest = snapshot::latest(cut.path()).unwrap().unwrap();
    assert!(newest.ends_with("step_12"), "{}", newest.display());
    assert_eq!(snapshot::list(cut.path()).unwrap().len(), 2);
    let (_, got) = run("topk", &s, &mut Synthetic::new(1000), &mut Silent).unwrap();
    assert!(got == want);
}

#[test]
fn nan_in_activations_is_blamed_on_them_and_names_the_snapshot_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = Synthetic::new(1000);
    source.nan_at = Some(17);
    let s = settings(dir.path(), json!({"snapshot_frequency": 8}));
    let e = run("topk", &s, &mut source, &mut Silent).err().unwrap().to_string();
    assert!(e.starts_with("step 18: the activation of h is not finite"), "{e}");
    assert!(e.contains("step_16"), "{e}");
}

#[test]
fn a_loss_that_explodes_stops_the_run_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let s = settings(dir.path(), json!({"lr": 1e30, "lr_warm_up_steps": 0}));
    let e = run("relu", &s, &mut Synthetic::new(1000), &mut Silent).err().unwrap();
    assert!(matches!(e, Error::NonFinite { .. }), "{e}");
    assert!(e.to_string().contains("before the first snapshot"), "{e}");
}

#[test]
fn data_that_ends_early_leaves_a_snapshot_to_go_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let s = settings(dir.path(), json!({}));
    let (ended, _) = run("topk", &s, &mut Synthetic::new(11), &mut Silent).unwrap();
    assert_eq!(ended, Ended::EndOfStream);
    assert!(snapshot::latest(dir.path()).unwrap().unwrap().ends_with("step_11"));
}

#[test]
fn a_changed_setting_is_refused_on_resume_unless_it_cannot_matter() {
    let dir = tempfile::tempdir().unwrap();
    let s = settings(dir.path(), json!({}));
    run("topk", &s, &mut Synthetic::new(1000), &mut StopAfter(6)).unwrap();
    let other = settings(dir.path(), json!({"lr": 2e-3}));
    let e = run("topk", &other, &mut Synthetic::new(1000), &mut Silent).err().unwrap().to_string();
    assert!(e.starts_with("setting trainer.lr: is 0.002"), "{e}");
    let other = settings(dir.path(), json!({"log_frequency": 3}));
    assert_eq!(run("topk", &other, &mut Synthetic::new(1000), &mut Silent).unwrap().0, Ended::Complete);
}

#[test]
fn a_truncated_snapshot_is_refused_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let s = settings(dir.path(), json!({}));
    run("topk", &s, &mut Synthetic::new(1000), &mut StopAfter(6)).unwrap();
    let file = snapshot::latest(dir.path()).unwrap().unwrap().join("optimizer.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let e = run("topk", &s, &mut Synthetic::new(1000), &mut Silent).err().unwrap().to_string();
    assert!(e.contains("optimizer.safetensors"), "{e}");
}
