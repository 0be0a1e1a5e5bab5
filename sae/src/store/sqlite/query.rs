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
use rusqlite::{OptionalExtension, Params, Row, Transaction, params};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashSet},
};

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
        let (mut passing, overview) = self.passing(tx, key, analysis, dictionary, &query.filter)?;
        let direction = |o: Ordering| if query.descending { o.reverse() } else { o };
        let order = |a: &u32, b: &u32| match query.sort {
            SortBy::Index => direction(a.cmp(b)),
            SortBy::ActTimes => {
                let times = |f: u32| overview.act_times[f as usize];
                direction(times(*a).cmp(&times(*b))).then(a.cmp(b))
            }
            SortBy::MaxAct => {
                let max = |f: u32| overview.max_acts[f as usize];
                direction(max(*a).total_cmp(&max(*b))).then(a.cmp(b))
            }
        };
        passing.sort_unstable_by(order);
        let place = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(passing.len());
        let from = place(query.offset);
        let shown = &passing[from..place(query.offset.saturating_add(query.limit))];
        let features = shown.iter().map(|&f| self.summary(tx, dictionary, id, f)).collect::<Result<_>>()?;
        Ok(FeaturePage { features, total: passing.len() as u64 })
    }

    fn summary(
        &self,
        tx: &Transaction<'_>,
        dictionary: i64,
        id: i64,
        feature: u32,
    ) -> Result<FeatureSummary> {
        let sql = "SELECT f.act_times, f.max_act, f.preview, \
                   (SELECT text FROM interpretations i WHERE i.dictionary = ?2 AND i.feature = ?3), \
                   EXISTS (SELECT 1 FROM bookmarks b WHERE b.dictionary = ?2 AND b.feature = ?3) \
                   FROM features f WHERE f.analysis = ?1 AND f.feature = ?3";
        let mut s = tx.prepare_cached(sql).at(self)?;
        let found = s.query_row(params![id, dictionary, feature], |r| {
            let summary = FeatureSummary {
                index: feature,
                act_times: r.get::<_, i64>(0)? as u64,
                max_act: r.get(1)?,
                explanation: r.get(3)?,
                bookmarked: r.get(4)?,
                preview: Vec::new(),
            };
            Ok((summary, r.get::<_, Vec<u8>>(2)?))
        });
        match found.optional().at(self)? {
            Some((summary, preview)) => {
                Ok(FeatureSummary { preview: codec::read_preview(&preview).at(self)?, ..summary })
            }
            // An analysis may leave out features of which there is nothing to say.
            None => Ok(FeatureSummary { index: feature, ..FeatureSummary::default() }),
        }
    }

    /// Features that pass the filter, by index, and the numbers they were judged by. Read at once: that is far quicker than
    /// going through as many rows, each with its preview.
    fn passing(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        dictionary: i64,
        filter: &FeatureFilter,
    ) -> Result<(Vec<u32>, Overview)> {
        let overview = self.overview_of(tx, key, analysis)?.unwrap_or_default();
        let mut people = Vec::new();
        for (wanted, table) in [(filter.explained, "interpretations"), (filter.bookmarked, "bookmarks")] {
            if let Some(wanted) = wanted {
                let sql = format!("SELECT feature FROM {table} WHERE dictionary = ?1");
                let found: Vec<u32> = self.rows(tx, &sql, params![dictionary], |r| r.get(0))?;
                people.push((wanted, found.into_iter().collect::<HashSet<u32>>()));
            }
        }
        let numbers = overview.act_times.iter().zip(&overview.max_acts);
        let passing = (0u32..).zip(numbers).filter(|&(f, (&times, &max))| {
            let times = u64::from(times);
            (!filter.alive || max > 0.0)
                && filter.min_act_times.is_none_or(|n| times >= n)
                && filter.max_act_times.is_none_or(|n| times <= n)
                && filter.min_max_act.is_none_or(|m| max >= m)
                && filter.max_max_act.is_none_or(|m| max <= m)
                && people.iter().all(|(wanted, which)| which.contains(&f) == *wanted)
        });
        Ok((passing.map(|(f, _)| f).collect(), overview))
    }

    pub(super) fn random(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        filter: &FeatureFilter,
        draw: f64,
    ) -> Result<Option<u32>> {
        let Some((dictionary, _)) = self.find_analysis(tx, key, analysis)? else { return Ok(None) };
        let (passing, _) = self.passing(tx, key, analysis, dictionary, filter)?;
        let at = (draw.clamp(0.0, 1.0) * passing.len() as f64) as usize;
        Ok(passing.get(at.min(passing.len().saturating_sub(1))).copied())
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
