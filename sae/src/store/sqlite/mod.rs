//! The embedded store: one SQLite file in WAL mode, so that readers in any process go on while one writes. A method takes a
//! connection from a pool, and everything it reads is one snapshot. Statistics that lists are sorted by are columns; the rest
//! of a feature is one blob, so a page costs a handful of key lookups however large the dictionary is.

mod query;
mod write;

use super::{
    AnalysisRecord, AnalysisWriter, Bookmark, DictionaryKey, DictionaryRecord, Feature, FeatureFilter,
    FeatureList, FeaturePage, FeatureQuery, FeatureRef, Interpretation, Logits, Overview, SearchHit, Store,
    check_name, codec::Damaged, no_analysis, unknown,
};
use crate::{Error, Result};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Marks a file as a store of this program.
const APPLICATION: i32 = 0x6c6d_7361;
/// How long a writer waits for another.
const BUSY: Duration = Duration::from_secs(60);
/// Migrations: the first makes version 1, each further one the next. Never change one that was released.
const MIGRATIONS: [&str; 2] = [include_str!("schema.sql"), include_str!("schema_2.sql")];

/// A store in one file.
pub struct SqliteStore {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// A failure of the database as this crate's error.
trait Context<T> {
    fn at(self, store: &SqliteStore) -> Result<T>;
}
impl<T> Context<T> for rusqlite::Result<T> {
    fn at(self, store: &SqliteStore) -> Result<T> {
        self.map_err(|e| Error::format(&store.path, e.to_string()))
    }
}
impl<T> Context<T> for Result<T, Damaged> {
    fn at(self, store: &SqliteStore) -> Result<T> {
        self.map_err(|Damaged| Error::format(&store.path, "a stored result is damaged; analyse again"))
    }
}
impl<T> Context<T> for serde_json::Result<T> {
    fn at(self, store: &SqliteStore) -> Result<T> {
        self.map_err(|e| Error::format(&store.path, e.to_string()))
    }
}

impl SqliteStore {
    /// Opens a store, or makes one where there is no file. Older versions are brought up to date.
    ///
    /// # Errors
    /// A file that is something else, or was written by a newer version of this program.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let store = Self { path: path.into(), idle: Mutex::default() };
        let mut conn = store.connect()?;
        store.migrate(&mut conn)?;
        store.give_back(conn);
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn connect(&self) -> Result<Connection> {
        let conn = Connection::open(&self.path).at(self)?;
        conn.busy_timeout(BUSY).at(self)?;
        conn.set_prepared_statement_cache_capacity(64);
        // NORMAL loses at most the last commits when the machine stops, never consistency; mapped reads skip a copy.
        let setup = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; \
                     PRAGMA mmap_size = 1073741824; PRAGMA temp_store = MEMORY;";
        conn.execute_batch(setup).at(self)?;
        Ok(conn)
    }

    fn migrate(&self, conn: &mut Connection) -> Result<()> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).at(self)?;
        let get = |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
        let (version, mark) = (get("user_version").at(self)?, get("application_id").at(self)?);
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_master", [], |r| r.get(0)).at(self)?;
        if mark != i64::from(APPLICATION) && (tables > 0 || version > 0) {
            return Err(Error::format(&self.path, "is a database of another program; choose another file"));
        }
        if version > MIGRATIONS.len() as i64 {
            let what = format!(
                "was written by a newer version of lm-saes (form {version}, this one knows {})",
                MIGRATIONS.len()
            );
            return Err(Error::format(&self.path, what));
        }
        for step in &MIGRATIONS[version as usize..] {
            tx.execute_batch(step).at(self)?;
        }
        if version < MIGRATIONS.len() as i64 {
            tx.pragma_update(None, "application_id", APPLICATION).at(self)?;
            tx.pragma_update(None, "user_version", MIGRATIONS.len() as i64).at(self)?;
        }
        tx.commit().at(self)
    }

    fn take(&self) -> Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    fn give_back(&self, conn: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }

    /// Runs `read` on one snapshot.
    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.within(TransactionBehavior::Deferred, read)
    }

    /// Runs `write` as one change: all of it or nothing.
    fn write<T>(&self, write: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.within(TransactionBehavior::Immediate, write)
    }

    fn within<T>(
        &self,
        behavior: TransactionBehavior,
        run: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut conn = self.take()?;
        let tx = conn.transaction_with_behavior(behavior).at(self)?;
        let value = run(&tx)?;
        tx.commit().at(self)?;
        self.give_back(conn);
        Ok(value)
    }

    fn find(&self, tx: &Transaction<'_>, key: &DictionaryKey) -> Result<Option<i64>> {
        let mut s =
            tx.prepare_cached("SELECT id FROM dictionaries WHERE series = ?1 AND name = ?2").at(self)?;
        s.query_row(params![key.series, key.name], |r| r.get(0)).optional().at(self)
    }

    fn require(&self, tx: &Transaction<'_>, key: &DictionaryKey) -> Result<i64> {
        self.find(tx, key)?.ok_or_else(|| unknown(key))
    }

    /// Row numbers of a dictionary and its finished analysis.
    fn find_analysis(
        &self,
        tx: &Transaction<'_>,
        key: &DictionaryKey,
        name: &str,
    ) -> Result<Option<(i64, i64)>> {
        let Some(dictionary) = self.find(tx, key)? else { return Ok(None) };
        let sql = "SELECT id FROM analyses WHERE dictionary = ?1 AND name = ?2 AND state = 1";
        let mut s = tx.prepare_cached(sql).at(self)?;
        let analysis = s.query_row(params![dictionary, name], |r| r.get(0)).optional().at(self)?;
        Ok(analysis.map(|a| (dictionary, a)))
    }
}

