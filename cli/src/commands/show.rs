//! `lm-saes show`: a feature in the terminal, tokens coloured by activation; the last metrics of a training run.

use super::list;
use crate::{
    args::{Show, ShowFeature, ShowRun, ShowWhat},
    print,
};
use anyhow::{Context as _, Result, bail};
use lm_saes::store::{
    AnalysisRecord, Context, DictionaryKey, Feature, FeatureFilter, Related, Sample, Store, TokenLogit,
};
use serde_json::{Map, Value};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// How much of a feature is shown.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Samplings.
    pub samplings: usize,
    /// Samples of each.
    pub samples: usize,
    /// Tokens before and after the peak.
    pub around: usize,
}

pub fn run(args: &Show) -> Result<()> {
    match &args.what {
        ShowWhat::Feature(a) => show_feature(a),
        ShowWhat::Run(a) => show_run(a),
    }
}

fn show_feature(args: &ShowFeature) -> Result<()> {
    let store = list::open(&args.store.store)?;
    let key = find(&*store, &args.name, args.store.series.as_deref())?;
    let analyses = store.analyses(&key)?;
    let Some(analysis) = analyses.iter().find(|a| a.name == args.analysis) else {
        let known: Vec<&str> = analyses.iter().map(|a| a.name.as_str()).collect();
        bail!("{key} has no analysis {:?}; it has {}", args.analysis, listed(&known));
    };
    let index = match args.index.as_str() {
        "random" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
            let filter = FeatureFilter { alive: true, ..FeatureFilter::default() };
            let draw = f64::from(now % 1_000_003) / 1_000_003.0;
            store
                .random_feature(&key, &analysis.name, &filter, draw)?
                .context("no feature of it ever fired")?
        }
        text => {
            text.parse().with_context(|| format!("{text:?} is no feature index; give a number or random"))?
        }
    };
    let Some(found) = store.feature(&key, &analysis.name, index)? else {
        bail!("{key} has features 0 to {}, not {index}", analysis.d_sae.saturating_sub(1));
    };
    if args.store.json {
        println!("{}", serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    println!("{key} · analysis {}", analysis.name);
    feature(
        &found,
        analysis,
        Extent { samplings: usize::MAX, samples: args.num_samples, around: args.visible_range },
    );
    Ok(())
}

/// The dictionary of this name, in the series given or the only one.
pub fn find(store: &dyn Store, name: &str, series: Option<&str>) -> Result<DictionaryKey> {
    let all: Vec<DictionaryKey> = store.dictionaries(series)?.into_iter().map(|d| d.key).collect();
    let mut named = all.iter().filter(|k| k.name == name);
    match (named.next(), named.next()) {
        (Some(only), None) => Ok(only.clone()),
        (Some(_), Some(_)) => bail!("{name:?} is in several series; choose one with --series"),
        _ => {
            let known: Vec<&str> = all.iter().map(|k| k.name.as_str()).collect();
            bail!("no dictionary {name:?} in this store; it has {}", listed(&known))
        }
    }
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Everything a terminal can show of a feature.
pub fn feature(f: &Feature, record: &AnalysisRecord, extent: Extent) {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for line in lines(f, record, extent, colour) {
        println!("{line}");
    }
}

fn lines(f: &Feature, record: &AnalysisRecord, extent: Extent, colour: bool) -> Vec<String> {
    let a = &f.analysis;
    let mut out = vec![format!(
        "feature {} · fires on {:.3} % of {} tokens · maximum {:.3} · mean {:.3}",
        a.index,
        100.0 * a.density(record),
        print::count(record.n_analyzed_tokens),
        a.max_act,
        a.mean_act,
    )];
    if let Some(i) = &f.interpretation {
        let scores: Vec<String> = i.scores.iter().map(|(name, v)| format!("{name} {v:.2}")).collect();
        let by = std::iter::once(i.explainer.as_str()).filter(|e| !e.is_empty());
        let by: Vec<&str> = by.chain(scores.iter().map(String::as_str)).collect();
        let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        out.push(format!("  {}", clean(&format!("{}{by}", i.text))));
    }
    let tokens = |side: &[TokenLogit]| -> Vec<String> {
        side.iter().map(|t| format!("{:?} {:.2}", t.token, t.logit)).collect()
    };
    if let Some(l) = a.logits.as_ref().filter(|_| extent.samplings > 1) {
        out.push(format!("  promotes    {}", tokens(&l.top_positive).join("  ")));
        out.push(format!("  suppresses  {}", tokens(&l.top_negative).join("  ")));
    }
    let related = |all: &[Related]| -> Vec<String> {
        all.iter().map(|r| format!("{} ({:.2})", r.feature, r.value)).collect()
    };
    for (what, all) in [("neighbours", &a.neighbours), ("fires with", &a.coactivations)] {
        if !all.is_empty() && extent.samplings > 1 {
            out.push(format!("  {what:<11} {}", related(all).join("  ")));
        }
    }
    for sampling in a.samplings.iter().take(extent.samplings).filter(|s| !s.samples.is_empty()) {
        if extent.samplings > 1 {
            out.push(format!("  {} ({})", sampling.name, sampling.samples.len()));
        }
        for sample in sampling.samples.iter().take(extent.samples) {
            if let Some(context) = f.context(sample.context) {
                out.push(stretch(sample, context, a.max_act, extent.around, colour));
            }
        }
    }
    out
}

/// The tokens around a sample's peak.
fn stretch(sample: &Sample, context: &Context, max: f32, around: usize, colour: bool) -> String {
    let (peak, strongest) = sample.peak().map_or((0, 0.0), |(at, v)| (at as usize, v));
    if context.texts.is_empty() {
        // The reference system's database knows where a context is, not what it says.
        let acts = sample.acts.iter().take(2 * around + 1).map(|(at, v)| format!("  {at}: {v:.2}"));
        return format!("  {strongest:>7.2}  {}{}", clean(&context.origin), acts.collect::<String>());
    }
    let shown = peak.saturating_sub(around)..(peak + around + 1).min(context.texts.len());
    let mut line = String::new();
    for at in shown {
        let act = sample.acts.iter().find(|(p, _)| *p as usize == at).map_or(0.0, |(_, v)| v.abs());
        let share = if max > 0.0 { act / max } else { 0.0 };
        let is_peak = at == peak && strongest != 0.0;
        line.push_str(&shade(&clean(&context.texts[at]), share, is_peak, colour));
    }
    format!("  {strongest:>7.2}  {}", line.trim_start())
}

/// Text from outside without what would move the cursor or colour the terminal.
fn clean(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\r' => '⏎',
        '\t' => '⇥',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// A token by its share of the feature's maximum: yellow, orange and red from 0.01, 0.33 and 0.66 on a terminal, the peak in
/// brackets elsewhere.
fn shade(text: &str, share: f32, peak: bool, colour: bool) -> String {
    match (colour, share) {
        (false, _) if peak => format!("[{text}]"),
        (true, 0.66..) => format!("\x1b[1;97;41m{text}\x1b[0m"),
        (true, 0.33..0.66) => format!("\x1b[30;48;5;214m{text}\x1b[0m"),
        (true, 0.01..0.33) => format!("\x1b[33m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// The records of a run: in the folder, or in the only one of its folders that has some (what `quickstart` leaves).
fn metrics_of(folder: &Path) -> PathBuf {
    let own = folder.join("metrics.jsonl");
    let below = |folder: &Path| -> Option<PathBuf> {
        let children = std::fs::read_dir(folder).ok()?;
        let mut found =
            children.filter_map(|c| Some(c.ok()?.path().join("metrics.jsonl"))).filter(|p| p.exists());
        let first = found.next()?;
        found.next().is_none().then_some(first)
    };
    if own.exists() { own } else { below(folder).unwrap_or(own) }
}

fn show_run(args: &ShowRun) -> Result<()> {
    let path = metrics_of(&args.path);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records: Vec<Map<String, Value>> = Vec::new();
    for line in text.lines() {
        // The last line of a run that is writing may be cut off.
        if let Ok(record) = serde_json::from_str(line) {
            records.push(record);
        }
    }
    let Some(last) = records.last() else { bail!("{} holds no records yet", path.display()) };
    if args.json {
        println!("{:#}", Value::Object(last.clone()));
        return Ok(());
    }
    println!("{} · {} records", args.path.display(), records.len());
    for (name, value) in last {
        let first = records.iter().find_map(|r| r.get(name)).and_then(Value::as_f64);
        let before = first
            .filter(|f| Some(*f) != value.as_f64())
            .map_or(String::new(), |f| format!("  (first {f:.5})"));
        match value.as_f64() {
            Some(v) if v.fract() != 0.0 => println!("  {name:<40} {v:>12.5}{before}"),
            _ => println!("  {name:<40} {value:>12}{before}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stands_out_with_and_without_colour() {
        assert_eq!(shade("cat", 1.0, true, false), "[cat]");
        assert_eq!(shade("cat", 0.0, false, true), "cat");
        assert!(shade("cat", 1.0, true, true).starts_with("\x1b[1;97;41m"));
    }

    #[test]
    fn tokens_cannot_command_the_terminal() {
        assert_eq!(clean("a\x1b[2J\nb\t"), "a\u{fffd}[2J⏎b⇥");
    }

    #[test]
    fn a_sample_is_cut_around_its_peak() {
        let context = Context {
            texts: ["a", "b", "c", "d", "e"].map(String::from).into(),
            ids: vec![0; 5],
            ..Context::default()
        };
        let sample = Sample { acts: vec![(1, 0.5), (3, -2.0)], ..Sample::default() };
        assert_eq!(stretch(&sample, &context, 2.0, 1, false), "    -2.00  c[d]e");
    }

    #[test]
    fn a_context_without_text_is_shown_by_its_place() {
        let context = Context { origin: "openwebtext:0:42".into(), ..Context::default() };
        let sample = Sample { acts: vec![(2, 2.5), (7, 0.25)], ..Sample::default() };
        let line = stretch(&sample, &context, 2.5, 20, false);
        assert_eq!(line, "     2.50  openwebtext:0:42  2: 2.50  7: 0.25");
    }

    #[test]
    fn a_run_is_found_in_its_folder_or_in_the_only_one_below_that_has_records() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("a folder");
            std::fs::write(path.join("metrics.jsonl"), "{}\n").expect("a file");
            path.join("metrics.jsonl")
        };
        assert_eq!(metrics_of(folder.path()), folder.path().join("metrics.jsonl"));
        let first = run("a");
        assert_eq!(metrics_of(folder.path()), first);
        run("b");
        assert_eq!(metrics_of(folder.path()), folder.path().join("metrics.jsonl"), "two runs are a choice");
    }
}
