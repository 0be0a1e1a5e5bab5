//! What a store holds, as files for other programs: JSON lines, safetensors, rows for Neuronpedia. All read one analysis
//! feature by feature, so memory does not grow with the dictionary (safetensors aside, whose tensors are built whole).
//!
//! ```text
//! Selection::open -> features chosen of one analysis -> json | tensors | neuronpedia
//! ```

mod json;
mod neuronpedia;
mod tensors;

pub use json::json;
pub use neuronpedia::{NeuronpediaSettings, neuronpedia};
pub use tensors::{decoder_rows, tensors};

use crate::{
    Error, Result,
    store::{AnalysisRecord, DictionaryKey, DictionaryRecord, Feature, FeatureFilter, FeatureQuery, Store},
};
use std::ops::RangeInclusive;

/// Which features leave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Only these; all when empty.
    pub ranges: Vec<RangeInclusive<u32>>,
    /// Only those that fired.
    pub alive: bool,
}

impl Which {
    /// Reads `3`, `0-99` or `0-99,512,600-`.
    ///
    /// # Errors
    /// Text that is no list of numbers and ranges.
    pub fn parse(text: &str) -> Result<Vec<RangeInclusive<u32>>> {
        let bad = || Error::Data {
            what: format!("{text:?} is no list of features; write for example 0-99,512 (ends included)"),
        };
        let number = |s: &str| s.trim().parse::<u32>().map_err(|_| bad());
        text.split(',')
            .map(|part| match part.trim().split_once('-') {
                Some((from, "")) => Ok(number(from)?..=u32::MAX),
                Some((from, to)) => Ok(number(from)?..=number(to)?),
                None => number(part).map(|n| n..=n),
            })
            .map(|range| range.and_then(|r| if r.is_empty() { Err(bad()) } else { Ok(r) }))
            .collect()
    }

    fn has(&self, feature: u32) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|r| r.contains(&feature))
    }
}

/// Chosen features of one analysis.
pub struct Selection<'a> {
    /// Where they are.
    pub store: &'a dyn Store,
    /// Their dictionary.
    pub dictionary: DictionaryRecord,
    /// Their analysis.
    pub analysis: AnalysisRecord,
    /// Their numbers, ascending.
    pub features: Vec<u32>,
}

impl<'a> Selection<'a> {
    /// Finds dictionary, analysis and features.
    ///
    /// # Errors
    /// A dictionary or analysis that is not there, or no feature that passes.
    pub fn open(store: &'a dyn Store, key: &DictionaryKey, analysis: &str, which: &Which) -> Result<Self> {
        let no = |what: String| Error::Data { what };
        let dictionary =
            store.dictionary(key)?.ok_or_else(|| no(format!("no dictionary {key} in this store")))?;
        let all = store.analyses(key)?;
        let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
        let names = names.join(", ");
        let record = all.into_iter().find(|a| a.name == analysis);
        let record = record
            .ok_or_else(|| no(format!("dictionary {key} has no analysis {analysis:?}; it has: {names}")))?;
        let filter = FeatureFilter { alive: which.alive, ..FeatureFilter::default() };
        let mut features = Vec::new();
        // By pages: lists also carry previews.
        loop {
            let query = FeatureQuery {
                filter: filter.clone(),
                offset: features.len() as u64,
                limit: 4096,
                ..FeatureQuery::default()
            };
            let page = store.features(key, analysis, &query)?.features;
            if page.is_empty() {
                break;
            }
            features.extend(page.iter().map(|f| f.index));
        }
        features.retain(|&f| which.has(f));
        if features.is_empty() {
            return Err(no(format!("none of the chosen features of {key} is in analysis {analysis:?}")));
        }
        Ok(Self { store, dictionary, analysis: record, features })
    }

    /// Gives each feature, and how many were given before it.
    ///
    /// # Errors
    /// What the store or `take` refuses; an analysis replaced meanwhile.
    pub fn each(&self, mut take: impl FnMut(usize, Feature) -> Result<()>) -> Result<()> {
        let key = &self.dictionary.key;
        for (n, &index) in self.features.iter().enumerate() {
            let feature =
                self.store.feature(key, &self.analysis.name, index)?.ok_or_else(|| Error::Data {
                    what: format!("feature {index} of {key} is gone; was the analysis removed meanwhile?"),
                })?;
            take(n, feature)?;
        }
        let now = self.store.analyses(key)?;
        if now.contains(&self.analysis) {
            return Ok(());
        }
        let what = format!(
            "analysis {:?} of {key} was replaced during the export; run it again",
            self.analysis.name
        );
        Err(Error::Data { what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_features_are_read() {
        let has = |text: &str, f: u32| Which { ranges: Which::parse(text).unwrap(), alive: false }.has(f);
        assert!(has("3", 3) && !has("3", 4));
        assert!(has("0-2, 9", 2) && has("0-2, 9", 9) && !has("0-2, 9", 3));
        assert!(has("5-", 1_000_000) && !has("5-", 4));
        for bad in ["", "a", "5-3", "1,,2", "-4"] {
            let e = Which::parse(bad).unwrap_err().to_string();
            assert!(e.contains("0-99,512"), "{bad}: {e}");
        }
    }
}
