//! What reads the database: entries this program wrote from their compact result, those of the reference system from their arrays.

use super::{At as _, CONTEXTS, MongoStore, OVERVIEWS, STAGED, TOKENS, generation, npy, number, of, text};
use crate::{
    Error, Result,
    store::{
        AnalysisRecord, Bookmark, Context, DictionaryKey, Feature, FeatureAnalysis, FeatureFilter,
        FeaturePage, FeatureQuery, FeatureRef, FeatureSummary, Interpretation, Logits, Overview, Sample,
        Sampling, SearchHit, SortBy, TokenLogit,
        codec::{self, Damaged},
    },
};
use mongodb::bson::{Bson, Document, doc, oid::ObjectId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How often a page is read again because the analysis was replaced meanwhile.
const TRIES: usize = 10;

pub(super) fn bytes<'a>(d: &'a Document, key: &str) -> Option<&'a [u8]> {
    match d.get(key) {
        Some(Bson::Binary(b)) => Some(&b.bytes),
        _ => None,
    }
}

pub(super) fn interpretation(d: &Document) -> Option<Interpretation> {
    let short = d.get_document("interpretation").ok()?.get_str("text").ok().filter(|t| !t.is_empty())?;
    let full: Option<Interpretation> = serde_json::from_str(&text(d, "lm_saes_interpretation")).ok();
    // The reference system may have written another text since.
    let plain = || Interpretation { text: short.into(), ..Interpretation::default() };
    Some(full.filter(|i| i.text == short).unwrap_or_else(plain))
}

pub(super) fn bookmark(d: &Document) -> Bookmark {
    let tags = d.get_array("tags").map(|t| t.iter().filter_map(Bson::as_str).map(str::to_owned).collect());
    Bookmark {
        tags: tags.unwrap_or_default(),
        notes: d.get_str("notes").ok().map(str::to_owned),
        created_at: d.get_datetime("created_at").map_or(0, |t| t.timestamp_millis().max(0) as u64 / 1000),
    }
}

/// The feature's entry of this analysis and generation, whether it has moved to its place yet or not.
pub(super) fn entry<'a>(feature: &'a Document, analysis: &str, wanted: &str) -> Option<&'a Document> {
    let staged = feature.get_document(STAGED).ok().and_then(|s| s.get_document("entry").ok());
    let placed = feature.get_array("analyses").ok().into_iter().flatten().filter_map(Bson::as_document);
    staged.into_iter().chain(placed).find(|e| text(e, "name") == analysis && generation(e) == wanted)
}

impl MongoStore {
    /// Runs `read` with the generation of an analysis, again if it was replaced while reading.
    pub(super) fn stable<T>(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        read: impl Fn(&str) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let mut which = of(key);
        which.insert("name", analysis);
        let current = || -> Result<Option<String>> {
            Ok(self.of("analyses").find_one(which.clone()).run().at(self)?.as_ref().map(generation))
        };
        let Some(mut before) = current()? else { return Ok(None) };
        for _ in 0..TRIES {
            let found = read(&before);
            match current()? {
                Some(after) if after != before => before = after,
                _ => return found,
            }
        }
        Err(Error::Data { what: format!("analysis {analysis:?} of {key} keeps being replaced; try again") })
    }

    pub(super) fn to_analysis(&self, key: &DictionaryKey, d: &Document) -> Result<AnalysisRecord> {
        let ours = d.get_document("lm_saes").ok().map(|l| text(l, "record"));
        if let Some(record) = ours {
            return serde_json::from_str(&record).at(self);
        }
        let name = text(d, "name");
        let any = self.of("features").find_one(of(key)).run().at(self)?;
        let tokens = any
            .as_ref()
            .and_then(|f| entry(f, &name, ""))
            .map_or(0.0, |e| number(e.get("n_analyzed_tokens")));
        Ok(AnalysisRecord {
            name,
            d_sae: self.of("features").count_documents(of(key)).run().at(self)? as u32,
            n_analyzed_tokens: tokens as u64,
            n_tokens: tokens as u64,
            n_contexts: 0,
            created_at: 0,
            settings: serde_json::Value::Null,
        })
    }

