//! The reference system's database (ANALYSIS §6): its collections and documents, with arrays in GridFS, so that either program
//! opens what the other wrote. What it has no place for goes into fields and collections it ignores, all named `lm_saes…`:
//!
//! * `analyses.lm_saes` = `{generation, record}`; a feature's entry carries the same generation and our compact result.
//! * `features.lm_saes_staged`: the entry of an analysis being written. Changing `analyses.lm_saes.generation` makes it the
//!   one our readers see, in one instant; then it moves to `analyses`, where the reference system finds it.
//! * `lm_saes_contexts`, `lm_saes_overviews`, `lm_saes_tokens`, by generation; `lm_saes_lists`.
//!
//! No transactions, which a single server does not have, except where a dictionary is renamed or removed and the server has them.

mod admin;
mod json;
mod npy;
mod read;
mod write;

use super::{
    AnalysisRecord, AnalysisWriter, Bookmark, DictionaryKey, DictionaryRecord, Feature, FeatureFilter,
    FeatureList, FeaturePage, FeatureQuery, FeatureRef, Interpretation, Logits, Overview, SearchHit, Store,
    check_name, no_analysis, unknown,
};
use crate::{Error, Result};
use mongodb::{
    IndexModel,
    bson::{Bson, DateTime, Document, doc, oid::ObjectId},
    options::IndexOptions,
    sync::{Client, Collection, Database},
};
use std::collections::BTreeMap;

/// Where the reference system keeps everything unless told otherwise.
const DEFAULT_DATABASE: &str = "mechinterp";
const CONTEXTS: &str = "lm_saes_contexts";
const OVERVIEWS: &str = "lm_saes_overviews";
const TOKENS: &str = "lm_saes_tokens";
const LISTS: &str = "lm_saes_lists";
const STAGED: &str = "lm_saes_staged";

/// A store in MongoDB.
pub struct MongoStore {
    client: Client,
    db: Database,
    address: String,
}

/// A failure of the server as this crate's error.
trait At<T> {
    fn at(self, store: &MongoStore) -> Result<T>;
}
impl<T, E: std::fmt::Display> At<T> for std::result::Result<T, E> {
    fn at(self, store: &MongoStore) -> Result<T> {
        self.map_err(|e| Error::Data { what: format!("{}: {e}", store.address) })
    }
}

/// Name and series as the documents of features, analyses and bookmarks have them.
fn of(key: &DictionaryKey) -> Document {
    doc! { "sae_name": &key.name, "sae_series": &key.series }
}

/// Any number as f64; 0 for what is none.
fn number(b: Option<&Bson>) -> f64 {
    match b {
        Some(Bson::Double(v)) => *v,
        Some(Bson::Int32(v)) => f64::from(*v),
        Some(Bson::Int64(v)) => *v as f64,
        _ => 0.0,
    }
}

fn text(d: &Document, key: &str) -> String {
    d.get_str(key).unwrap_or_default().to_owned()
}

impl MongoStore {
    /// Connects; a database in the address is used, otherwise the reference system's usual one.
    ///
    /// # Errors
    /// An address that cannot be read, or a server that does not answer.
    pub fn open(address: &str) -> Result<Self> {
        // What stands before the host may be a password.
        let shown = match address.split_once('@') {
            Some((_, host)) => format!("mongodb://…@{host}"),
            None => address.to_owned(),
        };
        let failed = |e: mongodb::error::Error| Error::Data { what: format!("{shown}: {e}") };
        let client = Client::with_uri_str(address).map_err(failed)?;
        let db = client.default_database().unwrap_or_else(|| client.database(DEFAULT_DATABASE));
        let store = Self { client, db, address: shown.clone() };
        store.db.run_command(doc! { "ping": 1 }).run().at(&store)?;
        store.indexes()?;
        Ok(store)
    }

    fn of(&self, name: &str) -> Collection<Document> {
        self.db.collection(name)
    }

    fn indexes(&self) -> Result<()> {
        let unique = [
            ("saes", doc! { "name": 1, "series": 1 }),
            ("features", doc! { "sae_name": 1, "sae_series": 1, "index": 1 }),
            ("analyses", doc! { "name": 1, "sae_name": 1, "sae_series": 1 }),
            ("bookmarks", doc! { "sae_name": 1, "sae_series": 1, "feature_index": 1 }),
            (CONTEXTS, doc! { "generation": 1, "id": 1 }),
            (OVERVIEWS, doc! { "generation": 1 }),
            (TOKENS, doc! { "generation": 1, "index": 1 }),
            (LISTS, doc! { "name": 1 }),
        ];
        for (name, keys) in unique {
            let options = IndexOptions::builder().unique(true).build();
            let index = IndexModel::builder().keys(keys).options(options).build();
            self.of(name).create_index(index).run().at(self)?;
        }
        Ok(())
    }

    fn require(&self, key: &DictionaryKey) -> Result<()> {
        match self.dictionary(key)? {
            Some(_) => Ok(()),
            None => Err(unknown(key)),
        }
    }

