//! A store with a wide dictionary, made up: what pages and queries are timed on.

use lm_saes::store::{
    AnalysisRecord, Context, DictionaryKey, DictionaryRecord, FeatureAnalysis, Histogram, Sample, Sampling,
    Store,
};
use serde_json::json;

/// Tokens of a context.
pub const CONTEXT: usize = 128;
/// Contexts of a feature.
pub const SAMPLES: u32 = 20;

/// Fills `store` with an analysis `default` of `d_sae` features, each with [`SAMPLES`] of `n_contexts` contexts.
pub fn fill(store: &dyn Store, key: &DictionaryKey, d_sae: u32, n_contexts: u32) {
    let cfg = json!({"sae_type": "sae"});
    store
        .put_dictionary(&DictionaryRecord {
            key: key.clone(),
            path: "x".into(),
            cfg,
            d_sae,
            model_name: None,
        })
        .unwrap();
    let mut w = store.begin_analysis(key, "default").unwrap();
    let all: Vec<u32> = (0..n_contexts).collect();
    for part in all.chunks(1000) {
        w.contexts(&part.iter().map(|&id| context(id)).collect::<Vec<_>>()).unwrap();
    }
    let all: Vec<u32> = (0..d_sae).collect();
    for part in all.chunks(1024) {
        w.features(&part.iter().map(|&i| feature(i, n_contexts)).collect::<Vec<_>>()).unwrap();
    }
    let record = AnalysisRecord {
        name: "default".into(),
        d_sae,
        n_analyzed_tokens: 3_000_000,
        n_tokens: 3_000_000,
        n_contexts: n_contexts.into(),
        created_at: 0,
        settings: json!({}),
    };
    w.commit(&record).unwrap();
}

fn context(id: u32) -> Context {
    Context {
        id,
        origin: String::new(),
        ids: (0..CONTEXT as u32).map(|i| i * 97 + id).collect(),
        texts: (0..CONTEXT).map(|i| format!(" word{}", i * 7 % 50)).collect(),
    }
}

fn feature(index: u32, n_contexts: u32) -> FeatureAnalysis {
    let sample = |i: u32| Sample {
        context: (index * 31 + i * 7919) % n_contexts,
        acts: (0..4).map(|j| (j * 30 + i % 5, 1.0 + j as f32)).collect(),
        z_pattern: Vec::new(),
    };
    FeatureAnalysis {
        index,
        act_times: u64::from(index % 1000),
        max_act: 4.0,
        histogram: Histogram { width: 0.125, counts: vec![5; 40] },
        samplings: vec![Sampling {
            name: "top_activations".into(),
            samples: (0..SAMPLES).map(sample).collect(),
        }],
        peak_tokens: vec![format!(" peak{}", index % 500)],
        ..FeatureAnalysis::default()
    }
}
