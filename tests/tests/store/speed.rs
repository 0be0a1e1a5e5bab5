//! The embedded store with a wide dictionary: a feature page and the overview stay far below what a person notices.

use crate::{sqlite, suite::key};
use lm_saes::store::*;
use lm_saes_tests::wide::{CONTEXT, SAMPLES, fill};
use std::time::{Duration, Instant};

/// The best of a few, so that other work on the machine does not decide.
fn best(mut run: impl FnMut(u32)) -> Duration {
    (0..20)
        .map(|i| {
            let t = Instant::now();
            run(i);
            t.elapsed()
        })
        .min()
        .unwrap_or_default()
}

#[test]
fn a_page_of_a_65k_dictionary_takes_far_less_than_100_ms() {
    let place = sqlite();
    let d_sae = 65_536;
    let store = place.open();
    let started = Instant::now();
    fill(&*store, &key(), d_sae, 20_000);
    let written = started.elapsed();
    let size = std::fs::metadata(&place.address).unwrap().len();
    let page = best(|i| {
        let page = store.feature(&key(), "default", i * 3000 + 7).unwrap().unwrap();
        assert_eq!(page.contexts.len(), SAMPLES as usize);
    });
    let overview =
        best(|_| assert_eq!(store.overview(&key(), "default").unwrap().unwrap().act_times.len(), 65_536));
    let query = FeatureQuery {
        sort: SortBy::ActTimes,
        descending: true,
        offset: 30_000,
        limit: 25,
        ..Default::default()
    };
    let list = best(|_| assert_eq!(store.features(&key(), "default", &query).unwrap().features.len(), 25));
    let alive = FeatureFilter { alive: true, ..FeatureFilter::default() };
    let random = best(|i| {
        assert!(store.random_feature(&key(), "default", &alive, f64::from(i) / 20.0).unwrap().is_some())
    });
    let search = best(|i| {
        assert!(!store.search(Some(&key()), "default", &format!("peak{i}"), 50).unwrap().is_empty())
    });
    println!(
        "65 536 features x {SAMPLES} contexts of {CONTEXT} tokens: written in {written:?}, {} MiB; feature page {page:?}, \
         overview {overview:?}, page of the sorted list {list:?}, random feature {random:?}, search {search:?}",
        size >> 20
    );
    for (what, took) in
        [("feature page", page), ("overview", overview), ("sorted list", list), ("random", random)]
    {
        assert!(took < Duration::from_millis(100), "{what}: {took:?}");
    }
}
