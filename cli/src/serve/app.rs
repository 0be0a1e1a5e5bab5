//! What handlers share, and how they find what an address means.

use super::{failure::Failure, live, url};
use anyhow::Result;
use lm_saes::store::{AnalysisRecord, DictionaryKey, DictionaryRecord, Store};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;

/// Bins of the histogram of densities, ten a decade.
pub const DENSITY_BINS: usize = 70;
/// Histograms kept.
const KEPT: usize = 64;

/// Histograms by dictionary, analysis and when that was made.
type Densities = HashMap<(DictionaryKey, String, u64), Arc<Vec<u32>>>;

/// What handlers share.
pub struct App {
    pub store: Box<dyn Store>,
    /// Where training runs write.
    pub runs: Option<PathBuf>,
    /// What changes have to show.
    pub token: Option<String>,
    /// Whether only this machine can reach the server.
    pub loopback: bool,
    pub live: live::Line,
    room: Arc<Semaphore>,
    /// Changes that read first wait for each other.
    changing: Mutex<()>,
    densities: Mutex<Densities>,
}

/// A dictionary and one of its analyses, as an address names them.
pub struct Place {
    pub dictionary: DictionaryRecord,
    /// Absent where the dictionary has none.
    pub analysis: Option<AnalysisRecord>,
    /// Names of all analyses.
    pub analyses: Vec<String>,
    /// Whether links have to name the analysis.
    named: bool,
}

impl App {
    pub fn new(
        store: Box<dyn Store>,
        runs: Option<PathBuf>,
        token: Option<String>,
        loopback: bool,
        live: live::Line,
    ) -> Self {
        Self {
            store,
            runs,
            token,
            loopback,
            live,
            room: Arc::new(Semaphore::new(super::net::MAX_AT_ONCE)),
            changing: Mutex::default(),
            densities: Mutex::default(),
        }
    }

    /// Runs `work`, which may wait for the disk, apart from the threads that serve connections.
    pub async fn work<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let ended = || Failure::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "the answer broke off");
        let permit = self.room.clone().acquire_owned().await.map_err(|_| ended())?;
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&self)
        });
        done.await.map_err(|_| ended())?
    }

    /// Held while something is read to be written back.
    pub fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dictionary a path segment names.
    pub fn dictionary(&self, segment: &str) -> Result<DictionaryRecord, Failure> {
        let missing = || Failure::missing(format!("no dictionary {segment:?} in this store"));
        match url::parse_segment(segment) {
            (Some(series), name) => {
                self.store.dictionary(&DictionaryKey { name, series })?.ok_or_else(missing)
            }
            (None, name) => {
                let mut named = self.store.dictionaries(None)?.into_iter().filter(|d| d.key.name == name);
                match (named.next(), named.next()) {
                    (Some(only), None) => Ok(only),
                    (Some(_), Some(_)) => {
                        Err(Failure::bad(format!("{name:?} is in several series; name one as SERIES:{name}")))
                    }
                    _ => Err(missing()),
                }
            }
        }
    }

    /// A dictionary with the analysis named, or `default`, or the first.
    pub fn place(&self, segment: &str, analysis: Option<&str>) -> Result<Place, Failure> {
        let dictionary = self.dictionary(segment)?;
        let analysis = analysis.filter(|a| !a.is_empty());
        let mut all = self.store.analyses(&dictionary.key)?;
        let analyses: Vec<String> = all.iter().map(|a| a.name.clone()).collect();
        let usual = all.iter().position(|a| a.name == "default").unwrap_or(0);
        let at = match analysis {
            None => usual,
            Some(name) => all.iter().position(|a| a.name == name).ok_or_else(|| {
                Failure::missing(format!("no analysis {name:?}; there is {}", analyses.join(", ")))
            })?,
        };
        let named = at != usual;
        let analysis = (at < all.len()).then(|| all.swap_remove(at));
        Ok(Place { dictionary, analysis, analyses, named })
    }

    /// How many features fire how often; see [`lm_saes::store::Overview::log_density_histogram`].
    pub fn densities(&self, place: &Place, analysis: &AnalysisRecord) -> Result<Arc<Vec<u32>>, Failure> {
        let key = (place.key().clone(), analysis.name.clone(), analysis.created_at);
        let lock = || self.densities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&key) {
            return Ok(known.clone());
        }
        let overview = self.store.overview(place.key(), &analysis.name)?.unwrap_or_default();
        let found = Arc::new(overview.log_density_histogram(analysis.n_analyzed_tokens, DENSITY_BINS));
        let mut all = lock();
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(key, found.clone());
        Ok(found)
    }
}

impl Place {
    pub fn key(&self) -> &DictionaryKey {
        &self.dictionary.key
    }

    /// The analysis, where a page cannot do without.
    pub fn analysis(&self) -> Result<&AnalysisRecord, Failure> {
        self.analysis.as_ref().ok_or_else(|| {
            let path = &self.dictionary.path;
            Failure::missing(format!(
                "{} has no analysis yet; make one with `lm-saes analyze {path}`",
                self.key()
            ))
        })
    }

    /// The dictionary's page.
    pub fn url(&self) -> String {
        self.at("")
    }

    /// A page below it, `path` beginning with `/`.
    pub fn at(&self, path: &str) -> String {
        let base = url::dictionary(self.key());
        match self.analysis.as_ref().filter(|_| self.named) {
            Some(a) => format!("{base}{path}?analysis={}", url::encode(&a.name)),
            None => format!("{base}{path}"),
        }
    }

    /// The same address in the API.
    pub fn api(&self, path: &str) -> String {
        format!("/api{}", self.at(path))
    }

    /// A feature's page.
    pub fn feature(&self, index: u32) -> String {
        self.at(&format!("/f/{index}"))
    }

    /// `address`, one of the above, with more after the question mark.
    pub fn with(address: &str, query: &str) -> String {
        let joint = if address.contains('?') { '&' } else { '?' };
        if query.is_empty() { address.into() } else { format!("{address}{joint}{query}") }
    }

    /// The analysis for a form to send along.
    pub fn hidden(&self) -> Option<&str> {
        self.analysis.as_ref().filter(|_| self.named).map(|a| a.name.as_str())
    }
}

/// 128 random bits in hexadecimal.
pub fn random_token() -> Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no random numbers from the system: {e}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// A number in `[0, 1)`.
pub fn draw() -> f64 {
    let bits = getrandom::u32().unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
