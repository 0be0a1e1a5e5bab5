//! A client of endpoints that speak OpenAI's chat completions, whoever runs them.

use super::{Chat, Fault, Question, Reply, Usage};
use crate::{
    Error, Result,
    http::{Answer, Failure, Http},
    settings::ExplainerSettings,
};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Where questions go when no address is given.
pub const OPENAI: &str = "https://api.openai.com/v1";

/// The client.
pub struct OpenAi {
    http: Http,
    url: String,
    key: Option<String>,
    model: String,
    temperature: Option<f64>,
    /// Whether the endpoint takes `response_format`; not all do.
    json_mode: AtomicBool,
}

impl OpenAi {
    /// A client as the settings say; `key` and `base_url` where they say nothing.
    ///
    /// # Errors
    /// [`Error::Setting`] for no key where OpenAI itself is asked, or a proxy that cannot be one.
    pub fn new(settings: &ExplainerSettings, key: Option<String>, base_url: Option<String>) -> Result<Self> {
        let filled = |s: Option<String>| s.filter(|s| !s.trim().is_empty());
        let base = filled(settings.openai_base_url.clone()).or(filled(base_url));
        let key = filled(settings.openai_api_key.clone()).or(filled(key)).map(|k| k.trim().to_owned());
        if key.is_none() && base.is_none() {
            let what = "is needed to ask OpenAI: set the variable OPENAI_API_KEY; or name another endpoint \
                        with openai_base_url, such as http://localhost:8000/v1";
            return Err(Error::setting("auto_interp.openai_api_key", what));
        }
        let base = base.unwrap_or_else(|| OPENAI.into());
        let timeout = Duration::try_from_secs_f64(settings.timeout_seconds)
            .map_err(|e| Error::setting("auto_interp.timeout_seconds", e.to_string()))?;
        let http = Http::new(timeout, settings.openai_proxy.as_deref())
            .map_err(|e| Error::setting("auto_interp.openai_proxy", e.to_string()))?;
        Ok(Self {
            http,
            url: format!("{}/chat/completions", base.trim().trim_end_matches('/')),
            key,
            model: settings.openai_model.clone(),
            temperature: settings.temperature,
            json_mode: AtomicBool::new(true),
        })
    }

    /// Where questions go.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn body(&self, question: &Question, json_mode: bool) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": [
                { "role": "system", "content": question.system },
                { "role": "user", "content": question.user },
            ],
        });
        if json_mode {
            body["response_format"] = json!({ "type": "json_object" });
        }
        if let Some(t) = self.temperature {
            body["temperature"] = json!(t);
        }
        body
    }

    /// What an endpoint says of its own failure, short, on one line and without the key.
    fn complaint(&self, answer: &Answer) -> String {
        let text = String::from_utf8_lossy(&answer.body);
        let said: Option<Value> = serde_json::from_str(&text).ok();
        let said = said.as_ref().and_then(|v| {
            v.pointer("/error/message").or(v.get("message")).or(v.get("error")).and_then(Value::as_str)
        });
        let mut text: String = said.unwrap_or(&text).split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(key) = &self.key {
            text = text.replace(key.as_str(), "…");
        }
        let short: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        format!("status {}{}{short}", answer.status, if short.is_empty() { "" } else { ": " })
    }

    fn fault(&self, answer: &Answer) -> Fault {
        let what = self.complaint(answer);
        let url = &self.url;
        match answer.status {
            // Money that has run out does not come back by waiting.
            429 if String::from_utf8_lossy(&answer.body).contains("insufficient_quota") => Fault::Stop(what),
            408 | 409 | 425 | 429 | 500.. => Fault::Again { what, after: answer.retry_after() },
            401 | 403 => Fault::Stop(format!(
                "{url} refuses the key ({what}); set OPENAI_API_KEY or auto_interp.openai_api_key"
            )),
            404 | 405 => Fault::Stop(format!(
                "{url} knows no such model or path ({what}); check auto_interp.openai_model = {:?} and openai_base_url",
                self.model
            )),
            300..=399 => Fault::Stop(format!(
                "{url} has moved to {:?}; put that into auto_interp.openai_base_url",
                answer.header("location").unwrap_or_default()
            )),
            _ => Fault::Refused(what),
        }
    }
}

impl Chat for OpenAi {
    fn ask(&self, question: &Question) -> Result<Reply, Fault> {
        let json_mode = question.json && self.json_mode.load(Ordering::Relaxed);
        let bearer = self.key.as_ref().map(|k| format!("Bearer {k}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|b| ("authorization", b)));
        let body = self.body(question, json_mode).to_string();
        let answer = self.http.send("POST", &self.url, &headers, body.as_bytes()).map_err(|e| match e {
            Failure::Malformed(what) => Fault::Stop(format!("{}: {what}", self.url)),
            Failure::Broken(what) => Fault::Again { what: format!("{}: {what}", self.url), after: None },
        })?;
        let complains_of = |word: &[u8]| answer.body.windows(word.len()).any(|w| w == word);
        if json_mode && matches!(answer.status, 400 | 422) && complains_of(b"response_format") {
            self.json_mode.store(false, Ordering::Relaxed);
            let what = "the endpoint has no JSON mode; asking without".into();
            return Err(Fault::Again { what, after: Some(Duration::ZERO) });
        }
        if answer.status != 200 {
            return Err(self.fault(&answer));
        }
        read(&answer.body).map_err(|what| Fault::Again { what: what.into(), after: None })
    }
}

/// Words and token counts of a completion.
fn read(body: &[u8]) -> Result<Reply, &'static str> {
    let v: Value = serde_json::from_slice(body).map_err(|_| "the endpoint's answer is not JSON")?;
    if v.pointer("/choices/0/finish_reason").and_then(Value::as_str) == Some("length") {
        return Err("the answer was cut off at the endpoint's token limit");
    }
    let text = v.pointer("/choices/0/message/content").and_then(Value::as_str);
    let text = text.ok_or("the endpoint's answer has no choices[0].message.content")?;
    let count = |key: &str| v["usage"][key].as_u64().unwrap_or(0);
    let usage = Usage {
        requests: 1,
        retries: 0,
        prompt_tokens: count("prompt_tokens"),
        completion_tokens: count("completion_tokens"),
    };
    Ok(Reply { text: text.to_owned(), usage })
}
