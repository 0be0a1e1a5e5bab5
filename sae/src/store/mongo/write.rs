//! What changes the database: analyses with their arrays, and lists.

use super::{
    At as _, CONTEXTS, LISTS, MongoStore, OVERVIEWS, STAGED, TOKENS, generation, json, new_generation, npy,
    number, of,
    read::{bytes, entry},
};
use crate::{
    Error, Result,
    store::{
        AnalysisRecord, AnalysisWriter, Context, DictionaryKey, FeatureAnalysis, FeatureList, Logits,
        Sampling,
        codec::{self, Damaged},
        no_analysis,
    },
};
use mongodb::bson::{Binary, Bson, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};
use std::collections::{HashMap, HashSet};

/// Largest chunk of a GridFS file, the drivers' usual one.
const CHUNK: usize = 255 << 10;
/// Documents inserted at a time.
const AT_ONCE: usize = 500;

pub(super) fn binary(bytes: Vec<u8>) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })
}

/// Writes an analysis beside the current one.
pub(super) struct Writer<'a> {
    store: &'a MongoStore,
    key: DictionaryKey,
    name: String,
    generation: String,
    known: HashSet<u32>,
    seen: Vec<(u32, u32, f32)>,
    done: bool,
}

impl<'a> Writer<'a> {
    /// Clears what a writer of the same analysis left when it was killed.
    pub fn begin(store: &'a MongoStore, key: &DictionaryKey, name: &str) -> Result<Self> {
        store.require(key)?;
        let mut which = of(key);
        which.insert("name", name);
        let current = store.of("analyses").find_one(which).run().at(store)?;
        let current = current.as_ref().map(generation).unwrap_or_default();
        let mut leftovers = of(key);
        leftovers.insert(STAGED, doc! { "$exists": true });
        store.settle(key, name, &current)?;
        store.of("features").update_many(leftovers, doc! { "$unset": { STAGED: "" } }).run().at(store)?;
        store.remove_arrays(key, Some(name), Some(&current))?;
        let (known, seen) = (HashSet::new(), Vec::new());
        Ok(Self {
            store,
            key: key.clone(),
            name: name.into(),
            generation: new_generation(),
            known,
            seen,
            done: false,
        })
    }

    fn insert(&self, collection: &str, all: &[Document]) -> Result<()> {
        for part in all.chunks(AT_ONCE) {
            self.store.of(collection).insert_many(part).run().at(self.store)?;
        }
        Ok(())
    }

    /// A feature's entry as the reference system writes it; its arrays are added to `arrays`.
    fn entry(&self, f: &FeatureAnalysis, arrays: &mut Arrays<'_>) -> Document {
        let samplings: Vec<Bson> = f.samplings.iter().map(|s| self.sampling(s, arrays).into()).collect();
        let mut entry = doc! {
            "name": &self.name,
            "act_times": f.act_times as i64,
            // Known in the end only.
            "n_analyzed_tokens": 0i64,
            "max_feature_acts": f64::from(f.max_act),
            "samplings": samplings,
            "lm_saes": {
                "generation": &self.generation,
                "result": binary(codec::feature(f)),
                "preview": binary(codec::preview(&f.preview)),
            },
        };
        if f.decoder_norms.len() > 1 {
            let list = |v: &[f32]| -> Vec<f64> { v.iter().map(|x| f64::from(*x)).collect() };
            let h = f.decoder_norms.len();
            let rows = |v: &[f32]| -> Vec<Bson> { v.chunks(h).map(|r| list(r).into()).collect() };
            entry.insert("decoder_norms", list(&f.decoder_norms));
            if !f.decoder_similarities.is_empty() {
                entry.insert("decoder_similarity_matrices", rows(&f.decoder_similarities));
                entry.insert("decoder_inner_product_matrices", rows(&f.decoder_inner_products));
            }
        }
        entry
    }