    fn find_all(&self, name: &str, which: Document, sort: Document) -> Result<Vec<Document>> {
        let cursor = self.of(name).find(which).sort(sort).run().at(self)?;
        cursor.map(|d| d.at(self)).collect()
    }

    fn to_dictionary(&self, d: &Document) -> Result<DictionaryRecord> {
        let key = DictionaryKey::new(text(d, "name"), text(d, "series"));
        let cfg = d.get("cfg").cloned().unwrap_or(Bson::Null);
        let known = number(d.get("lm_saes_d_sae")) as u32;
        let d_sae = match known {
            0 => self.of("features").count_documents(of(&key)).run().at(self)? as u32,
            n => n,
        };
        Ok(DictionaryRecord {
            path: text(d, "path"),
            cfg: json::to_json(&cfg),
            d_sae,
            model_name: d.get_str("model_name").ok().map(str::to_owned),
            key,
        })
    }
}

impl Store for MongoStore {
    fn put_dictionary(&self, d: &DictionaryRecord) -> Result<()> {
        check_name(&d.key.name)?;
        let cfg = json::to_bson(&d.cfg);
        let set = doc! { "path": &d.path, "cfg": cfg, "model_name": d.model_name.clone(), "lm_saes_d_sae": d.d_sae };
        let which = doc! { "name": &d.key.name, "series": &d.key.series };
        self.of("saes").update_one(which, doc! { "$set": set }).upsert(true).run().at(self)?;
        // The reference system expects a document for every feature.
        let there = self.of("features").count_documents(of(&d.key)).run().at(self)?;
        if there < d.d_sae.into() {
            let known: std::collections::HashSet<u32> = self
                .find_all("features", of(&d.key), doc! { "index": 1 })?
                .iter()
                .map(|f| number(f.get("index")) as u32)
                .collect();
            let missing: Vec<Document> = (0..d.d_sae)
                .filter(|i| !known.contains(i))
                .map(|i| {
                    let mut f = of(&d.key);
                    f.extend(
                        doc! { "index": i, "analyses": [], "logits": {}, "interpretation": {}, "metric": {} },
                    );
                    f
                })
                .collect();
            for part in missing.chunks(1000) {
                self.of("features").insert_many(part).run().at(self)?;
            }
        }
        Ok(())
    }

    fn dictionaries(&self, series: Option<&str>) -> Result<Vec<DictionaryRecord>> {
        let which = series.map_or_else(Document::new, |s| doc! { "series": s });
        let all = self.find_all("saes", which, doc! { "series": 1, "name": 1 })?;
        all.iter().map(|d| self.to_dictionary(d)).collect()
    }

    fn dictionary(&self, key: &DictionaryKey) -> Result<Option<DictionaryRecord>> {
        let which = doc! { "name": &key.name, "series": &key.series };
        let found = self.of("saes").find_one(which).run().at(self)?;
        found.map(|d| self.to_dictionary(&d)).transpose()
    }

    fn rename_dictionary(&self, key: &DictionaryKey, name: &str) -> Result<()> {
        self.rename(key, name)
    }

    fn remove_dictionary(&self, key: &DictionaryKey) -> Result<()> {
        self.remove(key)
    }

