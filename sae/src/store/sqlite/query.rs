//! What reads the embedded store.

use super::{Context as _, SqliteStore, row_id};
use crate::{
    Result,
    store::{
        AnalysisRecord, Bookmark, DictionaryKey, DictionaryRecord, Feature, FeatureAnalysis, FeatureFilter,
        FeatureList, FeaturePage, FeatureQuery, FeatureRef, FeatureSummary, Interpretation, Overview,
        SearchHit, SortBy, codec,
    },
};
use rusqlite::{OptionalExtension, Params, Row, Transaction, params, types::Value};
use std::collections::{BTreeMap, BTreeSet};

impl SqliteStore {
    fn rows<T>(
        &self,
        tx: &Transaction<'_>,
        sql: &str,
        p: impl Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut s = tx.prepare_cached(sql).at(self)?;
        let rows = s.query_map(p, row).at(self)?;
        rows.collect::<rusqlite::Result<_>>().at(self)
    }

    pub(super) fn dictionaries_where(
        &self,
        tx: &Transaction<'_>,
        which: &str,
        p: impl Params,
    ) -> Result<Vec<DictionaryRecord>> {
        let sql = format!(
            "SELECT name, series, path, cfg, d_sae, model_name FROM dictionaries WHERE {which} ORDER BY series, name"
        );
        let rows = self.rows(tx, &sql, p, |r| {
            let key = DictionaryKey { name: r.get(0)?, series: r.get(1)? };
            Ok((key, r.get(2)?, r.get::<_, String>(3)?, r.get(4)?, r.get(5)?))
        })?;
        rows.into_iter()
            .map(|(key, path, cfg, d_sae, model_name)| {
                let cfg = serde_json::from_str(&cfg).at(self)?;
                Ok(DictionaryRecord { key, path, cfg, d_sae, model_name })
            })
            .collect()
    }

    pub(super) fn analyses_of(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
    ) -> Result<Vec<AnalysisRecord>> {
        let Some(id) = self.find(tx, key)? else { return Ok(Vec::new()) };
        let sql = "SELECT record FROM analyses WHERE dictionary = ?1 AND state = 1 ORDER BY name";
        let rows: Vec<String> = self.rows(tx, sql, params![id], |r| r.get(0))?;
        rows.iter().map(|r| serde_json::from_str(r).at(self)).collect()
    }

    pub(super) fn overview_of(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
    ) -> Result<Option<Overview>> {
        let Some((_, id)) = self.find_analysis(tx, key, analysis)? else { return Ok(None) };
        let mut s = tx.prepare_cached("SELECT act_times, max_acts FROM analyses WHERE id = ?1").at(self)?;
        let (times, max): (Vec<u8>, Vec<u8>) =
            s.query_row(params![id], |r| Ok((r.get(0)?, r.get(1)?))).at(self)?;
        Ok(Some(Overview {
            act_times: times.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            max_acts: max.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        }))
    }

