//! What every store has to do.

use crate::Place;
use lm_saes::store::*;
use serde_json::json;
use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const D_SAE: u32 = 40;

pub fn key() -> DictionaryKey {
    DictionaryKey::new("gpt2-l6", "default")
}

fn dictionary(name: &str, series: &str) -> DictionaryRecord {
    DictionaryRecord {
        key: DictionaryKey::new(name, series),
        path: "results/a".into(),
        cfg: json!({"sae_type": "sae", "d_model": 8, "expansion_factor": 5, "top_k": 3}),
        d_sae: D_SAE,
        model_name: Some("gpt2".into()),
    }
}

/// The result of feature `i` in the analysis number `run`; every third one never fired.
fn feature(i: u32, run: u32) -> FeatureAnalysis {
    if i % 3 == 2 {
        return FeatureAnalysis { index: i, decoder_norms: vec![1.0], ..FeatureAnalysis::default() };
    }
    let sample = |context: u32| Sample {
        context,
        acts: vec![(0, 0.25), (2, (i + run) as f32), (3, -0.5)],
        z_pattern: Vec::new(),
    };
    FeatureAnalysis {
        index: i,
        act_times: u64::from(1000 - i * 10),
        max_act: (i + run) as f32,
        mean_act: 0.5,
        n_contexts: 9,
        histogram: Histogram { width: 0.5, counts: vec![3, 0, 2] },
        samplings: vec![
            Sampling { name: "top_activations".into(), samples: vec![sample(i % 5), sample(5)] },
            Sampling {
                name: "non_activating".into(),
                samples: vec![Sample { context: 6, ..Sample::default() }],
            },
        ],
        coactivations: vec![Related { feature: i + 1, value: 0.75 }],
        neighbours: vec![Related { feature: 0, value: -0.25 }],
        decoder_norms: vec![1.5],
        decoder_similarities: Vec::new(),
        decoder_inner_products: Vec::new(),
        peak_tokens: vec![" house".into(), format!(" word{i}")],
        logits: Some(Logits {
            top_positive: vec![TokenLogit { token: " roof".into(), logit: 2.0 }],
            top_negative: vec![TokenLogit { token: "!".into(), logit: -1.0 }],
        }),
        preview: vec![("the".into(), 0.0), (" house".into(), (i + run) as f32)],
    }
}

fn contexts(run: u32) -> Vec<Context> {
    let one = |id: u32| Context {
        id,
        origin: format!("prose:{id}"),
        ids: vec![1, 2, run, 50_000 + id],
        texts: vec!["the".into(), "\n".into(), " house".into(), " é".into()],
    };
    (0..7).map(one).collect()
}

fn record(run: u32) -> AnalysisRecord {
    AnalysisRecord {
        name: "default".into(),
        d_sae: D_SAE,
        n_analyzed_tokens: 2000 + u64::from(run),
        n_tokens: 2048,
        n_contexts: 7,
        created_at: 1_700_000_000,
        settings: json!({"total_analyzing_tokens": 2000}),
    }
}

fn write(store: &dyn Store, run: u32, commit: bool) {
    let mut w = store.begin_analysis(&key(), "default").unwrap();
    w.contexts(&contexts(run)).unwrap();
    let all: Vec<FeatureAnalysis> = (0..D_SAE).map(|i| feature(i, run)).collect();
    for part in all.chunks(16) {
        w.features(part).unwrap();
    }
    if commit {
        w.commit(&record(run)).unwrap();
    }
}

fn prepared(place: &Place) -> Box<dyn Store> {
    let store = place.open();
    store.put_dictionary(&dictionary("gpt2-l6", "default")).unwrap();
    write(&*store, 1, true);
    store
}

fn at(feature: u32) -> FeatureRef {
    FeatureRef { dictionary: key(), feature }
}

pub fn a_dictionary_is_registered_replaced_renamed_and_removed(place: &Place) {
    let store = place.open();
    for (name, series) in [("b", "default"), ("a", "default"), ("a", "other")] {
        store.put_dictionary(&dictionary(name, series)).unwrap();
    }
    let names = |series| -> Vec<String> {
        store.dictionaries(series).unwrap().into_iter().map(|d| d.key.name).collect()
    };
    assert_eq!(names(Some("default")), ["a", "b"]);
    assert_eq!(names(None).len(), 3);
    let moved = DictionaryRecord { path: "elsewhere".into(), model_name: None, ..dictionary("a", "default") };
    store.put_dictionary(&moved).unwrap();
    assert_eq!(store.dictionary(&moved.key).unwrap(), Some(moved.clone()));

    let e = store.rename_dictionary(&moved.key, "b").unwrap_err().to_string();
    assert!(e.contains("\"b\""), "{e}");
    store.rename_dictionary(&moved.key, "a").unwrap();
    let e = store.rename_dictionary(&moved.key, " ").unwrap_err().to_string();
    assert!(e.contains("needs a name"), "{e}");
    assert!(store.put_dictionary(&dictionary("", "default")).is_err());
    assert_eq!(names(Some("default")), ["a", "b"], "what was refused changed nothing");
    store.rename_dictionary(&moved.key, "c").unwrap();
    assert_eq!(names(Some("default")), ["b", "c"]);
    store.remove_dictionary(&DictionaryKey::new("c", "default")).unwrap();
    assert_eq!(names(Some("default")), ["b"]);
    assert_eq!(names(Some("other")), ["a"]);
}

