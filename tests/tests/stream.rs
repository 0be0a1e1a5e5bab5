//! From text files to batches through a real tokenizer and a real (tiny) language model: the rows are the model's own
//! activations at the tokens that count, and a stream stopped and restored gives the same bits.

use lm_saes::{
    activations::{ActivationStream, Batch, open_stream, open_tokens},
    data::{Overflow, TokenPolicy, Tokenize},
    lm::{Lm, Run, SpecialIds, Tokenizer, Tokens},
    settings::{ActivationFactorySettings, DatasetSettings, LanguageModelSettings, from_tree},
};
use lm_saes_runtime::Queue;
use lm_saes_tests::{
    queue,
    tiny::{self, D_MODEL},
};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write as _, fs, sync::Arc};
use tempfile::TempDir;

const HOOKS: [&str; 2] = ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre"];

struct World {
    dir: TempDir,
    q: Queue,
    lm: Lm,
    tokenizer: Arc<dyn Tokenize>,
    ids: SpecialIds,
    datasets: BTreeMap<String, DatasetSettings>,
}

/// Two texts, and the model that reads them.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::model(dir.path());
    let (mut lines, mut records) = (String::new(), String::new());
    for line in 0..20 {
        let words: Vec<String> =
            (0..3 + line * 5 % 23).map(|i| format!("w{}", 2 + (line * 31 + i * 17) % 190)).collect();
        writeln!(lines, "{}", words.join(" ")).unwrap();
        writeln!(records, "{}", json!({"id": line, "text": words[1..].join(" ")})).unwrap();
    }
    fs::write(dir.path().join("lines.txt"), lines).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fs::write(dir.path().join("folder/records.jsonl"), records).unwrap();
    let dataset = |name: &str| DatasetSettings {
        dataset_name_or_path: dir.path().join(name).display().to_string(),
        is_dataset_on_disk: true,
        ..DatasetSettings::default()
    };
    let datasets =
        [("lines".into(), dataset("lines.txt")), ("folder".into(), dataset("folder"))].into_iter().collect();

    let mut q = queue();
    let lm = Lm::load(&mut q, &model, &LanguageModelSettings::default()).unwrap();
    let tokenizer = Tokenizer::load(&model, SpecialIds::default()).unwrap();
    let ids = tokenizer.special();
    World { dir, q, lm, tokenizer: Arc::new(tokenizer), ids, datasets }
}

fn settings(target: &str, batch_size: usize) -> ActivationFactorySettings {
    let tree = json!({
        "target": target, "hook_points": HOOKS, "batch_size": batch_size, "context_size": 10,
        "model_batch_size": 4, "overflow": "split",
        "sources": [{"type": "dataset", "name": "lines"}, {"type": "dataset", "name": "folder", "sample_weights": 2}],
    });
    from_tree(&tree).unwrap()
}

impl World {
    fn policy(&self, s: &ActivationFactorySettings) -> TokenPolicy {
        s.token_policy(&LanguageModelSettings::default(), self.ids).unwrap()
    }

    fn stream(&self, s: &ActivationFactorySettings) -> ActivationStream {
        open_stream(s, &self.datasets, &self.tokenizer, &self.policy(s)).unwrap()
    }

    fn next(&mut self, stream: &mut ActivationStream) -> Option<Batch> {
        stream.next_batch(&mut self.q, &self.lm).unwrap()
    }

    /// Tokens and the bits of the activations of each hook point, row by row.
    fn rows(&mut self, batch: &Batch) -> Vec<(u32, Vec<u32>)> {
        let acts: Vec<Vec<f32>> = batch.acts.iter().map(|a| self.q.download(a).unwrap()).collect();
        let row = |r: usize| -> Vec<u32> {
            let part = |a: &Vec<f32>| a[r * D_MODEL..(r + 1) * D_MODEL].iter().map(|v| v.to_bits()).collect();
            acts.iter().map(part).collect::<Vec<Vec<u32>>>().concat()
        };
        batch.tokens.iter().enumerate().map(|(r, &t)| (t, row(r))).collect()
    }

    fn all_rows(&mut self, stream: &mut ActivationStream) -> Vec<(u32, Vec<u32>)> {
        let mut out = Vec::new();
        while let Some(batch) = self.next(stream) {
            out.extend(self.rows(&batch));
        }
        out
    }

