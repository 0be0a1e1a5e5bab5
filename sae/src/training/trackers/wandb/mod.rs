//! Weights & Biases: every record goes to a run file that `wandb sync` uploads, and to the server at once where there is a key. The
//! file is complete either way, so nothing is lost while the server cannot be reached.

mod api;
mod live;
mod log;

use super::{Record, Tracker};
use crate::{
    Error, Result, files,
    settings::{WandbResume, WandbSettings},
};
use api::{Api, Known};
use live::Live;
use log::{Log, Run};
use serde_json::{Map, Value, json};
use std::{
    collections::hash_map::RandomState,
    fs::{self, File},
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Which run a folder belongs to, for whoever continues it.
const LAST: &str = "last-run.json";

/// How the server is reached, if at all.
#[derive(Clone, Default)]
pub struct WandbAccess {
    /// Key; without one only the file is written.
    pub key: Option<String>,
    /// Address of the server.
    pub base_url: String,
    /// Nothing at all is written.
    pub disabled: bool,
}

impl WandbAccess {
    /// What `WANDB_MODE`, `WANDB_API_KEY` and `WANDB_BASE_URL` say.
    pub fn from_env() -> Self {
        let of = |name| std::env::var(name).ok().filter(|v: &String| !v.trim().is_empty());
        let mode = of("WANDB_MODE").unwrap_or_default();
        Self {
            key: of("WANDB_API_KEY").filter(|_| !matches!(mode.as_str(), "offline" | "dryrun")),
            base_url: of("WANDB_BASE_URL").unwrap_or_else(|| "https://api.wandb.ai".into()),
            disabled: mode == "disabled",
        }
    }
}

/// Writes a run to `folder/wandb`, and to the server.
pub struct Wandb {
    folder: PathBuf,
    settings: WandbSettings,
    config: Value,
    access: WandbAccess,
    open: Option<Open>,
    notices: Vec<String>,
}

/// A run that has begun.
struct Open {
    path: PathBuf,
    log: Log<File>,
    live: Option<Live>,
    began: SystemTime,
    /// Last step the server has already.
    known: Option<u64>,
}

impl Wandb {
    /// A run of which `config` are the settings; nothing is touched before [`Tracker::start`].
    pub fn new(
        folder: impl Into<PathBuf>,
        settings: &WandbSettings,
        config: Value,
        access: WandbAccess,
    ) -> Self {
        let folder = folder.into().join("wandb");
        Self { folder, settings: settings.clone(), config, access, open: None, notices: Vec::new() }
    }

    /// The id of the run: the one given; that of the run this training continues, where it may be continued; a new one.
    fn id(&self, step: u64) -> Result<String> {
        let given = self.settings.wandb_run_id.clone().filter(|id| !id.trim().is_empty());
        let resume = self.settings.wandb_resume;
        if given.is_none() && resume == WandbResume::Must {
            return Err(Error::setting("wandb.wandb_run_id", "is needed with wandb_resume = \"must\""));
        }
        if let Some(id) = &given
            && (id.len() > 128
                || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                || id.starts_with('.'))
        {
            return Err(Error::setting("wandb.wandb_run_id", "may have letters, digits, - _ and . only"));
        }
        let last = || -> Option<String> {
            let text = fs::read_to_string(self.folder.join(LAST)).ok()?;
            Some(serde_json::from_str::<Value>(&text).ok()?["run_id"].as_str()?.to_owned())
        };
        let continued = || (step > 0 && resume != WandbResume::Never).then(last).flatten();
        Ok(given.or_else(continued).unwrap_or_else(new_id))
    }

    fn run(&self, id: String, began: SystemTime) -> Run {
        let table = self.config.as_object().into_iter().flatten();
        Run {
            id,
            entity: self.settings.wandb_entity.clone().unwrap_or_default(),
            project: self.settings.wandb_project.clone(),
            name: self.settings.exp_name.clone().unwrap_or_default(),
            config: table.map(|(k, v)| (k.clone(), v.to_string())).collect(),
            started: seconds(began).as_secs(),
        }
    }

    /// Makes the run known to the server. A server that cannot be reached is no reason not to train; one that refuses is.
    fn connect(&mut self, run: &Run) -> Result<Option<(Live, Known)>> {
        let Some(key) = &self.access.key else { return Ok(None) };
        let mut api = Api::new(&self.access.base_url, key)?;
        let resume = self.settings.wandb_resume;
        let found = api.look(run).and_then(|known| match (resume, known) {
            (WandbResume::Must, None) => Ok(Err("does not exist, which wandb_resume = \"must\" asks for")),
            (WandbResume::Never, Some(_)) => Ok(Err(
                "exists already; set wandb.wandb_resume = \"allow\" to continue it, or another wandb_run_id",
            )),
            (_, known) => Ok(Ok((known.unwrap_or_default(), api.register(run)?))),
        });
        match found {
            Ok(Ok((known, address))) => {
                self.notices.push(format!("wandb: {address}"));
                Ok(Some((Live::start(api, known.lines), known)))
            }
            Ok(Err(what)) => Err(Error::setting("wandb.wandb_run_id", format!("run {:?} {what}", run.id))),
            Err(e) if e.again => {
                self.notices.push(format!("wandb: {}; writing the run file only", e.what));
                Ok(None)
            }
            Err(e) => {
                Err(Error::setting("wandb", format!("{}; WANDB_MODE=offline writes a file only", e.what)))
            }
        }
    }

    fn begin(&mut self, step: u64) -> Result<()> {
        let began = SystemTime::now();
        let run = self.run(self.id(step)?, began);
        let live = self.connect(&run)?;
        let kind = if live.is_some() { "run" } else { "offline-run" };
        let folder = self.folder.join(format!("{kind}-{}-{}", stamp(seconds(began).as_secs()), run.id));
        for part in ["files", "logs"] {
            fs::create_dir_all(folder.join(part)).map_err(|e| Error::io(&folder, e))?;
        }
        let path = folder.join(format!("run-{}.wandb", run.id));
        let log = File::create(&path).and_then(|f| Log::new(f, &run)).map_err(|e| Error::io(&path, e))?;
        let last = json!({ "run_id": run.id, "project": run.project, "entity": run.entity }).to_string();
        files::write_atomic(&self.folder.join(LAST), |w| w.write_all(last.as_bytes()))?;
        let (live, known) = live.map_or((None, None), |(live, known)| (Some(live), known.step));
        self.open = Some(Open { path, log, live, began, known });
        Ok(())
    }

    fn close(&mut self, code: u64) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let took = open.began.elapsed().unwrap_or_default().as_secs();
        open.log.exit(code, took).map_err(|e| Error::io(&open.path, e))?;
        if let Some(live) = &mut open.live {
            live.end(code);
        }
        self.listen(&open.live, &open.path);
        Ok(())
    }

    fn listen(&mut self, live: &Option<Live>, path: &Path) {
        if let Some(what) = live.as_ref().and_then(Live::failure) {
            let folder = path.parent().unwrap_or(path).display();
            self.notices.push(format!(
                "wandb: sending ended ({what}); everything is in the run file, send it with `wandb sync {folder}`"
            ));
        }
    }
}