    pub(super) fn overview_of(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        generation: &str,
    ) -> Result<Option<Overview>> {
        if let Some(d) = self.of(OVERVIEWS).find_one(doc! { "generation": generation }).run().at(self)? {
            let (times, max) =
                (bytes(&d, "act_times").unwrap_or_default(), bytes(&d, "max_acts").unwrap_or_default());
            return Ok(Some(Overview {
                act_times: times.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
                max_acts: max.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            }));
        }
        if !generation.is_empty() {
            return Ok(None);
        }
        let shown =
            doc! { "index": 1, "analyses.name": 1, "analyses.act_times": 1, "analyses.max_feature_acts": 1 };
        let cursor =
            self.of("features").find(of(key)).sort(doc! { "index": 1 }).projection(shown).run().at(self)?;
        let mut all = Overview::default();
        for d in cursor {
            let d = d.at(self)?;
            let (times, max) = entry(&d, analysis, "")
                .map_or((0.0, 0.0), |e| (number(e.get("act_times")), number(e.get("max_feature_acts"))));
            let at = number(d.get("index")) as usize;
            if all.act_times.len() <= at {
                all.act_times.resize(at + 1, 0);
                all.max_acts.resize(at + 1, 0.0);
            }
            (all.act_times[at], all.max_acts[at]) = (times as u32, max as f32);
        }
        Ok(Some(all))
    }

    fn indices(&self, collection: &str, which: Document, field: &str) -> Result<HashSet<u32>> {
        let cursor = self.of(collection).find(which).projection(doc! { field: 1 }).run().at(self)?;
        cursor.map(|d| Ok(number(d.at(self)?.get(field)) as u32)).collect()
    }

    /// Features that pass the filter by index, and those that are bookmarked.
    pub(super) fn passing(
        &self,
        key: &DictionaryKey,
        overview: &Overview,
        filter: &FeatureFilter,
    ) -> Result<(Vec<u32>, HashSet<u32>)> {
        let explained = match filter.explained {
            Some(_) => {
                let mut which = of(key);
                which.insert("interpretation.text", doc! { "$exists": true, "$ne": "" });
                self.indices("features", which, "index")?
            }
            None => HashSet::new(),
        };
        let bookmarked = self.indices("bookmarks", of(key), "feature_index")?;
        let passes = |&f: &u32| {
            let (times, max) = (u64::from(overview.act_times[f as usize]), overview.max_acts[f as usize]);
            (!filter.alive || max > 0.0)
                && filter.min_act_times.is_none_or(|n| times >= n)
                && filter.max_act_times.is_none_or(|n| times <= n)
                && filter.min_max_act.is_none_or(|n| max >= n)
                && filter.max_max_act.is_none_or(|n| max <= n)
                && filter.explained.is_none_or(|w| explained.contains(&f) == w)
                && filter.bookmarked.is_none_or(|w| bookmarked.contains(&f) == w)
        };
        Ok(((0..overview.act_times.len() as u32).filter(passes).collect(), bookmarked))
    }

    pub(super) fn page(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        generation: &str,
        query: &FeatureQuery,
    ) -> Result<Option<FeaturePage>> {
        let Some(overview) = self.overview_of(key, analysis, generation)? else { return Ok(None) };
        let (mut all, bookmarked) = self.passing(key, &overview, &query.filter)?;
        let total = all.len() as u64;
        let order = |a: &u32, b: &u32| {
            let (i, j) = (*a as usize, *b as usize);
            let by = match query.sort {
                SortBy::Index => a.cmp(b),
                SortBy::ActTimes => overview.act_times[i].cmp(&overview.act_times[j]),
                SortBy::MaxAct => overview.max_acts[i].total_cmp(&overview.max_acts[j]),
            };
            (if query.descending { by.reverse() } else { by }).then(a.cmp(b))
        };
        all.sort_by(order);
        let shown: Vec<u32> =
            all.into_iter().skip(query.offset as usize).take(query.limit as usize).collect();
        let mut which = of(key);
        which.insert("index", doc! { "$in": &shown });
        let mut found: HashMap<u32, Document> = HashMap::new();
        if !shown.is_empty() {
            let fields = doc! {
                "index": 1, "interpretation": 1, "analyses.name": 1, "analyses.lm_saes.generation": 1,
                "analyses.lm_saes.preview": 1, STAGED: 1,
            };
            for d in self.of("features").find(which).projection(fields).run().at(self)? {
                let d = d.at(self)?;
                found.insert(number(d.get("index")) as u32, d);
            }
        }
        let summary = |&index: &u32| -> Result<FeatureSummary> {
            let d = found.get(&index);
            let ours =
                d.and_then(|d| entry(d, analysis, generation)).and_then(|e| e.get_document("lm_saes").ok());
            let preview = ours.and_then(|l| bytes(l, "preview")).map(codec::read_preview).transpose();
            Ok(FeatureSummary {
                index,
                act_times: overview.act_times[index as usize].into(),
                max_act: overview.max_acts[index as usize],
                explanation: d.and_then(interpretation).map(|i| i.text),
                bookmarked: bookmarked.contains(&index),
                preview: preview.map_err(|Damaged| self.damaged())?.unwrap_or_default(),
            })
        };
        Ok(Some(FeaturePage { features: shown.iter().map(summary).collect::<Result<_>>()?, total }))
    }

