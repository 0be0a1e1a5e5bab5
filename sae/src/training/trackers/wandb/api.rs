//! The three things asked of a Weights & Biases server: whether a run is there, to register it, to take lines of it.

use super::log::Run;
use crate::{
    Error, Result,
    http::{Answer, Failure, Http},
};
use serde_json::{Map, Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

const LOOK: &str = "query RunResumeStatus($project: String, $entity: String, $name: String!) { \
    model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) \
    { id name historyLineCount historyTail } } }";

const REGISTER: &str = "mutation UpsertBucket($name: String, $project: String, $entity: String, \
    $displayName: String, $config: JSONString) { upsertBucket(input: {name: $name, modelName: $project, \
    entityName: $entity, displayName: $displayName, config: $config}) { bucket { id name displayName \
    project { id name entity { id name } } } inserted } }";

/// A server, a key, and where the lines of one run go.
pub struct Api {
    http: Http,
    base: String,
    auth: String,
    /// Path of the run's lines, known once it is registered.
    lines: String,
}

/// What a server has of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Lines.
    pub lines: u64,
    /// Last step.
    pub step: Option<u64>,
}

/// Why something was not done.
#[derive(Debug)]
pub struct Trouble {
    /// What happened.
    pub what: String,
    /// Whether it may be done on another attempt.
    pub again: bool,
    /// After how long, where the server says.
    pub after: Option<Duration>,
}

impl Api {
    /// A client of the server at `base`.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        let http = Http::new(TIMEOUT, None).map_err(|e| Error::setting("wandb", e.to_string()))?;
        let auth = format!("Basic {}", base64(format!("api:{}", key.trim()).as_bytes()));
        Ok(Self { http, base: base.trim_end_matches('/').into(), auth, lines: String::new() })
    }

    /// What the server has of a run; `None` where it does not know it.
    pub fn look(&self, run: &Run) -> Result<Option<Known>, Trouble> {
        let data = self.graphql(
            LOOK,
            &json!({ "name": run.id, "project": run.project, "entity": named(&run.entity) }),
        )?;
        let bucket = &data["model"]["bucket"];
        if bucket.is_null() {
            return Ok(None);
        }
        // A list of lines, as text; each line is JSON again.
        let tail: Vec<String> =
            bucket["historyTail"].as_str().and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let step =
            tail.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["_step"].as_u64()).max();
        Ok(Some(Known { lines: bucket["historyLineCount"].as_u64().unwrap_or(0), step }))
    }

    /// Registers the run, or finds it again; returns where it can be looked at.
    pub fn register(&mut self, run: &Run) -> Result<String, Trouble> {
        let value = |json: &String| serde_json::from_str(json).unwrap_or(Value::Null);
        let config: Map<String, Value> =
            run.config.iter().map(|(k, v)| (k.clone(), json!({ "value": value(v) }))).collect();
        let variables = json!({
            "name": run.id,
            "project": run.project,
            "entity": named(&run.entity),
            "displayName": named(&run.name),
            "config": Value::Object(config).to_string(),
        });
        let data = self.graphql(REGISTER, &variables)?;
        let bucket = &data["upsertBucket"]["bucket"];
        let text = |at: &str| bucket.pointer(at).and_then(Value::as_str);
        let (Some(entity), Some(project), Some(name)) =
            (text("/project/entity/name"), text("/project/name"), text("/name"))
        else {
            let what = format!("{} did not say where the run is", self.base);
            return Err(Trouble { what, again: false, after: None });
        };
        self.lines = format!("{}/files/{entity}/{project}/{name}/file_stream", self.base);
        Ok(format!("{}/{entity}/{project}/runs/{name}", self.base.replacen("://api.wandb.", "://wandb.", 1)))
    }

    /// Takes lines, a sign of life, or the end.
    pub fn stream(&self, body: &Value) -> Result<(), Trouble> {
        self.post(&self.lines, body).map(drop)
    }

    fn graphql(&self, query: &str, variables: &Value) -> Result<Value, Trouble> {
        let body = json!({ "query": query, "variables": variables });
        let answer = self.post(&format!("{}/graphql", self.base), &body)?;
        let mut v: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if let Some(message) = v.pointer("/errors/0/message").and_then(Value::as_str) {
            let what = format!("{}: {}", self.base, message.chars().take(200).collect::<String>());
            return Err(Trouble { what, again: false, after: None });
        }
        Ok(v["data"].take())
    }

    fn post(&self, url: &str, body: &Value) -> Result<Answer, Trouble> {
        let headers = [("content-type", "application/json"), ("authorization", self.auth.as_str())];
        let answer = self.http.send("POST", url, &headers, body.to_string().as_bytes()).map_err(|e| {
            Trouble { what: format!("{url}: {e}"), again: matches!(e, Failure::Broken(_)), after: None }
        })?;
        match answer.status {
            200..=299 => Ok(answer),
            401 | 403 => Err(Trouble {
                what: format!("{} refuses WANDB_API_KEY (status {})", self.base, answer.status),
                again: false,
                after: None,
            }),
            status => Err(Trouble {
                what: format!("{url}: status {status}"),
                again: status == 429 || status >= 500,
                after: answer.retry_after(),
            }),
        }
    }
}

fn named(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

/// As HTTP's basic authentication has it.
fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in data.chunks(3) {
        let n = three.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= three.len() { digit as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn basic_authentication_is_encoded_as_in_the_standard() {
        for (text, want) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("api:k~y", "YXBpOmt+eQ==")]
        {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
