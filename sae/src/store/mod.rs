//! Where results live: dictionaries, analyses, features with their contexts, explanations, bookmarks, lists.
//!
//! [`Store`] is the one trait; [`open`] finds the kind by its address:
//!
//! * a path: [`SqliteStore`], one file, no server. WAL: any number of readers beside one writer, in any number of processes.
//! * `mongodb://…`: the reference system's database (cargo feature `mongodb`).
//!
//! ```text
//! put_dictionary                      name, series, path, settings, model
//! begin_analysis -> AnalysisWriter    contexts, features, …, commit
//! dictionaries, analyses              what there is
//! overview                            density and maximum of every feature in one read
//! features, random_feature            lists: sorted, filtered, paged
//! feature                             one page: statistics, samples, the tokens of their contexts, explanation, bookmark
//! search                              full text over explanations and tokens
//! set_interpretation, set_metric, set_bookmark, put_list
//! set_logits                          output tokens of a finished analysis
//! rename_dictionary, remove_…         administration
//! ```
//!
//! An analysis becomes visible in one instant, at [`AnalysisWriter::commit`]: until then readers see the previous one under that
//! name, and a writer that is killed leaves it in place. Explanations, metrics, bookmarks and lists belong to the feature, not
//! to an analysis, and survive a new one. All methods take `&self` and may be called from any thread.

pub(crate) mod codec;
#[cfg(feature = "mongodb")]
mod mongo;
mod records;
mod sqlite;

#[cfg(feature = "mongodb")]
pub use mongo::MongoStore;
pub use records::*;
pub use sqlite::SqliteStore;

use crate::{Error, Result};
use std::{collections::BTreeMap, path::Path};

/// A database of dictionaries and what is known about their features. `series` of a key and `analysis` are names as given on
/// writing; asking for what is not there gives `None` or an empty list, changing it is an error that names it.
pub trait Store: Send + Sync {
    /// Registers a dictionary, or replaces what was registered under its name and series. Its analyses stay. A name is needed.
    fn put_dictionary(&self, dictionary: &DictionaryRecord) -> Result<()>;
    /// All dictionaries of a series, or of all, by name.
    fn dictionaries(&self, series: Option<&str>) -> Result<Vec<DictionaryRecord>>;
    /// One dictionary.
    fn dictionary(&self, key: &DictionaryKey) -> Result<Option<DictionaryRecord>>;
    /// Renames a dictionary within its series, everywhere; refused where another has that name. All of it or nothing, as far as the
    /// server has transactions; otherwise asking again finishes what was cut off.
    fn rename_dictionary(&self, key: &DictionaryKey, name: &str) -> Result<()>;
    /// Removes a dictionary with everything known about it, likewise.
    fn remove_dictionary(&self, key: &DictionaryKey) -> Result<()>;

    /// Starts an analysis of a registered dictionary. `analysis` is final except for what [`AnalysisWriter::commit`] changes.
    fn begin_analysis<'a>(&'a self, key: &DictionaryKey, name: &str) -> Result<Box<dyn AnalysisWriter + 'a>>;
    /// Finished analyses of a dictionary, by name.
    fn analyses(&self, key: &DictionaryKey) -> Result<Vec<AnalysisRecord>>;
    /// Removes one.
    fn remove_analysis(&self, key: &DictionaryKey, name: &str) -> Result<()>;

    /// Puts output tokens to features of a finished analysis, in place of those it has. Features of which the analysis says nothing
    /// are left out. The embedded store does all in one instant, MongoDB feature by feature.
    fn set_logits(&self, key: &DictionaryKey, analysis: &str, logits: &[(u32, Logits)]) -> Result<()>;

    /// Density and maximum of every feature.
    fn overview(&self, key: &DictionaryKey, analysis: &str) -> Result<Option<Overview>>;
    /// A page of features.
    fn features(&self, key: &DictionaryKey, analysis: &str, query: &FeatureQuery) -> Result<FeaturePage>;
    /// One of the features that pass the filter; `draw` in `[0, 1)` says which.
    fn random_feature(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        filter: &FeatureFilter,
        draw: f64,
    ) -> Result<Option<u32>>;
    /// Everything about one feature.
    fn feature(&self, key: &DictionaryKey, analysis: &str, feature: u32) -> Result<Option<Feature>>;
    /// Features whose explanation, or whose tokens in the analysis, contain all words of `text` (the last as a prefix),
    /// explanations first; of one dictionary or all.
    fn search(
        &self,
        key: Option<&DictionaryKey>,
        analysis: &str,
        text: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>>;

    /// Sets or removes an explanation.
    fn set_interpretation(&self, feature: &FeatureRef, interpretation: Option<&Interpretation>)
    -> Result<()>;
    /// All explanations of a dictionary, by feature.
    fn interpretations(&self, key: &DictionaryKey) -> Result<BTreeMap<u32, Interpretation>>;
    /// Sets a number.
    fn set_metric(&self, feature: &FeatureRef, name: &str, value: f64) -> Result<()>;
    /// Sets or removes a bookmark.
    fn set_bookmark(&self, feature: &FeatureRef, bookmark: Option<&Bookmark>) -> Result<()>;
    /// Bookmarks of one dictionary or all, newest first, with how many there are.
    fn bookmarks(
        &self,
        key: Option<&DictionaryKey>,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<(FeatureRef, Bookmark)>, u64)>;
    /// Writes a list, replacing the one of that name.
    fn put_list(&self, list: &FeatureList) -> Result<()>;
    /// All lists, by name.
    fn lists(&self) -> Result<Vec<FeatureList>>;
    /// Removes a list.
    fn remove_list(&self, name: &str) -> Result<()>;
}

/// Writes one analysis. Dropped without [`AnalysisWriter::commit`], everything written is discarded.
pub trait AnalysisWriter: Send {
    /// Adds contexts. Those a feature points to have to be there before it.
    fn contexts(&mut self, contexts: &[Context]) -> Result<()>;
    /// Adds features, each once.
    fn features(&mut self, features: &[FeatureAnalysis]) -> Result<()>;
    /// Puts the analysis in the place of the previous one of its name.
    fn commit(self: Box<Self>, record: &AnalysisRecord) -> Result<()>;
}

/// Opens a store by its address: a path, created where there is nothing, or `mongodb://host/database`.
///
/// # Errors
/// A file that is no store or a newer one, a server that does not answer.
pub fn open(address: &str) -> Result<Box<dyn Store>> {
    if address.starts_with("mongodb://") || address.starts_with("mongodb+srv://") {
        return open_mongo(address);
    }
    Ok(Box::new(SqliteStore::open(Path::new(address))?))
}

#[cfg(feature = "mongodb")]
fn open_mongo(address: &str) -> Result<Box<dyn Store>> {
    Ok(Box::new(MongoStore::open(address)?))
}

#[cfg(not(feature = "mongodb"))]
fn open_mongo(_: &str) -> Result<Box<dyn Store>> {
    Err(Error::Unsupported {
        what: "a store in MongoDB".into(),
        why: "this build has no client for it; build with --features mongodb, or give a path".into(),
    })
}

/// A dictionary that has to be there.
fn unknown(key: &DictionaryKey) -> Error {
    Error::Data { what: format!("no dictionary {key} in this store; `lm-saes list` shows those there are") }
}

fn no_analysis(key: &DictionaryKey, name: &str) -> Error {
    Error::Data { what: format!("dictionary {key} has no analysis {name:?}") }
}

fn check_name(name: &str) -> Result<()> {
    match name.trim().is_empty() {
        true => Err(Error::Data { what: "a dictionary needs a name".into() }),
        false => Ok(()),
    }
}