    pub(super) fn damaged(&self) -> Error {
        Error::Data { what: format!("{}: a stored result is damaged; analyse again", self.address) }
    }

    pub(super) fn feature_page(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        generation: &str,
        feature: u32,
    ) -> Result<Option<Feature>> {
        let mut which = of(key);
        which.insert("index", feature);
        let Some(d) = self.of("features").find_one(which).run().at(self)? else { return Ok(None) };
        let Some(e) = entry(&d, analysis, generation) else { return Ok(None) };
        let f = FeatureAnalysis {
            index: feature,
            act_times: number(e.get("act_times")) as u64,
            max_act: number(e.get("max_feature_acts")) as f32,
            ..FeatureAnalysis::default()
        };
        let ours = e.get_document("lm_saes").ok();
        let (f, contexts) = match ours.and_then(|l| bytes(l, "result")) {
            Some(blob) => {
                let mut f = codec::read_feature(blob, f).map_err(|Damaged| self.damaged())?;
                let preview = ours.and_then(|l| bytes(l, "preview")).map(codec::read_preview).transpose();
                f.preview = preview.map_err(|Damaged| self.damaged())?.unwrap_or_default();
                let contexts = self.contexts_of(&f, generation)?;
                (f, contexts)
            }
            None => self.foreign(f, e, &d)?,
        };
        let mut which = of(key);
        which.insert("feature_index", feature);
        let marked = self.of("bookmarks").find_one(which).run().at(self)?;
        let metrics =
            d.get_document("metric").map(|m| m.iter().map(|(k, v)| (k.clone(), number(Some(v)))).collect());
        Ok(Some(Feature {
            analysis: f,
            contexts,
            interpretation: interpretation(&d),
            metrics: metrics.unwrap_or_default(),
            bookmark: marked.as_ref().map(bookmark),
        }))
    }

    fn contexts_of(&self, f: &FeatureAnalysis, generation: &str) -> Result<Vec<Context>> {
        let wanted: BTreeSet<u32> =
            f.samplings.iter().flat_map(|s| s.samples.iter().map(|s| s.context)).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<u32> = wanted.into_iter().collect();
        let which = doc! { "generation": generation, "id": { "$in": wanted } };
        let found = self.find_all(CONTEXTS, which, doc! { "id": 1 })?;
        let read = |d: &Document| {
            codec::read_context(bytes(d, "blob").unwrap_or_default(), number(d.get("id")) as u32)
                .map_err(|Damaged| self.damaged())
        };
        found.iter().map(read).collect()
    }

    /// An entry the reference system wrote: arrays in GridFS, contexts by number in a data set, no texts.
    fn foreign(
        &self,
        mut f: FeatureAnalysis,
        e: &Document,
        d: &Document,
    ) -> Result<(FeatureAnalysis, Vec<Context>)> {
        let mut contexts: Vec<Context> = Vec::new();
        for s in e.get_array("samplings").ok().into_iter().flatten().filter_map(Bson::as_document) {
            let array = |key: &str| self.array(s.get(key));
            let (at, values) = (array("feature_acts_indices")?, array("feature_acts_values")?);
            let (numbers, shards) = (array("context_idx")?, array("shard_idx")?);
            let (z_at, z_values) = (array("z_pattern_indices")?, array("z_pattern_values")?);
            let sets: Vec<&str> =
                s.get_array("dataset_name").ok().into_iter().flatten().filter_map(Bson::as_str).collect();
            let mut samples: Vec<Sample> = (0..numbers.len())
                .map(|i| {
                    let shard = shards.get(i).map_or(String::new(), |s| format!(":{s}"));
                    let origin = format!("{}{shard}:{}", sets.get(i).unwrap_or(&""), numbers[i]);
                    let known = contexts.iter().find(|c| c.origin == origin).map(|c| c.id);
                    let context = known.unwrap_or(contexts.len() as u32);
                    if known.is_none() {
                        contexts.push(Context { id: context, origin, ..Context::default() });
                    }
                    Sample { context, ..Sample::default() }
                })
                .collect();
            let n = values.len();
            for i in 0..n.min(at.len() / 2) {
                if let Some(sample) = samples.get_mut(at[i] as usize) {
                    sample.acts.push((at[n + i] as u32, values[i] as f32));
                }
            }
            let n = z_values.len();
            for i in 0..n.min(z_at.len() / 3) {
                if let Some(sample) = samples.get_mut(z_at[i] as usize) {
                    sample.z_pattern.push((z_at[n + i] as u32, z_at[2 * n + i] as u32, z_values[i] as f32));
                }
            }
            samples.iter_mut().for_each(|s| s.acts.sort_by_key(|a| a.0));
            f.samplings.push(Sampling { name: text(s, "name"), samples });
        }
        let floats = |b: &Bson| -> Vec<f32> {
            let mut out = Vec::new();
            let mut all = vec![b];
            while let Some(b) = all.pop() {
                match b {
                    Bson::Array(items) => all.extend(items.iter().rev()),
                    b => out.push(number(Some(b)) as f32),
                }
            }
            out
        };
        f.decoder_norms = match e.get("decoder_norms") {
            Some(Bson::Array(list)) => list.iter().map(|v| number(Some(v)) as f32).collect(),
            other => self.array(other)?.iter().map(|v| *v as f32).collect(),
        };
        f.decoder_similarities = e.get("decoder_similarity_matrices").map(floats).unwrap_or_default();
        f.decoder_inner_products = e.get("decoder_inner_product_matrices").map(floats).unwrap_or_default();
        let side = |l: &Document, key: &str| -> Vec<TokenLogit> {
            let all = l.get_array(key).ok().into_iter().flatten().filter_map(Bson::as_document);
            all.map(|t| TokenLogit { token: text(t, "token"), logit: number(t.get("logit")) as f32 })
                .collect()
        };
        f.logits = d
            .get_document("logits")
            .ok()
            .filter(|l| !l.is_empty())
            .map(|l| Logits { top_positive: side(l, "top_positive"), top_negative: side(l, "top_negative") });
        Ok((f, contexts))
    }

