//! Golden cases of training: stored initial weights and batches, every step's loss terms, learning rates, k, coefficients and
//! gradient norm, and the weights after some steps; and the schedules alone.

use lm_saes::{
    activations::Batch,
    dictionary::{
        checkpoint::{self, LoadOptions},
        variants::Variant,
    },
    settings::{TrainerSettings, from_tree},
    training::{StepReport, Trainer, schedules::Schedules},
};
use lm_saes_runtime::Queue;
use lm_saes_tests::{
    golden::{self, Case, Differences, Outcome, Tolerance},
    queue,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

#[test]
fn golden_train_cases_agree() {
    golden::run("train", |case| if case.name == "schedules" { check_schedules(case) } else { check(case) });
}

fn text<T>(r: Result<T, impl ToString>) -> Result<T, String> {
    r.map_err(|e| e.to_string())
}

/// A tensor of a file in double precision, for values that must agree to the last digits.
fn doubles(case: &Case, file: &str, name: &str) -> Result<Option<Vec<f64>>, String> {
    let bytes = text(std::fs::read(case.path(file)))?;
    let all = text(SafeTensors::deserialize(&bytes))?;
    let Ok(t) = all.tensor(name) else { return Ok(None) };
    let word = |c: &[u8]| -> [u8; 8] { c.try_into().expect("chunks of eight") };
    Ok(Some(match t.dtype() {
        Dtype::F64 => t.data().chunks_exact(8).map(|c| f64::from_le_bytes(word(c))).collect(),
        Dtype::I64 => t.data().chunks_exact(8).map(|c| i64::from_le_bytes(word(c)) as f64).collect(),
        Dtype::F32 => t
            .data()
            .chunks_exact(4)
            .map(|c| f64::from(f32::from_le_bytes(c.try_into().expect("chunks of four"))))
            .collect(),
        other => return Err(format!("{file}: {name} is {other:?}")),
    }))
}

/// `|got − want| <= atol + rtol·|want|` in double precision.
fn close(found: &mut Differences, name: &str, got: &[f64], want: &[f64], tol: Tolerance) {
    found.same(&format!("{name}: count"), got.len(), want.len());
    let near = |g: f64, w: f64| (g - w).abs() <= tol.atol + tol.rtol * w.abs();
    let far = |(g, w): (&f64, &f64)| !near(*g, *w);
    if let Some(s) = got.iter().zip(want).position(far) {
        found.note(format!("{name}: step {s}: {} instead of {}", got[s], want[s]));
    }
}

fn check_schedules(case: &Case) -> Result<Outcome, String> {
    let mut found = Differences::default();
    let tol = Tolerance { rtol: case.number("/tolerance/rtol")?, atol: 1e-15 };
    let settings = case.json["settings"].as_object().ok_or("case.json has no settings")?;
    for (name, s) in settings {
        let want = doubles(case, "expected.safetensors", name)?.ok_or(format!("no tensor {name}"))?;
        let steps = s.get("training_steps").and_then(Value::as_u64).unwrap_or(want.len() as u64);
        let mut tree = json!({"total_training_tokens": steps, "k_warmup_steps": 0});
        let mut top_k = None;
        for (key, value) in s.as_object().into_iter().flatten() {
            match key.as_str() {
                "training_steps" | "resolved" => {}
                "top_k" => top_k = value.as_u64().map(|k| k as usize),
                "warm_up_steps" => tree["lr_warm_up_steps"] = value.clone(),
                "cool_down_steps" => tree["lr_cool_down_steps"] = value.clone(),
                _ => tree[key] = value.clone(),
            }
        }
        let kind: Vec<&str> = name.split('.').collect();
        match kind[0] {
            "lr" => tree["lr_scheduler_name"] = json!(kind[2]),
            "k" => tree["k_schedule_type"] = json!(kind[2]),
            "l1" => {}
            other => return Err(format!("unknown kind of schedule {other}")),
        }
        let schedules = text(Schedules::resolve(&text(from_tree::<TrainerSettings>(&tree))?, 1, top_k))?;
        let got: Vec<f64> = (0..want.len() as u64)
            .map(|step| match kind[0] {
                "lr" => schedules.lr.factor(step),
                "k" => schedules.k.as_ref().map_or(f64::NAN, |k| k.k(step) as f64),
                _ => schedules.l1.at(step),
            })
            .collect();
        close(&mut found, name, &got, &want, if kind[0] == "k" { Tolerance::abs(0.0) } else { tol });
    }
    found.outcome()
}

fn check(case: &Case) -> Result<Outcome, String> {
    let config: Value =
        text(serde_json::from_str(&text(std::fs::read_to_string(case.path("initial/config.json")))?))?;
    let sae_type = config["sae_type"].as_str().unwrap_or_default();
    if !Variant::TAGS.contains(&sae_type) {
        return Ok(Outcome::NotYet(format!("dictionaries of type {sae_type}")));
    }
    let mut q = queue();
    let options = LoadOptions { strict: true, fold: false };
    let dictionary = text(checkpoint::load(&mut q, &case.path("initial"), options))?.dictionary;
    let mut tree = case.json["trainer_settings"].clone();
    // The reference system's forms, unless the case asks for ours.
    for key in ["auxk_detached", "lp_gated"] {
        if tree.get(key).is_none() {
            tree[key] = json!(false);
        }
    }
    let settings: TrainerSettings = text(from_tree(&tree))?;
    let data = Data::read(case)?;
    let has_k = dictionary.settings().act_fn().has_k();
    let top_k = has_k.then(|| dictionary.settings().top_k());
    let schedules = text(Schedules::resolve(&settings, data.rows as u64, top_k))?;
    let mut found = Differences::default();
    if let Some(total) = case.json.pointer("/resolved_steps/total_training_steps").and_then(Value::as_u64) {
        found.same("total steps", schedules.total_steps, total);
    }
    let mut trainer = text(Trainer::new(&mut q, dictionary, settings, schedules, data.rows))?;
    let mut log = Log::default();
    for step in 0..data.steps {
        let mut batch = data.batch(&mut q, step)?;
        let report = text(trainer.step(&mut q, &data.hook_points, &mut batch))?;
        log.add(&mut q, &trainer, &report)?;
        let file = format!("weights_after_step_{}.safetensors", step + 1);
        if case.has(&file) {
            let tol = Tolerance::abs(case.number(&format!("/tolerance/weights_abs/{}", step + 1))?);
            compare_weights(case, &mut q, &trainer, &file, tol, &mut found)?;
        }
    }
    log.compare(case, &mut found)?;
    found.outcome()
}

/// All batches of a case.
#[derive(Default)]
struct Data {
    hook_points: Vec<String>,
    /// By hook point, `[steps, rows, d]`.
    acts: Vec<Vec<f32>>,
    mask: Option<Vec<u8>>,
    steps: usize,
    rows: usize,
    /// Contexts and tokens of each, of batches of whole contexts.
    contexts: Option<(usize, usize)>,
    d: Vec<usize>,
}

impl Data {
    fn read(case: &Case) -> Result<Self, String> {
        let file = case.open("batches.safetensors")?;
        let mut all = Self::default();
        for t in file.list() {
            match t.name.as_str() {
                "tokens" => {}
                "mask" => {
                    all.mask = Some(text(file.i64("mask"))?.1.into_iter().map(|m| m as u8).collect());
                }
                _ => {
                    let (shape, values) = text(file.f32(&t.name))?;
                    let (steps, rows, d) = match shape[..] {
                        [steps, rows, d] => (steps, rows, d),
                        [steps, contexts, len, d] => {
                            all.contexts = Some((contexts, len));
                            (steps, contexts * len, d)
                        }
                        _ => return Err(format!("{} is {shape:?}", t.name)),
                    };
                    all.hook_points.push(t.name);
                    all.acts.push(values);
                    all.d.push(d);
                    (all.steps, all.rows) = (steps, rows);
                }
            }
        }
        Ok(all)
    }

    fn batch(&self, q: &mut Queue, step: usize) -> Result<Batch, String> {
        let rows = self.rows;
        let acts = (self.acts.iter().zip(&self.d))
            .map(|(a, &d)| text(q.tensor(rows, d, &a[step * rows * d..(step + 1) * rows * d])))
            .collect::<Result<_, _>>()?;
        let mask = self.mask.as_ref().map_or(vec![1; rows], |m| m[step * rows..(step + 1) * rows].to_vec());
        let n_valid = mask.iter().filter(|&&m| m == 1).count();
        Ok(Batch { acts, tokens: vec![0; rows], mask, contexts: self.contexts, n_valid })
    }
}

/// What every step gave, by the names of the expected tensors.
#[derive(Default)]
struct Log {
    columns: Vec<(&'static str, Vec<f64>)>,
}

impl Log {
    fn add(&mut self, q: &mut Queue, trainer: &Trainer, r: &StepReport) -> Result<(), String> {
        let (l0, ev) = r.quality.ok_or("metrics are off")?;
        let part = |v: Option<f32>| v.map_or(f64::NAN, f64::from);
        let n_dead = match trainer.dead() {
            Some(d) => text(q.download::<u8>(&d.dead))?.iter().filter(|&&d| d == 1).count() as f64,
            None => f64::NAN,
        };
        let values = [
            ("loss", f64::from(r.terms.loss)),
            ("l_rec", f64::from(r.terms.l_rec)),
            ("l_s_mean", part(r.terms.l_s)),
            ("l_p", part(r.terms.l_p)),
            ("l_aux", part(r.terms.l_aux)),
            ("grad_norm_before_clipping", r.gradients.before_clipping),
            ("lr.others", r.lr.0),
            ("lr.jumprelu", r.lr.1),
            ("k", r.coefficients.k as f64),
            ("l1_coefficient", r.l1),
            ("n_dead", n_dead),
            ("explained_variance", ev),
            ("l0", l0),
        ];
        if self.columns.is_empty() {
            self.columns = values.iter().map(|(name, _)| (*name, Vec::new())).collect();
        }
        self.columns.iter_mut().zip(values).for_each(|((_, column), (_, v))| column.push(v));
        Ok(())
    }

    fn compare(&self, case: &Case, found: &mut Differences) -> Result<(), String> {
        let losses = case.tolerance("/tolerance/loss_terms")?;
        let exact = Tolerance { rtol: case.number("/tolerance/lr, k, coefficients/rtol")?, atol: 0.0 };
        let norm = Tolerance { rtol: case.number("/tolerance/grad_norm/rtol")?, atol: 1e-9 };
        let expected = case.open("expected_steps.safetensors")?;
        for t in expected.list() {
            let known = self.columns.iter().find(|(name, _)| *name == t.name);
            let Some((name, got)) = known else { return Err(format!("unknown column {}", t.name)) };
            let want = doubles(case, "expected_steps.safetensors", name)?.unwrap_or_default();
            let tol = match *name {
                "grad_norm_before_clipping" => norm,
                "lr.others" | "lr.jumprelu" | "k" | "l1_coefficient" | "n_dead" => exact,
                _ => losses,
            };
            close(found, name, got, &want, tol);
        }
        Ok(())
    }
}

fn compare_weights(
    case: &Case,
    q: &mut Queue,
    trainer: &Trainer,
    file: &str,
    tol: Tolerance,
    found: &mut Differences,
) -> Result<(), String> {
    let want = case.open(file)?;
    for p in trainer.dictionary().params() {
        let held: Vec<f32> = text(q.download(&p.value))?;
        let got = p.to_stored(&held);
        found.compare(&format!("{file}: {}", p.name), &got, &text(want.f32_shaped(&p.name, &p.shape))?, tol);
    }
    Ok(())
}
