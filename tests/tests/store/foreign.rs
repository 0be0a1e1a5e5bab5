//! A database that the reference system wrote (`tests/mongo/fill.py`, run with `LM_SAES_MONGO_PYTHON`, which needs pymongo and
//! numpy) is opened, shown and changed; and what it keeps for itself stays.

use crate::Place;
use lm_saes::store::*;
use std::{path::Path, process::Command, sync::OnceLock};

fn key(name: &str) -> DictionaryKey {
    DictionaryKey::new(name, "pythia")
}

/// A database filled by the script; `None`, said loudly, where it cannot run.
fn filled() -> Option<Place> {
    let Some(place) = crate::mongo() else {
        eprintln!("SKIPPED: LM_SAES_MONGO_URI names no server");
        return None;
    };
    let Some(python) = std::env::var("LM_SAES_MONGO_PYTHON").ok().filter(|p| !p.is_empty()) else {
        eprintln!("SKIPPED: LM_SAES_MONGO_PYTHON names no Python with pymongo and numpy");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mongo/fill.py");
    let out = Command::new(python).arg(script).arg(&place.address).output().expect("Python starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(place)
}

/// The same one for all tests that only read.
fn shared() -> Option<&'static Place> {
    static PLACE: OnceLock<Option<Place>> = OnceLock::new();
    PLACE.get_or_init(filled).as_ref()
}

fn acts(sampling: &Sampling) -> Vec<Vec<(u32, f32)>> {
    sampling.samples.iter().map(|s| s.acts.clone()).collect()
}

#[test]
fn dictionaries_features_spans_explanations_and_bookmarks_are_shown() {
    let Some(place) = shared() else { return };
    let store = place.open();
    let names: Vec<String> = store.dictionaries(None).unwrap().into_iter().map(|d| d.key.name).collect();
    assert_eq!(names, ["clt-l2", "cross", "lorsa-l6", "resid-l6"]);
    let d = store.dictionary(&key("resid-l6")).unwrap().unwrap();
    assert_eq!(
        (d.d_sae, d.path.as_str(), d.model_name.as_deref()),
        (6, "/results/resid-l6", Some("pythia-160m"))
    );
    assert_eq!(d.cfg["hook_point_in"], "blocks.6.hook_resid_post");
    let analyses = store.analyses(&key("resid-l6")).unwrap();
    assert_eq!(analyses.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["default", "later"]);
    assert_eq!((analyses[0].n_analyzed_tokens, analyses[0].d_sae), (5_000_000_000, 6));

    let f = store.feature(&key("resid-l6"), "default", 1).unwrap().unwrap();
    assert_eq!((f.analysis.act_times, f.analysis.max_act), (101, 2.5));
    let top = &f.analysis.samplings[0];
    assert_eq!(
        (top.name.as_str(), acts(top)),
        ("top_activations", vec![vec![(2, 2.5), (7, 0.25)], vec![(0, 2.0)]])
    );
    let origin = |s: &Sample| f.context(s.context).unwrap().origin.clone();
    assert_eq!(top.samples.iter().map(origin).collect::<Vec<_>>(), ["openwebtext:0:42", "openwebtext:0:7"]);
    let silent = &f.analysis.samplings[1];
    assert_eq!((silent.name.as_str(), acts(silent)), ("non_activating", vec![vec![], vec![]]));
    assert_eq!(silent.samples.iter().map(origin).collect::<Vec<_>>(), ["openwebtext:0:3", "openwebtext:0:9"]);
    assert_eq!(f.interpretation.unwrap().text, "This feature activates on names of cheese");
    let logits = f.analysis.logits.unwrap();
    let token = |t: &TokenLogit| (t.token.clone(), t.logit);
    assert_eq!(
        logits.top_positive.iter().map(token).collect::<Vec<_>>(),
        [(" Käse".into(), 3.5), ("\n".into(), 2.0)]
    );
    assert_eq!(logits.top_negative.iter().map(token).collect::<Vec<_>>(), [(" not".into(), -4.25)]);
    let mark = f.bookmark.unwrap();
    assert_eq!(
        (mark.tags, mark.notes.as_deref()),
        (vec!["food".to_string(), "todo".into()], Some("look again"))
    );
    assert_eq!(mark.created_at, 1_795_435_200);

    let none = store.feature(&key("resid-l6"), "default", 2).unwrap().unwrap();
    assert_eq!((none.interpretation, none.analysis.logits), (None, None));
    let dead = store.feature(&key("resid-l6"), "default", 3).unwrap().unwrap().analysis;
    assert!(dead.act_times == 0 && dead.samplings.iter().all(|s| s.samples.is_empty()));
    let metrics = store.feature(&key("resid-l6"), "later", 4).unwrap().unwrap().metrics;
    assert_eq!(metrics.into_iter().collect::<Vec<_>>(), [("overall".to_string(), 0.5)]);
    assert_eq!(store.feature(&key("resid-l6"), "default", 6).unwrap(), None);
}

#[test]
fn what_only_some_kinds_have_is_shown_too() {
    let Some(place) = shared() else { return };
    let store = place.open();
    let of = |name: &str| store.feature(&key(name), "default", 1).unwrap().unwrap().analysis;
    let lorsa = of("lorsa-l6");
    let z: Vec<_> = lorsa.samplings[0].samples.iter().map(|s| s.z_pattern.clone()).collect();
    assert_eq!(z, [vec![(2, 1, 0.5), (2, 2, 1.0)], vec![(0, 0, 2.0)]]);
    let cross = of("cross");
    assert_eq!(cross.decoder_norms, [1.0, 2.0]);
    assert_eq!(cross.decoder_similarities, [1.0, 0.25, 0.25, 1.0]);
    assert_eq!(cross.decoder_inner_products, [1.0, 0.5, 0.5, 4.0]);
    assert_eq!(of("clt-l2").decoder_norms, [0.5, 0.75, 1.0]);
}

#[test]
fn lists_searches_and_overviews_work_on_it() {
    let Some(place) = shared() else { return };
    let store = place.open();
    let overview = store.overview(&key("resid-l6"), "default").unwrap().unwrap();
    assert_eq!(overview.act_times, [100, 101, 102, 0, 104, 105]);
    assert_eq!((overview.max_acts[5], overview.alive()), (6.5, 5));
    let query = FeatureQuery {
        filter: FeatureFilter { alive: true, ..FeatureFilter::default() },
        sort: SortBy::MaxAct,
        descending: true,
        limit: 2,
        ..FeatureQuery::default()
    };
    let page = store.features(&key("resid-l6"), "default", &query).unwrap();
    assert_eq!((page.total, page.features.iter().map(|f| f.index).collect::<Vec<_>>()), (5, vec![5, 4]));
    let query = FeatureQuery {
        filter: FeatureFilter { explained: Some(true), ..FeatureFilter::default() },
        limit: 9,
        ..FeatureQuery::default()
    };
    let explained = store.features(&key("resid-l6"), "default", &query).unwrap().features;
    assert_eq!(explained.len(), 1);
    assert_eq!(explained[0].explanation.as_deref(), Some("This feature activates on names of cheese"));
    let hits = store.search(None, "default", "cheese nam", 9).unwrap();
    assert_eq!(hits.iter().map(|h| h.feature.feature).collect::<Vec<_>>(), [1]);
    let (marks, total) = store.bookmarks(None, 0, 9).unwrap();
    assert_eq!((total, marks.iter().map(|m| m.0.feature).collect::<Vec<_>>()), (2, vec![5, 1]));
    for _ in 0..5 {
        let any = store.random_feature(
            &key("resid-l6"),
            "default",
            &FeatureFilter { alive: true, ..FeatureFilter::default() },
            0.99,
        );
        assert_eq!(any.unwrap(), Some(5));
    }
}

/// Explanations and analyses of this program go beside what was there.
#[test]
fn it_can_be_written_to_and_keeps_what_was_there() {
    let Some(place) = filled() else { return };
    let store = place.open();
    let at = |feature| FeatureRef { dictionary: key("resid-l6"), feature };
    let better =
        Interpretation { text: "cheese".into(), explainer: "manual".into(), ..Interpretation::default() };
    store.set_interpretation(&at(1), Some(&better)).unwrap();
    assert_eq!(store.interpretations(&key("resid-l6")).unwrap()[&1], better);
    let mut writer = store.begin_analysis(&key("resid-l6"), "ours").unwrap();
    let context = Context { id: 0, ids: vec![5], texts: vec!["a".into()], ..Context::default() };
    writer.contexts(std::slice::from_ref(&context)).unwrap();
    let sample = Sample { context: 0, acts: vec![(0, 3.0)], ..Sample::default() };
    let all: Vec<FeatureAnalysis> = (0..6)
        .map(|index| FeatureAnalysis {
            index,
            act_times: 1,
            max_act: 3.0,
            samplings: vec![Sampling { name: "top_activations".into(), samples: vec![sample.clone()] }],
            ..FeatureAnalysis::default()
        })
        .collect();
    writer.features(&all).unwrap();
    let record = AnalysisRecord {
        name: "ours".into(),
        d_sae: 6,
        n_analyzed_tokens: 10,
        n_tokens: 10,
        n_contexts: 1,
        created_at: 1,
        settings: serde_json::Value::Null,
    };
    writer.commit(&record).unwrap();
    let names: Vec<String> = store.analyses(&key("resid-l6")).unwrap().into_iter().map(|a| a.name).collect();
    assert_eq!(names, ["default", "later", "ours"]);
    let ours = store.feature(&key("resid-l6"), "ours", 1).unwrap().unwrap();
    assert_eq!((&ours.analysis, &ours.contexts), (&all[1], &vec![context]));
    let theirs = store.feature(&key("resid-l6"), "default", 1).unwrap().unwrap().analysis;
    assert_eq!((theirs.max_act, acts(&theirs.samplings[0]).len()), (2.5, 2));
}