    fn sampling(&self, s: &Sampling, arrays: &mut Arrays<'_>) -> Document {
        let (mut rows, mut at, mut values, mut z) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut z_at, mut z_values) = ([Vec::new(), Vec::new(), Vec::new()], Vec::new());
        for (i, sample) in s.samples.iter().enumerate() {
            for &(position, v) in &sample.acts {
                rows.push(i as f32);
                at.push(position as f32);
                values.push(v);
            }
            for &(q, k, v) in &sample.z_pattern {
                for (axis, value) in z_at.iter_mut().zip([i as f32, q as f32, k as f32]) {
                    axis.push(value);
                }
                z_values.push(v);
            }
        }
        let n = values.len();
        rows.extend(at);
        let contexts: Vec<i64> = s.samples.iter().map(|s| s.context.into()).collect();
        let names = vec![String::new(); contexts.len()];
        let mut d = doc! {
            "name": &s.name,
            "feature_acts_indices": arrays.put(npy::of_f32(&[2, n], &rows)),
            "feature_acts_values": arrays.put(npy::of_f32(&[n], &values)),
            "context_idx": arrays.put(npy::of_i64(&contexts)),
            "shard_idx": arrays.put(npy::of_i64(&vec![0; contexts.len()])),
            "n_shards": arrays.put(npy::of_i64(&vec![1; contexts.len()])),
            "dataset_name": &names,
            "model_name": &names,
        };
        if !z_values.is_empty() {
            z_at.into_iter().for_each(|axis| z.extend(axis));
            d.insert("z_pattern_indices", arrays.put(npy::of_f32(&[3, z_values.len()], &z)));
            d.insert("z_pattern_values", arrays.put(npy::of_f32(&[z_values.len()], &z_values)));
        }
        d
    }
}

/// GridFS files in the making.
struct Arrays<'a> {
    owner: &'a Document,
    files: Vec<Document>,
    chunks: Vec<Document>,
}

impl Arrays<'_> {
    fn put(&mut self, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::new();
        self.files.push(doc! {
            "_id": id,
            "length": bytes.len() as i64,
            "chunkSize": CHUNK as i32,
            "uploadDate": DateTime::now(),
            "metadata": { "lm_saes": self.owner.clone() },
        });
        for (n, part) in bytes.chunks(CHUNK).enumerate() {
            self.chunks.push(doc! { "files_id": id, "n": n as i32, "data": binary(part.to_vec()) });
        }
        id
    }
}