/// Key of a row that belongs to `owner`.
fn row_id(owner: i64, number: u32) -> i64 {
    owner << 32 | i64::from(number)
}

/// Keys of all rows of `owner`.
fn row_ids(owner: i64) -> (i64, i64) {
    (row_id(owner, 0), row_id(owner, u32::MAX))
}

impl Store for SqliteStore {
    fn put_dictionary(&self, d: &DictionaryRecord) -> Result<()> {
        check_name(&d.key.name)?;
        self.write(|tx| {
            let sql = "INSERT INTO dictionaries (name, series, path, cfg, d_sae, model_name) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                       ON CONFLICT (series, name) DO UPDATE SET path = ?3, cfg = ?4, d_sae = ?5, model_name = ?6";
            let row = params![d.key.name, d.key.series, d.path, d.cfg.to_string(), d.d_sae, d.model_name];
            tx.execute(sql, row).at(self).map(drop)
        })
    }

    fn dictionaries(&self, series: Option<&str>) -> Result<Vec<DictionaryRecord>> {
        self.read(|tx| self.dictionaries_where(tx, "?1 IS NULL OR series = ?1", params![series]))
    }

    fn dictionary(&self, key: &DictionaryKey) -> Result<Option<DictionaryRecord>> {
        self.read(|tx| {
            let found =
                self.dictionaries_where(tx, "series = ?1 AND name = ?2", params![key.series, key.name])?;
            Ok(found.into_iter().next())
        })
    }

    fn rename_dictionary(&self, key: &DictionaryKey, name: &str) -> Result<()> {
        check_name(name)?;
        self.write(|tx| {
            let id = self.require(tx, key)?;
            if self.find(tx, &DictionaryKey::new(name, &key.series))?.is_some_and(|other| other != id) {
                return Err(Error::Data {
                    what: format!("there is a dictionary {name:?} in series {:?} already", key.series),
                });
            }
            tx.execute("UPDATE dictionaries SET name = ?2 WHERE id = ?1", params![id, name])
                .at(self)
                .map(drop)
        })
    }

    fn remove_dictionary(&self, key: &DictionaryKey) -> Result<()> {
        self.write(|tx| {
            let id = self.require(tx, key)?;
            self.delete_analyses(tx, "dictionary = ?1", params![id])?;
            let (from, to) = row_ids(id);
            tx.execute("DELETE FROM explanation_texts WHERE rowid BETWEEN ?1 AND ?2", params![from, to])
                .at(self)?;
            tx.execute("DELETE FROM dictionaries WHERE id = ?1", params![id]).at(self).map(drop)
        })
    }