pub fn an_analysis_is_read_back_as_it_was_written(place: &Place) {
    let store = prepared(place);
    // A second opening sees it too.
    let store = if place.address.contains("://") { store } else { place.open() };
    assert_eq!(store.analyses(&key()).unwrap(), [record(1)]);
    for i in [0, 1, 2, D_SAE - 1] {
        let page = store.feature(&key(), "default", i).unwrap().unwrap();
        assert_eq!(page.analysis, feature(i, 1), "feature {i}");
        assert!(
            (page.interpretation.is_none(), page.bookmark.is_none()) == (true, true)
                && page.metrics.is_empty()
        );
        let wanted: Vec<Context> = if i == 2 {
            Vec::new()
        } else {
            contexts(1).into_iter().filter(|c| [i % 5, 5, 6].contains(&c.id)).collect()
        };
        assert_eq!(page.contexts, wanted, "feature {i}");
    }
    let overview = store.overview(&key(), "default").unwrap().unwrap();
    assert_eq!(overview.act_times, (0..D_SAE).map(|i| feature(i, 1).act_times as u32).collect::<Vec<_>>());
    assert_eq!(overview.max_acts, (0..D_SAE).map(|i| feature(i, 1).max_act).collect::<Vec<_>>());
}

pub fn features_are_sorted_filtered_and_paged(place: &Place) {
    let store = prepared(place);
    let explanation = Interpretation { text: "houses".into(), ..Interpretation::default() };
    store.set_interpretation(&at(4), Some(&explanation)).unwrap();
    store.set_bookmark(&at(7), Some(&Bookmark::default())).unwrap();
    let ask = |q: &FeatureQuery| {
        let page = store.features(&key(), "default", q).unwrap();
        (page.features.iter().map(|f| f.index).collect::<Vec<_>>(), page.total)
    };
    let q = FeatureQuery { limit: 5, ..FeatureQuery::default() };
    assert_eq!(ask(&q), (vec![0, 1, 2, 3, 4], 40));
    assert_eq!(ask(&FeatureQuery { offset: 38, ..q.clone() }), (vec![38, 39], 40));
    assert_eq!(ask(&FeatureQuery { offset: 1000, ..q.clone() }), (vec![], 40));
    let strongest = FeatureQuery { sort: SortBy::MaxAct, descending: true, ..q.clone() };
    assert_eq!(ask(&strongest), (vec![39, 37, 36, 34, 33], 40));
    let alive = FeatureFilter { alive: true, ..FeatureFilter::default() };
    let rarest = FeatureQuery { sort: SortBy::ActTimes, filter: alive.clone(), ..q.clone() };
    assert_eq!(ask(&rarest), (vec![39, 37, 36, 34, 33], 27));
    // Equal keys: by index, in both directions.
    let silent = FeatureFilter { max_act_times: Some(0), ..FeatureFilter::default() };
    let silent = FeatureQuery { sort: SortBy::MaxAct, descending: true, filter: silent, ..q.clone() };
    assert_eq!(ask(&silent), (vec![2, 5, 8, 11, 14], 13));
    let between = FeatureFilter {
        min_act_times: Some(900),
        max_act_times: Some(990),
        min_max_act: Some(2.0),
        max_max_act: Some(8.0),
        ..FeatureFilter::default()
    };
    assert_eq!(ask(&FeatureQuery { filter: between, ..q.clone() }), (vec![1, 3, 4, 6, 7], 5));
    let explained = FeatureFilter { explained: Some(true), ..FeatureFilter::default() };
    assert_eq!(ask(&FeatureQuery { filter: explained, ..q.clone() }), (vec![4], 1));
    let unexplained =
        FeatureFilter { explained: Some(false), bookmarked: Some(true), ..FeatureFilter::default() };
    assert_eq!(ask(&FeatureQuery { filter: unexplained, ..q.clone() }), (vec![7], 1));

    let page = store.features(&key(), "default", &FeatureQuery { offset: 4, limit: 1, ..q }).unwrap();
    let want = FeatureSummary {
        index: 4,
        act_times: 960,
        max_act: 5.0,
        explanation: Some("houses".into()),
        bookmarked: false,
        preview: feature(4, 1).preview,
    };
    assert_eq!(page.features, [want]);
}