    pub(super) fn page(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        query: &FeatureQuery,
    ) -> Result<FeaturePage> {
        let Some((dictionary, id)) = self.find_analysis(tx, key, analysis)? else {
            return Ok(FeaturePage::default());
        };
        let (which, mut p) = conditions(dictionary, id, &query.filter);
        let total = self.count(tx, &which, &p)?;
        let column = match query.sort {
            SortBy::Index => "f.feature",
            SortBy::ActTimes => "f.act_times",
            SortBy::MaxAct => "f.max_act",
        };
        let order = if query.descending { "DESC" } else { "ASC" };
        // The page is chosen among narrow rows first, so that sorting does not carry previews along.
        let chosen = format!(
            "SELECT feature, act_times, max_act FROM features f WHERE ?2 = ?2 AND {which} \
             ORDER BY {column} {order}, f.feature ASC LIMIT ? OFFSET ?"
        );
        let sql = format!(
            "SELECT f.feature, f.act_times, f.max_act, \
             (SELECT preview FROM features p WHERE p.analysis = ?1 AND p.feature = f.feature), \
             (SELECT text FROM interpretations i WHERE i.dictionary = ?2 AND i.feature = f.feature), \
             EXISTS (SELECT 1 FROM bookmarks b WHERE b.dictionary = ?2 AND b.feature = f.feature) \
             FROM ({chosen}) f ORDER BY {column} {order}, f.feature ASC"
        );
        let bounded = |n: u64| Value::Integer(n.min(i64::MAX as u64) as i64);
        p.extend([bounded(query.limit), bounded(query.offset)]);
        let rows = self.rows(tx, &sql, rusqlite::params_from_iter(p), |r| {
            let summary = FeatureSummary {
                index: r.get(0)?,
                act_times: r.get::<_, i64>(1)? as u64,
                max_act: r.get(2)?,
                explanation: r.get(4)?,
                bookmarked: r.get(5)?,
                preview: Vec::new(),
            };
            Ok((summary, r.get::<_, Vec<u8>>(3)?))
        })?;
        let features = rows
            .into_iter()
            .map(|(s, blob)| Ok(FeatureSummary { preview: codec::read_preview(&blob).at(self)?, ..s }))
            .collect::<Result<_>>()?;
        Ok(FeaturePage { features, total })
    }

    fn count(&self, tx: &Transaction<'_>, which: &str, p: &[Value]) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM features f WHERE ?2 = ?2 AND {which}");
        let mut s = tx.prepare_cached(&sql).at(self)?;
        let n: i64 = s.query_row(rusqlite::params_from_iter(p), |r| r.get(0)).at(self)?;
        Ok(n as u64)
    }

    pub(super) fn random(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        filter: &FeatureFilter,
        draw: f64,
    ) -> Result<Option<u32>> {
        let Some((dictionary, id)) = self.find_analysis(tx, key, analysis)? else { return Ok(None) };
        let (which, mut p) = conditions(dictionary, id, filter);
        let n = self.count(tx, &which, &p)?;
        let at = (draw.clamp(0.0, 1.0) * n as f64) as i64;
        p.push(Value::Integer(at.min(n.saturating_sub(1) as i64)));
        let sql = format!(
            "SELECT f.feature FROM features f WHERE ?2 = ?2 AND {which} ORDER BY f.feature LIMIT 1 OFFSET ?"
        );
        let mut s = tx.prepare_cached(&sql).at(self)?;
        s.query_row(rusqlite::params_from_iter(p), |r| r.get(0)).optional().at(self)
    }

    pub(super) fn feature_page(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        feature: u32,
    ) -> Result<Option<Feature>> {
        let Some((dictionary, id)) = self.find_analysis(tx, key, analysis)? else { return Ok(None) };
        let sql = "SELECT f.act_times, f.max_act, f.preview, d.blob FROM features f, details d \
                   WHERE f.analysis = ?1 AND f.feature = ?2 AND d.id = ?3";
        let mut s = tx.prepare_cached(sql).at(self)?;
        let found = s.query_row(params![id, feature, row_id(id, feature)], |r| {
            let f = FeatureAnalysis {
                index: feature,
                act_times: r.get::<_, i64>(0)? as u64,
                max_act: r.get(1)?,
                ..FeatureAnalysis::default()
            };
            Ok((f, r.get::<_, Vec<u8>>(2)?, r.get::<_, Vec<u8>>(3)?))
        });
        let Some((mut f, preview, blob)) = found.optional().at(self)? else { return Ok(None) };
        f.preview = codec::read_preview(&preview).at(self)?;
        let f = codec::read_feature(&blob, f).at(self)?;
        let numbers: BTreeSet<u32> =
            f.samplings.iter().flat_map(|s| s.samples.iter().map(|s| s.context)).collect();
        let mut contexts = Vec::with_capacity(numbers.len());
        let mut s = tx.prepare_cached("SELECT blob FROM contexts WHERE id = ?1").at(self)?;
        for number in numbers {
            let blob: Vec<u8> = s.query_row(params![row_id(id, number)], |r| r.get(0)).at(self)?;
            contexts.push(codec::read_context(&blob, number).at(self)?);
        }
        let at = params![dictionary, feature];
        let sql = "SELECT record FROM interpretations WHERE dictionary = ?1 AND feature = ?2";
        let interpretation: Vec<String> = self.rows(tx, sql, at, |r| r.get(0))?;
        let sql = "SELECT record FROM bookmarks WHERE dictionary = ?1 AND feature = ?2";
        let bookmark: Vec<String> = self.rows(tx, sql, at, |r| r.get(0))?;
        let sql = "SELECT name, value FROM metrics WHERE dictionary = ?1 AND feature = ?2";
        let metrics = self.rows(tx, sql, at, |r| Ok((r.get(0)?, r.get(1)?)))?.into_iter().collect();
        Ok(Some(Feature {
            analysis: f,
            contexts,
            interpretation: interpretation.first().map(|r| serde_json::from_str(r).at(self)).transpose()?,
            metrics,
            bookmark: bookmark.first().map(|r| serde_json::from_str(r).at(self)).transpose()?,
        }))
    }