    /// What the model gives for the same contexts, asked directly.
    fn direct(&mut self, s: &ActivationFactorySettings) -> Vec<(u32, Vec<u32>, u8)> {
        let policy = self.policy(s);
        let mut tokens = open_tokens(s, &self.datasets, &self.tokenizer, &policy).unwrap();
        let mut out = Vec::new();
        while let Some(t) = tokens.next_batch().unwrap() {
            let input = Tokens { ids: &t.ids, batch: t.batch, len: t.len, mask: None };
            let run = Run { capture: &HOOKS, ..Run::default() };
            let mut found = self.lm.run(&mut self.q, &input, run).unwrap().captured;
            let acts = HOOKS.map(|h| found.remove(h).unwrap()).into();
            let n = t.ids.len();
            let batch = Batch { acts, tokens: t.ids, mask: t.mask, contexts: None, n_valid: n };
            let rows = self.rows(&batch);
            out.extend(rows.into_iter().zip(batch.mask).map(|((id, bits), m)| (id, bits, m)));
        }
        out
    }
}

#[test]
fn rows_are_the_models_own_activations_at_the_tokens_that_count() {
    let mut w = world();
    let s = settings("activations-1d", 32);
    let mut stream = w.stream(&s);
    let got = w.all_rows(&mut stream);
    let wanted: Vec<_> =
        w.direct(&s).into_iter().filter(|r| r.2 == 1).map(|(id, bits, _)| (id, bits)).collect();
    assert!(got.len() > 300 && got.iter().all(|r| r.0 > 1), "{} rows", got.len());
    assert!(got == wanted);
}

#[test]
fn whole_contexts_carry_every_position_and_say_which_count() {
    let mut w = world();
    let s = settings("activations-2d", 4);
    let wanted = w.direct(&s);
    let mut stream = w.stream(&s);
    let mut seen = 0;
    while let Some(batch) = w.next(&mut stream) {
        assert_eq!(batch.contexts.map(|c| c.1), Some(10));
        for ((id, bits), &m) in w.rows(&batch).into_iter().zip(&batch.mask) {
            assert!((id, bits, m) == wanted[seen], "row {seen}");
            seen += 1;
        }
    }
    assert_eq!(seen, wanted.len());
}

#[test]
fn shuffling_changes_the_order_and_nothing_else() {
    let mut w = world();
    let mut s = settings("activations-1d", 32);
    let mut stream = w.stream(&s);
    let mut plain = w.all_rows(&mut stream);
    s.buffer_size = Some(128);
    let mut stream = w.stream(&s);
    let mut shuffled = w.all_rows(&mut stream);
    assert!(plain != shuffled);
    plain.sort();
    shuffled.sort();
    assert!(plain == shuffled);
}

#[test]
fn a_stream_restored_from_its_state_gives_the_same_bits() {
    let mut w = world();
    let s = ActivationFactorySettings { buffer_size: Some(128), ..settings("activations-1d", 32) };
    let file = w.dir.path().join("stream.safetensors");
    for stop in 0..8 {
        let mut straight = w.stream(&s);
        for _ in 0..stop {
            w.next(&mut straight).unwrap();
        }
        straight.save_state(&mut w.q, &file).unwrap();
        let mut restored = w.stream(&s);
        restored.load_state(&mut w.q, &file).unwrap();
        assert!(w.all_rows(&mut restored) == w.all_rows(&mut straight), "stopped after {stop} batches");
    }
}

#[test]
fn packed_contexts_use_every_token_of_the_text_once() {
    let mut w = world();
    let mut s = settings("activations-1d", 32);
    let mut stream = w.stream(&s);
    let mut split: Vec<u32> = w.all_rows(&mut stream).into_iter().map(|r| r.0).collect();
    s.overflow = Overflow::Pack;
    s.ignore_special_tokens = true;
    let mut stream = w.stream(&s);
    let mut packed: Vec<u32> = w.all_rows(&mut stream).into_iter().map(|r| r.0).collect();
    split.sort_unstable();
    packed.sort_unstable();
    assert_eq!(split, packed);
}

#[test]
fn a_hook_that_does_not_exist_and_a_data_set_that_is_not_there_are_named() {
    let mut w = world();
    let mut s = settings("activations-1d", 32);
    s.hook_points[0] = "blocks.7.hook_resid_post".into();
    let e = w.stream(&s).next_batch(&mut w.q, &w.lm).unwrap_err().to_string();
    assert!(e.contains("blocks.7.hook_resid_post"), "{e}");
    w.datasets.remove("folder");
    let e = open_stream(&s, &w.datasets, &w.tokenizer, &w.policy(&s)).err().unwrap().to_string();
    assert!(e.contains("\"folder\"") && e.contains("there: lines"), "{e}");
}