pub fn a_random_feature_passes_the_filter(place: &Place) {
    let store = prepared(place);
    let filter = FeatureFilter { alive: true, ..FeatureFilter::default() };
    let draw = |d: f64| store.random_feature(&key(), "default", &filter, d).unwrap().unwrap();
    assert_eq!((draw(0.0), draw(0.999_999)), (0, 39));
    let all: std::collections::BTreeSet<u32> = (0..27).map(|i| draw((f64::from(i) + 0.5) / 27.0)).collect();
    assert_eq!(all, (0..D_SAE).filter(|i| i % 3 != 2).collect());
    let none = FeatureFilter { min_max_act: Some(1e9), ..FeatureFilter::default() };
    assert_eq!(store.random_feature(&key(), "default", &none, 0.5).unwrap(), None);
}

pub fn a_new_analysis_replaces_the_old_one_and_keeps_what_people_added(place: &Place) {
    let store = prepared(place);
    let explanation = Interpretation {
        text: "fires on houses".into(),
        explainer: "manual".into(),
        scores: [("detection".to_string(), 0.75)].into(),
        detail: json!({"steps": ["a"]}),
    };
    store.set_interpretation(&at(3), Some(&explanation)).unwrap();
    store.set_metric(&at(3), "specificity", 0.5).unwrap();
    store.set_metric(&at(3), "specificity", 0.25).unwrap();
    write(&*store, 2, true);
    assert_eq!(store.analyses(&key()).unwrap(), [record(2)]);
    let page = store.feature(&key(), "default", 3).unwrap().unwrap();
    assert_eq!(page.analysis, feature(3, 2));
    assert_eq!(page.contexts[0].ids[2], 2, "the contexts are those of the new analysis");
    assert_eq!(page.interpretation, Some(explanation.clone()));
    assert_eq!(page.metrics, [("specificity".to_string(), 0.25)].into());
    assert_eq!(store.interpretations(&key()).unwrap(), [(3, explanation)].into());
    assert_eq!(store.features(&key(), "default", &FeatureQuery::default()).unwrap().total, 40);

    store.set_interpretation(&at(3), None).unwrap();
    assert!(store.interpretations(&key()).unwrap().is_empty());
    store.remove_analysis(&key(), "default").unwrap();
    assert!(store.analyses(&key()).unwrap().is_empty());
    assert_eq!(store.feature(&key(), "default", 3).unwrap(), None);
}

pub fn an_analysis_that_is_not_committed_is_never_seen(place: &Place) {
    let store = prepared(place);
    write(&*store, 2, false);
    assert_eq!(store.analyses(&key()).unwrap(), [record(1)]);
    assert_eq!(store.feature(&key(), "default", 1).unwrap().unwrap().analysis, feature(1, 1));

    let mut w = store.begin_analysis(&key(), "default").unwrap();
    let e = w.features(&[feature(0, 2)]).unwrap_err().to_string();
    assert!(e.contains("feature 0") && e.contains("context 0"), "{e}");
}

/// The child of the test below: writes without ever committing, until it is killed.
pub fn write_until_killed() {
    let Ok(address) = std::env::var("LM_SAES_STORE_CHILD") else { return };
    let store = open(&address).unwrap();
    let mut w = store.begin_analysis(&key(), "default").unwrap();
    w.contexts(&contexts(2)).unwrap();
    w.features(&[feature(0, 2), feature(1, 2)]).unwrap();
    println!("\nwriting");
    thread::sleep(Duration::from_secs(600));
}

pub fn a_killed_writer_leaves_the_previous_analysis(place: &Place) {
    use std::io::{BufRead, BufReader};
    drop(prepared(place));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_writer_of_the_suite", "--nocapture"])
        .env("LM_SAES_STORE_CHILD", &place.address)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|l| l.unwrap().ends_with("writing")), "the child did not get to writing");
    child.kill().unwrap();
    child.wait().unwrap();

    let store = place.open();
    assert_eq!(store.analyses(&key()).unwrap(), [record(1)]);
    assert_eq!(store.feature(&key(), "default", 1).unwrap().unwrap().analysis, feature(1, 1));
    write(&*store, 3, true);
    assert_eq!(store.analyses(&key()).unwrap(), [record(3)]);
    assert_eq!(store.feature(&key(), "default", 1).unwrap().unwrap().analysis, feature(1, 3));
}

