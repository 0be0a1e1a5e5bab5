//! Golden cases of language models: logits, loss and every named activation; a right-padded batch, whose values at padding
//! positions are not compared; and the same with processed weights.

use lm_saes::{
    lm::{Lm, Run, Tokens},
    settings::LanguageModelSettings,
    tensorfile::TensorFile,
};
use lm_saes_runtime::{Queue, Tensor};
use lm_saes_tests::{
    golden::{self, Case, Differences, Outcome, Tolerance},
    queue,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{Mutex, PoisonError},
};

/// Largest error by hook point (without the number of its block) and case.
static PARITY: Mutex<BTreeMap<(String, String), f64>> = Mutex::new(BTreeMap::new());

#[test]
fn golden_lm_cases_agree() {
    golden::run("lm", check);
    let table = parity();
    // Past the harness's capture, so that it always shows.
    let _ = std::io::stderr().write_all(table.as_bytes());
    assert!(table.lines().count() > 20, "{table}");
}

fn note(case: &Case, name: &str, got: &[f32], want: &[f32]) {
    let hook = match name.strip_prefix("blocks.").and_then(|n| n.split_once('.')) {
        Some((_, hook)) => hook,
        None => name,
    };
    let off = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    let worst = got.iter().zip(want).map(off).fold(0.0, f64::max);
    let mut table = PARITY.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = table.entry((hook.into(), case.name.clone())).or_default();
    *entry = entry.max(worst);
}

/// The errors as a table: hook points down, cases across.
fn parity() -> String {
    let table = PARITY.lock().unwrap_or_else(PoisonError::into_inner);
    let cases: BTreeSet<&str> = table.keys().map(|(_, case)| case.as_str()).collect();
    let hooks: BTreeSet<&str> = table.keys().map(|(hook, _)| hook.as_str()).collect();
    let mut text =
        String::from("\nlargest absolute error against Hugging Face, all blocks of a case together\n");
    for (i, case) in cases.iter().enumerate() {
        text += &format!("  {}: {case}\n", i + 1);
    }
    text += &format!("{:28}", "hook point");
    (1..=cases.len()).for_each(|i| text += &format!("{i:>8}"));
    for hook in hooks {
        text += &format!("\n{hook:28}");
        for case in &cases {
            let worst = table.get(&(hook.to_string(), case.to_string()));
            text += &format!("{:>8}", worst.map_or("·".into(), |w| format!("{w:.0e}")));
        }
    }
    text + "\n"
}

fn check(case: &Case) -> Result<Outcome, String> {
    let mut q = queue();
    let load = |q: &mut Queue, process_weights| {
        let model_name = case.name.clone();
        let settings = LanguageModelSettings { model_name, process_weights, ..Default::default() };
        Lm::load(q, &case.path("model"), &settings).map_err(|e| e.to_string())
    };
    let lm = load(&mut q, false)?;
    let mut found = Differences::default();
    let inputs = case.open("inputs.safetensors")?;
    let ids = Ids::read(&inputs, "input_ids", None)?;
    compare(case, &mut q, &lm, &ids, "expected.safetensors", &mut found)?;
    if case.has("expected_padded.safetensors") {
        let padded = Ids::read(&inputs, "padded_input_ids", Some("padded_attention_mask"))?;
        compare(case, &mut q, &lm, &padded, "expected_padded.safetensors", &mut found)?;
    }
    if case.has("expected_processed.safetensors") {
        let lm = load(&mut q, true)?;
        compare(case, &mut q, &lm, &ids, "expected_processed.safetensors", &mut found)?;
    }
    found.outcome()
}

/// Token ids of a case, with the mask where it has one.
struct Ids {
    ids: Vec<u32>,
    mask: Option<Vec<u8>>,
    batch: usize,
    len: usize,
}

impl Ids {
    fn read(file: &TensorFile, ids: &str, mask: Option<&str>) -> Result<Self, String> {
        let (shape, values) = file.i64(ids).map_err(|e| e.to_string())?;
        let mask = mask.map(|m| file.i64(m)).transpose().map_err(|e| e.to_string())?;
        Ok(Self {
            ids: values.iter().map(|&v| v as u32).collect(),
            mask: mask.map(|m| m.1.iter().map(|&v| v as u8).collect()),
            batch: shape[0],
            len: shape[1],
        })
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, batch: self.batch, len: self.len, mask: self.mask.as_deref() }
    }
}

fn compare(
    case: &Case,
    q: &mut Queue,
    lm: &Lm,
    ids: &Ids,
    file: &str,
    found: &mut Differences,
) -> Result<(), String> {
    let expected = case.open(file)?;
    let names: Vec<String> = expected.list().into_iter().map(|t| t.name).collect();
    let hooks: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| !["logits", "loss"].contains(n)).collect();
    let run = Run { capture: &hooks, logits: true, ..Run::default() };
    let out = lm.run(q, &ids.tokens(), run).map_err(|e| e.to_string())?;
    for name in &names {
        let (shape, want) = expected.f32(name).map_err(|e| e.to_string())?;
        let label = format!("{file}: {name}");
        if name == "loss" {
            let losses = lm.losses(q, &ids.tokens(), None).map_err(|e| e.to_string())?;
            let mean = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / ids.tokens().predictions() as f64;
            let tolerance = Tolerance::abs(case.number("/tolerance/loss_abs")?);
            found.compare(&label, &[mean as f32], &want, tolerance);
            continue;
        }
        let got: &Tensor = match &out.logits {
            Some(logits) if name == "logits" => logits,
            _ => out.captured.get(name).ok_or_else(|| format!("{name} was not captured"))?,
        };
        let mut got: Vec<f32> = q.download(got).map_err(|e| e.to_string())?;
        if let Some(mask) = &ids.mask {
            // Expected values at padding positions are 0 by convention; so are ours for the comparison.
            let width = shape.iter().skip(2).product::<usize>();
            got.chunks_mut(width).zip(mask).filter(|(_, m)| **m == 0).for_each(|(row, _)| row.fill(0.0));
        }
        let tolerance = if name.ends_with("hook_pattern") {
            Tolerance::abs(case.number("/tolerance/pattern_abs")?)
        } else {
            case.tolerance("/tolerance/float32")?
        };
        note(case, name, &got, &want);
        found.compare(&label, &got, &want, tolerance);
    }
    Ok(())
}