impl AnalysisWriter for Writer<'_> {
    fn contexts(&mut self, contexts: &[Context]) -> Result<()> {
        let all: Vec<Document> = contexts
            .iter()
            .map(|c| doc! { "generation": &self.generation, "id": c.id, "blob": binary(codec::context(c)) })
            .collect();
        self.insert(CONTEXTS, &all)?;
        self.known.extend(contexts.iter().map(|c| c.id));
        Ok(())
    }

    fn features(&mut self, features: &[FeatureAnalysis]) -> Result<()> {
        let mut owner = of(&self.key);
        owner.extend(doc! { "analysis": &self.name, "generation": &self.generation });
        let mut arrays = Arrays { owner: &owner, files: Vec::new(), chunks: Vec::new() };
        let (mut entries, mut texts) = (Vec::new(), Vec::new());
        for f in features {
            let samples = f.samplings.iter().flat_map(|s| &s.samples);
            if let Some(lost) = samples.map(|s| s.context).find(|c| !self.known.contains(c)) {
                let what = format!("feature {} points to context {lost}, which was not written", f.index);
                return Err(Error::Data { what });
            }
            entries.push((f, self.entry(f, &mut arrays)));
            let mut text = of(&self.key);
            text.extend(doc! {
                "analysis": &self.name, "generation": &self.generation, "index": f.index, "text": f.search_text(),
            });
            texts.push(text);
            self.seen.push((f.index, f.act_times.min(u64::from(u32::MAX)) as u32, f.max_act));
        }
        let (files, chunks) = (arrays.files, arrays.chunks);
        self.insert("fs.chunks", &chunks)?;
        self.insert("fs.files", &files)?;
        self.insert(TOKENS, &texts)?;
        for (f, entry) in entries {
            let mut which = of(&self.key);
            which.insert("index", f.index);
            let mut staged = doc! { "entry": entry };
            if let Some(l) = &f.logits {
                staged.insert("logits", json::to_bson(&serde_json::to_value(l).at(self.store)?));
            }
            let set = doc! { "$set": { STAGED: staged } };
            self.store.of("features").update_one(which, set).upsert(true).run().at(self.store)?;
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, record: &AnalysisRecord) -> Result<()> {
        let store = self.store;
        let set =
            doc! { "$set": { format!("{STAGED}.entry.n_analyzed_tokens"): record.n_analyzed_tokens as i64 } };
        let mut staged = of(&self.key);
        staged.insert(format!("{STAGED}.entry.lm_saes.generation"), &self.generation);
        store.of("features").update_many(staged, set).run().at(store)?;
        let mut overview = vec![(0u32, 0f32); record.d_sae as usize];
        for &(feature, times, max) in &self.seen {
            let slot = overview.get_mut(feature as usize).ok_or_else(|| Error::Data {
                what: format!("feature {feature} of a dictionary of {}", record.d_sae),
            })?;
            *slot = (times, max);
        }
        let times: Vec<u8> = overview.iter().flat_map(|(n, _)| n.to_le_bytes()).collect();
        let max: Vec<u8> = overview.iter().flat_map(|(_, m)| m.to_le_bytes()).collect();
        let row =
            doc! { "generation": &self.generation, "act_times": binary(times), "max_acts": binary(max) };
        store.of(OVERVIEWS).insert_one(row).run().at(store)?;

        let mut which = of(&self.key);
        which.insert("name", &self.name);
        let record = AnalysisRecord { name: self.name.clone(), ..record.clone() };
        let record = serde_json::to_string(&record).at(store)?;
        let set = doc! { "$set": { "lm_saes": { "generation": &self.generation, "record": record } } };
        let before = store.of("analyses").find_one_and_update(which, set).upsert(true).run().at(store)?;
        self.done = true;
        // From here readers see the new one; the rest is tidying, which the next analysis does if this one is killed.
        store.settle(&self.key, &self.name, &self.generation)?;
        store.remove_arrays(&self.key, Some(&self.name), Some(&self.generation))?;
        store.remove_generation(&before.as_ref().map(generation).unwrap_or_default())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: nothing reads it, and the next analysis of this name clears it.
            let unset = doc! { "$unset": { STAGED: "" } };
            let mut which = of(&self.key);
            which.insert(format!("{STAGED}.entry.lm_saes.generation"), &self.generation);
            let _ = self.store.of("features").update_many(which, unset).run();
            let mut owned = Document::new();
            owned.insert("metadata.lm_saes.generation", &self.generation);
            let _ = self.store.remove_files(owned);
            let _ = self.store.remove_generation(&self.generation);
        }
    }
}

impl MongoStore {
    /// Moves staged entries of this generation to where the reference system looks, in place of the earlier ones.
    fn settle(&self, key: &DictionaryKey, name: &str, generation: &str) -> Result<()> {
        if generation.is_empty() {
            return Ok(());
        }
        let mut which = of(key);
        which.insert(format!("{STAGED}.entry.lm_saes.generation"), generation);
        let others = doc! { "$filter": {
            "input": { "$ifNull": ["$analyses", []] }, "as": "a", "cond": { "$ne": ["$$a.name", name] },
        } };
        let moved = doc! { "$set": {
            "analyses": { "$concatArrays": [others, [format!("${STAGED}.entry")]] },
            "logits": { "$ifNull": [format!("${STAGED}.logits"), "$logits"] },
        } };
        let steps = vec![moved, doc! { "$unset": STAGED }];
        self.of("features").update_many(which, steps).run().at(self).map(drop)
    }