pub fn readers_see_one_analysis_or_the_other_while_it_is_replaced(place: &Place) {
    let store = prepared(place);
    let done = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !done.load(Ordering::Relaxed) || reads == 0 {
                        let page = store.feature(&key(), "default", 4).unwrap().expect("there is always one");
                        let run = page.contexts[0].ids[2];
                        assert_eq!(page.analysis, feature(4, run), "a page of two analyses");
                        assert_eq!(
                            store.features(&key(), "default", &FeatureQuery::default()).unwrap().total,
                            40
                        );
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let until = Instant::now() + Duration::from_secs(30);
        for run in 2..8 {
            if Instant::now() < until {
                write(&*store, run, true);
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|r| r.join().unwrap()).sum::<u32>()
    });
    assert!(reads >= 3);
}

pub fn text_is_found_in_explanations_and_tokens(place: &Place) {
    let store = prepared(place);
    let explain = |f: u32, text: &str| {
        let i = Interpretation { text: text.into(), ..Interpretation::default() };
        store.set_interpretation(&at(f), Some(&i)).unwrap();
    };
    explain(3, "words about large houses");
    explain(4, "numbers (1-9) and \"quotes\" OR operators");
    let find = |text: &str| -> Vec<u32> {
        let hits = store.search(Some(&key()), "default", text, 5).unwrap();
        hits.into_iter().map(|h| h.feature.feature).collect()
    };
    assert_eq!(find("large hou"), [3]);
    assert_eq!(find("LARGE"), [3]);
    assert_eq!(find("hous")[0], 3, "explanations come first");
    assert_eq!(find("hous").len(), 5, "tokens follow, up to the limit");
    assert_eq!(find("word7"), [7]);
    assert_eq!(find("\"quotes\" OR ("), [4], "operators of the search language are text");
    assert_eq!(find("zebra"), [0u32; 0]);
    assert_eq!(find("  "), [0u32; 0]);
    let hits = store.search(None, "default", "word7", 5).unwrap();
    assert_eq!(
        (hits[0].explanation.clone(), hits[0].tokens.as_deref().map(|t| t.contains("word7"))),
        (None, Some(true))
    );
    store.set_interpretation(&at(3), None).unwrap();
    assert_eq!(find("large"), [0u32; 0]);
    // Tokens of an analysis that was replaced are not found twice.
    write(&*store, 2, true);
    assert_eq!(find("word7"), [7]);
}

pub fn bookmarks_and_lists_are_kept(place: &Place) {
    let store = prepared(place);
    let mark = |t: u64| Bookmark {
        tags: vec!["syntax".into(), "<script>".into()],
        notes: Some("see also 12".into()),
        created_at: t,
    };
    for (f, t) in [(3, 30), (1, 10), (9, 20)] {
        store.set_bookmark(&at(f), Some(&mark(t))).unwrap();
    }
    let (all, total) = store.bookmarks(None, 0, 2).unwrap();
    assert_eq!(total, 3);
    assert_eq!(all, [(at(3), mark(30)), (at(9), mark(20))], "newest first");
    assert_eq!(store.bookmarks(Some(&key()), 2, 5).unwrap().0, [(at(1), mark(10))]);
    assert_eq!(store.feature(&key(), "default", 9).unwrap().unwrap().bookmark, Some(mark(20)));
    store.set_bookmark(&at(9), None).unwrap();
    assert_eq!(store.bookmarks(None, 0, 9).unwrap().1, 2);

    let list = FeatureList { name: "houses".into(), notes: "n".into(), features: vec![at(9), at(1)] };
    store.put_list(&list).unwrap();
    let shorter = FeatureList { features: vec![at(2)], ..list.clone() };
    assert_eq!(store.lists().unwrap(), [list]);
    store.put_list(&shorter).unwrap();
    assert_eq!(store.lists().unwrap(), std::slice::from_ref(&shorter));

    store.rename_dictionary(&key(), "renamed").unwrap();
    assert_eq!(store.lists().unwrap()[0].features[0].dictionary.name, "renamed");
    assert_eq!(store.bookmarks(None, 0, 9).unwrap().0[0].0.dictionary.name, "renamed");
    assert_eq!(store.analyses(&DictionaryKey::new("renamed", "default")).unwrap(), [record(1)]);
    store.remove_dictionary(&DictionaryKey::new("renamed", "default")).unwrap();
    assert_eq!(store.bookmarks(None, 0, 9).unwrap().1, 0);
    store.remove_list("houses").unwrap();
    assert!(store.lists().unwrap().is_empty());
}

