//! Rows as Neuronpedia's importer reads them: one folder a source with `release`, `model`, `sourceset` and `source.jsonl`, and
//! `features`, `activations` and `explanations` in gzipped batches. The importer takes the columns of a file from its first
//! line, so every row of a kind has the same keys; numbers of features are texts, as in its tables.

use super::Selection;
use crate::{
    Error, Result, files,
    store::{Context, Feature, FeatureAnalysis, Sample, Sampling},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// Features of a batch, as in its own exports.
const BATCH: usize = 1024;
/// Compression of its own exports.
const LEVEL: u32 = 5;

/// Names that Neuronpedia needs and a store does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeuronpediaSettings {
    /// The model as Neuronpedia calls it, such as `gpt2-small`.
    pub model: String,
    /// The source set without the layer, such as `res-16k`.
    pub set: String,
    /// What is shown for the source set.
    pub description: String,
    /// The layer; found in the hook points where it is not given.
    pub layer: Option<usize>,
    /// The release, letters, digits and dashes.
    pub release: String,
    /// What is shown for the release.
    pub title: String,
    /// Who made it.
    pub creator: String,
    /// Id of the user rows will belong to.
    pub creator_id: String,
    /// Where to read more.
    pub url: Option<String>,
    /// Samples of the first sampling.
    pub samples: usize,
}

/// Writes `dir/MODEL/LAYER-SET/…` and returns that folder. Files are whole or not there; those of an earlier export of the same
/// name are replaced, batches it had more of removed.
///
/// # Errors
/// Names Neuronpedia cannot take, what the store refuses, or a disk that does not take the files.
pub fn neuronpedia(
    from: &Selection<'_>,
    settings: &NeuronpediaSettings,
    dir: &Path,
    mut progress: impl FnMut(usize),
) -> Result<PathBuf> {
    let rows = Rows::new(from, settings)?;
    let folder = dir.join(&settings.model).join(&rows.source);
    for kind in ["features", "activations", "explanations"] {
        clear(&folder.join(kind))?;
    }
    let mut batch = Batch::default();
    let mut number = 0;
    from.each(|n, feature| {
        batch.add(&rows, &feature);
        if (n + 1) % BATCH == 0 || n + 1 == from.features.len() {
            std::mem::take(&mut batch).write(&folder, number)?;
            number += 1;
        }
        progress(n + 1);
        Ok(())
    })?;
    // The description last: a folder with it is complete.
    for (name, row) in rows.about() {
        files::write_atomic(&folder.join(name), |w| writeln!(w, "{row}"))?;
    }
    Ok(folder)
}