    /// Puts output tokens to features, one after the other; where the reference system looks and in our own result.
    pub(super) fn write_logits(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        logits: &[(u32, Logits)],
    ) -> Result<()> {
        self.require(key)?;
        let mut which = of(key);
        which.insert("name", analysis);
        let found = self.of("analyses").find_one(which).run().at(self)?;
        let generation = generation(&found.ok_or_else(|| no_analysis(key, analysis))?);
        self.settle(key, analysis, &generation)?;
        for part in logits.chunks(AT_ONCE) {
            let wanted: HashMap<u32, &Logits> = part.iter().map(|(f, l)| (*f, l)).collect();
            let mut which = of(key);
            which.insert("index", doc! { "$in": wanted.keys().copied().collect::<Vec<u32>>() });
            let shown = doc! { "index": 1, "analyses.name": 1, "analyses.lm_saes": 1 };
            for d in self.of("features").find(which).projection(shown).run().at(self)? {
                let d = d.at(self)?;
                let index = number(d.get("index")) as u32;
                if let Some(l) = wanted.get(&index) {
                    self.write_logits_of(key, analysis, &generation, (index, l), &d)?;
                }
            }
        }
        Ok(())
    }

    fn write_logits_of(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        generation: &str,
        (index, logits): (u32, &Logits),
        d: &Document,
    ) -> Result<()> {
        let mut which = of(key);
        which.insert("index", index);
        let mut set = doc! { "logits": json::to_bson(&serde_json::to_value(logits).at(self)?) };
        let ours = entry(d, analysis, generation).and_then(|e| e.get_document("lm_saes").ok());
        if let Some(blob) = ours.and_then(|l| bytes(l, "result")) {
            let known = codec::read_feature(blob, FeatureAnalysis { index, ..FeatureAnalysis::default() });
            let f =
                FeatureAnalysis { logits: Some(logits.clone()), ..known.map_err(|Damaged| self.damaged())? };
            let this = doc! { "name": analysis, "lm_saes.generation": generation };
            which.insert("analyses", doc! { "$elemMatch": this });
            set.insert("analyses.$.lm_saes.result", binary(codec::feature(&f)));
            let text = doc! { "$set": { "text": f.search_text() } };
            let row = doc! { "generation": generation, "index": index };
            self.of(TOKENS).update_one(row, text).run().at(self)?;
        }
        self.of("features").update_one(which, doc! { "$set": set }).run().at(self).map(drop)
    }

    /// Removes GridFS arrays of this program: of a dictionary, of one analysis, of all its generations but one.
    pub(super) fn remove_arrays(
        &self,
        key: &DictionaryKey,
        analysis: Option<&str>,
        but: Option<&str>,
    ) -> Result<()> {
        let at = |field: &str| format!("metadata.lm_saes.{field}");
        let mut which = doc! { at("sae_name"): &key.name, at("sae_series"): &key.series };
        if let Some(analysis) = analysis {
            which.insert(at("analysis"), analysis);
        }
        if let Some(but) = but {
            which.insert(at("generation"), doc! { "$ne": but });
        }
        self.remove_files(which)
    }

    fn remove_files(&self, which: Document) -> Result<()> {
        let found = self.of("fs.files").find(which).projection(doc! { "_id": 1 }).run().at(self)?;
        let ids: Vec<Bson> = found
            .map(|d| d.at(self).map(|d| d.get("_id").cloned().unwrap_or(Bson::Null)))
            .collect::<Result<_>>()?;
        for part in ids.chunks(AT_ONCE) {
            let (files, chunks) = (doc! { "_id": { "$in": part } }, doc! { "files_id": { "$in": part } });
            self.of("fs.files").delete_many(files).run().at(self)?;
            self.of("fs.chunks").delete_many(chunks).run().at(self)?;
        }
        Ok(())
    }

    /// Removes our own rows of an analysis that was replaced.
    pub(super) fn remove_generation(&self, generation: &str) -> Result<()> {
        if generation.is_empty() {
            return Ok(());
        }
        for collection in [CONTEXTS, OVERVIEWS, TOKENS] {
            self.of(collection).delete_many(doc! { "generation": generation }).run().at(self)?;
        }
        Ok(())
    }

    pub(super) fn write_list(&self, list: &FeatureList) -> Result<()> {
        let text = serde_json::to_string(list).at(self)?;
        let which = doc! { "name": &list.name };
        self.of(LISTS)
            .update_one(which, doc! { "$set": { "list": text } })
            .upsert(true)
            .run()
            .at(self)
            .map(drop)
    }
}