pub fn a_renamed_dictionary_takes_everything_along_and_a_removed_one_leaves_nothing(place: &Place) {
    let store = prepared(place);
    let explanation = Interpretation { text: "fires on houses".into(), ..Interpretation::default() };
    store.set_interpretation(&at(3), Some(&explanation)).unwrap();
    let new = DictionaryKey::new("renamed", "default");
    store.rename_dictionary(&key(), "renamed").unwrap();
    assert_eq!(store.dictionary(&key()).unwrap(), None);
    assert!(store.analyses(&key()).unwrap().is_empty());
    let page = store.feature(&new, "default", 3).unwrap().unwrap();
    assert_eq!((page.analysis, page.interpretation), (feature(3, 1), Some(explanation)));
    for text in ["houses", "word7"] {
        for hit in store.search(None, "default", text, 50).unwrap() {
            assert_eq!(hit.feature.dictionary, new, "{text} is found under the new name");
        }
    }
    // A further analysis under the new name replaces the one that came along.
    let mut w = store.begin_analysis(&new, "default").unwrap();
    w.contexts(&contexts(5)).unwrap();
    w.features(&[feature(0, 5)]).unwrap();
    w.commit(&record(5)).unwrap();
    assert_eq!(store.analyses(&new).unwrap(), [record(5)]);
    assert_eq!(store.feature(&new, "default", 0).unwrap().unwrap().analysis, feature(0, 5));

    store.remove_dictionary(&new).unwrap();
    assert!(store.search(None, "default", "houses", 50).unwrap().is_empty());
    store.put_dictionary(&dictionary("renamed", "default")).unwrap();
    assert!(store.analyses(&new).unwrap().is_empty(), "nothing is inherited from a removed one");
    assert!(store.interpretations(&new).unwrap().is_empty());
    assert_eq!(store.bookmarks(Some(&new), 0, 9).unwrap().1, 0);
}

pub fn output_tokens_are_put_to_a_finished_analysis(place: &Place) {
    let store = prepared(place);
    let side = |token: &str, logit: f32| vec![TokenLogit { token: token.into(), logit }];
    let given = |i: u32| Logits {
        top_positive: side(&format!(" canal{i}"), 3.0 + i as f32),
        top_negative: side(" desert", -1.5),
    };
    let all: Vec<(u32, Logits)> = [0, 1, 2].map(|i| (i, given(i))).into();
    store.set_logits(&key(), "default", &all).unwrap();
    for i in 0..5 {
        let mut want = feature(i, 1);
        if i < 3 {
            want.logits = Some(given(i));
        }
        assert_eq!(store.feature(&key(), "default", i).unwrap().unwrap().analysis, want, "feature {i}");
    }
    let found = |text: &str| -> Vec<u32> {
        let hits = store.search(Some(&key()), "default", text, 50).unwrap();
        hits.into_iter().map(|h| h.feature.feature).collect()
    };
    assert_eq!(found("canal1"), [1], "search knows the new tokens");
    assert!(!found("roof").contains(&1) && found("roof").contains(&3), "and has forgotten the old ones");
    let named = |e: lm_saes::Error, name: &str| assert!(e.to_string().contains(name), "{e}");
    named(store.set_logits(&key(), "other", &all).unwrap_err(), "other");
    named(store.set_logits(&DictionaryKey::new("no", "one"), "default", &all).unwrap_err(), "no (one)");
}

pub fn what_does_not_exist_is_none_or_an_error_that_names_it(place: &Place) {
    let store = place.open();
    assert_eq!(store.dictionary(&key()).unwrap(), None);
    assert_eq!(store.overview(&key(), "default").unwrap(), None);
    assert_eq!(store.feature(&key(), "default", 0).unwrap(), None);
    assert!(store.analyses(&key()).unwrap().is_empty());
    let named = |e: lm_saes::Error, name: &str| assert!(e.to_string().contains(name), "{e}");
    named(store.begin_analysis(&key(), "default").err().unwrap(), "gpt2-l6");
    named(store.set_bookmark(&at(1), Some(&Bookmark::default())).unwrap_err(), "gpt2-l6");
    named(store.remove_dictionary(&key()).unwrap_err(), "gpt2-l6");
    named(store.rename_dictionary(&key(), "x").unwrap_err(), "gpt2-l6");
    named(store.remove_list("mine").unwrap_err(), "mine");
    store.put_dictionary(&dictionary("gpt2-l6", "default")).unwrap();
    named(store.remove_analysis(&key(), "other").unwrap_err(), "other");
}