    /// The numbers of an array in GridFS; none where there is no such file.
    fn array(&self, id: Option<&Bson>) -> Result<Vec<f64>> {
        let Some(id) = id.and_then(Bson::as_object_id) else { return Ok(Vec::new()) };
        let id: ObjectId = id;
        let chunks = self.find_all("fs.chunks", doc! { "files_id": id }, doc! { "n": 1 })?;
        let all: Vec<u8> = chunks.iter().filter_map(|c| bytes(c, "data")).flatten().copied().collect();
        if all.is_empty() {
            return Ok(Vec::new());
        }
        npy::read(&all).map(|a| a.values).ok_or_else(|| self.damaged())
    }

    pub(super) fn search_texts(
        &self,
        key: Option<&DictionaryKey>,
        analysis: &str,
        wanted: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>> {
        if let Some(key) = key {
            self.require(key)?;
        }
        let pattern = patterns(wanted);
        if pattern.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let all = |field: &str| -> Vec<Document> {
            pattern.iter().map(|p| doc! { field: { "$regex": p, "$options": "i" } }).collect()
        };
        let feature = |d: &Document| FeatureRef {
            dictionary: DictionaryKey::new(text(d, "sae_name"), text(d, "sae_series")),
            feature: number(d.get("index")) as u32,
        };
        let mut which = key.map_or_else(Document::new, of);
        which.insert("$and", all("interpretation.text"));
        let shown = doc! { "sae_name": 1, "sae_series": 1, "index": 1, "interpretation.text": 1 };
        let cursor = self.of("features").find(which).projection(shown).limit(limit as i64).run().at(self)?;
        let mut hits: Vec<SearchHit> = Vec::new();
        for d in cursor {
            let d = d.at(self)?;
            let explanation = d.get_document("interpretation").ok().map(|i| text(i, "text"));
            hits.push(SearchHit { feature: feature(&d), explanation, tokens: None });
        }
        let mut which = key.map_or_else(Document::new, of);
        which.insert("name", analysis);
        let current: Vec<String> =
            self.find_all("analyses", which, doc! {})?.iter().map(generation).collect();
        let which = doc! { "generation": { "$in": current }, "$and": all("text") };
        for d in self.of(TOKENS).find(which).sort(doc! { "index": 1 }).limit(limit as i64).run().at(self)? {
            let d = d.at(self)?;
            let (feature, tokens) = (feature(&d), Some(text(&d, "text")));
            match hits.iter().position(|h| h.feature == feature) {
                Some(known) => hits[known].tokens = tokens,
                None if hits.len() < limit => hits.push(SearchHit { feature, explanation: None, tokens }),
                None => {}
            }
        }
        Ok(hits)
    }
}

/// Regular expressions that all have to match: whole words, the last as a prefix; text without a letter or digit as it stands.
fn patterns(wanted: &str) -> Vec<String> {
    let words: Vec<&str> = wanted.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        let escape = |c: char| if c.is_whitespace() { c.to_string() } else { format!("\\{c}") };
        let literal: String = wanted.trim().chars().map(escape).collect();
        return if literal.is_empty() { Vec::new() } else { vec![literal] };
    }
    let last = words.len() - 1;
    let one =
        |(i, w): (usize, &&str)| if i == last { format!("(^|\\W){w}") } else { format!("(^|\\W){w}(\\W|$)") };
    words.iter().enumerate().map(one).collect()
}