    fn begin_analysis<'a>(&'a self, key: &DictionaryKey, name: &str) -> Result<Box<dyn AnalysisWriter + 'a>> {
        Ok(Box::new(write::Writer::begin(self, key, name)?))
    }

    fn analyses(&self, key: &DictionaryKey) -> Result<Vec<AnalysisRecord>> {
        self.read(|tx| self.analyses_of(tx, key))
    }

    fn remove_analysis(&self, key: &DictionaryKey, name: &str) -> Result<()> {
        self.write(|tx| match self.find_analysis(tx, key, name)? {
            Some((_, id)) => self.delete_analyses(tx, "id = ?1", params![id]),
            None => Err(no_analysis(key, name)),
        })
    }

    fn set_logits(&self, key: &DictionaryKey, analysis: &str, logits: &[(u32, Logits)]) -> Result<()> {
        self.write(|tx| self.write_logits(tx, key, analysis, logits))
    }

    fn overview(&self, key: &DictionaryKey, analysis: &str) -> Result<Option<Overview>> {
        self.read(|tx| self.overview_of(tx, key, analysis))
    }

    fn features(&self, key: &DictionaryKey, analysis: &str, query: &FeatureQuery) -> Result<FeaturePage> {
        self.read(|tx| self.page(tx, key, analysis, query))
    }

    fn random_feature(
        &self,
        key: &DictionaryKey,
        analysis: &str,
        filter: &FeatureFilter,
        draw: f64,
    ) -> Result<Option<u32>> {
        self.read(|tx| self.random(tx, key, analysis, filter, draw))
    }

    fn feature(&self, key: &DictionaryKey, analysis: &str, feature: u32) -> Result<Option<Feature>> {
        self.read(|tx| self.feature_page(tx, key, analysis, feature))
    }

    fn search(
        &self,
        key: Option<&DictionaryKey>,
        analysis: &str,
        text: &str,
        limit: usize,
    ) -> Result<Vec<SearchHit>> {
        self.read(|tx| self.search_texts(tx, key, analysis, text, limit))
    }

    fn set_interpretation(&self, f: &FeatureRef, interpretation: Option<&Interpretation>) -> Result<()> {
        self.write(|tx| self.put_interpretation(tx, f, interpretation))
    }

    fn interpretations(&self, key: &DictionaryKey) -> Result<BTreeMap<u32, Interpretation>> {
        self.read(|tx| self.interpretations_of(tx, key))
    }

    fn set_metric(&self, f: &FeatureRef, name: &str, value: f64) -> Result<()> {
        self.write(|tx| {
            let id = self.require(tx, &f.dictionary)?;
            let sql = "INSERT OR REPLACE INTO metrics VALUES (?1, ?2, ?3, ?4)";
            tx.execute(sql, params![id, f.feature, name, value]).at(self).map(drop)
        })
    }

    fn set_bookmark(&self, f: &FeatureRef, bookmark: Option<&Bookmark>) -> Result<()> {
        self.write(|tx| {
            let id = self.require(tx, &f.dictionary)?;
            tx.execute(
                "DELETE FROM bookmarks WHERE dictionary = ?1 AND feature = ?2",
                params![id, f.feature],
            )
            .at(self)?;
            if let Some(b) = bookmark {
                let record = serde_json::to_string(b).at(self)?;
                let sql = "INSERT INTO bookmarks VALUES (?1, ?2, ?3, ?4)";
                tx.execute(sql, params![id, f.feature, b.created_at as i64, record]).at(self)?;
            }
            Ok(())
        })
    }

    fn bookmarks(
        &self,
        key: Option<&DictionaryKey>,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<(FeatureRef, Bookmark)>, u64)> {
        self.read(|tx| self.bookmarks_of(tx, key, offset, limit))
    }

    fn put_list(&self, list: &FeatureList) -> Result<()> {
        self.write(|tx| self.write_list(tx, list))
    }

    fn lists(&self) -> Result<Vec<FeatureList>> {
        self.read(|tx| self.all_lists(tx))
    }

    fn remove_list(&self, name: &str) -> Result<()> {
        self.write(|tx| match tx.execute("DELETE FROM lists WHERE name = ?1", params![name]).at(self)? {
            0 => Err(Error::Data { what: format!("no list {name:?}") }),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_of_the_first_form_is_brought_up_to_date_and_a_newer_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(MIGRATIONS[0]).unwrap();
        conn.pragma_update(None, "application_id", APPLICATION).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        let row = "INSERT INTO dictionaries (name, series, path, cfg, d_sae) VALUES ('a', 's', 'p', '{}', 7)";
        conn.execute(row, []).unwrap();
        drop(conn);
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.dictionary(&DictionaryKey::new("a", "s")).unwrap().unwrap().d_sae, 7);
        let conn = store.connect().unwrap();
        let count = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(count("PRAGMA user_version"), MIGRATIONS.len() as i64);
        assert_eq!(count("SELECT count(*) FROM sqlite_master WHERE name LIKE 'features_by_%'"), 0);
        conn.pragma_update(None, "user_version", 99).unwrap();
        let e = SqliteStore::open(&path).err().unwrap().to_string();
        assert!(e.contains("newer version"), "{e}");
    }
}
