//! What changes the embedded store: analyses, explanations, lists.

use super::{Context as _, SqliteStore, row_id, row_ids};
use crate::{
    Error, Result,
    store::{
        AnalysisRecord, AnalysisWriter, Context, DictionaryKey, FeatureAnalysis, FeatureList, FeatureRef,
        Interpretation, Logits, codec, no_analysis,
    },
};
use rusqlite::{Connection, OptionalExtension, Params, Transaction, TransactionBehavior, params};
use std::collections::HashSet;

/// Writes an analysis on a connection of its own, a transaction for each call, into rows no reader looks at.
pub(super) struct Writer<'a> {
    store: &'a SqliteStore,
    conn: Option<Connection>,
    dictionary: i64,
    id: i64,
    name: String,
    /// Contexts written.
    known: HashSet<u32>,
    /// Feature, times active and maximum.
    seen: Vec<(u32, u32, f32)>,
}

impl<'a> Writer<'a> {
    /// Clears what a writer of the same analysis left when it was killed, and makes a row for this one.
    pub fn begin(store: &'a SqliteStore, key: &DictionaryKey, name: &str) -> Result<Self> {
        let (dictionary, id) = store.write(|tx| {
            let dictionary = store.require(tx, key)?;
            store.delete_analyses(
                tx,
                "dictionary = ?1 AND name = ?2 AND state != 1",
                params![dictionary, name],
            )?;
            let sql = "INSERT INTO analyses (dictionary, name, state) VALUES (?1, ?2, 0)";
            tx.execute(sql, params![dictionary, name]).at(store)?;
            Ok((dictionary, tx.last_insert_rowid()))
        })?;
        let conn = Some(store.take()?);
        Ok(Self { store, conn, dictionary, id, name: name.into(), known: HashSet::new(), seen: Vec::new() })
    }

    /// One change, refused when the analysis was removed meanwhile.
    fn change(&mut self, run: impl FnOnce(&Transaction<'_>, &SqliteStore, i64) -> Result<()>) -> Result<()> {
        let store = self.store;
        let Some(conn) = self.conn.as_mut() else { return Ok(()) };
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).at(store)?;
        let state: Option<i64> = tx
            .query_row("SELECT state FROM analyses WHERE id = ?1", params![self.id], |r| r.get(0))
            .optional()
            .at(store)?;
        if state != Some(0) {
            let what = "this analysis was removed, or started again elsewhere, while it was being written";
            return Err(Error::format(&store.path, what));
        }
        run(&tx, store, self.id)?;
        tx.commit().at(store)
    }
}

impl AnalysisWriter for Writer<'_> {
    fn contexts(&mut self, contexts: &[Context]) -> Result<()> {
        self.change(|tx, store, id| {
            let mut put = tx.prepare_cached("INSERT INTO contexts VALUES (?1, ?2)").at(store)?;
            for c in contexts {
                put.execute(params![row_id(id, c.id), codec::context(c)]).at(store)?;
            }
            Ok(())
        })?;
        self.known.extend(contexts.iter().map(|c| c.id));
        Ok(())
    }

    fn features(&mut self, features: &[FeatureAnalysis]) -> Result<()> {
        for f in features {
            let samples = f.samplings.iter().flat_map(|s| &s.samples);
            if let Some(lost) = samples.map(|s| s.context).find(|c| !self.known.contains(c)) {
                let what = format!("feature {} points to context {lost}, which was not written", f.index);
                return Err(Error::Data { what });
            }
        }
        self.change(|tx, store, id| {
            let mut row = tx.prepare_cached("INSERT INTO features VALUES (?1, ?2, ?3, ?4, ?5)").at(store)?;
            let mut detail = tx.prepare_cached("INSERT INTO details VALUES (?1, ?2)").at(store)?;
            let mut texts =
                tx.prepare_cached("INSERT INTO token_texts (rowid, text) VALUES (?1, ?2)").at(store)?;
            for f in features {
                let preview = codec::preview(&f.preview);
                row.execute(params![id, f.index, f.act_times as i64, f64::from(f.max_act), preview])
                    .at(store)?;
                detail.execute(params![row_id(id, f.index), codec::feature(f)]).at(store)?;
                let text = f.search_text();
                if !text.is_empty() {
                    texts.execute(params![row_id(id, f.index), text]).at(store)?;
                }
            }
            Ok(())
        })?;
        let seen = features.iter().map(|f| (f.index, f.act_times.min(u64::from(u32::MAX)) as u32, f.max_act));
        self.seen.extend(seen);
        Ok(())
    }

    fn commit(mut self: Box<Self>, record: &AnalysisRecord) -> Result<()> {
        let mut overview = vec![(0u32, 0f32); record.d_sae as usize];
        for &(feature, times, max) in &self.seen {
            let slot = overview.get_mut(feature as usize).ok_or_else(|| Error::Data {
                what: format!("feature {feature} of a dictionary of {}", record.d_sae),
            })?;
            *slot = (times, max);
        }
        let act_times: Vec<u8> = overview.iter().flat_map(|(n, _)| n.to_le_bytes()).collect();
        let max_acts: Vec<u8> = overview.iter().flat_map(|(_, m)| m.to_le_bytes()).collect();
        let (dictionary, name) = (self.dictionary, self.name.clone());
        let record = AnalysisRecord { name: name.clone(), ..record.clone() };
        let record = serde_json::to_string(&record).at(self.store)?;
        self.change(|tx, store, id| {
            let replace = "UPDATE analyses SET state = 2 WHERE dictionary = ?1 AND name = ?2 AND state = 1";
            tx.execute(replace, params![dictionary, name]).at(store)?;
            let finish =
                "UPDATE analyses SET state = 1, record = ?2, act_times = ?3, max_acts = ?4 WHERE id = ?1";
            tx.execute(finish, params![id, record, act_times, max_acts]).at(store).map(drop)
        })?;
        if let Some(conn) = self.conn.take() {
            self.store.give_back(conn);
        }
        // Apart from the change readers wait for; should it not happen now, the next analysis does it.
        self.store.write(|tx| {
            self.store.delete_analyses(
                tx,
                "dictionary = ?1 AND name = ?2 AND state = 2",
                params![dictionary, name],
            )
        })
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if self.conn.take().is_some() {
            // Best effort: what stays is never read, and cleared by the next analysis of this name.
            let _ = self
                .store
                .write(|tx| self.store.delete_analyses(tx, "id = ?1 AND state = 0", params![self.id]));
        }
    }
}

