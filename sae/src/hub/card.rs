//! The page of a published dictionary: what it is, how it was trained, what is known of its quality, how to load it.

use super::Format;
use crate::dictionary::checkpoint::Loaded;
use serde_json::{Map, Value};
use std::fmt::Write as _;

/// What the page says beside the dictionary's own record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// `owner/name`.
    pub repo: String,
    /// Folder in it; empty at the top.
    pub folder: String,
    /// Identifier of a licence.
    pub license: Option<String>,
}

impl About {
    /// What the dictionary is called where a name is asked for.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repo, if self.folder.is_empty() { "." } else { &self.folder })
    }
}

/// The page in Markdown, its head in YAML as the hub reads it.
pub fn text(loaded: &Loaded, format: Format, about: &About) -> String {
    let mut page = head(loaded, format, about);
    let title = if about.folder.is_empty() { &about.repo } else { &about.folder };
    let _ = writeln!(page, "# {title}\n");
    let d = &loaded.dictionary;
    let s = d.settings();
    let kind = if d.hook_points_in() == d.hook_points_out() {
        ""
    } else {
        ", reconstructing another place than it reads"
    };
    let _ = writeln!(
        page,
        "A sparse dictionary of a language model's activations (`{}`{kind}), written by lm-saes in {}.\n",
        s.sae_type(),
        format.shown()
    );
    page.push_str("| | |\n|---|---|\n");
    for (what, value) in rows(loaded) {
        let _ = writeln!(page, "| {what} | {value} |");
    }
    page.push('\n');
    page.push_str(&loading(format, about));
    let settings = serde_json::to_string_pretty(s).unwrap_or_default();
    let _ = writeln!(page, "\n## Settings\n\n```json\n{settings}\n```");
    page
}

fn head(loaded: &Loaded, format: Format, about: &About) -> String {
    let mut head = String::from("---\n");
    if let Some(license) = &about.license {
        let _ = writeln!(head, "license: {license}");
    }
    // Only what can be a repository's name leads to a page.
    if let Some(model) = model(&loaded.extras).filter(|m| super::client::is_repo(m)) {
        let _ = writeln!(head, "base_model: {model}");
    }
    if format == Format::SaeLens {
        head.push_str("library_name: saelens\n");
    }
    head.push_str("tags:\n- sparse-autoencoder\n- mechanistic-interpretability\n---\n\n");
    head
}

fn model(extras: &Map<String, Value>) -> Option<&str> {
    extras
        .get("model_name")
        .and_then(Value::as_str)
        .or_else(|| extras.get("model")?.get("model_name")?.as_str())
}

/// What is known, as rows of a table.
fn rows(loaded: &Loaded) -> Vec<(&'static str, String)> {
    let (d, extras) = (&loaded.dictionary, &loaded.extras);
    let s = d.settings();
    let code = |hooks: Vec<String>| hooks.iter().map(|h| format!("`{h}`")).collect::<Vec<_>>().join(", ");
    let get = |path: &str| Value::Object(extras.clone()).pointer(path).filter(|v| !v.is_null()).cloned();
    let shown = |v: Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let figure = |path: &str| get(path)?.as_f64().map(|v| format!("{v:.4}"));
    let act = serde_json::to_value(s.act_fn()).map(shown).unwrap_or_default();
    let act = if s.act_fn().has_k() { format!("{act}, k = {}", s.top_k()) } else { act };
    let mut rows = vec![
        ("model", model(extras).unwrap_or("not recorded").to_string()),
        ("reads", code(d.hook_points_in())),
        ("reconstructs", code(d.hook_points_out())),
        ("features", d.d_sae().to_string()),
        ("width of activations", s.d_model().to_string()),
        ("activation function", act),
    ];
    let norm = serde_json::to_value(s.norm_activation()).map(shown).unwrap_or_default();
    rows.push(("scaling of activations", norm));
    rows.extend(get("/model_identity/revision").map(|v| ("model's revision", shown(v))));
    rows.extend(get("/model_identity/weights").map(|v| ("model's weights", format!("`{}`", shown(v)))));
    rows.extend(figure("/stated/l0").map(|v| ("L0", v)));
    rows.extend(figure("/stated/explained_variance").map(|v| ("explained variance", v)));
    rows.extend(get("/trained/tokens").map(|v| ("trained on, tokens", shown(v))));
    rows.extend(get("/token_policy/context_size").map(|v| ("context, tokens", shown(v))));
    rows.extend(get("/token_policy/prepend_bos").map(|v| ("BOS before every context", shown(v))));
    rows.extend(get("/source/format").map(|v| ("converted from", shown(v))));
    rows
}

fn loading(format: Format, about: &About) -> String {
    let name = about.name();
    let mut text = format!("## Loading it\n\n```sh\nlm-saes convert {name} dictionary\n```\n\n");
    let _ = writeln!(text, "In settings of lm-saes: `pretrained_name_or_path = \"{name}\"`.");
    match format {
        Format::SaeLens if about.folder.is_empty() => {
            let _ = writeln!(
                text,
                "\n```python\nfrom huggingface_hub import snapshot_download\nfrom sae_lens import SAE\nsae = SAE.load_from_disk(snapshot_download(\"{}\"))\n```",
                about.repo
            );
        }
        Format::SaeLens => {
            let _ = writeln!(
                text,
                "\n```python\nfrom sae_lens import SAE\nsae = SAE.from_pretrained(\"{}\", \"{}\")\n```",
                about.repo, about.folder
            );
        }
        Format::Own | Format::Upstream => {
            let _ = writeln!(
                text,
                "\nFor SAELens, where it can express this dictionary: `lm-saes convert {name} dictionary --to-format saelens`, then \
                 `SAE.load_from_disk(\"dictionary\")`."
            );
        }
        _ => {}
    }
    text
}