    pub(super) fn interpretations_of(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
    ) -> Result<BTreeMap<u32, Interpretation>> {
        let Some(id) = self.find(tx, key)? else { return Ok(BTreeMap::new()) };
        let sql = "SELECT feature, record FROM interpretations WHERE dictionary = ?1";
        let rows = self.rows(tx, sql, params![id], |r| Ok((r.get(0)?, r.get::<_, String>(1)?)))?;
        rows.into_iter().map(|(f, r)| Ok((f, serde_json::from_str(&r).at(self)?))).collect()
    }

    pub(super) fn bookmarks_of(
        &self,
        tx: &Transaction<'_>,
        key: Option<&DictionaryKey>,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<(FeatureRef, Bookmark)>, u64)> {
        let only = match key {
            Some(key) => Some(self.require(tx, key)?),
            None => None,
        };
        let which = "FROM bookmarks b JOIN dictionaries d ON d.id = b.dictionary WHERE (?1 IS NULL OR b.dictionary = ?1)";
        let total: i64 =
            tx.query_row(&format!("SELECT count(*) {which}"), params![only], |r| r.get(0)).at(self)?;
        let sql = format!(
            "SELECT d.name, d.series, b.feature, b.record {which} \
             ORDER BY b.created_at DESC, d.series, d.name, b.feature LIMIT ?2 OFFSET ?3"
        );
        let rows = self.rows(tx, &sql, params![only, limit as i64, offset as i64], |r| {
            let dictionary = DictionaryKey { name: r.get(0)?, series: r.get(1)? };
            Ok((FeatureRef { dictionary, feature: r.get(2)? }, r.get::<_, String>(3)?))
        })?;
        let all = rows.into_iter().map(|(f, r)| Ok((f, serde_json::from_str(&r).at(self)?)));
        Ok((all.collect::<Result<_>>()?, total as u64))
    }

    pub(super) fn all_lists(&self, tx: &Transaction<'_>) -> Result<Vec<FeatureList>> {
        let mut lists = self.rows(tx, "SELECT name, notes FROM lists ORDER BY name", [], |r| {
            Ok(FeatureList { name: r.get(0)?, notes: r.get(1)?, features: Vec::new() })
        })?;
        let sql = "SELECT d.name, d.series, m.feature FROM list_members m JOIN dictionaries d ON d.id = m.dictionary \
                   WHERE m.list = ?1 ORDER BY m.position";
        for list in &mut lists {
            list.features = self.rows(tx, sql, params![list.name], |r| {
                let dictionary = DictionaryKey { name: r.get(0)?, series: r.get(1)? };
                Ok(FeatureRef { dictionary, feature: r.get(2)? })
            })?;
        }
        Ok(lists)
    }