impl SqliteStore {
    /// Removes analyses with all their rows.
    pub(super) fn delete_analyses(&self, tx: &Transaction<'_>, which: &str, p: impl Params) -> Result<()> {
        let ids: Vec<i64> = {
            let mut s = tx.prepare(&format!("SELECT id FROM analyses WHERE {which}")).at(self)?;
            let rows = s.query_map(p, |r| r.get(0)).at(self)?;
            rows.collect::<rusqlite::Result<_>>().at(self)?
        };
        for id in ids {
            let (from, to) = row_ids(id);
            for (table, key) in [("token_texts", "rowid"), ("details", "id"), ("contexts", "id")] {
                let sql = format!("DELETE FROM {table} WHERE {key} BETWEEN ?1 AND ?2");
                tx.execute(&sql, params![from, to]).at(self)?;
            }
            tx.execute("DELETE FROM features WHERE analysis = ?1", params![id]).at(self)?;
            tx.execute("DELETE FROM analyses WHERE id = ?1", params![id]).at(self)?;
        }
        Ok(())
    }

    pub(super) fn write_logits(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        analysis: &str,
        logits: &[(u32, Logits)],
    ) -> Result<()> {
        self.require(tx, key)?;
        let (_, id) = self.find_analysis(tx, key, analysis)?.ok_or_else(|| no_analysis(key, analysis))?;
        let mut blob = tx.prepare_cached("SELECT blob FROM details WHERE id = ?1").at(self)?;
        let mut detail = tx.prepare_cached("UPDATE details SET blob = ?2 WHERE id = ?1").at(self)?;
        let mut forget = tx.prepare_cached("DELETE FROM token_texts WHERE rowid = ?1").at(self)?;
        let mut texts =
            tx.prepare_cached("INSERT INTO token_texts (rowid, text) VALUES (?1, ?2)").at(self)?;
        for (feature, logits) in logits {
            let row = row_id(id, *feature);
            let Some(known) = blob.query_row(params![row], |r| r.get::<_, Vec<u8>>(0)).optional().at(self)?
            else {
                continue;
            };
            let f = codec::read_feature(&known, FeatureAnalysis::default()).at(self)?;
            let f = FeatureAnalysis { logits: Some(logits.clone()), ..f };
            detail.execute(params![row, codec::feature(&f)]).at(self)?;
            forget.execute(params![row]).at(self)?;
            let text = f.search_text();
            if !text.is_empty() {
                texts.execute(params![row, text]).at(self)?;
            }
        }
        Ok(())
    }

    pub(super) fn put_interpretation(
        &self,
        tx: &Transaction<'_>,
        f: &FeatureRef,
        interpretation: Option<&Interpretation>,
    ) -> Result<()> {
        let id = self.require(tx, &f.dictionary)?;
        let text_id = row_id(id, f.feature);
        tx.execute("DELETE FROM explanation_texts WHERE rowid = ?1", params![text_id]).at(self)?;
        tx.execute(
            "DELETE FROM interpretations WHERE dictionary = ?1 AND feature = ?2",
            params![id, f.feature],
        )
        .at(self)?;
        if let Some(i) = interpretation {
            let record = serde_json::to_string(i).at(self)?;
            let row = params![id, f.feature, i.text, record];
            tx.execute("INSERT INTO interpretations VALUES (?1, ?2, ?3, ?4)", row).at(self)?;
            let sql = "INSERT INTO explanation_texts (rowid, text) VALUES (?1, ?2)";
            tx.execute(sql, params![text_id, i.text]).at(self)?;
        }
        Ok(())
    }

    pub(super) fn write_list(&self, tx: &Transaction<'_>, list: &FeatureList) -> Result<()> {
        tx.execute("DELETE FROM lists WHERE name = ?1", params![list.name]).at(self)?;
        tx.execute("INSERT INTO lists VALUES (?1, ?2)", params![list.name, list.notes]).at(self)?;
        for (position, member) in list.features.iter().enumerate() {
            let id = self.require(tx, &member.dictionary)?;
            let row = params![list.name, position as i64, id, member.feature];
            tx.execute("INSERT INTO list_members VALUES (?1, ?2, ?3, ?4)", row).at(self)?;
        }
        Ok(())
    }
}