    fn begin_analysis<'a>(&'a self, key: &DictionaryKey, name: &str) -> Result<Box<dyn AnalysisWriter + 'a>> {
        Ok(Box::new(write::Writer::begin(self, key, name)?))
    }

    fn analyses(&self, key: &DictionaryKey) -> Result<Vec<AnalysisRecord>> {
        let all = self.find_all("analyses", of(key), doc! { "name": 1 })?;
        all.iter().map(|d| self.to_analysis(key, d)).collect()
    }

    fn remove_analysis(&self, key: &DictionaryKey, name: &str) -> Result<()> {
        let mut which = of(key);
        which.insert("name", name);
        let Some(found) = self.of("analyses").find_one_and_delete(which).run().at(self)? else {
            return Err(no_analysis(key, name));
        };
        let pull = doc! { "$pull": { "analyses": { "name": name } } };
        self.of("features").update_many(of(key), pull).run().at(self)?;
        self.remove_arrays(key, Some(name), None)?;
        self.remove_generation(&generation(&found))
    }

    fn set_logits(&self, key: &DictionaryKey, analysis: &str, logits: &[(u32, Logits)]) -> Result<()> {
        self.write_logits(key, analysis, logits)
    }

    fn overview(&self, key: &DictionaryKey, analysis: &str) -> Result<Option<Overview>> {
        self.stable(key, analysis, |generation| self.overview_of(key, analysis, generation))
    }

    fn features(&self, key: &DictionaryKey, analysis: &str, query: &FeatureQuery) -> Result<FeaturePage> {
        let page = self.stable(key, analysis, |generation| self.page(key, analysis, generation, query))?;
        Ok(page.unwrap_or_default())
    }

    fn random_feature(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        filter: &FeatureFilter,
        draw: f64,
    ) -> Result<Option<u32>> {
        let all = self.stable(key, analysis, |generation| {
            let Some(overview) = self.overview_of(key, analysis, generation)? else { return Ok(None) };
            Ok(Some(self.passing(key, &overview, filter)?.0))
        })?;
        let all = all.unwrap_or_default();
        let at = (draw.clamp(0.0, 1.0) * all.len() as f64) as usize;
        Ok(all.get(at.min(all.len().saturating_sub(1))).copied())
    }

    fn feature(&self, key: &DictionaryKey, analysis: &str, feature: u32) -> Result<Option<Feature>> {
        self.stable(key, analysis, |generation| self.feature_page(key, analysis, generation, feature))
    }

    fn search(
        &self,
        key: Option<&DictionaryKey>,
        analysis: &str,
        text: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>> {
        self.search_texts(key, analysis, text, limit)
    }

    fn set_interpretation(&self, f: &FeatureRef, interpretation: Option<&Interpretation>) -> Result<()> {
        self.require(&f.dictionary)?;
        let change = match interpretation {
            Some(i) => {
                let full = serde_json::to_string(i).at(self)?;
                doc! { "$set": { "interpretation": { "text": &i.text }, "lm_saes_interpretation": full } }
            }
            None => doc! { "$set": { "interpretation": {} }, "$unset": { "lm_saes_interpretation": "" } },
        };
        self.of("features").update_one(one(f), change).run().at(self).map(drop)
    }

    fn interpretations(&self, key: &DictionaryKey) -> Result<BTreeMap<u32, Interpretation>> {
        let mut which = of(key);
        which.insert("interpretation.text", doc! { "$exists": true, "$ne": "" });
        let shown = doc! { "index": 1, "interpretation": 1, "lm_saes_interpretation": 1 };
        let found = self.of("features").find(which).projection(shown).run().at(self)?;
        found
            .map(|d| {
                let d = d.at(self)?;
                Ok((number(d.get("index")) as u32, read::interpretation(&d).unwrap_or_default()))
            })
            .collect()
    }

    fn set_metric(&self, f: &FeatureRef, name: &str, value: f64) -> Result<()> {
        self.require(&f.dictionary)?;
        let set = doc! { "$set": { format!("metric.{}", name.replace(['.', '$'], "_")): value } };
        self.of("features").update_one(one(f), set).run().at(self).map(drop)
    }

    fn set_bookmark(&self, f: &FeatureRef, bookmark: Option<&Bookmark>) -> Result<()> {
        self.require(&f.dictionary)?;
        let mut which = of(&f.dictionary);
        which.insert("feature_index", f.feature);
        match bookmark {
            Some(b) => {
                let at = DateTime::from_millis(b.created_at as i64 * 1000);
                let set = doc! { "created_at": at, "tags": &b.tags, "notes": b.notes.clone() };
                self.of("bookmarks")
                    .update_one(which, doc! { "$set": set })
                    .upsert(true)
                    .run()
                    .at(self)
                    .map(drop)
            }
            None => self.of("bookmarks").delete_one(which).run().at(self).map(drop),
        }
    }

    fn bookmarks(
        &self,
        key: Option<&DictionaryKey>,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<(FeatureRef, Bookmark)>, u64)> {
        if let Some(key) = key {
            self.require(key)?;
        }
        let which = key.map_or_else(Document::new, of);
        let total = self.of("bookmarks").count_documents(which.clone()).run().at(self)?;
        if limit == 0 {
            return Ok((Vec::new(), total));
        }
        let sort = doc! { "created_at": -1, "sae_series": 1, "sae_name": 1, "feature_index": 1 };
        let limit = limit.min(i64::MAX as u64) as i64;
        let found = self.of("bookmarks").find(which).sort(sort).skip(offset).limit(limit).run().at(self)?;
        let all = found.map(|d| {
            let d = d.at(self)?;
            let dictionary = DictionaryKey::new(text(&d, "sae_name"), text(&d, "sae_series"));
            let feature = FeatureRef { dictionary, feature: number(d.get("feature_index")) as u32 };
            Ok((feature, read::bookmark(&d)))
        });
        Ok((all.collect::<Result<_>>()?, total))
    }

    fn put_list(&self, list: &FeatureList) -> Result<()> {
        for f in &list.features {
            self.require(&f.dictionary)?;
        }
        self.write_list(list)
    }

    fn lists(&self) -> Result<Vec<FeatureList>> {
        let all = self.find_all(LISTS, doc! {}, doc! { "name": 1 })?;
        all.iter().map(|d| serde_json::from_str(&text(d, "list")).at(self)).collect()
    }

    fn remove_list(&self, name: &str) -> Result<()> {
        match self.of(LISTS).delete_one(doc! { "name": name }).run().at(self)?.deleted_count {
            0 => Err(Error::Data { what: format!("no list {name:?}") }),
            _ => Ok(()),
        }
    }
}

/// The document of a feature.
fn one(f: &FeatureRef) -> Document {
    let mut which = of(&f.dictionary);
    which.insert("index", f.feature);
    which
}

/// What says which entry of its features an analysis means; empty for one the reference system wrote.
fn generation(analysis: &Document) -> String {
    analysis.get_document("lm_saes").map(|d| text(d, "generation")).unwrap_or_default()
}

/// A generation nobody else uses.
fn new_generation() -> String {
    ObjectId::new().to_hex()
}