/// Removes the batches of an earlier export.
fn clear(folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("batch-") && name.ends_with(".jsonl.gz") {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

/// Lines of one batch by kind.
#[derive(Default)]
struct Batch {
    features: String,
    activations: String,
    explanations: String,
}

impl Batch {
    fn add(&mut self, rows: &Rows<'_>, feature: &Feature) {
        let line = |to: &mut String, row: Value| {
            to.push_str(&row.to_string());
            to.push('\n');
        };
        line(&mut self.features, rows.feature(&feature.analysis));
        for row in rows.activations(feature) {
            line(&mut self.activations, row);
        }
        if let Some(row) = rows.explanation(feature) {
            line(&mut self.explanations, row);
        }
    }

    fn write(self, folder: &Path, number: usize) -> Result<()> {
        let all = [
            ("features", self.features),
            ("activations", self.activations),
            ("explanations", self.explanations),
        ];
        for (kind, text) in all.into_iter().filter(|(_, text)| !text.is_empty()) {
            let path = folder.join(kind).join(format!("batch-{number}.jsonl.gz"));
            files::write_atomic(&path, |w| {
                let mut gz = GzEncoder::new(w, Compression::new(LEVEL));
                gz.write_all(text.as_bytes())?;
                gz.finish().map(drop)
            })?;
        }
        Ok(())
    }
}

/// What all rows have in common.
struct Rows<'a> {
    from: &'a Selection<'a>,
    settings: &'a NeuronpediaSettings,
    /// `LAYER-SET`.
    source: String,
    hook: Option<String>,
    created_at: String,
    /// Whether samples say where activations come from.
    attention: bool,
}

impl<'a> Rows<'a> {
    fn new(from: &'a Selection<'a>, settings: &'a NeuronpediaSettings) -> Result<Self> {
        let cfg = &from.dictionary.cfg;
        let layered = from.analysis.settings["analyzer"]["clt_layer"].as_u64().map(|l| l as usize);
        let hook = ["hook_point_out", "hook_point_in"].iter().find_map(|key| cfg[*key].as_str());
        let hook = hook.or_else(|| cfg["hook_points_out"][layered.unwrap_or(0)].as_str());
        let hook = hook.or_else(|| cfg["hook_points"].as_array()?.last()?.as_str());
        let of_hook = hook.and_then(|h| h.strip_prefix("blocks.")?.split('.').next()?.parse().ok());
        let layer: usize = settings.layer.or(of_hook).ok_or_else(|| Error::Data {
            what: format!("the hook points of {} name no layer; give one with --layer", from.dictionary.key),
        })?;
        for (what, name) in
            [("model", &settings.model), ("source set", &settings.set), ("release", &settings.release)]
        {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || !name.chars().all(allowed) || name.starts_with('.') {
                let what = format!(
                    "{name:?} is no {what} id Neuronpedia could take: letters, digits, '-', '_' and '.' make one"
                );
                return Err(Error::Data { what });
            }
        }
        Ok(Self {
            source: format!("{layer}-{}", settings.set),
            hook: hook.map(str::to_owned),
            created_at: iso(from.analysis.created_at),
            attention: cfg["sae_type"] == "lorsa",
            from,
            settings,
        })
    }

    /// Files that describe model, release and source.
    fn about(&self) -> [(&'static str, Value); 4] {
        let s = self.settings;
        let contexts = self.from.analysis.n_contexts;
        let size = &self.from.analysis.settings["activation_factory"]["context_size"];
        let datasets = self.from.analysis.settings["datasets"].as_object();
        let names: Vec<&str> = datasets
            .into_iter()
            .flat_map(|all| all.values())
            .filter_map(|d| d["dataset_name_or_path"].as_str()?.rsplit('/').next())
            .collect();
        let urls: Vec<&String> = s.url.iter().collect();
        let (id, at) = (&s.creator_id, &self.created_at);
        let release = json!({
            "name": s.release, "description": s.title, "descriptionShort": s.title, "creatorName": s.creator,
            "creatorNameShort": s.creator, "creatorEmail": null, "creatorId": id, "visibility": "PUBLIC", "isNewUi": false,
            "featured": false, "urls": urls, "defaultSourceSetName": null, "defaultSourceId": null,
            "defaultUmapSourceIds": [], "createdAt": at,
        });
        let model = json!({
            "id": s.model, "instruct": s.model.ends_with("-it"), "creatorId": id, "displayNameShort": s.model,
            "displayName": s.model, "tlensId": null, "dimension": self.from.dictionary.cfg["d_model"],
            "visibility": "PUBLIC", "defaultSourceSetName": null, "defaultSourceId": null, "inferenceEnabled": false,
            "layers": 0, "neuronsPerLayer": 0, "owner": "", "website": null, "createdAt": at, "updatedAt": at,
        });
        let set = json!({
            "modelId": s.model, "name": s.set, "creatorId": id, "hasDashboards": true, "visibility": "PUBLIC",
            "description": s.description, "type": "", "creatorName": s.creator, "urls": urls, "creatorEmail": null,
            "releaseName": s.release, "defaultOfModelId": null, "defaultRange": 1, "defaultShowBreaks": true,
            "showDfa": false, "showCorrelated": false, "showHeadAttribution": false, "showUmap": false, "createdAt": at,
        });
        let source = json!({
            "id": self.source, "modelId": s.model, "setName": s.set, "creatorId": id, "hasDashboards": true,
            "inferenceEnabled": false, "inferenceHosts": [], "saelensConfig": null, "saelensRelease": null,
            "saelensSaeId": null, "hfRepoId": null, "hfFolderId": null, "visibility": "PUBLIC", "defaultOfModelId": null,
            "hasUmap": false, "hasUmapLogSparsity": false, "hasUmapClusters": false, "num_prompts": contexts,
            "num_tokens_in_prompt": size, "dataset": names.join(", "), "notes": null, "createdAt": at,
        });
        [
            ("release.jsonl", release),
            ("model.jsonl", model),
            ("sourceset.jsonl", set),
            ("source.jsonl", source),
        ]
    }

    fn feature(&self, f: &FeatureAnalysis) -> Value {
        let logits = f.logits.clone().unwrap_or_default();
        let h = &f.histogram;
        let middle = |i: usize| (i as f32 + 0.5) * h.width;
        json!({
            "modelId": self.settings.model, "layer": self.source, "index": f.index.to_string(),
            "sourceSetName": self.settings.set, "creatorId": self.settings.creator_id, "createdAt": self.created_at,
            "maxActApprox": f.max_act, "hasVector": false, "vector": [], "vectorLabel": null,
            "vectorDefaultSteerStrength": 10, "hookName": self.hook,
            "topkCosSimIndices": f.neighbours.iter().map(|r| r.feature).collect::<Vec<_>>(),
            "topkCosSimValues": f.neighbours.iter().map(|r| r.value).collect::<Vec<_>>(),
            "neuron_alignment_indices": [], "neuron_alignment_values": [], "neuron_alignment_l1": [],
            "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
            "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
            "pos_str": logits.top_positive.iter().map(|t| &t.token).collect::<Vec<_>>(),
            "pos_values": logits.top_positive.iter().map(|t| t.logit).collect::<Vec<_>>(),
            "neg_str": logits.top_negative.iter().map(|t| &t.token).collect::<Vec<_>>(),
            "neg_values": logits.top_negative.iter().map(|t| t.logit).collect::<Vec<_>>(),
            "frac_nonzero": f.density(&self.from.analysis), "freq_hist_data_bar_heights": h.counts,
            "freq_hist_data_bar_values": (0..h.counts.len()).map(middle).collect::<Vec<_>>(),
            "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [], "decoder_weights_dist": [],
        })
    }

    /// The first sampling, and the groups by peak with the range they stand for.
    fn activations(&self, feature: &Feature) -> Vec<Value> {
        let f = &feature.analysis;
        let mut all = Vec::new();
        for (i, sampling) in f.samplings.iter().enumerate() {
            let range = match sampling.name.starts_with("quantile_") {
                true => Range::of(sampling, f),
                false if i == 0 => None,
                false => continue,
            };
            for sample in
                sampling.samples.iter().take(if i == 0 { self.settings.samples } else { usize::MAX })
            {
                if let Some(context) = feature.context(sample.context).filter(|c| !c.texts.is_empty()) {
                    all.push(self.activation(f.index, all.len(), (sample, context), range.as_ref()));
                }
            }
        }
        all
    }

    fn activation(
        &self,
        feature: u32,
        n: usize,
        (sample, context): (&Sample, &Context),
        range: Option<&Range>,
    ) -> Value {
        let mut values = vec![0f32; context.texts.len()];
        for &(at, v) in &sample.acts {
            if let Some(slot) = values.get_mut(at as usize) {
                *slot = v;
            }
        }
        // The largest itself, as its importer expects, not the largest magnitude.
        let first_of = |a: usize, b: usize| if values[b] > values[a] { b } else { a };
        let peak = (0..values.len()).reduce(first_of).unwrap_or(0);
        let least = values.iter().copied().fold(f32::INFINITY, f32::min);
        let mut row = json!({
            "id": self.id("activation", feature, n), "tokens": context.texts, "modelId": self.settings.model,
            "layer": self.source, "index": feature.to_string(), "maxValue": values[peak], "maxValueTokenIndex": peak,
            "minValue": least, "values": values, "creatorId": self.settings.creator_id, "createdAt": self.created_at,
            "dataIndex": null, "dataSource": null, "dfaValues": [], "dfaTargetIndex": null, "dfaMaxValue": null,
            "lossValues": [], "logitContributions": null, "binMin": range.map(|r| r.least),
            "binMax": range.map(|r| r.most), "binContains": range.map(|r| r.share),
            "qualifyingTokenIndex": range.map(|_| peak),
        });
        if self.attention {
            let of =
                |part: fn(&(u32, u32, f32)) -> u32| sample.z_pattern.iter().map(part).collect::<Vec<_>>();
            // Keys, then queries.
            row["zIndices"] = json!([of(|z| z.1), of(|z| z.0)]);
            row["zValues"] = json!(sample.z_pattern.iter().map(|z| z.2).collect::<Vec<_>>());
        }
        row
    }

    fn explanation(&self, feature: &Feature) -> Option<Value> {
        let i = feature.interpretation.as_ref().filter(|i| !i.text.is_empty())?;
        let by = if i.explainer.is_empty() { "unknown" } else { &i.explainer };
        let index = feature.analysis.index;
        Some(json!({
            "id": self.id("explanation", index, 0), "modelId": self.settings.model, "layer": self.source,
            "index": index.to_string(), "description": i.text, "authorId": self.settings.creator_id, "embedding": null,
            "triggeredById": null, "typeName": "unknown", "explanationModelName": by, "notes": null,
            "createdAt": self.created_at,
        }))
    }

    /// 25 characters that are the same in every export of the same thing (FNV-1a, twice).
    fn id(&self, kind: &str, feature: u32, n: usize) -> String {
        let s = self.settings;
        let name = format!("{kind}/{}/{}/{}/{feature}/{n}", s.model, self.source, self.created_at);
        let fnv =
            |start: u64| name.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        format!("c{:016x}{:016x}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x9ae1_6a3b_2f90_404f))[..25].into()
    }
}

/// What a group of samples stands for.
struct Range {
    least: f32,
    most: f32,
    /// Share of the feature's occurrences inside, by its histogram.
    share: f64,
}

impl Range {
    fn of(sampling: &Sampling, f: &FeatureAnalysis) -> Option<Self> {
        let peaks = || sampling.samples.iter().filter_map(|s| s.peak()).map(|(_, v)| v.abs());
        let least = peaks().reduce(f32::min)?;
        let most = peaks().reduce(f32::max)?;
        let h = &f.histogram;
        let inside = |i: usize| ((i as f32 + 1.0) * h.width > least) && i as f32 * h.width <= most;
        let count: u64 = (0..h.counts.len()).filter(|&i| inside(i)).map(|i| u64::from(h.counts[i])).sum();
        Some(Self { least, most, share: count as f64 / f.act_times.max(1) as f64 })
    }
}

/// `2026-11-23T12:00:00` from seconds since 1970 (the calendar of Hinnant's `civil_from_days`).
fn iso(seconds: u64) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let z = days + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{h:02}:{m:02}:{s:02}")
}

#[cfg(test)]
mod tests {
    use super::iso;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(iso(0), "1970-01-01T00:00:00");
        assert_eq!(iso(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(iso(1_700_000_000), "2023-11-14T22:13:20");
        assert_eq!(iso(4_107_542_399), "2100-02-28T23:59:59");
    }
}