impl Tracker for Wandb {
    fn start(&mut self, step: u64) -> Result<()> {
        if self.access.disabled { Ok(()) } else { self.begin(step) }
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let now = SystemTime::now();
        let mut line = Map::new();
        for (key, value) in &record.values {
            line.insert(key.clone(), number(*value));
        }
        line.insert("tokens".into(), record.tokens.into());
        line.insert("_step".into(), record.step.into());
        line.insert("_timestamp".into(), number(seconds(now).as_secs_f64()));
        line.insert(
            "_runtime".into(),
            number(now.duration_since(open.began).unwrap_or_default().as_secs_f64()),
        );
        // A continued run repeats what came after its snapshot, with the same values.
        if open.known.is_none_or(|known| record.step > known) {
            let values: Vec<(String, String)> =
                line.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
            open.log.history(record.step, &values).map_err(|e| Error::io(&open.path, e))?;
            if let Some(live) = &open.live {
                live.line(Value::Object(line));
            }
        }
        self.listen(&open.live, &open.path.clone());
        self.open = Some(open);
        Ok(())
    }

    fn end(&mut self, succeeded: bool) -> Result<()> {
        self.close(u64::from(!succeeded))
    }

    fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }
}

/// A run nobody ended has failed.
impl Drop for Wandb {
    fn drop(&mut self) {
        let _ = self.close(1);
    }
}

/// JSON has no NaN and no infinity; the server takes their names.
fn number(v: f64) -> Value {
    match v {
        v if v.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        v => v.into(),
    }
}

fn seconds(t: SystemTime) -> Duration {
    t.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Eight random letters and digits, as the server's own client makes them.
fn new_id() -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // Every state of the standard library's hasher is seeded by the system.
    let mut n = RandomState::new().build_hasher().finish();
    let mut digit = || {
        let d = DIGITS[(n % 36) as usize];
        n /= 36;
        d as char
    };
    (0..8).map(|_| digit()).collect()
}

/// `20261123_140509`, in UTC.
fn stamp(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the leap day is the last; eras have 400 years (Hinnant, "chrono-compatible low-level date
    // algorithms").
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}_{:02}{:02}{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(stamp(0), "19700101_000000");
        assert_eq!(stamp(951_827_696), "20000229_123456");
        assert_eq!(stamp(1_795_442_709), "20261123_140509");
    }

    #[test]
    fn ids_are_short_and_differ() {
        let (a, b) = (new_id(), new_id());
        assert!(a.len() == 8 && a.chars().all(|c| c.is_ascii_alphanumeric()) && a != b, "{a} {b}");
    }

    #[test]
    fn numbers_json_does_not_know_go_by_name() {
        assert_eq!(number(f64::NAN), json!("NaN"));
        assert_eq!(number(f64::NEG_INFINITY), json!("-Infinity"));
        assert_eq!(number(0.5), json!(0.5));
    }
}