    pub(super) fn search_texts(
        &self,
        tx: &Transaction<'_>,
        key: Option<&DictionaryKey>,
        analysis: &str,
        text: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>> {
        let only = match key {
            Some(key) => Some(self.require(tx, key)?),
            None => None,
        };
        let (condition, pattern) = pattern(text);
        if pattern.is_empty() {
            return Ok(Vec::new());
        }
        let hit = |r: &Row<'_>| {
            let dictionary = DictionaryKey { name: r.get(0)?, series: r.get(1)? };
            Ok((FeatureRef { dictionary, feature: r.get(2)? }, r.get::<_, String>(3)?))
        };
        let order = if condition.contains("MATCH") { "rank" } else { "t.rowid" };
        let sql = format!(
            "SELECT d.name, d.series, t.rowid & 4294967295, t.text FROM explanation_texts t \
             JOIN dictionaries d ON d.id = t.rowid >> 32 \
             WHERE {} AND (?2 IS NULL OR d.id = ?2) ORDER BY {order} LIMIT ?3",
            condition.replace("{table}", "explanation_texts"),
        );
        let found = self.rows(tx, &sql, params![pattern, only, limit as i64], hit)?;
        let mut hits: Vec<SearchHit> = found
            .into_iter()
            .map(|(feature, text)| SearchHit { feature, explanation: Some(text), tokens: None })
            .collect();
        let sql = format!(
            "SELECT d.name, d.series, t.rowid & 4294967295, t.text FROM token_texts t \
             JOIN analyses a ON a.id = t.rowid >> 32 AND a.state = 1 AND a.name = ?4 \
             JOIN dictionaries d ON d.id = a.dictionary \
             WHERE {} AND (?2 IS NULL OR d.id = ?2) ORDER BY {order} LIMIT ?3",
            condition.replace("{table}", "token_texts"),
        );
        for (feature, text) in self.rows(tx, &sql, params![pattern, only, limit as i64, analysis], hit)? {
            match hits.iter().position(|h| h.feature == feature) {
                Some(known) => hits[known].tokens = Some(text),
                None if hits.len() < limit => {
                    hits.push(SearchHit { feature, explanation: None, tokens: Some(text) });
                }
                None => {}
            }
        }
        Ok(hits)
    }
}

/// A filter as a condition on `f`: `?1` is the analysis, `?2` the dictionary, bounds follow.
fn conditions(dictionary: i64, analysis: i64, filter: &FeatureFilter) -> (String, Vec<Value>) {
    let mut sql = String::from("f.analysis = ?1");
    let mut p = vec![Value::Integer(analysis), Value::Integer(dictionary)];
    let mut bound = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            p.push(value);
            sql.push_str(&format!(" AND {condition} ?{}", p.len()));
        }
    };
    let int = |n: Option<u64>| n.map(|n| Value::Integer(n.min(i64::MAX as u64) as i64));
    let real = |x: Option<f32>| x.map(|x| Value::Real(x.into()));
    bound("f.max_act >", filter.alive.then_some(Value::Real(0.0)));
    bound("f.act_times >=", int(filter.min_act_times));
    bound("f.act_times <=", int(filter.max_act_times));
    bound("f.max_act >=", real(filter.min_max_act));
    bound("f.max_act <=", real(filter.max_max_act));
    for (wanted, table) in [(filter.explained, "interpretations"), (filter.bookmarked, "bookmarks")] {
        if let Some(wanted) = wanted {
            let not = if wanted { "" } else { "NOT " };
            sql.push_str(&format!(
                " AND {not}EXISTS (SELECT 1 FROM {table} x WHERE x.dictionary = ?2 AND x.feature = f.feature)"
            ));
        }
    }
    (sql, p)
}

/// What to look for: all words, the last as a prefix. Text without any letter or digit is looked for as it stands, because full
/// text knows words only.
fn pattern(text: &str) -> (String, String) {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        let text = text.trim();
        let escaped: String =
            text.chars().flat_map(|c| "%_\\".contains(c).then_some('\\').into_iter().chain([c])).collect();
        let like = if text.is_empty() { String::new() } else { format!("%{escaped}%") };
        return ("t.text LIKE ?1 ESCAPE '\\'".into(), like);
    }
    let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
    ("{table} MATCH ?1".into(), format!("{}*", quoted.join(" ")))
}
